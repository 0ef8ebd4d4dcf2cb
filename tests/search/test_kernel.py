"""The compiled solver beside a brute force and the numpy solver; threads and interruption."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solver_cases import (
    check,
    check_networks,
    hard_program,
    identical_case,
    large_case,
    normal_form,
    random_case,
)

from mathnas.search import Status, VectorisedSolver
from mathnas.search.compiled import KernelSolver, kernel_is_available
from mathnas.space import Network
from mathnas.testing.programs import random_program

_REQUIRED = os.environ.get("MATHNAS_REQUIRE_KERNEL", "").lower() in ("1", "true", "yes")

pytestmark = pytest.mark.skipif(
    not kernel_is_available() and not _REQUIRED, reason="installed without the compiled solver"
)


@pytest.fixture(scope="module")
def solver() -> KernelSolver:
    """Fails, rather than skips, where the kernel is required and missing."""
    return KernelSolver()


@pytest.mark.parametrize("part", range(10))
def test_seeded_programs_are_solved_as_by_brute_force(solver: KernelSolver, part: int) -> None:
    for seed in range(100 * part, 100 * part + 100):
        program = random_case(seed)
        for count in (1, 1 + seed % 10):
            check(program, solver.solve(program, count=count), count, seed)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(10_000, 2**31), count=st.integers(1, 10))
def test_any_program_is_solved_as_by_brute_force(seed: int, count: int) -> None:
    program = random_case(seed)
    check(program, KernelSolver().solve(program, count=count), count, seed)


@pytest.mark.parametrize("power", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("digits", [None, 1], ids=["smooth", "one digit"])
def test_kernel_and_numpy_agree_where_nobody_can_look_at_all(
    solver: KernelSolver, power: float, digits: int | None
) -> None:
    cases: list[tuple[list[int], float]] = [
        ([9] * 20, 0.4),
        ([9] * 20, 0.05),
        ([2, 8, 36, 24, 24, 63, 24, 12, 2], 0.3),
        ([6] * 6 + [37] * 6, 0.6),
    ]
    for seed, (sizes, tight) in enumerate(cases):
        program = large_case(sizes, seed, power, digits=digits, tight=tight)
        for count in (1, 5):
            one, two = (
                s.solve(program, count=count, time_limit=20) for s in (solver, VectorisedSolver())
            )
            assert one.status is two.status is Status.OPTIMAL
            for solution in (one, two):
                check_networks(program, solution)
            for a, b in zip(one.networks, two.networks, strict=True):
                difference = program.table.exact(a, "accuracy") - program.table.exact(b, "accuracy")
                assert abs(difference) <= 2e-9 * program.span


@pytest.mark.parametrize("seed", range(12))
def test_identical_nodes_do_not_multiply_the_work(solver: KernelSolver, seed: int) -> None:
    program, best = identical_case(seed)
    solution = solver.solve(program, time_limit=20)
    assert solution.status is Status.OPTIMAL
    check_networks(program, solution)
    assert program.table.exact(solution.networks[0], "accuracy") == pytest.approx(best, abs=1e-8)


def test_a_program_can_be_solved_again_with_limits_moved(solver: KernelSolver) -> None:
    """What is kept from one solve to the next changes no answer."""
    program = random_program((5, 4, 5, 4), 2, senses=("<=", "<="), tightness=0.5)
    uses = sorted(program.table.exact(n, "latency_ms") for n in program.space.enumerate())
    for value in [*uses[::40], *uses[::-55], uses[0]]:
        moved = program.moved(0, value)
        check(moved, solver.solve(moved), 1, value)


@pytest.mark.parametrize("power", [0.0, 0.3, 1.0])
def test_time_limits_are_honest(solver: KernelSolver, power: float) -> None:
    program = large_case((20,) * 48, 3, power, tight=0.25)
    best = solver.solve(program)
    assert best.status is Status.OPTIMAL
    value = normal_form(program, program.table.exact(best.networks[0], "accuracy"))
    for seconds in (0.0, 1e-5, 1e-4, 2e-4, 5e-4, 1e-3):
        solution = solver.solve(program, time_limit=seconds)
        check_networks(program, solution, (power, seconds))
        assert solution.bound <= value + 1e-9 * program.span
        assert math.isfinite(solution.bound)
        expected = (Status.FEASIBLE, Status.OPTIMAL) if solution.networks else (Status.UNKNOWN,)
        assert solution.status in expected


@pytest.mark.parametrize("power", [0.0, 0.3, 1.0])
def test_ten_thousand_blocks_under_four_limits_come_close_and_say_how_close(
    solver: KernelSolver, power: float
) -> None:
    """Seldom proven in the time; the best of two runs lies between the bounds of both."""
    program = large_case((10,) * 1000, 1, power, tight=0.2, num_limits=4)
    one, two = (s.solve(program, time_limit=1.0) for s in (solver, VectorisedSolver()))
    best = math.inf
    for solution in (one, two):
        check_networks(program, solution)
        assert solution.networks
        found = program.table.exact(solution.networks[0], "accuracy")
        best = min(best, normal_form(program, found))
    assert max(one.bound, two.bound) <= best + 1e-9 * program.span
    assert best - one.bound <= 0.03 * program.span


def test_a_time_limit_is_kept_in_a_box_of_many_candidates(solver: KernelSolver) -> None:
    program = random_program((20_000, 20_000, 20_000), 0, senses=("<=", "<=", "<="))
    solver.solve(program, time_limit=0.01)  # preparing it is not what is measured
    start = time.perf_counter()
    solution = solver.solve(program, time_limit=0.05, count=1000)
    assert time.perf_counter() - start < 0.5
    check_networks(program, solution)


def test_more_answers_than_networks_are_all_networks(solver: KernelSolver) -> None:
    program = random_program((4, 4, 4), 0, senses=())
    check(program, solver.solve(program, count=10**9), 10**9)


def test_threads_solve_one_program_at_the_same_time(solver: KernelSolver) -> None:
    programs = [large_case((9,) * 20, seed, seed % 2, tight=0.3) for seed in range(4)]
    expected = [p.table.exact(solver.solve(p).networks[0], "accuracy") for p in programs]
    with ThreadPoolExecutor(8) as pool:
        jobs = [(i, pool.submit(solver.solve, programs[i])) for _ in range(40) for i in range(4)]
        for i, job in jobs:
            solution = job.result()
            assert solution.status is Status.OPTIMAL
            value = programs[i].table.exact(solution.networks[0], "accuracy")
            assert abs(value - expected[i]) <= 1e-9 * programs[i].span


def test_other_threads_go_on_during_a_solve(solver: KernelSolver) -> None:
    program = hard_program()
    done = threading.Event()
    ticks: list[float] = []

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    other = threading.Thread(target=tick)
    other.start()
    try:
        start = time.perf_counter()
        solver.solve(program, time_limit=0.5)
        end = time.perf_counter()
    finally:
        done.set()
        other.join()
    during = [t for t in ticks if start < t < end]
    assert len(during) > 20
    assert max(b - a for a, b in itertools.pairwise(during)) < 0.3


_SCRIPT = """
import sys, threading
sys.path.insert(0, {folder!r})
from mathnas.search.compiled import KernelSolver
from solver_cases import hard_program
solver = KernelSolver()
others = [
    threading.Thread(
        target=solver.solve, args=(hard_program(seed),), kwargs={{"time_limit": 2.0}}, daemon=True
    )
    for seed in range({others})
]
for other in others:
    other.start()
