"""Reader of the HW-NAS-Bench file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mathnas.datasets._pickles import as_floats, read_pickle
from mathnas.errors import FileFormatError
from mathnas.evaluation import TabularEvaluator
from mathnas.spaces.nasbench201 import NASBench201, cells_in_benchmark_order

_MOST_BYTES = 2**30
_DATASETS = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet16-120": "ImageNet16-120"}
_DEVICES = ("edgegpu", "raspi4", "edgetpu", "pixel3", "eyeriss", "fpga")
_QUANTITIES = {"latency": "latency_ms", "energy": "energy_mj"}


def hw_nas_bench(path: str | Path, dataset: str = "cifar10") -> TabularEvaluator:
    """Latency (ms) and energy (mJ) of all NAS-Bench-201 cells from ``HW-NAS-Bench-v1_0.pickle``.

    The public file (Li et al., ICLR 2021) holds, for each data set, lists by benchmark index. The
    metrics are ``latency_ms_<device>`` and ``energy_mj_<device>`` for what the file has of
    edgegpu, raspi4, edgetpu, pixel3, eyeriss and fpga. The pickle is read without running it.

    Args:
        path: the file.
        dataset: ``cifar10``, ``cifar100`` or ``imagenet16-120``.

    Raises:
        InvalidInputError: the data set is not one of these.
        FileFormatError: the file cannot be read, or is not of this layout.
    """
    space = NASBench201(dataset)
    path = Path(path)
    key = _DATASETS[space.dataset]
    table = _entry(
        _entry(read_pickle(path, most_bytes=_MOST_BYTES), "nasbench201", path), key, path
    )
    columns = {
        f"{prefix}_{device}": _column(table[name], f"{path}: {key}.{name}")
        for device in _DEVICES
        for quantity, prefix in _QUANTITIES.items()
        if (name := f"{device}_{quantity}") in table
    }
    if not columns:
        raise FileFormatError(f"{path}: {key} has none of the devices {', '.join(_DEVICES)}.")
    rows = {
        cell: dict(zip(columns, row, strict=True))
        for cell, row in zip(
            cells_in_benchmark_order(), zip(*columns.values(), strict=True), strict=True
        )
    }
    return TabularEvaluator(
        space, rows, list(columns), conditions={"source": "HW-NAS-Bench", "dataset": space.dataset}
    )


def _entry(value: object, key: str, path: Path) -> Mapping[object, object]:
    entry = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(entry, Mapping):
        raise FileFormatError(f"{path} is not an HW-NAS-Bench file: it has no table {key!r}.")
    return entry


def _column(value: object, where: str) -> list[float]:
    """One number for each cell."""
    numbers, cells = as_floats(value, where), len(cells_in_benchmark_order())
    if len(numbers) != cells or not np.isfinite(numbers).all():
        raise FileFormatError(
            f"{where} should hold {cells} finite numbers, but has {len(numbers)} numbers of which "
            f"{int(np.isfinite(numbers).sum())} are finite."
        )
    return list(map(float, numbers))
