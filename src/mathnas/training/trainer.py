"""The one trainer of supernets.

A step is a list of passes: networks, each with what it learns. Their gradients are combined, and
the optimiser takes one step. Training is a sequence of phases, each with its own optimiser and
schedule; what a phase's steps are, its recipe says (`mathnas.training.recipes`).
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mathnas._interrupts import Interrupts
from mathnas._progress import Show, progress_bar
from mathnas.costs import COSTS_FILE, CostRecorder, RunCost, RunMeter, read_runs, write_runs
from mathnas.errors import InvalidInputError
from mathnas.metrics import Metric
from mathnas.nets.files import load_tensors, load_weights, save_supernet
from mathnas.nets.supernet import Supernet
from mathnas.training.checkpoints import Checkpoint, optimizer_tensors, restore_optimizer
from mathnas.training.config import Phase, TrainingConfig
from mathnas.training.conflicts import resolved
from mathnas.training.data import TrainingData
from mathnas.training.losses import Batch
from mathnas.training.networks import extremes_of
from mathnas.training.processes import Processes
from mathnas.training.recipes import RECIPES, Combination, Pass, Recipe, StepRule, summed
from mathnas.training.reports import EXTREMES, TrainingLog, TrainingProgress, log_columns
from mathnas.training.schedules import RateSchedule
from mathnas.training.seeds import derived_seed

CHECKPOINT_FILE = "checkpoint.safetensors"
CONFIG_FILE = "config.json"
TEACHER_FILE = "teacher.safetensors"
SUPERNET_FILE = "supernet.safetensors"
_EMA_START = 10  # the moving average's decay is (1 + t) / (10 + t) at first
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """How a training ended.

    Attributes:
        steps: of the whole training.
        resumed: the step from which it went on, 0 where it began anew.
        seconds: of this run.
        metric: of the scores; None without held-out data.
        scores: of the ``smallest`` and the ``largest`` network on held-out data, in the metric's
            unit; empty without such data.
        file: the supernet's file; None where no folder was given.
        costs: of every run of this training, this one last; in the supernet's file too.
    """

    steps: int
    resumed: int
    seconds: float
    metric: Metric | None
    scores: Mapping[str, float]
    file: Path | None
    costs: tuple[RunCost, ...] = ()

    def to_dict(self) -> dict[str, object]:
        return {
            "steps": self.steps,
            "resumed": self.resumed,
            "seconds": self.seconds,
            "metric": None if self.metric is None else self.metric.name,
            "scores": dict(self.scores),
            "file": None if self.file is None else str(self.file),
            "costs": [cost.to_dict() for cost in self.costs],
        }


def train(
    supernet: Supernet,
    data: TrainingData,
    config: TrainingConfig,
    folder: str | Path | None = None,
    *,
    processes: Processes | None = None,
    recipe: Recipe | None = None,
    combine: Combination | None = None,
    progress: Show = None,
    tensorboard: bool = False,
    told: Callable[[TrainingProgress], None] | None = None,
    meter: RunMeter | None = None,
    grid_intensity: float | None = None,
) -> TrainingReport:
    """Train `supernet` in place, and leave it in evaluation mode.

    With a folder, training can be killed at any moment: the same call goes on from the last
    checkpoint. On one process and one machine it then ends with the same weights, bit for bit, as
    if it had not been stopped (on a CPU; on a GPU as far as its kernels are deterministic).

    Args:
        data: what is trained on; its batches are those of this process.
        folder: for ``checkpoint.safetensors``, ``log.csv``, ``costs.json`` and at the end
            ``supernet.safetensors`` (the average of weights where there is one). All processes see
            the same folder.
        processes: this process among others; by default alone on the CPU, or what torchrun says.
        recipe: what the steps of a phase are; by default that of the configuration's name.
        combine: makes one gradient of those of a step's passes; by default what the configuration
            says.
        progress: show progress; by default where standard error is a terminal.
        tensorboard: write events for TensorBoard into the folder.
        told: called with every report.
        meter: measures the energy of this run, in the first process.
        grid_intensity: grams of CO2 for a kWh, for the estimate in the run's cost. Processor time
            is that of the first process.

    Raises:
        InvalidInputError: the data do not fit the supernet, a phase does not fit its space, or the
            folder is of another training.
        FileFormatError: a file is damaged or cannot be written.
        KeyboardInterrupt: after Ctrl-C; where there is a folder, a checkpoint was written.
    """
    trainer = _Trainer(
        supernet,
        data,
        config,
        None if folder is None else Path(folder),
        processes or Processes.join(),
        recipe or RECIPES[config.recipe],
        combine,
    )
    # the program's own generator stays as it was; steps seed it for dropout
    with torch.random.fork_rng():
        return trainer.run(progress, tensorboard, told, meter, grid_intensity)


@dataclass(frozen=True, slots=True)
class _Span:
    """A phase on the time axis: its first step, of the whole training, and its steps' rates."""

    phase: Phase
    first: int
    rates: RateSchedule

    @property
    def end(self) -> int:
        return self.first + self.rates.steps


