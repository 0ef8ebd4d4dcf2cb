"""The demo on measurements that mathnas carries: needs numpy alone.

``python -m mathnas.demo.make_table`` made them with the trained demo's own supernet.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from mathnas._records import check_header, write_json
from mathnas.demo.bench import Delivery
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.evaluation import TabularEvaluator
from mathnas.space import Network, SearchSpace

TABLE_FILE = "digits_table.csv.gz"
PROVENANCE_FILE = "digits_table.json"
PROVENANCE_FORMAT = "mathnas-demo-table"
PROVENANCE_VERSION = 1
CHOICE_FILE = "network.json"
METRICS = ("accuracy", "latency_ms")


class TabularBench:
    """Every network of the digits space, measured once; see `mathnas.demo.bench.Bench`.

    Args:
        space: the networks.
        rows: for every network its accuracy in percent and latency in ms.
        provenance: how they were measured.
        conditions: of the measurements, by metric.
    """

    title = "digits, measurements on file"

    def __init__(
        self,
        space: SearchSpace,
        rows: Mapping[Network, Mapping[str, float]],
        provenance: Mapping[str, object],
        conditions: Mapping[str, Mapping[str, str]],
    ) -> None:
        self.space = space
        self.provenance = provenance
        self.accuracy, self.latency = (
            TabularEvaluator(space, rows, [metric], conditions=conditions[metric])
            for metric in METRICS
        )

    @classmethod
    def load(cls, folder: Path | None = None) -> TabularBench:
        """Read the table of the package, or of another folder.

        Raises:
            FileFormatError: a file is missing or damaged.
        """
        place = resources.files("mathnas.demo") if folder is None else folder
        try:
            described = json.loads(place.joinpath(PROVENANCE_FILE).read_text(encoding="utf-8"))
            text = gzip.decompress(place.joinpath(TABLE_FILE).read_bytes()).decode()
        except (OSError, EOFError, ValueError) as error:
            raise FileFormatError(
                f"the demo's measurements ({TABLE_FILE}, {PROVENANCE_FILE}) cannot be read: "
                f"{error}. Install mathnas again, or make them with "
                "`python -m mathnas.demo.make_table`."
            ) from error
        record = check_header(described, PROVENANCE_FORMAT, PROVENANCE_VERSION, PROVENANCE_FILE)
        space = SearchSpace.from_dict(record.get("space", dict), f"{PROVENANCE_FILE}.space")
        conditions = record.record("conditions")
        return cls(
            space,
            _rows(text, space),
            record.get("provenance", dict),
            {metric: conditions.get(metric, dict) for metric in METRICS},
        )

    def deliver(self, network: Network, folder: Path) -> Delivery:
        """Write which blocks were chosen: a table has no weights to deliver."""
        blocks = self.space.blocks_by_node(network)
        write_json(folder / CHOICE_FILE, {"network": list(network), "blocks": blocks})
        return Delivery(
            "A table holds no weights, so the choice of blocks is all there is to deliver; with "
            "pip install 'mathnas[demo]' the demo trains, and delivers an ONNX file",
            (CHOICE_FILE,),
        )


def _rows(text: str, space: SearchSpace) -> dict[Network, dict[str, float]]:
    reader = csv.DictReader(io.StringIO(text))
    try:
        rows = {
            space.parse(line["network"]): {metric: float(line[metric]) for metric in METRICS}
            for line in reader
        }
    except (KeyError, TypeError, ValueError, InvalidInputError) as error:
        raise FileFormatError(
            f"{TABLE_FILE}, line {reader.line_num}: a row has a network, "
            f"{' and '.join(METRICS)}, but {error}."
        ) from error
    if len(rows) != space.num_networks:
        raise FileFormatError(
            f"{TABLE_FILE} is to hold every network of its space, but it holds {len(rows)} of the "
            f"{space.num_networks} networks: make it again."
        )
    return rows
