"""HiGHS keeps the contract, and its tolerances never reach an answer."""

from __future__ import annotations

import importlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from paired_programs import check, feasible, paired

import mathnas as mn
from mathnas.errors import InvalidInputError, MissingExtraError
from mathnas.search import HighsSolver, Limit, Program, Solver, Status, highs_is_available
from mathnas.search.rules import at_most_changes, exclude, forbid
from mathnas.testing import SolverContract, random_program
from mathnas.testing.programs import Kind

needs_highs = pytest.mark.skipif(
    not highs_is_available(), reason="needs highspy: pip install 'mathnas[highs]'"
)
_FORMS = (mn.Form.LINEAR, mn.Form.SPACE_MEAN)


@needs_highs
class TestContract(SolverContract):
    @pytest.fixture
    def solver(self) -> Solver:
        return HighsSolver()


def test_without_highspy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'mathnas\[highs\]'"):
        HighsSolver()


@needs_highs
@pytest.mark.parametrize("form", _FORMS)
@pytest.mark.parametrize("kind", get_args(Kind))
def test_pairs_are_solved_exactly(kind: Kind, form: mn.Form) -> None:
    for seed, sizes in enumerate([(3, 4, 3), (2, 1, 3, 4), (2,) * 6, (4, 4)]):
        for senses in ((), ("<=",), ("<=", ">=")):
            program = paired(
                sizes, seed, kind=kind, form=form, senses=senses, maximize=seed % 2 == 0
            )
            check(program, HighsSolver().solve(program))


@needs_highs
@pytest.mark.parametrize("form", _FORMS)
def test_several_best_come_in_order(form: mn.Form) -> None:
    for seed, kind in enumerate(get_args(Kind)):
        program = paired((3, 2, 3), seed, kind=kind, form=form)
        for count in (4, 20):
            check(program, HighsSolver().solve(program, count=count), count)


@needs_highs
@pytest.mark.parametrize("with_pairs", [True, False], ids=["pairs", "single nodes"])
@pytest.mark.parametrize("kind", ["smooth", "rounded", "tied"])
def test_a_limit_just_below_the_optimum_is_never_broken(kind: Kind, with_pairs: bool) -> None:
    """HiGHS alone returns networks that break such limits within its tolerances."""
    for seed in range(2):
        free = paired((4, 3, 4), seed, kind=kind)
        if not with_pairs:
            free = random_program((4, 3, 4), seed, kind=kind)
        metric = free.limits[0].metric
        used = free.table.exact(feasible(free)[0][1], metric.name)
        values = [used - relative * abs(used) for relative in (1e-6, 1e-7, 1e-9, 1e-10, 1e-12)]
        for value in (used, math.nextafter(used, -math.inf), *values):
            program = free.with_limits([Limit(metric, "<=", value)])
            check(program, HighsSolver().solve(program))


@needs_highs
def test_what_it_cannot_tell_apart_is_not_called_optimal() -> None:
    """More networks than it may cut off are dearer than the limit by one ulp or two."""
    plain = random_program((2,) * 12, 0, kind="smooth", senses=())
    columns = dict(plain.table.columns)
    latency = columns["latency_ms"]
    steps = [2.0**-52, 2.0**-51]  # what a network uses over 1, in the order of the blocks
    effects = [steps[block] for _ in range(12) for block in range(2)]
    columns["latency_ms"] = mn.BlockEffects(
        latency.metric,
        1.0,
        np.array(effects),
        latency.spread,
        latency.contexts,
    )
    table = mn.BlockTable(plain.space, plain.table.reference, columns)
    most = table.exact((0, 1) * 6, "latency_ms")
    program = Program(table, "accuracy", True, [Limit(latency.metric, "<=", most)])
    solution = HighsSolver().solve(program)
    best = feasible(program)[0][0]
    assert all(program.holds(network) for network in solution.networks)
    if solution.status is Status.OPTIMAL:
        assert table.exact(solution.networks[0], "accuracy") == pytest.approx(best, abs=1e-9)
    assert solution.bound <= table.column("accuracy").base - best + 1e-9


@needs_highs
def test_rules_are_kept_and_depth_rules_are_choices() -> None:
    for seed, kind in enumerate(("smooth", "staged", "tied", "staged")):
        free = paired((3, 3, 3), seed, kind=kind)  # type: ignore[arg-type]
        best = feasible(free)[0][1]
        rules = [
            forbid(free.space, dict(enumerate(best))),
            exclude(free.space, {0: [int(best[0] == 0)]}),
            at_most_changes(free.space, best, 2),
        ]
        program = free.with_rules(rules)
        check(program, HighsSolver().solve(program, count=3), count=3)