def _spans(config: TrainingConfig, steps_per_epoch: int) -> list[_Span]:
    spans: list[_Span] = []
    for phase in config.plan():
        first = spans[-1].end if spans else 0
        spans.append(_Span(phase, first, RateSchedule.of(phase, config, steps_per_epoch)))
    return spans


class _Trainer:
    """The state of a training, and its loop."""

    def __init__(
        self,
        supernet: Supernet,
        data: TrainingData,
        config: TrainingConfig,
        folder: Path | None,
        processes: Processes,
        recipe: Recipe,
        combine: Combination | None,
    ) -> None:
        self.supernet = supernet
        self.data = data
        self.config = config
        self.folder = folder
        self.processes = processes
        self.combine = combine
        self.spans = _spans(config, data.batches.steps_per_epoch)
        self.total = self.spans[-1].end
        # all phases are looked at now: an error in the last must not come after days
        self.rules: list[StepRule] = [recipe(supernet, span.phase, config) for span in self.spans]
        for span in self.spans:
            if span.phase.sort_channels:
                what = f"phase {span.phase.name!r} sorts channels"
                _check_method(supernet, "sort_channels", what)
        if config.zero_residuals:
            _check_method(supernet, "zero_residuals", "training begins with residuals of zero")
        if config.dropout is not None:
            what = f"training sets a dropout of {config.dropout}"
            _check_method(supernet, "set_dropout", what, "dropout=null")
            supernet.set_dropout(config.dropout)  # type: ignore[operator]
        self.extremes = dict(zip(EXTREMES, extremes_of(supernet), strict=True))
        self.done = 0  # steps, of all phases
        self.resumed = 0  # of them, before this run
        self.costs: list[RunCost] = []
        self._earlier = 0  # of them, of earlier runs
        self.teacher: Supernet | None = None
        self.average: dict[str, Tensor] = {}
        self.averaged = 0  # how often weights were taken into it
        supernet.to(processes.device)
        if config.channels_last:
            _to_channels_last(supernet)
        self.named = dict(supernet.named_parameters())
        self.parameters = list(self.named.values())
        self.optimizer = _new_optimizer(self.parameters, config)
        # only float16 has too few small numbers for gradients
        fp16 = config.precision == "fp16"
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=fp16)
        self.sums = _Sums()

    def run(
        self,
        show: Show,
        tensorboard: bool,
        told: Callable[[TrainingProgress], None] | None,
        meter: RunMeter | None,
        grid_intensity: float | None,
    ) -> TrainingReport:
        began = time.monotonic()
        self.resumed = resumed = self._restore()
        scores: Mapping[str, float] = {}
        self._read_costs()
        with ExitStack() as stack:
            recorder = stack.enter_context(
                CostRecorder(
                    "training",
                    meter=meter if self.processes.first else None,
                    grid_intensity=grid_intensity,
                    told=self._keep_cost,
                )
            )
            tell = stack.enter_context(self._reporting(show, tensorboard, told))
            interrupts = stack.enter_context(Interrupts())
            self.supernet.train()
            for inputs, labels in self._batches():
                span, rule = self._phase_of_next_step()
                rate = span.rates.rate_at(self.done - span.first)
                self._step(inputs, labels, rule, rate)
                self.done += 1
                recorder.add()
                evaluates = self._is_time_to_evaluate()
                if self.done % self.config.log_interval == 0 or evaluates:
                    report = self._report(span, rate)
                    if evaluates and self.processes.first:
                        scores = self._evaluate()
                        report = dataclasses.replace(report, scores=scores)
                    tell(report)
                    self.sums = _Sums()
                self._save_or_stop(interrupts)
        self._take_average()
        self.supernet.eval()
        if not scores and self.processes.first:  # nothing was left to train
            scores = self._scores()
        file = self._write_supernet()
        self.processes.wait()  # a process that ends early would be taken for a failure
        seconds = time.monotonic() - began
        return TrainingReport(
            self.total, resumed, seconds, self._metric(), scores, file, tuple(self.costs)
        )

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        per_epoch = self.data.batches.steps_per_epoch
        epoch, start = divmod(self.done, per_epoch)
        while epoch * per_epoch < self.total:
            yield from self.data.batches.epoch(epoch, start)
            epoch, start = epoch + 1, 0

    # ---- a step -------------------------------------------------------------------------------

    def _step(self, inputs: Tensor, labels: Tensor, rule: StepRule, rate: float) -> None:
        seed, device = self.config.seed, self.processes.device
        images = inputs.ndim == 4 and inputs.is_floating_point()
        last = images and self.config.channels_last
        layout = torch.channels_last if last else torch.preserve_format
        batch = Batch(inputs.to(device, memory_format=layout), labels.to(device).flatten())
        torch.manual_seed(derived_seed("step", seed, self.done, self.processes.rank))
        if self.teacher is not None:
            with torch.no_grad(), self.autocast():
                batch.teacher = self.teacher(batch.inputs, self.extremes["largest"]).float()
        self.optimizer.zero_grad(set_to_none=True)
        rng = np.random.default_rng(derived_seed("networks", seed, self.done))
        self._combination()(rule(rng), _Step(self, batch))
        self.sums.samples += len(batch.labels) * self.processes.world
        self.sums.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.scaler.unscale_(self.optimizer)
        if self.config.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._update_average()

    def _combination(self) -> Combination:
        """The coming step's."""
        if self.combine is not None:
            return self.combine
        plain = self.config.resolve_after * self.data.batches.steps_per_epoch
        return resolved if self.config.combine == "resolve" and self.done >= plain else summed

    def autocast(self) -> torch.autocast:
        kind = self.config.precision
        return torch.autocast(self.processes.device.type, _TYPES.get(kind), enabled=kind in _TYPES)

    def _update_average(self) -> None:
        """Take in the weights after this step, where they belong to an average."""
        decay = self.config.ema
        if decay is not None:
            # the first steps would otherwise weigh as much as all that follow
            self._take_in(1 - min(decay, (1 + self.averaged) / (_EMA_START + self.averaged)))
        elif self._ends_averaged_epoch():
            self._take_in(1 / (1 + self.averaged))

    def _ends_averaged_epoch(self) -> bool:
        left = self.total - self.done - 1
        epochs, within = divmod(left, self.data.batches.steps_per_epoch)
        return within == 0 and epochs < self.config.average_epochs

    def _take_in(self, share: float) -> None:
        if not self.average:
            self.average = self._copied_weights()
        self.averaged += 1
        with torch.no_grad():
            for name, own in self.named.items():
                self.average[name].lerp_(own, share)

    def _copied_weights(self) -> dict[str, Tensor]:
        return {name: own.detach().clone() for name, own in self.named.items()}

    # ---- phases -------------------------------------------------------------------------------

    def _phase_of_next_step(self) -> tuple[_Span, StepRule]:
        """The coming step's phase, begun where this is its first step."""
        number = max(i for i, span in enumerate(self.spans) if span.first <= self.done)
        span = self.spans[number]
        if self.done == span.first:
            self._begin(span)
        return span, self.rules[number]

    def _begin(self, span: _Span) -> None:
        if span.phase.distill and self.teacher is None:
            self.teacher = self._new_teacher()
            if self.folder is not None and self.processes.first:
                save_supernet(self.folder / TEACHER_FILE, self.teacher)
        if span.phase.sort_channels:
            self.supernet.sort_channels()  # type: ignore[operator]  # checked at the start
        self.optimizer = _new_optimizer(self.parameters, self.config)
        self.averaged = 0
        if self.config.ema is not None:
            self.average = self._copied_weights()

    def _new_teacher(self) -> Supernet:
        """A frozen copy in training mode, whose batch norms use each batch's own statistics."""
        teacher = copy.deepcopy(self.supernet)
        if self.config.teacher is not None:
            load_weights(self.config.teacher, teacher)
        elif self.average:
            _assign(dict(teacher.named_parameters()), self.average)
        return teacher.requires_grad_(False).train()

    # ---- reports ------------------------------------------------------------------------------

    def _is_time_to_evaluate(self) -> bool:
        if self.data.held_out is None:
            return False
        every = self.config.evaluation_interval * self.data.batches.steps_per_epoch
        return self.done == self.total or bool(every and self.done % every == 0)

    def _evaluate(self) -> Mapping[str, float]:
        if not self.average:
            return self._scores()
        trained = self._copied_weights()
        self._take_average()
        try:
            return self._scores()
        finally:
            _assign(self.named, trained)

    def _scores(self) -> Mapping[str, float]:
        """Of the weights as they are, on held-out data.

        Raises:
            InvalidInputError: one is not a finite number.
        """
        held_out = self.data.held_out
        if held_out is None:
            return {}
        training = self.supernet.training
        self.supernet.eval()
        with torch.no_grad():
            scores = {
                name: held_out.metric.check(held_out.score(self.supernet, network))
                for name, network in self.extremes.items()
            }
        self.supernet.train(training)
        return scores

    def _metric(self) -> Metric | None:
        return None if self.data.held_out is None else self.data.held_out.metric

    def _report(self, span: _Span, rate: float) -> TrainingProgress:
        return TrainingProgress(
            self.done,
            self.total,
            self.done / self.data.batches.steps_per_epoch,
            span.phase.name,
            rate,
            self.sums.samples / max(1e-9, time.monotonic() - self.sums.began),
            self._mean_losses(),
            100.0 * float(self.sums.right),
            self.data.samples,
            self._metric(),
        )

    def _mean_losses(self) -> dict[str, float]:
        """Mean losses since the last report.

        Raises:
            InvalidInputError: one is not a finite number.
        """
        losses = {role: float(torch.stack(own).mean()) for role, own in self.sums.losses.items()}
        for role, loss in losses.items():
            if not math.isfinite(loss):
                raise InvalidInputError(
                    f"training needs finite losses, but at step {self.done} that of {role} "
                    f"networks is {loss}: lower learning_rate, lengthen the warm-up, or set clip."
                )
        return losses

    @contextmanager
    def _reporting(
        self, show: Show, tensorboard: bool, told: Callable[[TrainingProgress], None] | None
    ) -> Iterator[Callable[[TrainingProgress], None]]:
        """A function that tells a report to all who listen; only the first process has any."""
        if not self.processes.first:
            yield lambda report: None
            return
        log = None
        if self.folder is not None:
            columns = log_columns(self.data.samples, self._metric())
            log = TrainingLog(self.folder, columns, self.done, tensorboard=tensorboard)
        title = f"training from step {self.done}" if self.done else "training"
        with ExitStack() as stack:
            if log is not None:
                stack.callback(log.close)
            bar = stack.enter_context(progress_bar(title, self.total - self.done, show))

            def tell(report: TrainingProgress) -> None:
                bar.advance(self.sums.steps, str(report))
                if log is not None:
                    log.add(report)
                if told is not None:
                    told(report)

            yield tell

    # ---- files --------------------------------------------------------------------------------

    def _save_or_stop(self, interrupts: Interrupts) -> None:
        asked = False
        try:
            with interrupts.allowed():
                pass
        except KeyboardInterrupt:
            asked = True
        # all or none: a process alone would wait for the others for ever
        stops = self.processes.any(asked)
        if stops or self.done % self.config.checkpoint_interval == 0 or self.done == self.total:
            self._save()
        if stops:
            raise KeyboardInterrupt

    def _save(self) -> None:
        if self.folder is None or not self.processes.first:
            return
        self._mean_losses()  # weights that are not finite are not worth keeping
        Checkpoint(
            self.done,
            self.config,
            self.supernet.space,
            self.data.name,
            self.supernet.state_dict(),
            self.average,
            optimizer_tensors(self.optimizer),
            self.scaler.state_dict(),
            self.averaged,
        ).save(self.folder / CHECKPOINT_FILE)

    def _restore(self) -> int:
        """The step from which training goes on: that of the folder's checkpoint, or 0."""
        if self.folder is None:
            self._start()
            return 0
        path = self.folder / CHECKPOINT_FILE
        if not path.exists():
            if (self.folder / SUPERNET_FILE).exists():
                raise InvalidInputError(
                    f"{self.folder} holds {SUPERNET_FILE} but no checkpoint to go on from, and "
                    "training would replace it: name another folder."
                )
            self._start()
            if self.processes.first:
                self.config.save(self.folder / CONFIG_FILE)
            return 0
        checkpoint = Checkpoint.load(path)
        checkpoint.check_same(path, self.config, self.supernet.space, self.data.name)
        load_tensors(self.supernet, checkpoint.weights, str(path))
        restore_optimizer(self.optimizer, checkpoint.optimizer, str(path))
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(dict(checkpoint.scale))
        self.averaged = checkpoint.averaged
        if checkpoint.average:
            self.average = self._copied_weights()
            _assign(self.average, checkpoint.average)
        self.done = checkpoint.step
        if any(span.phase.distill and span.first < self.done for span in self.spans):
            self.teacher = copy.deepcopy(self.supernet)
            load_weights(self.folder / TEACHER_FILE, self.teacher)
            self.teacher.requires_grad_(False).train()
        return self.done

    def _start(self) -> None:
        if self.config.start is not None:
            load_weights(self.config.start, self.supernet)
        if self.config.zero_residuals:
            self.supernet.zero_residuals()  # type: ignore[operator]  # checked at the start

    def _take_average(self) -> None:
        if self.average:
            _assign(self.named, self.average)

    def _write_supernet(self) -> Path | None:
        if self.folder is None:
            return None
        path = self.folder / SUPERNET_FILE
        # evaluations know a supernet by its file, whose bytes may differ where its content does not
        there = self.resumed == self.total and path.exists()
        if self.processes.first and not there:
            notes = {
                "training": self.config.to_dict(),
                "data": self.data.name,
                "costs": [cost.to_dict() for cost in self.costs],
                **self.data.notes,
            }
            save_supernet(path, self.supernet, notes=notes)
        return path

    # ---- costs --------------------------------------------------------------------------------

    def _read_costs(self) -> None:
        """What earlier runs in the folder cost, those that were killed too."""
        if self.folder is not None and (self.folder / COSTS_FILE).exists():
            self.costs = read_runs(self.folder)
        self._earlier = len(self.costs)

    def _keep_cost(self, cost: RunCost) -> None:
        """As the last of the training's costs; a run that has nothing left to train is none, and
        leaves the files as they were."""
        if self.resumed == self.total:
            return
        self.costs[self._earlier :] = [cost]
        if self.folder is not None and self.processes.first:
            write_runs(self.folder, self.costs)


