"""Reader of NAS-Bench-Macro."""

from __future__ import annotations

import json
import statistics
from typing import Literal

from mathnas.datasets.registry import fetch
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.evaluation import Measurement, TabularEvaluator
from mathnas.space import Network
from mathnas.spaces.nasbench_macro import NASBenchMacro

_TRAININGS = 3


def nasbench_macro(training: Literal[0, 1, 2] | None = None) -> TabularEvaluator:
    """CIFAR-10 test accuracy (percent), MACs and parameters of all 6,561 networks.

    Args:
        training: one of the three trainings alone, which is what one evaluation of a real network
            gives; by default their mean, with their standard deviation (n - 1) as spread.

    Raises:
        MissingDataError: the file is not on this machine.
        InvalidInputError: there is no such training.
        FileFormatError: the file is not the registered one.
    """
    if training is not None and training not in range(_TRAININGS):
        raise InvalidInputError(
            f"NAS-Bench-Macro has the trainings 0 to {_TRAININGS - 1}, but got {training!r}: "
            "choose one, or None for their mean."
        )
    space = NASBenchMacro()
    path = fetch("nasbench_macro")
    rows: dict[Network, dict[str, Measurement | float]] = {}
    try:
        for arch, record in json.loads(path.read_text(encoding="utf-8")).items():
            accuracies = record["test_acc"]
            rows[space.parse(arch)] = {
                "accuracy": Measurement(
                    record["mean_acc"], statistics.stdev(accuracies), len(accuracies)
                )
                if training is None
                else Measurement(accuracies[training]),
                "macs": float(record["flops"]),
                "params": float(record["params"]),
            }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{path} is not the file of NAS-Bench-Macro: {error}.") from error
    source = "NAS-Bench-Macro" if training is None else f"NAS-Bench-Macro, training {training}"
    return TabularEvaluator(
        space, rows, ["accuracy", "macs", "params"], conditions={"source": source}
    )
