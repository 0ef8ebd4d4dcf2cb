"""Measure every network of the digits space: ``python -m mathnas.demo.make_table FOLDER``.

Writes the table that `mathnas.demo.tabular` reads. It takes half an hour of a machine that should
do nothing else. What is measured goes into a study first, so a run that was stopped goes on where
it was.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mathnas._records import write_json
from mathnas.demo.bench import Bench, require_demo_extra
from mathnas.demo.tabular import (
    METRICS,
    PROVENANCE_FILE,
    PROVENANCE_FORMAT,
    PROVENANCE_VERSION,
    TABLE_FILE,
)
from mathnas.errors import EvaluationError
from mathnas.evaluation import Evaluation
from mathnas.runner import evaluate
from mathnas.space import Network, SearchSpace, network_text
from mathnas.study import Study

STUDY_FILE = "digits_table.study"
_PASSES = 2


def make_table(
    bench: Bench, folder: Path, *, remark: str = "", progress: bool | None = None
) -> None:
    """Measure every network of a bench and write table and provenance into `folder`.

    Accuracy is measured once, in the order of the space, where neighbours share work. Latency is
    measured in two passes in a shuffled order, and the lower value is kept: what disturbs a
    measurement makes it longer.

    Args:
        remark: goes into the provenance, for example what else the machine did.

    Raises:
        EvaluationError: a network could not be evaluated.
    """
    folder.mkdir(parents=True, exist_ok=True)
    networks = list(bench.space.enumerate())
    order = np.random.default_rng(0).permutation(len(networks))
    shuffled = [networks[index] for index in order]
    with Study(folder / STUDY_FILE, bench.space) as study:
        accuracy = evaluate(study, networks, bench.accuracy, progress=progress)
        latency = evaluate(study, shuffled, bench.latency, repeats=_PASSES, progress=progress)
        for report in (accuracy, latency):
            if report.failures:
                raise EvaluationError(f"a table holds every network: {report}")
        facts = {
            metric: list(study.evaluations(metric, conditions=evaluator.conditions))
            for metric, evaluator in (("accuracy", bench.accuracy), ("latency_ms", bench.latency))
        }
    values = {metric: _lowest(found) for metric, found in facts.items()}
    _write_rows(folder / TABLE_FILE, networks, values)
    times = [fact.time for found in facts.values() for fact in found]
    write_json(folder / PROVENANCE_FILE, _description(bench, remark, min(times), max(times)))


def _lowest(facts: Sequence[Evaluation]) -> dict[Network, float]:
    lowest: dict[Network, float] = {}
    for fact in facts:
        value = fact.measurement.value
        lowest[fact.network] = min(value, lowest.get(fact.network, value))
    return lowest


def _write_rows(
    path: Path, networks: Sequence[Network], values: Mapping[str, Mapping[Network, float]]
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["network", *METRICS])
    for network in networks:
        name = network_text(network)
        writer.writerow([name, *(f"{values[metric][network]:.4g}" for metric in METRICS)])
    # without a time stamp: the same measurements give the same file
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def _description(bench: Bench, remark: str, first: float, last: float) -> dict[str, object]:
    space: SearchSpace = bench.space
    return {
        "format": PROVENANCE_FORMAT,
        "version": PROVENANCE_VERSION,
        "space": space.to_dict(),
        "conditions": {
            "accuracy": dict(bench.accuracy.conditions),
            "latency_ms": {
                **bench.latency.conditions,
                "passes": f"lower of {_PASSES}, in a shuffled order",
            },
        },
        "provenance": {
            **bench.provenance,
            "made_by": "python -m mathnas.demo.make_table",
            "measured_from": _moment(first),
            "measured_to": _moment(last),
            "networks": space.num_networks,
            "remark": remark,
        },
    }


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mathnas.demo.make_table", description=__doc__)
    parser.add_argument("folder", type=Path, help="where study, table and provenance are written")
    parser.add_argument("--seed", type=int, default=0, help="of the training (default: 0)")
    parser.add_argument("--remark", default="", help="for the provenance")
    chosen = parser.parse_args(arguments)
    require_demo_extra()
    from mathnas.demo.trained import TrainedBench, TrainedConfig  # needs torch

    # neighbours share the work of their first nodes; two short passes are better than a long one
    config = TrainedConfig(networks_at_once=100, latency_rounds=15)
    bench = TrainedBench.train(config, seed=chosen.seed)
    make_table(bench, chosen.folder, remark=chosen.remark)


if __name__ == "__main__":
    main()
