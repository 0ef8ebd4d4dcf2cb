"""NSGA-II: Deb et al., IEEE TEC 2002, as implemented by pymoo; needs the extra ``baselines``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from mathnas.baselines._driver import (
    FAILED,
    Proposals,
    Score,
    Wanted,
    drive,
    relative_violation,
)
from mathnas.baselines._permitted import declared_limits, draw
from mathnas.errors import InvalidInputError, MissingExtraError
from mathnas.evaluation import Evaluator
from mathnas.metrics import Floats
from mathnas.space import Indices, Network, SearchSpace
from mathnas.study import Study
from mathnas.trials import Outcome, Trials

if TYPE_CHECKING:
    from typing_extensions import Unpack

_STALE = 20  # generations without a new network before it begins again from random ones
_LARGE = 1e6  # the violation of what failed; pymoo takes finite numbers


def nsga2(
    study: Study, evaluator: Evaluator, *, population: int = 10, **wanted: Unpack[Wanted]
) -> Outcome:
    """NSGA-II over one integer a node, with the limits as a constraint: their violation by measured
    values, each relative to the limit, summed.

    The only objective is the one that is asked for. With limited metrics as further objectives it
    spends evaluations on trade-offs that nobody asked for and ends further from the best network.
    pymoo selects, by constrained domination; crossover takes each node from one of two
    parents, and a mutation draws a node's block anew (one node a network on average), because
    blocks have no order. Of these generations only networks that keep rules and limits on what the
    space declares, and that were not measured before, are measured. Where 20 generations bring
    nothing new, it begins again from random networks.

    Args:
        population: networks a generation.
        study, evaluator, wanted: as in `mathnas.refine`.

    Raises:
        MissingExtraError: pymoo is not installed.
        InvalidInputError: as `mathnas.refine`, or a population below 2.
        EvaluationError, KeyboardInterrupt: as `mathnas.refine`.
    """
    if population < 2:
        raise InvalidInputError(f"a population has at least 2 networks, but got {population}.")
    pymoo = {name: _module(name) for name in _MODULES}
    trials = Trials(study, evaluator, **wanted)
    return drive(trials, _proposals(trials, population, pymoo))


_MODULES = (
    *("algorithms.moo.nsga2", "core.evaluator", "core.mutation", "core.problem"),
    *("core.termination", "operators.crossover.ux", "problems.static"),
)


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"pymoo.{name}")
    except ImportError as error:
        raise MissingExtraError("NSGA-II needs pymoo: pip install 'mathnas[baselines]'.") from error


def _proposals(trials: Trials, population: int, pymoo: dict[str, ModuleType]) -> Proposals:
    rng = np.random.default_rng(trials.seed)
    asked: set[Network] = set()
    while first := draw(trials, population, rng, asked):
        algorithm = _algorithm(trials.space, first, population, rng, pymoo)
        stale = 0
        while stale < _STALE:
            generation = algorithm.ask()
            if generation is None or not len(generation):
                break  # no offspring that the population does not hold
            networks = [valid(trials.space, row) for row in generation.get("X").tolist()]
            allowed = list(dict.fromkeys(n for n in networks if trials.allows(n)))
            stale = stale + 1 if asked.issuperset(allowed) else 0
            asked.update(allowed)
            scores = yield allowed
            static = pymoo["problems.static"].StaticProblem(
                algorithm.problem, **_values(trials, networks, scores)
            )
            pymoo["core.evaluator"].Evaluator().eval(static, generation)
            algorithm.tell(infills=generation)


def _algorithm(
    space: SearchSpace,
    first: Sequence[Network],
    population: int,
    rng: np.random.Generator,
    pymoo: dict[str, ModuleType],
) -> Any:
    """An NSGA-II that is asked and told, from these networks."""

    class Redraw(pymoo["core.mutation"].Mutation):  # type: ignore[misc]
        def _do(self, problem: Any, X: Indices, *_: Any, **__: Any) -> Indices:
            redrawn = rng.integers(np.array(space.sizes), size=X.shape)
            return np.where(rng.random(X.shape) < 1 / space.num_nodes, redrawn, X)

    problem = pymoo["core.problem"].Problem(
        n_var=space.num_nodes, n_obj=1, n_ieq_constr=1, xl=0, xu=np.array(space.sizes) - 1
    )
    algorithm = pymoo["algorithms.moo.nsga2"].NSGA2(
        pop_size=population,
        sampling=np.array(first),
        crossover=pymoo["operators.crossover.ux"].UX(),
        mutation=Redraw(),
    )
    algorithm.setup(
        problem,
        termination=pymoo["core.termination"].NoTermination(),
        seed=int(rng.integers(2**31)),
    )
    return algorithm


def _values(
    trials: Trials, networks: Sequence[Network], scores: Mapping[Network, Score]
) -> dict[str, Floats]:
    """The objective F and the constraint G <= 0 of a generation."""
    values = np.full((2, len(networks), 1), _LARGE)
    for row, network in enumerate(networks):
        if network not in scores:  # not permitted, so not measured
            values[1, row] = _declared_violation(trials, network)
        elif scores[network] != FAILED:
            values[:, row, 0] = scores[network].loss, scores[network].violation
    return {"F": values[0], "G": values[1]}


def _declared_violation(trials: Trials, network: Network) -> float:
    """By how much rules and limits on what the space declares are missed."""
    missed = float(sum(not rule.holds(network) for rule in trials.rules))
    for limit in declared_limits(trials):
        missed += relative_violation(limit, trials.known(network, limit.metric.name))
    return missed


def valid(space: SearchSpace, row: Sequence[int]) -> Network:
    """The network of one integer a node: where an optional node is absent, the later ones of its
    stage become absent, too."""
    blocks = list(row)
    for rule in space.depth_rules:
        gone = False
        for node, absent in zip(rule.nodes, rule.absent, strict=True):
            gone = gone or blocks[node] == absent
            blocks[node] = absent if gone else blocks[node]
    return tuple(blocks)
