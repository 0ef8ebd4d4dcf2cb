"""Limits that hold with a probability: against brute force and simulated measurements, and what is
said where nothing holds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pytest

import mathnas as mn
from mathnas.cli import main
from mathnas.gaussian_process import GaussianProcess, Kernel
from mathnas.metrics import IDENTITY, Floats
from mathnas.posterior import Posterior
from mathnas.regression import regress
from mathnas.search import (
    EnumerationSolver,
    Limit,
    Program,
    Solution,
    confidence,
    exclude,
    highs_is_available,
    kernel_is_available,
)
from mathnas.study import Measurements

CURVED = mn.PowerScale(limit=105.0, exponent=2.0, low=40.0, high=90.0)


# ---- tables -------------------------------------------------------------------------------------


def space_of(sizes: tuple[int, ...], seed: int = 0) -> mn.SearchSpace:
    macs = np.random.default_rng(seed).integers(1, 9, size=(len(sizes), max(sizes)))
    return mn.SearchSpace(
        [
            mn.BlockNode(f"n{i}", tuple(mn.Block(f"b{j}", float(macs[i, j])) for j in range(size)))
            for i, size in enumerate(sizes)
        ],
        fixed_macs=2.0,
    )


def column_of(
    space: mn.SearchSpace,
    rng: np.random.Generator,
    name: str,
    base: float,
    size: float,
    scale: mn.ResponseScale = IDENTITY,
    *,
    relative: bool = False,
    paired: bool = False,
    spread: float = 0.15,
    noise: float = 0.2,
) -> mn.BlockEffects:
    """A column as a regression makes them, with random effects of this size."""
    pairs: tuple[mn.PairEffects, ...] = ()
    if paired:
        shape = (space.sizes[0], space.sizes[1])
        pairs = (mn.PairEffects(0, 1, 0.5 * size * rng.normal(size=shape)),)
    entries = space.num_blocks + sum(pair.effects.size for pair in pairs)
    posterior = Posterior(
        spread * size * rng.normal(size=(entries, 4)),
        spread * size * rng.normal(size=4),
        (0.1 * size) ** 2,
        noise * size,
        base if relative else None,
    )
    return mn.BlockEffects(
        replace(mn.metric_named(name), scale=scale),
        base,
        size * rng.normal(size=space.num_blocks),
        np.full(space.num_blocks, size),
        np.ones(space.num_blocks),
        pairs=pairs,
        posterior=posterior,
    )


def random_table(seed: int) -> mn.BlockTable:
    """Latency, energy and accuracy of every kind; MACs are declared."""
    rng = np.random.default_rng(seed)
    sizes = tuple(rng.integers(2, 5, size=int(rng.integers(2, 5))).tolist())
    space = space_of(sizes, seed)
    spread, noise = float(rng.choice([0.0, 0.1, 0.4])), float(rng.choice([0.0, 0.3]))
    relative, paired, curved = (rng.random(3) < 0.5).tolist()
    return mn.BlockTable(
        space,
        (0,) * len(sizes),
        {
            "latency_ms": column_of(
                space,
                rng,
                "latency_ms",
                20.0,
                2.0,
                relative=relative,
                paired=paired,
                spread=spread,
                noise=noise,
            ),
            "energy_mj": column_of(
                space, rng, "energy_mj", 5.0, 1.0, relative=not relative, spread=spread, noise=noise
            ),
            "accuracy": column_of(
                space, rng, "accuracy", 0.6 if curved else 70.0, 0.3, CURVED if curved else IDENTITY
            ),
        },
    )


def process_table() -> mn.BlockTable:
    """Latency is a Gaussian process on how often a network holds each block."""
    space = space_of((3, 3, 3, 3))

    class Counting(mn.SearchSpace):
        def features(self, networks: npt.NDArray[np.intp]) -> Floats:
            return np.stack([(networks == block).sum(axis=1) for block in (1, 2)], axis=1) * 1.0

    space = Counting(space.nodes, fixed_macs=2.0)
    rng = np.random.default_rng(5)
    rows = space.all_networks()[rng.permutation(81)[:20]].astype(np.intp)
    features = space.features(rows)
    responses = 10 + features @ [1.0, 2.5] + 0.2 * rng.normal(size=20)
    process = GaussianProcess(features, responses, Kernel(2.0, 1.0, 1.0), 0.05, np.ones(20))
    latency = replace(
        column_of(space, rng, "latency_ms", 10.0, 1.0), posterior=None, process=process
    )
    accuracy = column_of(space, rng, "accuracy", 70.0, 1.0)
    return mn.BlockTable(space, (0,) * 4, {"latency_ms": latency, "accuracy": accuracy})


# ---- by brute force -----------------------------------------------------------------------------


def reached(table: mn.BlockTable, network: mn.Network, limit: Limit, probability: float) -> float:
    """Written out: the quantile of one measurement."""
    name = limit.metric.name
    column = table.column(name)
    if column.uncertainty is None:
        return table.exact(network, name)
    sd = float(table.response_deviation([network], name)[0])
    noise = float(column.uncertainty.noises(np.array([table.exact(network, name)]))[0])
    response = table.response(network, name)
    quantile = NormalDist(response, math.hypot(sd, noise) or 1e-300).inv_cdf(
        probability if limit.sense == "<=" else 1 - probability
    )
    return float(column.metric.scale.inverse(np.array([quantile]))[0])


def holding(
    table: mn.BlockTable, limits: Sequence[Limit], probability: float, objective: str
) -> list[tuple[float, mn.Network]]:
    """All networks that hold, the best first; none lies on a limit to the last bit."""
    found = [
        (table.exact(network, objective), network)
        for network in table.space.enumerate()
        if all(limit.holds(reached(table, network, limit, probability)) for limit in limits)
    ]
    return sorted(found, reverse=True)


def random_limits(
    table: mn.BlockTable, rng: np.random.Generator, probability: float
) -> list[Limit]:
    """Between the values that networks stay within."""
    limits = []
    for name in rng.permutation(["latency_ms", "energy_mj", "accuracy", "macs"])[
        : int(rng.integers(1, 4))
    ].tolist():
        sense = ">=" if rng.random() < 0.4 else "<="
        rough = Limit(table.column(name).metric, sense, 0.0)  # type: ignore[arg-type]
        values = sorted(reached(table, n, rough, probability) for n in table.space.enumerate())
        share = rng.uniform(-0.05, 0.9) if sense == "<=" else rng.uniform(0.1, 1.05)
        place = int(np.clip(share * len(values), 0, len(values) - 1))
        value = values[place] + 1e-6 * (1 if share > 0 else -1)
        limits.append(replace(rough, value=value))
    return limits


SOLVERS = ["auto", "numpy", "enumeration"]


@pytest.mark.parametrize("seed", range(60))
def test_the_answer_is_the_best_network_that_holds(seed: int) -> None:
    table, rng = random_table(seed), np.random.default_rng(1000 + seed)
    probability = float(rng.choice([0.5, 0.8, 0.95, 0.999]))
    limits = random_limits(table, rng, probability)
    expected = holding(table, limits, probability, "accuracy")
    paired = bool(table.column("latency_ms").pairs)
    solver = "auto" if paired else SOLVERS[seed % 3]
    answer = mn.search(
        table, maximize="accuracy", limits=limits, confidence=probability, solver=solver
    )
    if not expected:
        assert isinstance(answer, mn.Infeasible)
        assert answer.status is mn.Status.INFEASIBLE
        assert answer.confidence == probability
        assert answer.conflicts
        return
    assert isinstance(answer, mn.Answer)
    assert (answer.status, answer.gap) == (mn.Status.OPTIMAL, 0)
    assert answer.value == pytest.approx(expected[0][0], abs=1e-8)
    assert answer.network in [network for _, network in expected]
    assert [use.limit for use in answer.limits] == limits
    for use in answer.limits:
        assert use.used == table.exact(answer.network, use.limit.metric.name)
        assert use.at_confidence == pytest.approx(
            reached(table, answer.network, use.limit, probability), rel=1e-12
        )
        others = [limit for limit in limits if limit is not use.limit]
        freed = holding(table, others, probability, "accuracy")[0][0]
        assert use.binds is (freed > answer.value + 1e-8)

    ranking = mn.k_best(
        table, 5, maximize="accuracy", limits=limits, confidence=probability, solver=solver
    )
    assert isinstance(ranking, mn.Ranking)
    assert ranking.complete
    assert [a.value for a in ranking] == pytest.approx([v for v, _ in expected[:5]], abs=1e-8)
    assert all(a.network in [network for _, network in expected] for a in ranking)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds r.json, by regression from 40 noisy networks of 4^5, and d.json, by differences."""
    made = tmp_path_factory.mktemp("confidence")
    rng = np.random.default_rng(3)
    space = space_of((4,) * 5)
    gain, cost = rng.uniform(0, 2, (5, 4)), rng.uniform(0, 1, (5, 4))

    def measure(network: mn.Network) -> dict[str, float]:
        rows = np.arange(5), np.array(network)
        latency = float(3 + cost[rows].sum() + 0.1 * rng.normal())
        return {"accuracy": float(70 + gain[rows].sum()), "latency_ms": latency}

    evaluator = mn.FunctionEvaluator(measure, ["accuracy", "latency_ms"])
    with mn.Study(made / "r.study", space) as study:
        mn.evaluate(study, mn.balanced_sampling(space, 40), evaluator)
        mn.fit(study, method="regression").save(made / "r.json")
    with mn.Study(made / "d.study", space) as study:
        mn.evaluate(study, mn.single_sampling(space), evaluator)
        mn.fit(study).save(made / "d.json")
    return made


