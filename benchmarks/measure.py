"""Tables of MobileNetV3's latency on this machine: three ways to build one, and how well each
predicts fresh random networks (ONNX Runtime, one thread, one image).

    python benchmarks/measure.py --folder FOLDER --occasion 1
    python benchmarks/measure.py --folder FOLDER --occasion 2
    python benchmarks/measure.py --folder FOLDER --report    # all occasions

An occasion measures layers (20 nodes) and stages (5 nodes, the published candidates), each by
regression, by single sampling and by blocks in isolation, into studies of its own in FOLDER; the
same command goes on where it was stopped, and what was finished is not done again. The validation
networks of a partition are measured after the regression's, and serve all three.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

import mathnas as mn
from _machine import header
from mathnas._files import replacing
from mathnas.devices.building import BuildingMethod, BuildingReport, Isolated, measure
from mathnas.devices.onnxruntime import OnnxRuntimeEngine
from mathnas.devices.relative import RelativeLatencyEvaluator
from mathnas.nets.files import read_supernet
from mathnas.nets.grouped import GroupedSupernet
from mathnas.nets.inputs import example_inputs
from mathnas.nets.mobilenetv3 import MobileNetV3Net
from mathnas.nets.onnx_export import NetworkGraphs
from mathnas.nets.parts import PartGraphs
from mathnas.spaces import MobileNetV3

SUPERNET = Path(__file__).parent / "supernets" / "cifar10_mobilenetv3.safetensors"
METHODS: tuple[BuildingMethod, ...] = ("regression", "differences", "isolation")
PARTITIONS = ("layers", "stages")
SEED = 0


@dataclass(frozen=True)
class Budget:
    """Minutes of each method, by partition, validation included."""

    layers: float
    stages: float

    def minutes(self, partition: str, method: BuildingMethod) -> float:
        whole = self.layers if partition == "layers" else self.stages
        # what is shown beside the regression needs less, and its networks are measured by then
        return whole if method == "regression" else whole / 3


class Occasion:
    """One measurement of everything.

    Args:
        folder: of the studies and reports.
        number: of the occasion.
    """

    def __init__(self, folder: Path, number: int, supernet: MobileNetV3Net, validate: int) -> None:
        self.folder = folder / f"occasion{number}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.number = number
        self.supernet = supernet
        self.validate = validate
        self.engine = OnnxRuntimeEngine()
        self.example = example_inputs(supernet, 1)
        start = time.monotonic()
        self.fine = NetworkGraphs(supernet, self.example)
        self.parts = self.fine.parts
        self.export_seconds = time.monotonic() - start

    def graphs(self, partition: str) -> tuple[mn.SearchSpace, NetworkGraphs]:
        if partition == "layers":
            return self.supernet.space, self.fine
        space = self.supernet.space.stages("cpu")
        grouped = GroupedSupernet(self.supernet, space)
        return space, NetworkGraphs(grouped, self.example, parts=self.parts)

    def build(self, partition: str, method: BuildingMethod, minutes: float, target: float) -> None:
        space, graphs = self.graphs(partition)
        reference = space.reference
        latency = RelativeLatencyEvaluator(graphs, self.engine, reference)
        load = os.getloadavg()[0]
        with ExitStack() as studies:
            study = studies.enter_context(mn.Study(self.folder / f"{partition}.study", space))
            isolated = None
            if method == "isolation":
                alone = PartGraphs(graphs, reference)
                path = self.folder / f"{partition}.parts.study"
                parts = studies.enter_context(mn.Study(path, alone.space))
                isolated = Isolated(parts, [RelativeLatencyEvaluator(alone, self.engine, (0,))])
            report = measure(
                study,
                [latency],
                method=method,
                minutes=minutes,
                target=target,
                networks=self.validate,
                isolated=isolated,
                seed=SEED,
            )
        self._keep(partition, method, report, load)

    def done(self, partition: str, method: str) -> bool:
        """Whether this was measured and reported before."""
        return (self.folder / f"{partition}.{method}.json").exists()

    def _keep(
        self, partition: str, method: BuildingMethod, report: BuildingReport, load: float
    ) -> None:
        record = {
            "occasion": self.number,
            "partition": partition,
            "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
            "load": [load, os.getloadavg()[0]],
            "export_seconds": self.export_seconds,
            **report.to_dict(),
        }
        path = self.folder / f"{partition}.{method}.json"
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(record), encoding="utf-8")
        report.table.save(self.folder / f"{partition}.{method}.table.json")


def reported(folder: Path, space: MobileNetV3) -> None:
    """All occasions in one text."""
    paths = sorted(folder.glob("occasion*/*.json"))
    records = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in paths
        if not path.name.endswith(".table.json")
    ]
    print(f"supernet: {space.name}, in layers and in stages")
    exports = {record["occasion"]: record["export_seconds"] for record in records}
    for number, seconds in sorted(exports.items()):
        print(f"occasion {number}: its parts were exported in {seconds:.0f} s, once for everything")
    print(
        "minutes: of measuring and fitting, validation included; measured: measurements that the "
        "method added; of: networks or parts that the table is fitted on; bias: mean prediction "
        "over mean measurement; noise: of one measurement; drift: of the reference; load: average "
        "before and after"
    )
    for partition in PARTITIONS:
        if not any(record["partition"] == partition for record in records):
            continue
        print(f"\n## {partition}")
        print(
            f"{'occasion':8} {'method':12} {'minutes':>7} {'measured':>8} {'of':>5} {'MAPE %':>7} "
            f"{'Spearman':>8} {'bias':>6} {'noise %':>7} {'drift %':>14} {'load':>11}  additive"
        )
        for record in sorted(
            (r for r in records if r["partition"] == partition),
            key=lambda r: (r["occasion"], METHODS.index(r["method"])),
        ):
            found = record["metrics"]["latency_ms"]
            additivity = found["additivity"]
            low, high = record["drift"].get("latency_ms", (1.0, 1.0))
            verdict = "" if additivity is None else ("yes" if additivity["holds"] else "NO")
            noise = found["noise"]
            load = " to ".join(f"{value:.1f}" for value in record["load"])
            print(
                f"{record['occasion']:8} {record['method']:12} {record['seconds'] / 60:7.1f} "
                f"{record['measurements']:8} {record['networks']:5} {found['mape']:7.2f} "
                f"{found['spearman']:8.3f} {found['factor']:6.3f} "
                f"{'' if noise is None else f'{100 * noise:.2f}':>7} "
                f"{f'{100 * (low - 1):+.1f} to {100 * (high - 1):+.1f}':>14} "
                f"{load:>11}  {verdict}"
            )
        for record in records:
            if record["partition"] == partition and record["method"] == "regression":
                rows = record["metrics"]["latency_ms"]["worst"]
                print(
                    f"occasion {record['occasion']}, regression, {record['date']}, worst residuals:"
                )
                for row in rows:
                    print(
                        f"  {100 * row['error']:+.1f} %: predicted {row['predicted']:.4f} ms, "
                        f"measured {row['measured']:.4f} ms, {','.join(map(str, row['network']))}"
                    )


def supernet_of(text: str) -> MobileNetV3Net:
    if text.endswith(".safetensors"):
        found, _ = read_supernet(Path(text))
        assert isinstance(found, MobileNetV3Net)
        return found
    space = mn.spaces.named(text)
    assert isinstance(space, MobileNetV3)
    found = MobileNetV3Net(space)
    found.eval()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--supernet", default=str(SUPERNET), help="a file, or mobilenetv3:...")
    parser.add_argument("--occasion", type=int, default=None)
    parser.add_argument("--report", action="store_true", help="only print what is there")
    parser.add_argument("--layers", type=float, default=4.5, help="minutes of the regression")
    parser.add_argument("--stages", type=float, default=2.0, help="minutes of the regression")
    parser.add_argument("--target", type=float, default=0.005)
    parser.add_argument("--validate", type=int, default=40)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--partitions", default=",".join(PARTITIONS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    supernet = supernet_of(options.supernet)
    if options.occasion is not None and not options.report:
        budget = Budget(options.layers, options.stages)
        occasion = Occasion(options.folder, options.occasion, supernet, options.validate)
        for partition in options.partitions.split(","):
            for method in METHODS:
                if method in options.methods.split(",") and not occasion.done(partition, method):
                    minutes = budget.minutes(partition, method)
                    occasion.build(partition, method, minutes, options.target)
    print(header(SEED))
    reported(options.folder, supernet.space)


if __name__ == "__main__":
    main()
