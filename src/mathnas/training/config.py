"""How a supernet is trained: one frozen dataclass, with a JSON file."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from mathnas._records import check_header, read_json, shown, write_json
from mathnas.errors import FileFormatError, InvalidInputError

Recipe: TypeAlias = Literal["sandwich", "shrinking", "uniform"]
Optimizer: TypeAlias = Literal["sgd", "adamw"]
Schedule: TypeAlias = Literal["cosine", "inverse-sqrt", "constant"]
StudentLoss: TypeAlias = Literal["soft", "alpha"]
Combine: TypeAlias = Literal["sum", "resolve"]
Precision: TypeAlias = Literal["no", "bf16", "fp16"]

_T = TypeVar("_T")
CONFIG_FORMAT = "mathnas-training"
CONFIG_VERSION = 1
# what is told and kept on the way, without effect on the weights: it may change when training
# goes on
REPORTING = ("checkpoint_interval", "log_interval", "evaluation_interval")
_DEFAULT_EPOCHS = 30


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of progressive shrinking, with its own optimiser and schedule.

    Attributes:
        name: for logs.
        epochs: its length.
        blocks: which blocks may be drawn: a pattern of node names (as in a shell: ``*``, ``?``,
            ``[46]``) with the patterns of its blocks. Of several patterns that match a node the
            last holds; a node that none matches, and an empty mapping, allow every block.
        largest: train the largest network alone, on labels; `blocks` is then empty.
        networks: random networks a step; their gradients are summed.
        distill: weight of the soft cross entropy against the teacher; 0 trains on labels alone.
        learning_rate: highest rate; the configuration's where it is None.
        warmup_epochs: in which the rate rises linearly; afterwards it follows the configuration's
            schedule.
        warmup_steps: the same, in steps; give one of the two.
        sort_channels: call the supernet's ``sort_channels()`` first, so that its narrow forms
            begin with the important channels.
    """

    name: str
    epochs: int
    blocks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    largest: bool = False
    networks: int = 1
    distill: float = 1.0
    learning_rate: float | None = None
    warmup_epochs: float = 0.0
    warmup_steps: int | None = None
    sort_channels: bool = False

    def __post_init__(self) -> None:
        _check(self, _PHASE_RULES, "a phase's")
        _check_warmup(self.warmup_epochs, self.warmup_steps)
        object.__setattr__(self, "blocks", _patterns(self.blocks, self.name))
        if self.largest and (self.blocks or self.networks != 1):
            raise InvalidInputError(
                f"a phase with largest=true trains one network, but phase {self.name!r} also has "
                "blocks or networks: leave them out."
            )
        if self.warmup_epochs > self.epochs:
            raise InvalidInputError(
                f"a warm-up is no longer than its phase, but phase {self.name!r} has "
                f"{self.epochs} epochs and {self.warmup_epochs} of warm-up."
            )

    def to_dict(self) -> dict[str, object]:
        record = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {**record, "blocks": {node: list(own) for node, own in self.blocks.items()}}

    @staticmethod
    def from_dict(value: object, where: str = "phase") -> Phase:
        """The phase of a JSON object.

        Raises:
            FileFormatError: a field is unknown or missing.
            InvalidInputError: a value breaks a rule.
        """
        record = _fields(value, Phase, where)
        for name in ("name", "epochs"):
            if name not in record:
                raise FileFormatError(f"{where}: the field {name!r} is missing.")
        return _built(Phase, record, where)


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How to train.

    Attributes:
        recipe: ``sandwich`` (Yu et al., BigNAS, ECCV 2020): every step the largest network learns
            the labels, the smallest and random ones learn the largest's outputs. ``shrinking`` (Cai
            et al., once-for-all, ICLR 2020): in phases, with a frozen copy of the largest network
            as teacher. ``uniform`` (Guo et al., single path one-shot, ECCV 2020): one random
            network a step on the labels.
        epochs: of all phases together; 30 where it is None and there are no phases.
        phases: of ``shrinking``; by default the largest network alone for a third of the epochs,
            then all networks. They tell their own epochs.
        batch_size: of a step, all processes together: images, or tokens where sentences are
            translated, of sources and of targets each, padding counted.
        optimizer: ``sgd`` (with Nesterov momentum) or ``adamw``.
        learning_rate: highest rate.
        momentum: of ``sgd``.
        beta1, beta2, eps: of ``adamw``: decays of the moving averages of the gradient and of its
            square, and what is added to the root of the latter.
        weight_decay: of weights; biases and normalisations (one dimension) do not decay.
        schedule: the rate after the warm-up: ``cosine`` falls to `final_rate` at the end of the
            phase; ``inverse-sqrt`` is the highest rate times the root of warm-up steps over steps,
            not below `final_rate` (Vaswani et al., NeurIPS 2017); ``constant`` stays.
        warmup_epochs: in which the rate rises linearly.
        warmup_steps: the same, in steps; give one of the two.
        initial_rate: the rate that a warm-up rises from.
        final_rate: the lowest rate after the warm-up; a rate, like `learning_rate`, not a share.
        label_smoothing: of the labels, 0 to 1.
        student_loss: what the networks of ``sandwich`` learn from the largest one's outputs: their
            ``soft`` cross entropy, or the ``alpha`` divergence
            (`mathnas.training.losses.AlphaDivergenceLoss`).
        random_networks: networks a step of ``sandwich`` besides the largest and the smallest, and
            of the second default phase of ``shrinking``.
        combine: how the gradients of a step's networks become one: their ``sum``, or, in the
            sandwich, with conflicts between the largest network and the others ``resolve``d
            (`mathnas.training.conflicts`).
        resolve_after: epochs of the plain sum before conflicts are resolved.
        clip: highest norm of a step's gradient; None does not clip.
        ema: decay of an exponential moving average of the weights, which is then what is
            evaluated and saved; None keeps none.
        average_epochs: so many last epochs, after each of which the weights are taken: their mean
            is what is saved (and, from the first of them on, evaluated); 0 takes the last weights.
            Not together with `ema`.
        dropout: given to the supernet's ``set_dropout()``; None leaves what the supernet has.
        precision: ``no`` (float32), ``bf16`` or ``fp16`` (with a loss scale).
        seed: of everything that is drawn; the initial weights have it too.
        channels_last: memory layout of images; depthwise convolutions on a CPU take half the time.
        held_out: training images (the same share of every class) or sentence pairs that are kept
            from training, to evaluate with; data that come with a part for that ignore it. 0
            evaluates nothing.
        zero_residuals: call the supernet's ``zero_residuals()`` first, so that blocks with a
            shortcut add nothing at the start, and deep networks learn as early as shallow ones
            (Goyal et al., 2017; BigNAS); of random weights only.
        start: supernet file whose weights training starts from; None starts from random ones.
        teacher: supernet file whose largest network teaches in ``shrinking``; None takes the
            supernet as it is when the first phase that distils begins.
        vocabulary: file of `mathnas.text.vocabulary.Vocabulary.save`, or a ``dict.txt`` of
            fairseq's, for sentences; None learns one from those that are trained on.
        checkpoint_interval: steps.
        log_interval: steps.
        evaluation_interval: epochs between evaluations of the smallest and the largest network; 0
            evaluates at the end alone.
    """

    recipe: Recipe = "sandwich"
    epochs: int | None = None
    phases: tuple[Phase, ...] = ()
    batch_size: int = 128
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 3e-5
    schedule: Schedule = "cosine"
    warmup_epochs: float = 0.0
    warmup_steps: int | None = None
    initial_rate: float = 0.0
    final_rate: float = 0.0
    label_smoothing: float = 0.1
    student_loss: StudentLoss = "soft"
    random_networks: int = 2
    combine: Combine = "sum"
    resolve_after: int = 0
    clip: float | None = None
    ema: float | None = None
    average_epochs: int = 0
    dropout: float | None = None
    precision: Precision = "no"
    seed: int = 0
    channels_last: bool = True
    held_out: int = 5_000
    zero_residuals: bool = False
    start: str | None = None
    teacher: str | None = None
    vocabulary: str | None = None
    checkpoint_interval: int = 200
    log_interval: int = 20
    evaluation_interval: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "phases", _phases(self.phases))
        _check(self, _CONFIG_RULES, "training's")
        _check_warmup(self.warmup_epochs, self.warmup_steps)
        if self.phases and self.recipe != "shrinking":
            raise InvalidInputError(
                f"phases belong to the recipe 'shrinking', but recipe is {self.recipe!r}."
            )
        if self.phases and self.epochs is not None:
            raise InvalidInputError(
                f"phases tell their own epochs (here {sum(p.epochs for p in self.phases)} in all), "
                f"but epochs is {self.epochs}: leave it out."
            )
        if self.teacher is not None and self.recipe != "shrinking":
            raise InvalidInputError(
                f"a teacher belongs to the recipe 'shrinking', but recipe is {self.recipe!r}."
            )
        if self.student_loss != "soft" and self.recipe != "sandwich":
            raise InvalidInputError(
                f"a student_loss belongs to the recipe 'sandwich', but recipe is {self.recipe!r}."
            )
        if self.zero_residuals and self.start is not None:
            raise InvalidInputError(
                "zero_residuals is about random weights, but training starts from those of "
                f"{self.start}: leave one of the two out."
            )
        for phase in self.plan():
            if self.recipe != "sandwich" and phase.networks < 1:
                raise InvalidInputError(
                    f"a step of {self.recipe!r} trains at least 1 network, but phase "
                    f"{phase.name!r} has networks={phase.networks}."
                )
        _check_rates(self)
        _check_combination(self)
        _check_average(self)

    def plan(self) -> tuple[Phase, ...]:
        """The phases of any recipe; `sandwich` and `uniform` have one."""
        if self.phases:
            return self.phases
        epochs = _DEFAULT_EPOCHS if self.epochs is None else self.epochs
        warmup, steps = self.warmup_epochs, self.warmup_steps
        if self.recipe != "shrinking":
            networks = self.random_networks if self.recipe == "sandwich" else 1
            return (
                Phase(
                    self.recipe,
                    epochs,
                    networks=networks,
                    distill=0.0,
                    warmup_epochs=warmup,
                    warmup_steps=steps,
                ),
            )
        if epochs < 2:
            raise InvalidInputError(
                f"shrinking takes at least 2 epochs, one a phase, but epochs is {epochs}."
            )
        first = max(1, epochs // 3)
        return (
            Phase(
                "largest",
                first,
                largest=True,
                distill=0.0,
                warmup_epochs=min(warmup, first),
                warmup_steps=steps,
            ),
            Phase("all", epochs - first, networks=max(1, self.random_networks)),
        )

    def highest_rate(self, phase: Phase) -> float:
        """That of a phase: its own, or the configuration's."""
        return self.learning_rate if phase.learning_rate is None else phase.learning_rate

    def replace(self, **changes: Any) -> TrainingConfig:
        """A copy with other values."""
        return dataclasses.replace(self, **changes)

    # ---- files ------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, object]:
        """The JSON form: every field, defaults too."""
        return {"format": CONFIG_FORMAT, "version": CONFIG_VERSION, **self.to_fields()}

    def to_fields(self) -> dict[str, Any]:
        """As `to_dict`, without ``format`` and ``version``."""
        record = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {**record, "phases": [phase.to_dict() for phase in self.phases]}

    @staticmethod
    def from_dict(value: object, where: str = "training") -> TrainingConfig:
        """The configuration of a JSON object; fields that are left out have their defaults.

        Raises:
            FileFormatError: another format, or an unknown field.
            InvalidInputError: a value breaks a rule.
        """
        record = dict(check_header(value, CONFIG_FORMAT, CONFIG_VERSION, where).value)
        del record["format"], record["version"]
        return TrainingConfig.from_fields(record, where)

    @staticmethod
    def from_fields(value: object, where: str = "training") -> TrainingConfig:
        """As `from_dict`, for an object without ``format`` and ``version``."""
        record = _fields(value, TrainingConfig, where)
        phases = record.get("phases", [])
        if not isinstance(phases, list):
            raise FileFormatError(f"{where}.phases: expected a list, but got {shown(phases)}.")
        record["phases"] = tuple(
            Phase.from_dict(phase, f"{where}.phases[{i}]") for i, phase in enumerate(phases)
        )
        return _built(TrainingConfig, record, where)

    @staticmethod
    def load(path: str | Path) -> TrainingConfig:
        """Read a configuration file; errors as `from_dict`."""
        record = read_json(Path(path), CONFIG_FORMAT, CONFIG_VERSION)
        return TrainingConfig.from_dict(record.value, str(path))

    def save(self, path: str | Path) -> None:
        """Write the configuration as JSON, whole or not at all."""
        write_json(Path(path), self.to_dict())

    def difference(self, other: TrainingConfig) -> str | None:
        """The first field that decides the weights and differs, or None."""
        for item in dataclasses.fields(self):
            own, others = getattr(self, item.name), getattr(other, item.name)
            if item.name not in REPORTING and own != others:
                return item.name
        return None


