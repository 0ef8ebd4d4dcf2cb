"""Reader of NATS-Bench topology files in their "simple" form."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from mathnas.datasets._pickles import read_pickle
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.evaluation import Measurement, TabularEvaluator
from mathnas.spaces.nasbench201 import NASBench201, format_arch

_MOST_BYTES = 64 * 2**20  # a cell's file, decompressed
_FILE = re.compile(r"(?P<index>[0-9]{1,6})\.pickle\.pbz2")
# the benchmark's names for a data set and its held-out sets, by ours
_DATASETS = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet16-120": "ImageNet16-120"}
_SPLITS = {
    "cifar10": ("ori-test",),
    "cifar100": ("x-test", "x-valid", "ori-test"),
    "imagenet16-120": ("x-test", "x-valid", "ori-test"),
}


def nats_bench(
    folder: str | Path,
    dataset: str = "cifar100",
    *,
    epochs: Literal[12, 200] = 200,
    split: str | None = None,
) -> TabularEvaluator:
    """Accuracy (percent) of NAS-Bench-201 cells from an unpacked ``NATS-tss-v1_0-3ffb9-simple``.

    The public folder (Dong et al., TPAMI 2021) has one compressed pickle a cell,
    ``000000.pickle.pbz2`` and so on; a part of them is enough, and the table then holds these
    cells. The metric is ``accuracy_<dataset>``: the mean over the trainings after the last epoch,
    with their standard deviation (n - 1) as spread where there are several. The pickles are read
    without running them.

    Args:
        folder: where the files are.
        dataset: ``cifar10``, ``cifar100`` or ``imagenet16-120``.
        epochs: the training schedule, 12 or 200.
        split: the held-out set: ``ori-test`` for CIFAR-10; ``x-test`` (default), ``x-valid`` or
            ``ori-test`` (both together) for the others.

    Raises:
        InvalidInputError: a data set, schedule or split that does not exist.
        FileFormatError: the folder has no such files, or one of them is not of this layout.
    """
    space = NASBench201(dataset)
    splits = _SPLITS[space.dataset]
    chosen = splits[0] if split is None else split
    if chosen not in splits or epochs not in (12, 200):
        raise InvalidInputError(
            f"NATS-Bench has the splits {', '.join(splits)} for {space.dataset} and the schedules "
            f"12 and 200, but got split={split!r}, epochs={epochs!r}."
        )
    metric = f"accuracy_{space.dataset.replace('-', '_')}"
    rows = {}
    for index, path in _files(Path(folder)):
        cell = space.at(index)
        result = _Result(read_pickle(path, most_bytes=_MOST_BYTES), path)
        result.check_arch(epochs, format_arch(cell))
        rows[cell] = {metric: result.accuracy(epochs, _DATASETS[space.dataset], chosen)}
    return TabularEvaluator(
        space,
        rows,
        [metric],
        conditions={"source": "NATS-Bench", "epochs": str(epochs), "split": chosen},
    )


def _files(folder: Path) -> list[tuple[int, Path]]:
    try:
        names = sorted(folder.iterdir())
    except OSError as error:
        raise FileFormatError(f"{folder} cannot be read: {error.strerror or error}.") from error
    matches = [(match, path) for path in names if (match := _FILE.fullmatch(path.name))]
    if not matches:
        raise FileFormatError(
            f"{folder} has no files such as 000000.pickle.pbz2: name the unpacked folder "
            "NATS-tss-v1_0-3ffb9-simple."
        )
    return [(int(match["index"]), path) for match, path in matches]


class _Result:
    """What the benchmark stores of one cell: by schedule, then by (data set, seed)."""

    def __init__(self, value: object, path: Path) -> None:
        self._value, self._path = value, path

    def check_arch(self, epochs: int, expected: str) -> None:
        found = self._get(self._value, str(epochs), "arch_str")
        if found != expected:
            raise FileFormatError(
                f"{self._path} should hold the cell {expected}, but holds {found!r}."
            )

    def accuracy(self, epochs: int, dataset: str, split: str) -> Measurement:
        schedule = self._get(self._value, str(epochs))
        seeds = self._get(schedule, "dataset_seed", dataset)
        if not isinstance(seeds, Sequence) or not seeds:
            raise FileFormatError(f"{self._path} has no training on {dataset}.")
        values = []
        for seed in seeds:
            trial = self._get(schedule, "all_results", (dataset, seed))
            last = f"{split}@{self._number(trial, 'epochs') - 1:g}"
            values.append(self._number(trial, "eval_acc1es", last))
        spread = statistics.stdev(values) if len(values) > 1 else None
        return Measurement(statistics.fmean(values), spread, len(values))

    def _get(self, value: object, *keys: object) -> object:
        for key in keys:
            if not isinstance(value, Mapping) or key not in value:
                raise FileFormatError(
                    f"{self._path} is not of the NATS-Bench layout: there is no {key!r} "
                    f"({' / '.join(map(str, keys))})."
                )
            value = value[key]
        return value

    def _number(self, value: object, *keys: object) -> float:
        number = self._get(value, *keys)
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise FileFormatError(
                f"{self._path}: {keys[-1]!r} should be a number, but is {number!r}."
            )
        return float(number)