@pytest.fixture
def table(folder: Path) -> mn.BlockTable:
    return mn.BlockTable.load(folder / "r.json")


LIMITED = {"latency_ms": 4.7}


def answered(
    table: mn.BlockTable,
    limits: Mapping[str, float | str],
    confidence: float | None = None,
    *,
    verify: bool = False,
) -> mn.Answer:
    answer = mn.search(
        table, maximize="accuracy", limits=limits, confidence=confidence, verify=verify
    )
    assert isinstance(answer, mn.Answer)
    return answer


def test_a_fitted_table_is_searched_and_verified(table: mn.BlockTable) -> None:
    tight = {"latency_ms": answered(table, LIMITED).limits[0].used}
    plain = answered(table, tight)
    sure = answered(table, tight, 0.95, verify=True)
    assert sure.verified_by not in (None, sure.solver)
    assert sure.value < plain.value
    (use,) = sure.limits
    assert use.at_confidence is not None
    assert use.used < use.at_confidence <= tight["latency_ms"]
    # one side of the two-sided interval
    high = table.interval([sure.network], "latency_ms", confidence=0.9)[1][0]
    assert use.at_confidence == pytest.approx(high, rel=1e-9)
    best = holding(table, [use.limit], 0.95, "accuracy")[0][0]
    assert sure.value == pytest.approx(best, abs=1e-8)


