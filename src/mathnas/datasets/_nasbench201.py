"""Reader of the NAS-Bench-201 measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mathnas.datasets._columns import numbers, read_columns
from mathnas.datasets.registry import fetch
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.evaluation import TabularEvaluator
from mathnas.space import Network
from mathnas.spaces.nasbench201 import NASBench201, cells_in_benchmark_order, format_arch

_KEYS = ("index", "arch")
_COPIED = "_pi5_"  # in the names of the columns that were measured once a class


class NASBench201Table(TabularEvaluator):
    """Measurements of all 15,625 cells, each with the cell that was really measured.

    Most columns hold a measurement of every cell. The Raspberry Pi 5 columns do not: their authors
    measured one cell of each class of equal expressions (6,466, apparently the one with the lowest
    index) and copied its value to the class, though the other cells of the class run other
    operations. `evaluate` returns the published value for every cell; to fit what a cell costs,
    evaluate `measured_networks(metric)`, and to compare a prediction with the published value of
    any cell, predict `measured_cell(cell, metric)`.
    """

    space: NASBench201

    def __init__(
        self,
        space: NASBench201,
        rows: Mapping[Network, Mapping[str, float]],
        metrics: Sequence[str],
    ) -> None:
        super().__init__(space, rows, metrics, conditions={"source": "NAS-Bench-201"})

    def measured_cell(self, network: Sequence[int | str], metric: str) -> Network:
        """The cell whose measurement is the published value of `network`.

        Raises:
            InvalidInputError: the network is not a cell, or the metric is not in the table.
        """
        cell = self.space.check(network)
        return self.space.representative(cell) if self._is_copied(metric) else cell

    def measured_networks(self, metric: str) -> list[Network]:
        """The distinct cells that were measured for a metric, in benchmark order."""
        return list(dict.fromkeys(self.measured_cell(cell, metric) for cell in self.networks))

    def _is_copied(self, metric: str) -> bool:
        names = [known.name for known in self.metrics]
        if metric not in names:
            raise InvalidInputError(f"the table has {', '.join(names)}, but got {metric!r}.")
        return _COPIED in metric


def nasbench201(
    dataset: str = "cifar100", metrics: Sequence[str] | None = None
) -> NASBench201Table:
    """The NAS-Bench-201 measurements of every cell.

    Accuracies are percent on the test set after 200 epochs (``accuracy_cifar100``,
    ``accuracy_imagenet16_120``), and inside a one-shot supernet on CIFAR-10. Latencies are ms and
    energies mJ at batch 1; those of FPGA, Eyeriss and Raspberry Pi 4 are HW-NAS-Bench's for
    CIFAR-10, those of the Raspberry Pi 5 are for CIFAR-100 (see `NASBench201Table`). The names of
    metrics are the columns of the file. Its MACs leave out the classifier's bias, which
    NAS-Bench-201 and the space count: one a class.

    Args:
        dataset: whose MACs and parameters the space carries; see `NASBench201`. All columns are
            offered for any.
        metrics: the columns to read, by default all.

    Raises:
        MissingDataError: the file is not on this machine.
        InvalidInputError: a data set or a column that does not exist.
        FileFormatError: the file is not the registered one.
    """
    space = NASBench201(dataset)
    path = fetch("nasbench201")
    columns = read_columns(path)
    offered = [name for name in columns if name not in _KEYS]
    chosen = offered if metrics is None else list(metrics)
    for name in chosen:
        if name not in offered:
            raise InvalidInputError(f"NAS-Bench-201 has {', '.join(offered)}, but got {name!r}.")
    cells = cells_in_benchmark_order()
    if tuple(map(format_arch, cells)) != columns.get("arch"):
        raise FileFormatError(f"{path}: its cells do not stand in the order of the benchmark.")
    values = zip(*(numbers(path, columns, name) for name in chosen), strict=True)
    rows = {
        cell: dict(zip(chosen, row, strict=True)) for cell, row in zip(cells, values, strict=True)
    }
    return NASBench201Table(space, rows, chosen)