# ---- rules --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a field may hold."""

    text: str
    holds: Callable[[Any], bool]
    optional: bool = False


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(text: str, holds: Callable[[float], bool], optional: bool = False) -> _Rule:
    return _Rule(f"a number {text}", lambda v: _is_number(v) and holds(v), optional)


def _whole(least: int, optional: bool = False) -> _Rule:
    return _Rule(
        f"a whole number, {least} or more",
        lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= least,
        optional,
    )


def _one_of(*names: str) -> _Rule:
    return _Rule(f"one of {', '.join(names)}", lambda v: isinstance(v, str) and v in names)


_FLAG = _Rule("true or false", lambda v: isinstance(v, bool))
_PATH = _Rule("a path", lambda v: isinstance(v, str) and v != "", optional=True)
_RATE = _number("above 0", lambda v: v > 0)
_NOT_NEGATIVE = _number("of at least 0", lambda v: v >= 0)
_SHARE = _number("in [0, 1)", lambda v: 0 <= v < 1)

_PHASE_RULES: Mapping[str, _Rule] = {
    "name": _Rule("a text", lambda v: isinstance(v, str) and v != ""),
    "epochs": _whole(1),
    "blocks": _Rule("a mapping of patterns", lambda v: isinstance(v, Mapping)),
    "largest": _FLAG,
    "networks": _whole(0),
    "distill": _NOT_NEGATIVE,
    "learning_rate": dataclasses.replace(_RATE, optional=True),
    "warmup_epochs": _NOT_NEGATIVE,
    "warmup_steps": _whole(1, optional=True),
    "sort_channels": _FLAG,
}
_CONFIG_RULES: Mapping[str, _Rule] = {
    "recipe": _one_of("sandwich", "shrinking", "uniform"),
    "epochs": _whole(1, optional=True),
    "batch_size": _whole(1),
    "optimizer": _one_of("sgd", "adamw"),
    "learning_rate": _RATE,
    "momentum": _SHARE,
    "beta1": _SHARE,
    "beta2": _SHARE,
    "eps": _RATE,
    "weight_decay": _NOT_NEGATIVE,
    "schedule": _one_of("cosine", "inverse-sqrt", "constant"),
    "warmup_epochs": _NOT_NEGATIVE,
    "warmup_steps": _whole(1, optional=True),
    "initial_rate": _NOT_NEGATIVE,
    "final_rate": _NOT_NEGATIVE,
    "label_smoothing": _number("in [0, 1]", lambda v: 0 <= v <= 1),
    "student_loss": _one_of("soft", "alpha"),
    "random_networks": _whole(0),
    "combine": _one_of("sum", "resolve"),
    "resolve_after": _whole(0),
    "clip": dataclasses.replace(_RATE, optional=True),
    "ema": dataclasses.replace(_SHARE, optional=True),
    "average_epochs": _whole(0),
    "dropout": dataclasses.replace(_SHARE, optional=True),
    "precision": _one_of("no", "bf16", "fp16"),
    "seed": _whole(0),
    "channels_last": _FLAG,
    "held_out": _whole(0),
    "zero_residuals": _FLAG,
    "start": _PATH,
    "teacher": _PATH,
    "vocabulary": _PATH,
    "checkpoint_interval": _whole(1),
    "log_interval": _whole(1),
    "evaluation_interval": _whole(0),
}


