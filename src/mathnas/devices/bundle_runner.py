"""What a bundle runs on the machine that it was copied to.

Here is only what is particular to a bundle: its files, and resuming from them. Evaluators, engines
and timing are those of `mathnas.evaluate`, in copies that the bundle carries.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from mathnas._filelock import FileLock
from mathnas._interrupts import Interrupts
from mathnas._progress import progress_bar
from mathnas._version import __version__
from mathnas._workers import Failed, Task, run_here
from mathnas.device import Device
from mathnas.devices.bundle_plan import (
    NOT_WHOLE,
    RESULTS,
    BundlePlan,
    NotWholeError,
    read_bundle,
)
from mathnas.devices.bundle_results import Measured, NotMeasured, ResultsFile, Run
from mathnas.devices.common import LatencyEvaluator
from mathnas.devices.host import this_device
from mathnas.devices.onnxruntime import OnnxRuntimeEngine
from mathnas.errors import EvaluationError, FileFormatError, InvalidInputError, MathNASError
from mathnas.evaluation import Evaluator
from mathnas.metrics import metric_named
from mathnas.space import Network, network_text

_LOCK_SECONDS = 24 * 3600.0


def _latency(folder: Path, plan: BundlePlan, device: Device) -> Evaluator:
    graphs = plan.graphs
    return LatencyEvaluator(
        lambda network: folder / graphs[network],
        OnnxRuntimeEngine(plan.threads, plan.batch, plan.precision),
        device=device,
        timing=plan.timing,
        batch_size=plan.together,
        noise=plan.noise,
        accept_noise=plan.accept_noise,
    )


# what measures each metric that a bundle can plan
EVALUATORS: Mapping[str, Callable[[Path, BundlePlan, Device], Evaluator]] = {"latency_ms": _latency}
ENGINES = (OnnxRuntimeEngine.name,)


def check_plan(plan: BundlePlan) -> None:
    """Refuse what no runner can measure.

    Raises:
        InvalidInputError: the plan names another metric or engine.
    """
    for name in plan.metrics:
        if name not in EVALUATORS:
            raise InvalidInputError(
                f"a bundle measures {', '.join(EVALUATORS)}, but its plan got {name!r}."
            )
    if plan.engine not in ENGINES:
        raise InvalidInputError(
            f"a bundle measures on {', '.join(ENGINES)}, but its plan got {plan.engine!r}."
        )


def run_bundle(
    folder: Path,
    results: Path | None = None,
    *,
    threads: int | None = None,
    name: str | None = None,
    accept_noise: bool = False,
) -> tuple[int, int]:
    """Measure on this machine what a bundle plans and its results lack.

    Args:
        results: by default ``results.jsonl`` in the bundle.
        threads: instead of the plan's.
        name: of this machine, in the conditions of what is measured.
        accept_noise: keep times that stay disturbed, also where the plan does not say so.

    Returns:
        How many measurements there are now, and how many failed; those are tried again by the next
        call.

    Raises:
        FileFormatError: a file of the bundle or the results was changed, or cannot be written.
        InvalidInputError: the plan cannot be measured.
        KeyboardInterrupt: after Ctrl-C, when what had finished is written.
    """
    plan, digest = _opened(folder, threads)
    plan = replace(plan, accept_noise=plan.accept_noise or accept_noise)
    device = this_device(name)
    path = results or folder / RESULTS
    lock = FileLock(
        path.with_name(f".{path.name}.lock"),
        timeout=_LOCK_SECONDS,
        waiting=f"waiting for another run to end that writes {path} ...",
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileFormatError(f"{path.parent} cannot be made: {error.strerror or error}.") from None
    done = failed = 0
    with lock, ResultsFile(path, digest) as file:
        for metric in plan.metrics:
            evaluator = EVALUATORS[metric](folder, plan, device)
            evaluator.conditions = {**evaluator.conditions, **plan.conditions}
            failed += _measure(plan, metric, evaluator, device, file)
            done += file.results.counts(metric, evaluator.conditions).total()
    return done, failed


def check_bundle(folder: Path, *, threads: int | None = None, name: str | None = None) -> Device:
    """See that a bundle is whole and that its first network runs here; measures nothing.

    Raises:
        FileFormatError, InvalidInputError: as `run_bundle`.
        EvaluationError: the first network cannot be loaded or run.
    """
    plan, _ = _opened(folder, threads)
    graph = folder / plan.graphs[plan.networks[0]]
    try:
        OnnxRuntimeEngine(plan.threads, plan.batch, plan.precision).prepare(graph)()
    except MathNASError:
        raise
    except Exception as error:
        raise EvaluationError(f"{graph} cannot be run here: {error}") from error
    return this_device(name)


def main(folder: Path, arguments: Sequence[str] | None = None) -> int:
    """What ``run.py`` does; returns the exit code.

    0: all is measured. 1: an error, or some measurements failed. 3: the bundle is not as it was
    written. 130: stopped.
    """
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Measure the networks of this bundle on this machine. What is measured "
        "already is not repeated, so the same command goes on after an interruption.",
    )
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help=f"where results go (default: {RESULTS} here)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="instead of the plan's")
    parser.add_argument("--name", help="of this machine (default: processor and cores)")
    parser.add_argument(
        "--accept-noise",
        action="store_true",
        help="keep times that stay disturbed by other programs, with notes of what was seen",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="only see that the bundle is whole and that its first network runs here",
    )
    options = parser.parse_args(arguments)
    path = options.results or folder / RESULTS
    try:
        if options.check:
            device = check_bundle(folder, threads=options.threads, name=options.name)
            print(f"the bundle is whole, and runs on {device.name} ({device.system}).")
            return 0
        done, failed = run_bundle(
            folder,
            path,
            threads=options.threads,
            name=options.name,
            accept_noise=options.accept_noise,
        )
        print(f"{done} measurements are in {path}{f', {failed} failed' * bool(failed)}.")
        return 1 if failed else 0
    except MathNASError as error:
        print(f"error: {error}", file=sys.stderr)
        return NOT_WHOLE if isinstance(error, NotWholeError) else 1
    except KeyboardInterrupt:
        print(
            f"stopped. What was measured is in {path}; the same command goes on from there.",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:  # the connection that started this is gone; results are on the disk
        return 1


def _opened(folder: Path, threads: int | None) -> tuple[BundlePlan, str]:
    plan, digest = read_bundle(folder, threads=threads)
    check_plan(plan)
    return plan, digest


def _measure(
    plan: BundlePlan, metric: str, evaluator: Evaluator, device: Device, file: ResultsFile
) -> int:
    """Measure one metric of the networks that lack it; returns how many failed."""
    tasks = _tasks(plan, file.results.counts(metric, evaluator.conditions))
    if not tasks:
        return 0
    run = file.begin(Run(metric, evaluator.conditions, device, _software(), time.time()))
    declared = metric_named(metric)
    total = sum(len(task.networks) for task in tasks)
    failed = 0
    with (
        Interrupts() as interrupts,
        progress_bar(f"measuring {metric}", total, True) as bar,
        closing(run_here(evaluator, tasks, interrupts)) as results,
    ):
        for task, outcomes in results:
            note = ""
            for network, seed, outcome in zip(task.networks, task.seeds, outcomes, strict=True):
                if isinstance(outcome, Failed):
                    failed += 1
                    file.add(NotMeasured(run, network, outcome.error, seed, time.time()))
                    print(f"failed: {network_text(network)}: {outcome.error}", file=sys.stderr)
                else:
                    file.add(Measured(run, network, outcome[metric], seed, time.time()))
                    note = declared.format(outcome[metric].value)
            # all of what was measured in turns at once: the time left follows from it
            bar.advance(len(outcomes), note)
    return failed


def _tasks(plan: BundlePlan, there: Mapping[Network, int]) -> list[Task]:
    """What is missing: every repeat in another order, so that what drifts meets all alike."""
    left = dict(there)
    missing: list[tuple[Network, int]] = []
    for repeat in range(plan.repeats):
        order = np.random.default_rng([plan.seed, repeat]).permutation(len(plan.networks))
        for index in order.tolist():
            network = plan.networks[index]
            if left.get(network, 0) > 0:
                left[network] -= 1
            else:
                missing.append((network, plan.seed + repeat))
    parts = [missing[i : i + plan.together] for i in range(0, len(missing), plan.together)]
    return [Task(tuple(n for n, _ in part), tuple(s for _, s in part)) for part in parts]


def _software() -> dict[str, str]:
    return {"mathnas": __version__, "python": platform.python_version(), "numpy": np.__version__}
