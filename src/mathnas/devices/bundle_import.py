"""Results of a bundle into a study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mathnas.devices.bundle_plan import RESULTS, BundlePlan, read_bundle
from mathnas.devices.bundle_results import BundleResults, Measured, NotMeasured, Run, read_results
from mathnas.errors import InvalidInputError
from mathnas.evaluation import Evaluation, Measurement
from mathnas.space import network_text
from mathnas.study import Failure, Study, conditions_text


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did.

    Attributes:
        added: measurements that the study did not have.
        already: measurements that it had.
        planned: measurements that the bundle plans, over all metrics.
        failed: measurements that failed there and were not made since.
        runs: how often the runner was started.
        torn: bytes of an unfinished last line, which were left out.
    """

    added: int
    already: int
    planned: int
    failed: int
    runs: tuple[Run, ...]
    torn: int

    def __str__(self) -> str:
        devices = sorted({run.device.name for run in self.runs})
        text = (
            f"{self.added} measurements added, {self.already} already there, of {self.planned} "
            f"that were planned; measured on {' and '.join(devices) or 'nothing'}."
        )
        if self.failed:
            text += f" {self.failed} failed: run the bundle again to try these again."
        if self.torn:
            text += " The last line was not finished, and is left out."
        return text


@dataclass(frozen=True)
class BundleImport:
    """What a bundle measured, read and checked, to be added to a study.

    Attributes:
        plan: of the bundle.
        digest: of the bundle.
        found: its results.
    """

    plan: BundlePlan
    digest: str
    found: BundleResults

    @classmethod
    def read(cls, folder: Path, results: Path | None = None) -> BundleImport:
        """Read a bundle and its results.

        Args:
            folder: the bundle, as it was written.
            results: its results; by default ``results.jsonl`` inside.

        Raises:
            FileFormatError: the bundle or the results were changed, are damaged or foreign; the
                message names the file and the rule.
            InvalidInputError: the results are not of the bundle's plan.
        """
        plan, digest = read_bundle(folder)
        path = results or folder / RESULTS
        found = read_results(path, digest)
        _check(path, plan, found)
        return cls(plan, digest, found)

    def add_to(self, study: Study) -> ImportReport:
        """Add the measurements that a study lacks: all of them or, where one is refused, none.

        Each one's notes tell the bundle and the run that it comes from.

        Raises:
            InvalidInputError: the study is of another space.
            FileFormatError: it cannot be written.
        """
        plan, found = self.plan, self.found
        if plan.space != study.space:
            raise InvalidInputError(
                f"a study holds networks of one space, but {study.path} is of "
                f"{study.space.name!r} and the bundle of {plan.space.name!r}, or their nodes, "
                "blocks or costs differ: import into another study."
            )
        facts = [_fact(item, found.runs[item.run], self.digest) for item in found.measured]
        there = {_identity(fact) for fact in study.evaluations()}
        new = [fact for fact in facts if _identity(fact) not in there]
        tried = {(failure.network, failure.time) for failure in study.failures()}
        failures = [
            Failure(
                *(item.network, item.error, "", item.seed),
                found.runs[item.run].conditions,
                item.time,
            )
            for item in found.failed
            if (item.network, item.time) not in tried
        ]
        for run in found.runs:
            study.add_device(run.device)
        study.add(new, failures)
        if plan.sample is not None and new:
            study.add_sample(plan.sample)
        return ImportReport(
            len(new),
            len(facts) - len(new),
            len(plan.networks) * len(plan.metrics) * plan.repeats,
            _still_failed(found),
            tuple(found.runs),
            found.torn,
        )


def _check(path: Path, plan: BundlePlan, found: BundleResults) -> None:
    """Refuse results that the plan cannot have given."""
    for number, run in enumerate(found.runs):
        if run.metric not in plan.metrics:
            raise InvalidInputError(
                f"{path}: results are of the planned metrics {', '.join(plan.metrics)}, but run "
                f"{number} is of {run.metric}."
            )
        stated: Mapping[str, str] = {
            "device": run.device.name,
            "engine": plan.engine,
            "batch": str(plan.batch),
            "precision": plan.precision,
            **plan.conditions,
        }
        for name, value in stated.items():
            if run.conditions.get(name) != value:
                raise InvalidInputError(
                    f"{path}: results are made as planned, with {name} = {value}, but run {number} "
                    f"has {run.conditions.get(name)!r}."
                )
    planned = set(plan.networks)
    for network in [*(m.network for m in found.measured), *(f.network for f in found.failed)]:
        if network not in planned:
            raise InvalidInputError(
                f"{path}: results are of planned networks, but {network_text(network)} is none."
            )


def _fact(item: Measured, run: Run, digest: str) -> Evaluation:
    measurement = item.measurement
    notes = {**measurement.notes, "bundle": digest[:12], "run": str(item.run)}
    return Evaluation(
        item.network,
        run.metric,
        Measurement(measurement.value, measurement.spread, measurement.repeats, notes),
        item.seed,
        run.conditions,
        item.time,
    )


def _identity(fact: Evaluation) -> tuple[object, ...]:
    """What tells measurements apart, as in `Study.import_file`; notes say nothing new."""
    measurement = fact.measurement
    return (
        *(fact.network, fact.metric, measurement.value, measurement.spread, measurement.repeats),
        *(fact.seed, conditions_text(fact.conditions), fact.time),
    )


def _still_failed(found: BundleResults) -> int:
    def key(item: Measured | NotMeasured) -> tuple[object, ...]:
        return found.runs[item.run].metric, item.network, item.seed

    return len({key(item) for item in found.failed} - {key(item) for item in found.measured})