def test_more_confidence_costs_more_and_half_is_the_prediction(table: mn.BlockTable) -> None:
    values = [answered(table, LIMITED, p).value for p in (0.5, 0.8, 0.95, 0.999)]
    assert values == sorted(values, reverse=True)
    plain = answered(table, LIMITED)
    assert values[0] == plain.value
    assert plain.confidence is None
    assert plain.limits[0].at_confidence is None


def test_a_gaussian_process_limits_with_a_confidence() -> None:
    table = process_table()
    limit = Limit(table.column("latency_ms").metric, "<=", 13.0)
    answer = mn.search(table, maximize="accuracy", limits=[limit], confidence=0.9)
    assert isinstance(answer, mn.Answer)
    assert answer.status is mn.Status.OPTIMAL
    expected = holding(table, [limit], 0.9, "accuracy")
    assert 0 < len(expected) < 81
    assert answer.value == pytest.approx(expected[0][0], abs=1e-8)


def test_rules_and_diverse_answers_hold_too(table: mn.BlockTable) -> None:
    rule = exclude(table.space, {"n0": ["b3"]})
    ranking = mn.k_best(
        table, 3, maximize="accuracy", limits=LIMITED, confidence=0.9, rules=[rule], diverse=2
    )
    assert isinstance(ranking, mn.Ranking)
    assert (len(ranking), ranking.complete) == (3, True)
    limit = ranking[0].limits[0].limit
    expected = [n for _, n in holding(table, [limit], 0.9, "accuracy") if rule.holds(n)]
    chosen: list[mn.Network] = []
    for answer in ranking:  # greedily, by brute force
        far = [
            n
            for n in expected
            if all(sum(a != b for a, b in zip(n, c, strict=True)) >= 2 for c in chosen)
        ]
        assert answer.value == pytest.approx(table.exact(far[0], "accuracy"), abs=1e-8)
        chosen.append(answer.network)