class _Step:
    """What a combination works with; see `Passes`."""

    def __init__(self, trainer: _Trainer, batch: Batch) -> None:
        self.parameters = trainer.parameters
        self._trainer = trainer
        self._batch = batch
        self._runs = 0

    @property
    def scale(self) -> float:
        return self._trainer.scaler.get_scale()

    def run(self, one: Pass) -> None:
        trainer, batch = self._trainer, self._batch
        with trainer.autocast():
            logits = trainer.supernet(batch.inputs, one.network)
        logits = logits.float()
        if logits.shape[1] != trainer.data.classes:
            raise InvalidInputError(
                f"a supernet has an output for every class, but this one has {logits.shape[1]} "
                f"and {trainer.data.name!r} has {trainer.data.classes} classes."
            )
        if len(logits) != len(batch.labels):
            raise InvalidInputError(
                f"a supernet gives a row of logits for every label, but this one gives "
                f"{len(logits)} for a batch of {trainer.data.name!r} with {len(batch.labels)}."
            )
        loss = one.loss(logits, batch)
        torch.autograd.backward(trainer.scaler.scale(loss))
        logits = logits.detach()
        if one.teaches:
            batch.teacher = logits
        trainer.sums.losses.setdefault(one.role, []).append(loss.detach())
        if self._runs == 0:
            trainer.sums.right = (logits.argmax(1) == batch.labels).float().mean()
        self._runs += 1

    def average(self) -> None:
        self._trainer.processes.average_gradients(self.parameters)


@dataclass
class _Sums:
    """What has come together since the last report."""

    steps: int = 0
    samples: int = 0
    losses: dict[str, list[Tensor]] = field(default_factory=dict)
    right: Tensor = field(default_factory=lambda: torch.zeros(()))  # share of the last batch
    began: float = field(default_factory=time.monotonic)


def _check_method(supernet: Supernet, name: str, what: str, way_out: str | None = None) -> None:
    """A setting calls a method of the supernet, which there has to be; most have its name."""
    if not hasattr(supernet, name):
        raise InvalidInputError(
            f"{what}, but {type(supernet).__name__} has no {name}(): "
            f"set {way_out or name + '=false'}."
        )


def _new_optimizer(
    parameters: Sequence[nn.Parameter], config: TrainingConfig
) -> torch.optim.Optimizer:
    """Weights decay; biases and normalisations (one dimension) do not."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "adamw":
        betas = (config.beta1, config.beta2)
        return torch.optim.AdamW(groups, config.learning_rate, betas, config.eps)
    return torch.optim.SGD(
        groups, config.learning_rate, config.momentum, nesterov=config.momentum > 0
    )


def _assign(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(values[name])


def _to_channels_last(module: nn.Module) -> None:
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