@needs_highs
def test_infeasible_programs_are_proven_so() -> None:
    for form in _FORMS:
        program = paired((3, 3, 3), 1, form=form)
        metric = program.limits[0].metric
        lowest = min(program.table.predict_all(metric.name))
        none = program.with_limits([Limit(metric, "<=", math.nextafter(lowest, -math.inf))])
        solution = HighsSolver().solve(none)
        assert solution.status is Status.INFEASIBLE
        assert not solution.networks


@needs_highs
def test_a_power_between_is_refused() -> None:
    table = random_program((3, 3), 0, form=mn.Form.SPACE_MEAN).table
    old = table.columns["accuracy"]
    column = mn.BlockEffects(
        old.metric, old.base, old.effects, old.spread, old.contexts, old.form, power=0.5
    )
    columns = {**table.columns, "accuracy": column}
    program = Program(mn.BlockTable(table.space, table.reference, columns), "accuracy", True)
    with pytest.raises(InvalidInputError, match=r"to the power 0\.5: use solver='enumeration'"):
        HighsSolver().solve(program)


@needs_highs
def test_large_numbers_are_scaled() -> None:
    """MACs of 1e9, and effects that carry them: HiGHS sees numbers between 0 and 1000."""
    blocks = tuple(mn.Block(f"b{j}", macs=1e8 * (1 + j)) for j in range(4))
    space = mn.SearchSpace([mn.BlockNode(f"n{i}", blocks) for i in range(4)], fixed_macs=1e8)
    rng = np.random.default_rng(0)
    effects = 1e-3 * space.mean_macs() * rng.standard_normal(16)
    pair = mn.PairEffects(0, 3, 1e-3 * space.mean_macs() * rng.standard_normal((4, 4)))
    nothing = 0 * effects
    column = mn.BlockEffects(
        mn.metric_named("accuracy"),
        75.0,
        effects,
        nothing,
        nothing,
        mn.Form.SPACE_MEAN,
        pairs=(pair,),
    )
    table = mn.BlockTable(space, (0,) * 4, {"accuracy": column})
    limit = Limit(table.metrics["macs"], "<=", 1e9)
    program = Program(table, "accuracy", True, [limit])
    check(program, HighsSolver().solve(program, count=5), count=5)


@needs_highs
def test_several_threads_solve_at_the_same_time() -> None:
    programs = [paired((4, 4, 4), seed) for seed in range(4)]
    found = {}

    def solve(place: int) -> None:
        found[place] = HighsSolver().solve(programs[place])

    threads = [threading.Thread(target=solve, args=(place,)) for place in range(len(programs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, program in enumerate(programs):
        check(program, found[place])


@needs_highs
def test_another_users_number_of_threads_does_not_matter() -> None:
    highspy = importlib.import_module("highspy")
    other = highspy.Highs()
    other.setOptionValue("output_flag", False)
    other.setOptionValue("threads", 2)
    other.addBinary()
    other.run()
    program = paired((3, 3), 0)
    check(program, HighsSolver().solve(program))


@needs_highs
def test_ctrl_c_interrupts_it() -> None:
    if not hasattr(importlib.import_module("highspy").Highs, "HandleUserInterrupt"):
        pytest.skip("this highspy cannot be told to stop")
    program = paired((9,) * 20, 0, senses=("<=", "<="), share=0.05)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        HighsSolver().solve(program, time_limit=30)
    assert time.perf_counter() - start < 10


@needs_highs
def test_an_interrupted_process_ends_without_a_crash() -> None:
    if not hasattr(importlib.import_module("highspy").Highs, "HandleUserInterrupt"):
        pytest.skip("this highspy cannot be told to stop")
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from mathnas.search import HighsSolver\n"
        "from paired_programs import paired\n"
        "program = paired((9,) * 20, 0, senses=('<=', '<='), share=0.05)\n"
        "print('ready', flush=True)\n"
        "try:\n"
        "    HighsSolver().solve(program, time_limit=30)\n"
        "except KeyboardInterrupt:\n"
        "    print('stopped')\n"
    )
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.7)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out, err) == (0, "stopped\n", "")


@needs_highs
def test_it_prints_nothing() -> None:
    """In a process of its own: HiGHS prints its banner once a process, in C."""
    code = (
        "from mathnas import Form\n"
        "from mathnas.search import HighsSolver\n"
        "from mathnas.testing import random_program\n"
        "for form in (Form.LINEAR, Form.SPACE_MEAN):\n"
        "    assert HighsSolver().solve(random_program((3, 4, 3), 0, form=form)).networks\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