def test_measurements_meet_the_limit_about_as_often_as_was_asked_for() -> None:
    """Simulated devices: effects from the model's prior, 30 noisy measurements, one answer each."""
    rng, space = np.random.default_rng(11), space_of((3,) * 5)
    shares: dict[float | None, list[float]] = {None: [], 0.9: []}
    for _ in range(80):
        effects = rng.normal(size=space.num_blocks)

        def truth(networks: npt.NDArray[np.intp], effects: Floats = effects) -> Floats:
            total: Floats = 50 + effects[space.offsets[:-1] + networks].sum(axis=1)
            return total

        networks = space.all_networks()[rng.permutation(243)[:30]].astype(np.intp)
        values = truth(networks) + 0.5 * rng.normal(size=30)
        unknown, metric = np.full(30, np.nan), mn.metric_named("latency_ms")
        data = Measurements(metric, {}, networks, values, unknown, np.ones(30))
        found = regress(space, data, (0,) * 5, pairs=False)
        nothing = np.zeros(space.num_blocks)
        worth = mn.BlockEffects(
            mn.metric_named("accuracy"),
            70.0,
            found.effects + 0.3 * rng.normal(size=len(nothing)),  # so that the limit binds
            nothing,
            nothing,
        )
        latency = replace(worth, metric=metric, base=found.base, effects=found.effects)
        latency = replace(latency, posterior=found.posterior)
        table = mn.BlockTable(space, (0,) * 5, {"latency_ms": latency, "accuracy": worth})
        bound = float(np.quantile(values, 0.3))
        for asked, own in shares.items():
            answer = mn.search(
                table, maximize="accuracy", limits={"latency_ms": bound}, confidence=asked
            )
            assert isinstance(answer, mn.Answer)
            mean = float(truth(np.array([answer.network]))[0])
            own.append(NormalDist(mean, 0.5).cdf(bound))  # of all measurements of this network
    assert np.mean(shares[0.9]) >= 0.88
    assert np.mean(shares[None]) < 0.75  # what a limit on the prediction is worth


