"""Refinement: what it finds, what it evaluates, and that it goes on where it was stopped."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from core_cases import space_of

import mathnas as mn
from mathnas.acquisition import Choice
from mathnas.search import Program, Solution, exclude, fix
from mathnas.trials import Round

Require = Callable[..., Path]
SIZES = (3, 3, 3, 3)


class World(mn.Evaluator):
    """Accuracy and latency that add up, with noise; `calls` counts evaluations."""

    metrics = (mn.metric_named("accuracy"), mn.metric_named("latency_ms"))

    def __init__(
        self,
        sizes: Sequence[int] = SIZES,
        *,
        noise: float = 0.0,
        fails: Callable[[mn.Network], bool] = lambda network: False,
        conditions: Mapping[str, str] | None = None,
    ) -> None:
        rng = np.random.default_rng(5)
        self.gains = [np.sort(rng.random(size)) for size in sizes]
        self.costs = [gains + rng.random(len(gains)) / 3 for gains in self.gains]
        self.noise, self.fails, self.conditions = noise, fails, dict(conditions or {})
        self.noisy = noise > 0
        self.calls: Counter[mn.Network] = Counter()

    def accuracy(self, network: mn.Network) -> float:
        return 70 + sum(float(own[block]) for own, block in zip(self.gains, network, strict=True))

    def latency(self, network: mn.Network) -> float:
        return 5 + sum(float(own[block]) for own, block in zip(self.costs, network, strict=True))

    def evaluate(self, network: mn.Network, seed: int) -> Mapping[str, float]:
        self.calls[network] += 1
        if self.fails(network):
            raise RuntimeError("out of memory")
        noise = np.random.default_rng(seed).normal(size=2) * self.noise
        return {
            "accuracy": self.accuracy(network) + noise[0],
            "latency_ms": self.latency(network) + noise[1],
        }

    def best(self, limit: float, among: Sequence[mn.Network] | None = None) -> float:
        """The best accuracy within a latency."""
        listed = among or list(itertools.product(*(range(len(own)) for own in self.gains)))
        return max(self.accuracy(n) for n in listed if self.latency(n) <= limit)


@pytest.fixture
def study(tmp_path: Path) -> Iterator[mn.Study]:
    with mn.Study(tmp_path / "my.study", space_of(SIZES, range(12))) as made:
        yield made


def held(study: mn.Study, metric: str = "accuracy") -> set[mn.Network]:
    return {fact.network for fact in study.evaluations(metric)}


def means(study: mn.Study, metric: str) -> dict[mn.Network, float]:
    """Measured values, means over repeats."""
    data = study.measurements(metric)
    return dict(zip(map(tuple, data.networks.tolist()), data.values.tolist(), strict=True))


# ---- what it finds -------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["single", "balanced"])
def test_finds_the_best_under_a_measured_limit(study: mn.Study, start: mn.refinement.Start) -> None:
    world = World()
    found = mn.refine(
        study, world, maximize="accuracy", limits={"latency_ms": 7}, budget=25, start=start
    )
    assert found
    assert found.network is not None
    assert found.values["accuracy"] == pytest.approx(world.best(7.0), abs=1e-12)
    assert found.values["latency_ms"] == world.latency(found.network) <= 7
    assert found.values["macs"] == study.space.macs([found.network])[0]
    assert found.evaluated == len(held(study)) <= 25
    assert max(world.calls.values()) == 1
    assert found.table.column("latency_ms").posterior is not None
    assert "best measured network" in str(found)


@pytest.mark.parametrize("choice", get_args(Choice))
def test_every_choice_finds_the_best(study: mn.Study, choice: Choice) -> None:
    world = World()
    found = mn.refine(
        study, world, maximize="accuracy", limits={"latency_ms": 7}, budget=30, choice=choice
    )
    assert found.values["accuracy"] == pytest.approx(world.best(7.0), abs=1e-12)
    assert found.evaluated == sum(world.calls.values()) <= 30


def test_minimizes(study: mn.Study) -> None:
    world = World()
    limits = {"accuracy": world.best(100.0) - 0.5}
    found = mn.refine(study, world, minimize="latency_ms", limits=limits, budget=25)
    every = [n for n in study.space.enumerate() if world.accuracy(n) >= limits["accuracy"]]
    assert found.values["latency_ms"] == pytest.approx(min(map(world.latency, every)), abs=1e-12)


def test_noise_costs_little(tmp_path: Path) -> None:
    losses = []
    for seed in range(4):
        world = World(noise=0.05)
        with mn.Study(tmp_path / f"{seed}.study", space_of(SIZES)) as study:
            found = mn.refine(study, world, maximize="accuracy", budget=24, seed=seed)
        assert found.network is not None
        losses.append(world.best(100.0) - world.accuracy(found.network))
    assert np.mean(losses) < 0.05  # the spread of one measurement


def test_rules_hold_from_the_start_on(study: mn.Study) -> None:
    world = World()
    rules = [fix(study.space, {"n0": "b0"}), exclude(study.space, {"n1": ["b2"]})]
    found = mn.refine(study, world, maximize="accuracy", rules=rules, budget=30)
    among = [n for n in study.space.enumerate() if n[0] == 0 and n[1] != 2]
    assert held(study) <= set(among)
    assert found.values["accuracy"] == pytest.approx(world.best(100.0, among), abs=1e-12)


def test_depth_rules(tmp_path: Path) -> None:
    space = space_of(SIZES, range(12), rules=[mn.DepthRule((2, 3), (0, 0))])
    world = World()
    with mn.Study(tmp_path / "deep.study", space) as study:
        found = mn.refine(study, world, maximize="accuracy", limits={"latency_ms": 6.5}, budget=30)
    best = world.best(6.5, list(space.enumerate()))
    assert found.values["accuracy"] == pytest.approx(best, abs=1e-12)


def test_relative_limits_refer_to_what_is_measured_of_the_reference(study: mn.Study) -> None:
    world = World(noise=0.1)
    found = mn.refine(
        study, world, maximize="accuracy", limits=["latency_ms=-5%", "macs=+20%"], budget=20
    )
    measured, accuracy = (means(study, metric) for metric in ("latency_ms", "accuracy"))
    macs = study.space.macs([study.reference])[0]
    meet = {
        network
        for network, latency in measured.items()
        if latency <= measured[study.reference] * (1 - 0.05)
        and study.space.macs([network])[0] <= 1.2 * macs
    }
    assert found.network == max(sorted(meet), key=accuracy.__getitem__)


def test_relative_limits_have_the_reference_measured(study: mn.Study) -> None:
    world = World()
    others = [n for n in study.space.sample(30, seed=3) if n != study.reference]
    mn.evaluate(study, others, world)
    mn.refine(study, world, maximize="accuracy", limits={"latency_ms": "-5%"}, budget=33)
    assert study.reference in held(study)


def test_nothing_measured_meets_the_limits(study: mn.Study) -> None:
    found = mn.refine(study, World(), maximize="accuracy", limits={"latency_ms": 5.0}, budget=15)
    assert not found
    assert found.network is None
    assert found.values == {}
    assert found.reason == "exhausted"
    assert "no measured network meets the limits" in str(found)


@pytest.mark.parametrize("sizes", [(3,), (2, 2), (2, 3)])
def test_small_spaces_are_exhausted(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    world = World(sizes)
    with mn.Study(tmp_path / "small.study", space_of(sizes)) as study:
        found = mn.refine(study, world, maximize="accuracy", budget=100)
        assert found.reason in ("exhausted", "unlikely")
        assert found.values["accuracy"] == world.best(100.0)
        assert found.evaluated == len(held(study)) <= study.space.num_networks


def test_regret_on_nasbench_macro(require: Require, tmp_path: Path) -> None:
    require("nasbench_macro")
    from mathnas import datasets

    table = datasets.nasbench_macro()
    macs = table.space.macs(np.array(table.networks))
    measured = [table.evaluate(network)["accuracy"] for network in table.networks]
    accuracy = np.array([m.value if isinstance(m, mn.Measurement) else m for m in measured])
    regrets = []
    for share in (0.25, 0.5, 1.0):
        limit = float(np.quantile(macs, share))
        with mn.Study(tmp_path / f"{share}.study", table.space) as study:
            found = mn.refine(study, table, maximize="accuracy", limits={"macs": limit}, budget=30)
        assert found.evaluated <= 30
        regrets.append(float(accuracy[macs <= limit].max()) - found.values["accuracy"])
    assert np.mean(regrets) <= 0.02


# ---- what it evaluates ---------------------------------------------------------------------------


def test_the_budget_holds_where_the_start_is_larger(study: mn.Study) -> None:
    found = mn.refine(study, World(), maximize="accuracy", budget=5)
    assert found.evaluated == len(held(study)) <= 5
    assert found.rounds[0].evaluated == 3


def test_what_the_study_holds_counts(study: mn.Study) -> None:
    world = World()
    mn.evaluate(study, study.space.sample(20, seed=1), world)
    before = held(study)
    found = mn.refine(study, world, maximize="accuracy", budget=len(before) + 2)
    assert found.evaluated <= len(before) + 2
    assert max(world.calls.values()) == 1
    more = mn.refine(study, world, maximize="accuracy", budget=len(before))
    assert more.rounds == ()
    assert more.reason == "budget"


def test_the_objective_alone_from_elsewhere_is_not_enough(study: mn.Study) -> None:
    """Networks whose limited metric is unknown are evaluated as any other."""
    world = World()
    accuracy = mn.FunctionEvaluator(world.accuracy, ["accuracy"])
    mn.evaluate(study, mn.full_sampling(study.space), accuracy)
    found = mn.refine(study, world, maximize="accuracy", limits={"latency_ms": 7}, budget=25)
    assert found.values["accuracy"] == pytest.approx(world.best(7.0), abs=1e-12)
    assert found.evaluated == len(held(study, "latency_ms")) <= 25


def test_conditions_are_kept_apart(study: mn.Study) -> None:
    phone, desk = (World(conditions={"device": name}) for name in ("phone", "desk"))
    mn.evaluate(study, mn.full_sampling(study.space), phone)
    found = mn.refine(study, desk, maximize="accuracy", limits={"latency_ms": 7}, budget=20)
    assert 3 < sum(desk.calls.values()) == found.evaluated <= 20
    with pytest.raises(mn.InvalidInputError, match="tell them apart"):
        mn.refine(study, World(), maximize="accuracy")


def test_rounds_are_told(study: mn.Study, capsys: pytest.CaptureFixture[str]) -> None:
    rounds: list[Round] = []
    found = mn.refine(
        study, World(), maximize="accuracy", budget=14, progress=True, on_round=rounds.append
    )
    assert tuple(rounds) == found.rounds
    assert [done.evaluated for done in rounds] == sorted(done.evaluated for done in rounds)
    assert rounds[-1].best == found.network
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "round 1: 7 of 14 evaluations, best accuracy 7" in captured.err
    record = found.to_dict()
    assert record["network"] == list(found.network or ())


def test_the_seed_decides(tmp_path: Path) -> None:
    def run(name: str, seed: int) -> list[tuple[mn.Network, float]]:
        with mn.Study(tmp_path / name, space_of(SIZES)) as study:
            mn.refine(
                study, World(noise=0.2), maximize="accuracy", budget=12, start="balanced", seed=seed
            )
            facts = study.evaluations("accuracy")
            return [(fact.network, fact.measurement.value) for fact in facts]

    assert run("a", 1) == run("b", 1) != run("c", 2)


# ---- repeats -------------------------------------------------------------------------------------


def test_leaders_are_measured_again(study: mn.Study) -> None:
    world = World(noise=0.3)
    found = mn.refine(study, world, maximize="accuracy", budget=32, repeats=3)
    assert found.network is not None
    assert found.evaluated == sum(world.calls.values()) == 32
    # an eighth of the budget is kept for them
    assert 2 <= sum(times - 1 for times in world.calls.values()) <= 4
    assert max(world.calls.values()) <= 3
    measured = [
        fact.measurement.value
        for fact in study.evaluations("accuracy")
        if fact.network == found.network
    ]
    assert len(measured) == world.calls[found.network]
    assert found.values["accuracy"] == pytest.approx(np.mean(measured), abs=1e-12)
    assert [done.evaluated for done in found.rounds] == sorted(d.evaluated for d in found.rounds)


def test_after_the_budget_is_spent_there_is_nothing_to_do(study: mn.Study) -> None:
    first = mn.refine(study, World(noise=0.3), maximize="accuracy", budget=30)
    assert first.reason == "budget"
    world = World(noise=0.3)
    again = mn.refine(study, world, maximize="accuracy", budget=30)
    assert (again.rounds, again.reason, again.network) == ((), "budget", first.network)
    assert not world.calls


def test_repeats_cost_no_quality(tmp_path: Path) -> None:
    losses: dict[int, list[float]] = {1: [], 3: []}
    for repeats, found in losses.items():
        for seed in range(12):
            world = World(noise=0.3)
            with mn.Study(tmp_path / f"{repeats}-{seed}.study", space_of(SIZES)) as study:
                best = mn.refine(
                    study, world, maximize="accuracy", budget=40, seed=seed, repeats=repeats
                ).network
            assert best is not None
            found.append(world.best(100.0) - world.accuracy(best))
    differences = np.array(losses[3]) - np.array(losses[1])
    assert differences.mean() <= 2 * differences.std(ddof=1) / np.sqrt(len(differences))


def test_values_that_never_vary_are_repeated_once(study: mn.Study) -> None:
    world = World()

    def steps(network: mn.Network) -> float:
        return round(world.evaluate(network, 0)["accuracy"] * 2) / 2

    evaluator = mn.FunctionEvaluator(steps, ["accuracy"])
    assert evaluator.noisy
    mn.refine(study, evaluator, maximize="accuracy", budget=40)
    assert sum(times - 1 for times in world.calls.values()) <= 1


def test_what_is_not_noisy_is_never_repeated(study: mn.Study) -> None:
    world = World(noise=0.3)
    world.noisy = False
    mn.refine(study, world, maximize="accuracy", budget=40)
    assert max(world.calls.values()) == 1


def test_a_leader_that_fails_when_it_is_measured_again(study: mn.Study) -> None:
    world = World(noise=0.3)
    failing: list[mn.Network] = []

    def fails(network: mn.Network) -> bool:
        if world.calls[network] > 1 and not failing:
            failing.append(network)
        return network in failing

    world.fails = fails
    found = mn.refine(study, world, maximize="accuracy", budget=40)
    assert found
    assert [world.calls[network] for network in failing] == [3]  # one that came, and two tries
    assert found.evaluated == len(list(study.evaluations("accuracy"))) <= 40


def test_the_noise_is_that_of_evaluations(study: mn.Study) -> None:
    """What varies inside a measurement says nothing of how its means vary."""

    class Clock(World):
        def evaluate(self, network: mn.Network, seed: int) -> Mapping[str, mn.Measurement]:  # type: ignore[override]
            found = super().evaluate(network, seed)
            return {name: mn.Measurement(value, 0.0, 50) for name, value in found.items()}

    world = Clock(noise=0.3)
    mn.refine(study, world, maximize="accuracy", budget=48)
    assert max(world.calls.values()) > 1


def test_a_budget_that_repeats_have_spent(study: mn.Study) -> None:
    world = World(noise=0.3)
    mn.evaluate(study, study.space.sample(3, seed=1) * 4, world)
    found = mn.refine(study, world, maximize="accuracy", budget=12)
    assert (found.rounds, found.evaluated, found.reason) == ((), 12, "budget")
    with pytest.raises(mn.InvalidInputError, match="repeats=0"):
        mn.refine(study, world, maximize="accuracy", repeats=0)
    with pytest.raises(mn.InvalidInputError, match="thompson"):
        mn.refine(study, world, maximize="accuracy", choice="best")  # type: ignore[arg-type]


# ---- failures ------------------------------------------------------------------------------------


def test_failed_networks_are_left_out(study: mn.Study) -> None:
    best = max(study.space.enumerate(), key=World().accuracy)
    world = World(fails=lambda network: network == best)
    found = mn.refine(study, world, maximize="accuracy", budget=30)
    assert 1 <= world.calls[best] <= 2
    second = sorted(map(world.accuracy, study.space.enumerate()))[-2]
    assert found.values["accuracy"] == pytest.approx(second, abs=1e-12)
    assert any(best in done.failed for done in found.rounds)
    assert "failed" in str(found)


def test_rounds_of_one_network_get_past_one_that_fails(study: mn.Study) -> None:
    best = max(study.space.enumerate(), key=World().accuracy)
    world = World(fails=lambda network: network == best)
    found = mn.refine(study, world, maximize="accuracy", budget=30, batch=1)
    second = sorted(map(world.accuracy, study.space.enumerate()))[-2]
    assert found.values["accuracy"] == pytest.approx(second, abs=1e-12)
    assert world.calls[best] == 2


def test_a_round_that_fails_whole_ends_it(study: mn.Study) -> None:
    working = World()
    mn.refine(study, working, maximize="accuracy", budget=12)
    before = len(study)
    broken = World(fails=lambda network: True)
    with pytest.raises(mn.EvaluationError, match="out of memory") as caught:
        mn.refine(study, broken, maximize="accuracy", budget=81)
    assert str(study.path) in str(caught.value)
    assert len(study) == before
    mn.refine(study, working, maximize="accuracy", budget=15)  # nothing hinders a repaired one


def test_a_start_that_fails(study: mn.Study) -> None:
    world = World(fails=lambda network: network != study.reference)
    for _ in range(4):
        with pytest.raises(mn.EvaluationError, match="failed"):
            mn.refine(study, world, maximize="accuracy", budget=20)
    assert max(world.calls.values()) <= 2
    assert held(study) == {study.reference}


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"maximize": "accuracy", "budget": 2}, "budget"),
        ({"maximize": "accuracy", "batch": 0}, "batch"),
        ({"maximize": "accuracy", "start": "full"}, "start"),
        ({}, "maximize"),
        ({"maximize": "accuracy", "minimize": "latency_ms"}, "one of them"),
        ({"maximize": "bleu"}, "not 'bleu'"),
        ({"maximize": "accuracy", "limits": {"energy_mj": 3}}, "'energy_mj'"),
        ({"maximize": "accuracy", "limits": ["energy_mj<=-3%"]}, "'energy_mj'"),
        ({"maximize": "accuracy", "limits": ["latency_ms<=3parsec"]}, "parsec"),
        ({"maximize": "accuracy", "limits": "latency_ms<=3"}, "list"),
        ({"maximize": "accuracy", "limits": {"latency_ms": ["<=5", ">=6"]}}, "contradict"),
        ({"maximize": "accuracy", "limits": {"latency_ms": float("nan")}}, "finite"),
    ],
)
def test_nothing_is_evaluated_for_what_cannot_be(
    study: mn.Study, arguments: dict[str, object], message: str
) -> None:
    world = World()
    with pytest.raises(mn.InvalidInputError, match=message):
        mn.refine(study, world, **arguments)  # type: ignore[arg-type]
    assert not world.calls


def test_rules_that_leave_too_few(study: mn.Study) -> None:
    world = World()
    rules = [fix(study.space, {0: 1, 1: 1, 2: 1, 3: 1})]
    with pytest.raises(mn.InvalidInputError, match="leave 1"):
        mn.refine(study, world, maximize="accuracy", rules=rules)
    assert not world.calls


# ---- going on ------------------------------------------------------------------------------------

DRIVER = """
import os, signal, sys
import mathnas as mn

