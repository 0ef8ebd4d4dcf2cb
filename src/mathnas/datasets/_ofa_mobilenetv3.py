"""Readers of Once-for-All MobileNetV3 measurements."""

from __future__ import annotations

import json
from pathlib import Path

from mathnas.datasets._columns import Columns, numbers, read_columns
from mathnas.datasets.registry import fetch
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.evaluation import Measurement, TabularEvaluator
from mathnas.space import Network
from mathnas.spaces.mobilenetv3 import MobileNetV3

_CONFIG = ("ks", "e", "d")


def ofa_mobilenetv3() -> TabularEvaluator:
    """Measured ImageNet top-1 accuracy (percent), MACs and parameters of 1,297 sub-networks.

    Width 1.0 at 224 pixels. They come from logs of searches, so they lie near the Pareto front of
    accuracy and MACs and are no random sample. A network that was measured several times has its
    mean and the number of measurements.

    Raises:
        MissingDataError: the file is not on this machine.
        FileFormatError: the file is not the registered one.
    """
    space = MobileNetV3(width=1.0, resolution=224)
    path = fetch("ofa_mobilenetv3", "imagenet_top1.csv")
    columns = read_columns(path)
    if set(numbers(path, columns, "resolution")) != {224.0}:
        raise FileFormatError(
            f"{path}: accuracies at 224 pixels are expected, but there are others."
        )
    facts = [numbers(path, columns, name) for name in ("top1", "evaluations", "macs", "params")]
    rows = {
        network: {
            "accuracy": Measurement(top1, repeats=int(repeats)),
            "macs": macs,
            "params": params,
        }
        for network, top1, repeats, macs, params in zip(
            _networks(space, path, columns), *facts, strict=True
        )
    }
    return TabularEvaluator(
        space, rows, ["accuracy", "macs", "params"], conditions={"source": "DyNAS-T"}
    )


def ofa_mobilenetv3_latency(resolution: int, *, width: float = 1.2) -> TabularEvaluator:
    """Latency (ms) of random sub-networks on V100 (batch 1, 32, 64) and 2080 Ti (1, 64).

    About 200 networks at each of the 25 resolutions 128, 132, ..., 224. Rows of different
    resolutions are different networks to a device, so they are not offered together.

    Args:
        resolution: of the input, in pixels.
        width: of the space, which decides its MACs. The source does not say it; the accuracies
            that its authors report are those of the width 1.2 supernet.

    Raises:
        MissingDataError: the file is not on this machine.
        InvalidInputError: there are no rows at this resolution.
        FileFormatError: the file is not the registered one.
    """
    path = fetch("ofa_mobilenetv3", "latency.csv")
    columns = read_columns(path)
    resolutions = numbers(path, columns, "resolution")
    if resolution not in resolutions:
        raise InvalidInputError(
            f"latencies were measured at {', '.join(f'{r:g}' for r in sorted(set(resolutions)))} "
            f"pixels, but got {resolution}."
        )
    kept = [row for row, side in enumerate(resolutions) if side == resolution]
    columns = {name: [column[row] for row in kept] for name, column in columns.items()}
    space = MobileNetV3(width=width, resolution=resolution)
    metrics = [name for name in columns if name not in (*_CONFIG, "resolution")]
    values = zip(*(numbers(path, columns, name) for name in metrics), strict=True)
    rows = {
        network: dict(zip(metrics, row, strict=True))
        for network, row in zip(_networks(space, path, columns), values, strict=True)
    }
    return TabularEvaluator(space, rows, metrics, conditions={"source": "HELP"})


def _networks(space: MobileNetV3, path: Path, columns: Columns) -> list[Network]:
    """The networks of the rows; both spellings of absent layers are read."""
    try:
        configs = zip(*(columns[name] for name in _CONFIG), strict=True)
        return [space.from_config(*map(json.loads, config)) for config in configs]
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(
            f"{path} does not hold configurations of Once-for-All MobileNetV3: {error}."
        ) from error