print("ready", flush=True)
try:
    solver.solve(hard_program(), time_limit=60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
for other in others:
    other.join()
print("sound", solver.solve(hard_program(), time_limit=0.05).status.value, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT for one child on Windows")
@pytest.mark.parametrize("others", [0, 3])
def test_ctrl_c_interrupts_a_long_solve_within_a_second(others: int) -> None:
    script = _SCRIPT.format(folder=str(Path(__file__).parent), others=others)
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.5)
        start = time.perf_counter()
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "interrupted\n"
        assert time.perf_counter() - start < 1
        rest, errors = child.communicate(timeout=30)
        assert rest.startswith("sound"), errors
    finally:
        child.kill()
        child.communicate()


def test_an_error_in_the_exact_check_comes_out(
    solver: KernelSolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = random_program((3, 3, 3), 0)
    least = min(program.table.exact(n, "latency_ms") for n in program.space.enumerate())
    edge = program.moved(0, least)  # its only network is decided by the exact check

    def fail(_: Network) -> bool:
        raise ZeroDivisionError("from the check")

    monkeypatch.setattr(edge, "holds", fail)
    with pytest.raises(ZeroDivisionError, match="from the check"):
        solver.solve(edge)
    monkeypatch.undo()
    check(edge, solver.solve(edge), 1)


def _arrays(**changes: Any) -> dict[str, Any]:
    """Two nodes of two candidates and one row, as the kernel takes them."""
    return {
        "offsets": np.array([0, 2, 4]),
        "cost": np.array([0.0, -1.0, 0.0, -3.0]),
        "macs": np.array([0.0, 1.0, 0.0, 1.0]),
        "weights": np.array([[0.0, 0.5, 0.0, 0.5]]),
        "twins": np.array([0, 1]),
        "stages": [],
        "cost_step": 0.0,
        "fixed_macs": 1.0,
        "power": 1.0,
        **changes,
    }


def _solve(program: Any, bound: float, count: int = 1) -> list[list[int]]:
    bounds = np.array([bound])
    _, choices, *_ = program.solve(count, math.inf, bounds, bounds, [], lambda _: True)
    found: list[list[int]] = choices
    return found


def test_the_module_solves_what_it_is_given(solver: KernelSolver) -> None:
    from mathnas.search import _kernel

    program = _kernel.Program(**_arrays())
    assert _solve(program, math.inf) == [[0, 3]]
    assert _solve(program, 0.2) == [[0, 2]]
    assert _solve(program, -math.inf) == []
    assert _solve(program, math.inf, 9) == [[0, 3], [1, 3], [1, 2], [0, 2]]
    no_rows = _kernel.Program(**_arrays(weights=np.zeros((0, 4))))
    nothing = np.zeros(0)
    status, choices, bound, *_ = no_rows.solve(1, math.inf, nothing, nothing, [], bool)
    assert (status, choices) == (0, [[0, 3]])
    assert bound == pytest.approx(-1.5)


def test_where_a_node_of_a_stage_is_absent_the_later_ones_are(solver: KernelSolver) -> None:
    from mathnas.search import _kernel

    chosen = _solve(_kernel.Program(**_arrays(stages=[[1, 2]])), math.inf, 9)
    assert chosen == [[0, 3], [1, 2], [0, 2]]
    alone = _solve(_kernel.Program(**_arrays(stages=[[1], [2]])), math.inf, 9)
    assert alone == [[0, 3], [1, 3], [1, 2], [0, 2]]
    # the light second node may be present only with the heavy first one
    weights = np.array([[0.5, 0.0, 0.0, 0.1]])
    assert _solve(_kernel.Program(**_arrays(stages=[[1, 2]], weights=weights)), 0.3) == [[1, 2]]


@pytest.mark.parametrize("power", [0.0, 0.3, 1.0])
def test_nodes_of_a_single_candidate_and_zero_rows_are_no_trouble(
    solver: KernelSolver, power: float
) -> None:
    from mathnas.search import _kernel

    program = _kernel.Program(
        **_arrays(
            offsets=np.array([0, 1, 2, 4]),
            twins=np.array([0, 0, 1]),
            weights=np.zeros((1, 4)),
            power=power,
        )
    )
    assert _solve(program, 0.0) == [[0, 1, 3]]
    assert _solve(program, -0.1) == []
    alone = _kernel.Program(**_arrays(offsets=np.arange(5), twins=np.zeros(4, dtype=np.int64)))
    assert _solve(alone, 1.0) == [[0, 1, 2, 3]]
    assert _solve(alone, 0.9) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"offsets": np.array([0, 2, 5])},
        {"offsets": np.array([0, 2, 2, 4]), "twins": np.array([0, 1, 2])},
        {"offsets": np.array([0])},
        {"offsets": np.array([0, 2**33, 4])},
        {"cost": np.array([0.0, np.nan, 0.0, 1.0])},
        {"macs": np.array([0.0, np.inf, 0.0, 1.0])},
        {"weights": np.array([[0.0, np.nan, 0.0, 0.5]])},
        {"weights": np.zeros((1, 3))},
        {"twins": np.array([0])},
        {"stages": [[]]},
        {"stages": [[2, 1]]},
        {"stages": [[0, 1]]},
        {"stages": [[2, 4]]},
        {"stages": [[-1]]},
        {"stages": [[2], [0]]},
        {"stages": [[0]], "offsets": np.array([0, 1, 4])},
        {"fixed_macs": 0.0},
        {"power": 1.5},
        {"power": math.nan},
    ],
)
def test_arrays_that_make_no_program_are_refused(
    solver: KernelSolver, changes: dict[str, Any]
) -> None:
    from mathnas.search import _kernel

    with pytest.raises(ValueError, match=r"arrays|candidates"):
        _kernel.Program(**_arrays(**changes))


def test_solves_that_make_no_sense_are_refused(solver: KernelSolver) -> None:
    from mathnas.search import _kernel

    program = _kernel.Program(**_arrays())
    one, none = np.ones(1), np.zeros(0)
    nan = np.array([math.nan])
    for count, seconds, bounds, surely in (
        (0, 1.0, one, one),
        (1, math.nan, one, one),
        (1, 1.0, none, none),
        (1, 1.0, one, none),
        (1, 1.0, nan, one),
        (1, 1.0, one, nan),
    ):
        with pytest.raises(ValueError, match=r"bound|choice"):
            program.solve(count, seconds, bounds, surely, [], bool)
    # multipliers are only a hint: what cannot be one is not used
    for multipliers in ([math.nan], [-5.0], [1.0, 2.0], [math.inf]):
        _, choices, *_ = program.solve(1, 1.0, one, one, multipliers, bool)
        assert choices == [[0, 3]]
