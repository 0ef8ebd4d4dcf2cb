"""Reader of FBNet latencies."""

from __future__ import annotations

from mathnas.datasets._columns import numbers, read_columns
from mathnas.datasets.registry import fetch
from mathnas.errors import FileFormatError
from mathnas.evaluation import TabularEvaluator
from mathnas.spaces.fbnet import FBNet


def fbnet() -> TabularEvaluator:
    """Latency (ms) of 5,000 random networks of the FBNet space in ten columns.

    The phones (Samsung A50, Essential PH-1) report whole milliseconds. The rows are random
    networks: designs that need chosen networks, such as single sampling, cannot be taken from
    them.

    Raises:
        MissingDataError: the file is not on this machine.
        FileFormatError: the file is not the registered one.
    """
    space = FBNet()
    path = fetch("fbnet", "latency.csv")
    columns = read_columns(path)
    metrics = [name for name in columns if name != "ops"]
    values = zip(*(numbers(path, columns, name) for name in metrics), strict=True)
    try:
        networks = [space.check([int(op) for op in text.split()]) for text in columns["ops"]]
    except (KeyError, ValueError) as error:
        raise FileFormatError(f"{path} does not hold FBNet networks: {error}.") from error
    rows = {
        network: dict(zip(metrics, row, strict=True))
        for network, row in zip(networks, values, strict=True)
    }
    return TabularEvaluator(space, rows, metrics, conditions={"source": "HELP"})