space = mn.SearchSpace(
    [mn.BlockNode(f"n{i}", tuple(mn.Block(f"b{j}") for j in range(3))) for i in range(4)]
)
left = int(sys.argv[1])

def measure(network):
    global left
    left -= 1
    with open("calls", "a") as file:
        print(*network, file=file)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"accuracy": 60.0 + 3 * network[0] + 2 * network[1] - network[2] * network[3]}

with mn.Study("killed.study", space) as study:
    evaluator = mn.FunctionEvaluator(measure, ["accuracy"], noisy=False)
    print(*mn.refine(study, evaluator, maximize="accuracy", budget=16).network)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_goes_on_after_kills(tmp_path: Path) -> None:
    kills = (4, 8, 3)  # in the start, in a round, and at a round's end
    for calls in (*kills, 10**6):
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, str(calls)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout.split()[:2] == ["2", "2"]
    begun = (tmp_path / "calls").read_text("utf-8").splitlines()
    with mn.Study(tmp_path / "killed.study", read_only=True) as study:
        stored = held(study)
        assert len(stored) == len(study) <= 16  # no network twice
    assert len(begun) <= len(stored) + len(kills)  # at most what was in flight is lost


def test_an_ended_refinement_has_nothing_left_to_do(study: mn.Study) -> None:
    first = mn.refine(study, World(), maximize="accuracy", limits={"latency_ms": 7.5}, budget=60)
    world = World()
    again = mn.refine(study, world, maximize="accuracy", limits={"latency_ms": 7.5}, budget=60)
    assert first.reason == again.reason == "unlikely"
    assert again.network == first.network
    assert not world.calls


def test_a_solve_that_finds_nothing_in_its_time_ends_the_refinement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late:
        name = "late"

        def solve(
            self, program: Program, *, count: int = 1, time_limit: float | None = None
        ) -> Solution:
            assert time_limit is not None
            return Solution(mn.Status.UNKNOWN, [], -np.inf, time_limit, self.name)

    monkeypatch.setattr("mathnas.acquisition.solver_for", lambda *_: Late())
    world = World()
    with mn.Study(tmp_path / "late.study", space_of(SIZES)) as study:
        found = mn.refine(study, world, maximize="accuracy", budget=20)
        assert found.reason == "unsolved"
        assert found  # the best of the start
        assert str(found).endswith("no further network was found in the time of a solve.")