def _check(value: object, rules: Mapping[str, _Rule], whose: str) -> None:
    for name, rule in rules.items():
        found = getattr(value, name)
        if found is None and rule.optional:
            continue
        if not rule.holds(found):
            null = " or null" if rule.optional else ""
            raise InvalidInputError(f"{whose} {name} is {rule.text}{null}, but got {shown(found)}.")


def _check_warmup(epochs: float, steps: int | None) -> None:
    if epochs and steps is not None:
        raise InvalidInputError(
            f"a warm-up is told in epochs or in steps, but got warmup_epochs={epochs} and "
            f"warmup_steps={steps}: leave one of the two out."
        )


def _check_rates(config: TrainingConfig) -> None:
    """The lowest rates are below the highest ones, and there is something that reaches them."""
    plan = config.plan()
    if config.initial_rate and not any(p.warmup_epochs or p.warmup_steps for p in plan):
        raise InvalidInputError(
            f"a warm-up rises from initial_rate, but initial_rate is {config.initial_rate} and "
            "there is no warm-up: set warmup_epochs or warmup_steps."
        )
    if config.final_rate and config.schedule == "constant":
        raise InvalidInputError(
            f"a constant rate does not fall, but final_rate is {config.final_rate}: leave it out, "
            "or choose another schedule."
        )
    for phase in plan:
        for name in ("initial_rate", "final_rate"):
            lowest, highest = getattr(config, name), config.highest_rate(phase)
            if lowest > highest:
                raise InvalidInputError(
                    f"{name} is not above the highest rate, but it is {lowest} and the "
                    f"learning_rate of phase {phase.name!r} is {highest}."
                )


