"""Evaluators that a command line can name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mathnas import datasets, spaces
from mathnas.cli._energy import energy_evaluator
from mathnas.cli._latency import latency_evaluator
from mathnas.cli._objects import load_object
from mathnas.cli._options import restored_space
from mathnas.cli._supernets import quality_evaluator
from mathnas.errors import InvalidInputError
from mathnas.evaluation import Evaluator, TabularEvaluator
from mathnas.space import SearchSpace

_DATA: Mapping[str, Callable[[str], TabularEvaluator]] = {
    "nasbench201": lambda text: datasets.nasbench201(text or "cifar100"),
    "nasbench_macro": lambda text: datasets.nasbench_macro(
        _number(text) if text else None  # type: ignore[arg-type]  # checked by the reader
    ),
    "fbnet": lambda _: datasets.fbnet(),
    "ofa_mobilenetv3": lambda _: datasets.ofa_mobilenetv3(),
    "ofa_mobilenetv3_latency": lambda text: datasets.ofa_mobilenetv3_latency(_number(text)),
}


def evaluator_named(text: str, space: SearchSpace | None, metrics: Sequence[str]) -> Evaluator:
    """The evaluator that ``--evaluator`` names.

    Args:
        text: ``data:NAME[:ARGUMENT]`` (public measurements), ``table:FILE.csv`` (your own table),
            ``supernet:FILE,...`` (accuracy of a trained supernet's networks, or loss and BLEU),
            ``latency[:FILE],...`` (their latency here), ``energy[:FILE],meter=NAME,...`` (their
            energy here), or ``MODULE:OBJECT`` (an `Evaluator`, or a function without arguments that
            makes one).
        space: of the study, where it is known; a table file needs it.
        metrics: which metrics to keep; all where empty.

    Raises:
        InvalidInputError: the text names nothing, or a metric that the evaluator lacks.
        EvaluationError: the module or object cannot be loaded.
    """
    kind, _, rest = text.partition(":")
    if kind == "data":
        name, _, argument = rest.partition(":")
        if name not in _DATA:
            raise InvalidInputError(
                f"measurements that can be evaluated are {', '.join(_DATA)}, but got {name!r}."
            )
        evaluator: Evaluator = _DATA[name](argument)
    elif kind == "table":
        if space is None:
            raise InvalidInputError("a table file needs --space: its networks are of one space.")
        evaluator = TabularEvaluator.from_csv(rest, space)
    elif kind == "supernet":
        evaluator = quality_evaluator(rest, space, metrics)
    elif kind.partition(",")[0] == "latency":
        evaluator = latency_evaluator(text.removeprefix("latency").removeprefix(":"), space)
    elif kind.partition(",")[0] == "energy":
        evaluator = energy_evaluator(text.removeprefix("energy").removeprefix(":"), space)
    elif rest:
        evaluator = load_object(kind, rest, "evaluator", ("evaluate", "metrics"))
    else:
        raise InvalidInputError(
            f"an evaluator is written data:NAME, table:FILE.csv, supernet:FILE, latency, energy or "
            f"MODULE:OBJECT, but got {text!r}."
        )
    return _only(evaluator, metrics)


def _only(evaluator: Evaluator, metrics: Sequence[str]) -> Evaluator:
    if not metrics:
        return evaluator
    known = {metric.name: metric for metric in evaluator.metrics}
    for name in metrics:
        if name not in known:
            raise InvalidInputError(
                f"the evaluator measures {', '.join(known)}, but --metric got {name!r}."
            )
    evaluator.metrics = tuple(known[name] for name in metrics)
    return evaluator


def _number(text: str) -> int:
    if not text.isdigit():
        raise InvalidInputError(f"this data set takes a whole number after its name, got {text!r}.")
    return int(text)


def known_space(path: Path, text: str | None) -> SearchSpace | None:
    """The space that is named, or that of the study where it exists."""
    if text is not None:
        return spaces.named(text)
    return restored_space(path) if path.is_file() and path.stat().st_size else None


def space_of(evaluator: Evaluator) -> SearchSpace:
    """The space that an evaluator's networks are of.

    Raises:
        InvalidInputError: it does not say that.
    """
    # what runs networks knows their space
    for part in (evaluator, *(getattr(evaluator, name, None) for name in ("supernet", "models"))):
        space = getattr(part, "space", None)
        if isinstance(space, SearchSpace):
            return space
    raise InvalidInputError(
        f"a new study needs --space: {type(evaluator).__name__} does not say which space its "
        "networks are of."
    )
