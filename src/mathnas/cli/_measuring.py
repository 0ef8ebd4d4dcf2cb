"""What measures a supernet's networks on this machine, for the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mathnas import spaces
from mathnas.cli._extras import needing
from mathnas.cli._supernets import SupernetFile, new_supernet, seen_as
from mathnas.devices.engines import Form, engine_family, engine_named, models_for
from mathnas.errors import InvalidInputError
from mathnas.evaluation import Evaluator
from mathnas.space import Network, SearchSpace

if TYPE_CHECKING:
    from mathnas.nets.supernet import Supernet

Models = Callable[[Network], Any]

METRICS = ("latency_ms", "energy_mj", "memory_mb", "memory_mb_weights")
LOCAL = "local"
LATENCY_THERE = "onnxruntime"  # what bundles run
_LAYERS = "layers"


@dataclass(frozen=True)
class There:
    """Another machine to measure on.

    Attributes:
        target: ``ssh://[user@]host[:port][/path]``.
        folder: here, for bundles and results.
        python, options: of `mathnas.devices.ssh.run_over_ssh`.
    """

    target: str
    folder: Path
    python: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class CostSettings:
    """How costs are measured.

    Attributes:
        metrics: names of `METRICS`.
        engine: one of `mathnas.devices.engines.ENGINES`.
        threads, batch: of a run.
        resolution: of the images; None: the supernet's.
        accept_noise: whether latencies and energies of a machine that is busy are kept.
        meter: for energy.
        there: another machine; None measures on this one.
    """

    metrics: tuple[str, ...]
    engine: str = "onnxruntime"
    threads: int = 1
    batch: int = 1
    resolution: int | None = None
    accept_noise: bool = False
    meter: str = "auto"
    there: There | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown or not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise InvalidInputError(
                f"--metrics takes some of {','.join(METRICS)}, each once, but got "
                f"{','.join(self.metrics)!r}."
            )
        engine_family(self.engine)
        if self.there is not None and (
            self.metrics != ("latency_ms",) or self.engine != LATENCY_THERE
        ):
            raise InvalidInputError(
                f"on another machine latency_ms is measured on {LATENCY_THERE}, but got "
                f"--metrics {','.join(self.metrics)} --engine {self.engine}: leave these out, or "
                "run mathnas on that machine."
            )


def read_supernet(text: str) -> Supernet:
    """A supernet's file, or a new supernet of the space that is named: costs do not depend on
    weights.

    Raises:
        FileFormatError: the file is damaged or foreign.
        InvalidInputError: no file and no space has this name, or no supernet is known for it.
        MissingExtraError: torch is not installed.
    """
    if text.endswith(".safetensors"):
        return SupernetFile.read(Path(text)).supernet
    with needing("a supernet", "torch"):
        from mathnas.nets.families import space_named
    return new_supernet(space_named(text))


def partitioned(supernet: Supernet, text: str | None, known: SearchSpace | None) -> Supernet:
    """The supernet with the nodes that are asked for.

    Args:
        text: ``layers`` (its own nodes), a partition that its space knows, or the file of a grouped
            space; None: those of the study, or its own.
        known: the space of the study, where there is one.

    Raises:
        InvalidInputError: there is no such partition, or the study is of another space.
    """
    space = supernet.space
    if text is None:
        return supernet if known is None else seen_as(supernet, known)
    if text == _LAYERS:
        return supernet
    if text.endswith(".json"):
        return seen_as(supernet, spaces.named(text))
    if text in space.partitions:
        return seen_as(supernet, spaces.partitioned(space, text))
    raise InvalidInputError(
        f"--partition is layers, a partition that {space.name} knows "
        f"({', '.join(space.partitions) or 'none'}), or the JSON file of a grouped space (mathnas "
        f"candidates writes them), but got {text!r}."
    )


class CostEvaluators:
    """The evaluators of a supernet's networks, and of their parts.

    Raises:
        MissingExtraError: the engine is not installed.
        MeterError: energy is asked for, and no meter can be read.
    """

    def __init__(self, supernet: Supernet, settings: CostSettings) -> None:
        from mathnas.nets.inputs import example_inputs

        if supernet.vocabulary_size is not None:
            raise InvalidInputError(
                "networks are measured here that run in one pass, but translators run in steps: "
                "use mathnas evaluate --evaluator latency:FILE, then mathnas fit."
            )
        self.supernet, self.settings = supernet, settings
        self.engine = engine_named(settings.engine, threads=settings.threads, batch=settings.batch)
        self.example = example_inputs(supernet, settings.batch, settings.resolution)
        self.models: Models = models_for(settings.engine, supernet, self.example)
        self.of_networks = self._evaluators(self.models, supernet.space.reference)

    def of_parts(self) -> tuple[SearchSpace, list[Evaluator]]:
        """The space of the parts, and what measures them.

        Raises:
            InvalidInputError: the networks are no chains, or weights are asked for.
        """
        if "memory_mb_weights" in self.settings.metrics:
            raise InvalidInputError(
                "memory_mb_weights is known by formula, so its blocks are not measured alone: "
                "leave it out of --metrics."
            )
        if engine_family(self.settings.engine).form is not Form.ONNX:
            raise InvalidInputError(
                f"blocks are measured alone as ONNX graphs, which {self.settings.engine} does not "
                "read: use another engine or method."
            )
        if self.settings.there is not None:
            raise InvalidInputError(
                "blocks are measured alone on this machine only: leave out --device, or use "
                "another --method."
            )
        from mathnas.nets.onnx_export import NetworkGraphs
        from mathnas.nets.parts import PartGraphs

        assert isinstance(self.models, NetworkGraphs)  # of an engine that reads ONNX
        parts = PartGraphs(self.models, self.supernet.space.reference)
        return parts.space, self._evaluators(parts, (0,))

    def _evaluators(self, models: Models, reference: Network) -> list[Evaluator]:
        return [self._evaluator(name, models, reference) for name in self.settings.metrics]

    def _evaluator(self, metric: str, models: Models, reference: Network) -> Evaluator:
        from mathnas.devices.memory import MemoryEvaluator, weights_evaluator
        from mathnas.devices.relative import RelativeLatencyEvaluator

        also = {"resolution": str(self.example.shape[-1])}
        there = self.settings.there
        if there is not None:
            from mathnas.devices.onnxruntime import OnnxRuntimeEngine
            from mathnas.devices.remote import RemoteLatencyEvaluator

            return RemoteLatencyEvaluator(
                models,
                self.supernet.space,
                there.target,
                there.folder,
                OnnxRuntimeEngine(self.settings.threads, self.settings.batch),
                accept_noise=self.settings.accept_noise,
                conditions=also,
                python=there.python,
                options=there.options,
                say=_to_stderr,
            )
        if metric == "latency_ms":
            latency = RelativeLatencyEvaluator(
                models, self.engine, reference, accept_noise=self.settings.accept_noise
            )
            latency.also.update(also)
            return latency
        if metric == "memory_mb":
            memory = MemoryEvaluator(models, self.engine)
            memory.conditions = {**memory.conditions, **also}
            return memory
        if metric == "memory_mb_weights":
            return weights_evaluator(self.supernet.space, self.engine.precision)
        from mathnas.devices.energy import StatedPower, meter_named
        from mathnas.devices.energy.evaluator import EnergyEvaluator

        meter = meter_named(self.settings.meter)
        if isinstance(meter, StatedPower):
            raise InvalidInputError(
                "energy_mj is measured, and a stated power is no measurement: evaluate it as "
                "energy,meter=... (mathnas evaluate), which labels it as an estimate."
            )
        energy = EnergyEvaluator(
            models, self.engine, meter, accept_noise=self.settings.accept_noise
        )
        energy.conditions = {**energy.conditions, **also}
        return energy


def _to_stderr(line: str) -> None:
    typer.echo(line, err=True)


def read_metrics(text: str) -> tuple[str, ...]:
    """``latency_ms,memory_mb`` as names."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def default_study(supernet: str, partition: str | None) -> Path:
    """The study of measurements where none is named: in this folder, named after the supernet."""
    stem = Path(supernet).stem if supernet.endswith(".safetensors") else supernet
    safe = "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in stem)
    return Path(f"{safe}.{Path(partition or _LAYERS).stem}.study")