def _check_combination(config: TrainingConfig) -> None:
    if config.combine == "resolve" and config.recipe != "sandwich":
        raise InvalidInputError(
            "conflicts are resolved in the recipe 'sandwich', where one network teaches the "
            f"others, but recipe is {config.recipe!r}: take combine='sum'."
        )
    if config.resolve_after and config.combine != "resolve":
        raise InvalidInputError(
            f"resolve_after belongs to combine='resolve', but combine is {config.combine!r}."
        )
    epochs = sum(phase.epochs for phase in config.plan())
    if config.resolve_after >= epochs:
        raise InvalidInputError(
            f"conflicts are resolved before training ends, but resolve_after is "
            f"{config.resolve_after} and there are {epochs} epochs in all."
        )


def _check_average(config: TrainingConfig) -> None:
    if config.average_epochs and config.ema is not None:
        raise InvalidInputError(
            f"weights are averaged in one way, but got ema={config.ema} and "
            f"average_epochs={config.average_epochs}: leave one of the two out."
        )
    last = config.plan()[-1]
    if config.average_epochs > last.epochs:
        raise InvalidInputError(
            f"weights are averaged over epochs of the last phase, but average_epochs is "
            f"{config.average_epochs} and phase {last.name!r} has {last.epochs} epochs."
        )