def test_declared_metrics_need_no_margin(folder: Path, table: mn.BlockTable) -> None:
    macs = sorted(set(table.predict_all("macs").tolist()))
    limits = {"macs": macs[len(macs) // 2]}
    for path in ("r.json", "d.json"):
        given = mn.BlockTable.load(folder / path)
        plain, sure = answered(given, limits), answered(given, limits, 0.99)
        assert (sure.network, sure.cut_off) == (plain.network, 0)
        assert sure.limits[0].at_confidence == sure.limits[0].used


# ---- what is said -------------------------------------------------------------------------------


def test_an_answer_says_what_holds_with_which_confidence(table: mn.BlockTable) -> None:
    answer = answered(table, {**LIMITED, "macs": "+20%"}, 0.95)
    use = answer.limits[0]
    assert use.at_confidence is not None
    within = f"at most {use.limit.metric.format(use.at_confidence)} with 95 %, binds"
    assert within in str(answer)
    assert within in answer._repr_html_()
    assert "limit latency_ms <= 4.7 ms" in str(answer)  # as given
    assert "(each limit with a probability of 95 %)" in answer.guarantee
    record = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    assert record["confidence"] == 0.95
    assert record["limits"][0]["at_confidence"] == use.at_confidence
    assert record["limits"][0]["value"] == 4.7


def test_how_many_were_cut_off_is_said() -> None:
    for seed in range(60):
        table, rng = random_table(seed), np.random.default_rng(1000 + seed)
        limits = random_limits(table, rng, 0.95)
        answer = mn.search(table, maximize="accuracy", limits=limits, confidence=0.95)
        if isinstance(answer, mn.Answer) and answer.cut_off:
            said = f"; {answer.cut_off} predicted within them were checked and do not hold so ("
            assert said in answer.guarantee
            assert answer.to_dict()["cut_off"] == answer.cut_off
            break
    else:
        pytest.fail("no case in which a network was cut off")


def test_reasons_name_the_confidence(table: mn.BlockTable) -> None:
    lowest = float(table.predict_all("latency_ms").min())
    nothing = mn.search(
        table, maximize="accuracy", limits={"latency_ms": lowest + 1e-3}, confidence=0.95
    )
    assert isinstance(nothing, mn.Infeasible)
    assert nothing.status is mn.Status.INFEASIBLE
    assert "no network meets the limits with a probability of 95 % each (proven):" in str(nothing)
    (conflict,) = nothing.conflicts
    assert conflict.best == pytest.approx(lowest)
    assert conflict.at_confidence is not None
    assert conflict.at_confidence > lowest + 1e-3
    assert "cannot hold with a probability of 95 %: the lowest predicted" in nothing.reasons[0]
    record = json.loads(json.dumps(nothing.to_dict(), allow_nan=False))
    assert record["confidence"] == 0.95
    assert record["conflicts"][0]["at_confidence"] == conflict.at_confidence


@pytest.mark.parametrize("wrong", [0.0, 0.49, 1.0, 1.5, -1.0, math.nan])
@pytest.mark.parametrize("find", [mn.search, lambda table, **given: mn.k_best(table, 2, **given)])
def test_a_confidence_is_a_probability(
    table: mn.BlockTable, find: Callable[..., object], wrong: float
) -> None:
    with pytest.raises(mn.InvalidInputError, match=r"at least 0\.5 and below 1, but got"):
        find(table, maximize="accuracy", limits=LIMITED, confidence=wrong)


def test_tables_without_uncertainty_are_refused(folder: Path) -> None:
    table = mn.BlockTable.load(folder / "d.json")
    with pytest.raises(mn.InvalidInputError, match=r"latency_ms were fitted without .*regression"):
        mn.search(table, maximize="accuracy", limits=LIMITED, confidence=0.9)
    # what is not limited may be uncertain
    assert mn.search(table, maximize="accuracy", confidence=0.9)


# ---- large spaces -------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every space is large, and few networks are checked."""
    monkeypatch.setattr(confidence, "_ALL_LISTED", 0)
    monkeypatch.setattr(confidence, "_MOST_LISTED", 4)


@pytest.mark.usefixtures("few")
def test_in_a_large_space_claims_are_true_and_a_network_is_found_all_the_same() -> None:
    statuses = []
    for seed in range(60):
        table, rng = random_table(seed), np.random.default_rng(1000 + seed)
        limits = random_limits(table, rng, 0.95)
        if seed < 5:  # hardly any network holds, but many are predicted to
            metric = table.column("latency_ms").metric
            rough = Limit(metric, "<=", 0.0)
            values = [reached(table, n, rough, 0.95) for n in table.space.enumerate()]
            limits = [Limit(metric, "<=", min(values) - 1e-6)]
        expected = holding(table, limits, 0.95, "accuracy")
        answer = mn.search(table, maximize="accuracy", limits=limits, confidence=0.95)
        statuses.append(answer.status)
        if isinstance(answer, mn.Infeasible):
            if answer.status is mn.Status.INFEASIBLE:
                assert not expected
            else:
                assert answer.cut_off == 4
                assert "4 networks that are predicted within the limits" in answer.reasons[0]
                assert "that meets the limits with a probability of 95 % each" in str(answer)
            continue
        assert answer.network in [network for _, network in expected]
        if answer.status is mn.Status.OPTIMAL:
            assert answer.value == pytest.approx(expected[0][0], abs=1e-8)
        else:
            assert answer.cut_off == 4
            assert answer.bound >= expected[0][0] - 1e-8
            assert answer.value <= expected[0][0]
            assert "not proven optimal: a network that meets the limits (each" in answer.guarantee
            assert "4 predicted within them were checked" in answer.guarantee
    assert set(statuses) == set(mn.Status)


@pytest.mark.usefixtures("few")
def test_a_ranking_of_a_large_space_may_be_incomplete_but_holds() -> None:
    incomplete = 0
    for seed in range(40):
        table, rng = random_table(seed), np.random.default_rng(1000 + seed)
        limits = random_limits(table, rng, 0.95)
        expected = [v for v, _ in holding(table, limits, 0.95, "accuracy")]
        ranking = mn.k_best(table, 3, maximize="accuracy", limits=limits, confidence=0.95)
        if not isinstance(ranking, mn.Ranking):
            continue
        values = [answer.value for answer in ranking]
        assert values == sorted(values, reverse=True)
        assert len({answer.network for answer in ranking}) == len(values)
        if ranking.complete:
            assert values == pytest.approx(expected[:3], abs=1e-8)
        else:
            incomplete += 1
            assert all(any(abs(v - own) < 1e-8 for own in expected) for v in values)
            assert "that of networks to check" in str(ranking)
    assert incomplete


class Slow:
    """A solver that stops with one network and no proof."""

    name = "slow"

    def solve(
        self, program: Program, *, count: int = 1, time_limit: float | None = None
    ) -> Solution:
        whole = EnumerationSolver().solve(program, count=count)
        status = mn.Status.FEASIBLE if whole.networks else mn.Status.UNKNOWN
        return replace(whole, status=status, bound=program.lowest, solver=self.name)


def test_a_solver_without_a_proof_proves_nothing_here(table: mn.BlockTable) -> None:
    answer = mn.search(
        table,
        maximize="accuracy",
        limits={"latency_ms": 5.2},
        confidence=0.9,
        solver=Slow(),
        time_limit=30,
    )
    assert answer.status in (mn.Status.FEASIBLE, mn.Status.UNKNOWN)
    nothing = mn.search(
        table, maximize="accuracy", limits={"latency_ms": 1.0}, confidence=0.9, solver=Slow()
    )
    assert nothing.status is mn.Status.UNKNOWN


def test_solvers_agree_in_a_space_of_10_to_the_15() -> None:
    space, rng = space_of((6,) * 20), np.random.default_rng(1)
    table = mn.BlockTable(
        space,
        (0,) * 20,
        {
            "latency_ms": column_of(space, rng, "latency_ms", 20.0, 2.0, spread=0.1),
            "accuracy": column_of(space, rng, "accuracy", 70.0, 0.3),
        },
    )
    found = [
        mn.search(
            table, maximize="accuracy", limits={"latency_ms": 15}, confidence=0.95, solver=name
        )
        for name in [
            "numpy",
            *["kernel"] * kernel_is_available(),
            *["highs"] * highs_is_available(),
        ]
    ]
    assert all(answer.status is mn.Status.OPTIMAL for answer in found)
    values = {round(answer.value, 8) for answer in found if isinstance(answer, mn.Answer)}
    assert len(values) == 1
    late = mn.search(
        table, maximize="accuracy", limits={"latency_ms": 15}, confidence=0.95, time_limit=1e-6
    )
    assert late.status is not mn.Status.INFEASIBLE


# ---- from the shell -----------------------------------------------------------------------------


def test_the_command_gives_the_answer_of_the_api(
    folder: Path, table: mn.BlockTable, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = "--maximize accuracy --limit latency_ms=4.7 --confidence 0.95"
    arguments = ["search", str(folder / "r.json"), *asked.split()]
    assert main((*arguments, "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    expected = answered(table, LIMITED, 0.95)
    assert found["network"] == list(expected.network)
    assert found["confidence"] == 0.95
    assert main((*arguments, "--verify")) == 0
    out = capsys.readouterr().out
    assert "with 95 %, binds" in out
    assert "verified: " in out
    assert main((*arguments, "--top", "3")) == 0
    assert capsys.readouterr().out.count("with 95 %") >= 3
    assert main((*arguments, "--explain")) == 1
    assert "it takes no --confidence" in " ".join(capsys.readouterr().err.split())
    assert main((*arguments[:-1], "1")) == 1
    assert "at least 0.5 and below 1, but got 1" in " ".join(capsys.readouterr().err.split())