def _patterns(blocks: Mapping[str, object], name: str) -> dict[str, tuple[str, ...]]:
    found = {}
    for node, own in blocks.items():
        if isinstance(own, str) or not isinstance(own, Sequence) or not own:
            raise InvalidInputError(
                f"blocks of a phase are lists of patterns, one for each pattern of nodes, but "
                f"phase {name!r} has {shown(own)} for {node!r}."
            )
        if not all(isinstance(pattern, str) for pattern in own):
            raise InvalidInputError(
                f"patterns of blocks are texts, but phase {name!r} has {shown(own)} for {node!r}."
            )
        found[node] = tuple(own)
    return found


def _phases(phases: object) -> tuple[Phase, ...]:
    if not isinstance(phases, Sequence) or not all(isinstance(phase, Phase) for phase in phases):
        raise InvalidInputError(f"phases are a sequence of Phase, but got {shown(phases)}.")
    return tuple(phases)


def _fields(value: object, kind: type, where: str) -> dict[str, Any]:
    """A JSON object, after checking that `kind` has all its fields."""
    if not isinstance(value, Mapping):
        raise FileFormatError(f"{where}: expected an object, but got {shown(value)}.")
    known = [item.name for item in dataclasses.fields(kind)]
    for name in value:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}."
            raise FileFormatError(f"{where}: unknown field {name!r}: {hint}")
    return dict(value)


def _built(kind: Callable[..., _T], record: Mapping[str, Any], where: str) -> _T:
    try:
        return kind(**record)
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error}") from error
