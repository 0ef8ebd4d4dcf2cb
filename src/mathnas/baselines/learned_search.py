"""Search with a predictor that is trained on evaluations, as Once-for-All, HAT, BRP-NAS do it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from mathnas.baselines._driver import Wanted
from mathnas.baselines.ofa_finder import ofa_search
from mathnas.baselines.predictions import ByMetric, Predictions
from mathnas.baselines.predictor import Predictor
from mathnas.errors import MissingExtraError
from mathnas.evaluation import Evaluator
from mathnas.space import Floats, Network, SearchSpace
from mathnas.study import Study
from mathnas.trials import Outcome

if TYPE_CHECKING:
    from typing_extensions import Unpack

Make: TypeAlias = "Callable[[SearchSpace, bool, int], Predictor]"


def learned_search(
    study: Study, evaluator: Evaluator, *, make: Make, **wanted: Unpack[Wanted]
) -> Outcome:
    """Measure random networks with nine tenths of the budget, train a predictor of the objective
    and one of each measured limit on them, and measure what `ofa_finder` finds with these.

    Args:
        make: a predictor, from the space, whether it is for the objective, and a seed. That of the
            objective may predict an order only.
        study, evaluator, wanted: as in `mathnas.refine`.

    Raises:
        InvalidInputError, EvaluationError, KeyboardInterrupt: as `ofa_search`.
    """
    objective = wanted.get("maximize") or wanted.get("minimize")
    seed = wanted.get("seed", 0)

    def fit(networks: Sequence[Network], values: Mapping[str, Sequence[float]]) -> Predictions:
        known = np.array(networks)
        predictors = {}
        for metric, own in values.items():
            predictors[metric] = make(study.space, metric == objective, seed)
            predictors[metric].fit(known, np.array(own))
        return ByMetric(study.space, predictors)

    return ofa_search(study, evaluator, fit=fit, **wanted)


def ofa_mlp(study: Study, evaluator: Evaluator, **wanted: Unpack[Wanted]) -> Outcome:
    """`learned_search` with Once-for-All's perceptron for every metric (Cai et al., ICLR 2020).

    Raises:
        MissingExtraError: PyTorch is not installed.
    """

    def make(space: SearchSpace, objective: bool, seed: int) -> Predictor:
        from mathnas.baselines.mlp import ofa_predictor

        return ofa_predictor(space, seed=seed)

    return _with_torch(make, study, evaluator, wanted)


def hat_mlp(study: Study, evaluator: Evaluator, **wanted: Unpack[Wanted]) -> Outcome:
    """`learned_search` with HAT's perceptron for every metric (Wang et al., ACL 2020).

    Raises:
        MissingExtraError: PyTorch is not installed.
    """

    def make(space: SearchSpace, objective: bool, seed: int) -> Predictor:
        from mathnas.baselines.mlp import hat_predictor

        return hat_predictor(space, seed=seed)

    return _with_torch(make, study, evaluator, wanted)


def brp_nas_search(study: Study, evaluator: Evaluator, **wanted: Unpack[Wanted]) -> Outcome:
    """`learned_search` with BRP-NAS's graph networks: pairs for the objective, values for limits
    (Dudziak et al., NeurIPS 2020). Training takes minutes.

    The networks to learn from are random; `mathnas.baselines.brp_nas.iterative` chooses them as the
    authors do, for an objective alone.

    Raises:
        MissingExtraError: PyTorch is not installed.
    """

    def make(space: SearchSpace, objective: bool, seed: int) -> Predictor:
        from mathnas.baselines.brp_nas import ACCURACY, LATENCY, BRPNASPredictor

        found = BRPNASPredictor(space, ACCURACY if objective else LATENCY, seed=seed)
        return _Share(found) if objective else found

    return _with_torch(make, study, evaluator, wanted)


def _with_torch(make: Make, study: Study, evaluator: Evaluator, wanted: Wanted) -> Outcome:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "a predictor is trained with PyTorch: pip install 'mathnas[torch]'."
        ) from error
    return learned_search(study, evaluator, make=make, **wanted)


@dataclass(frozen=True)
class _Share:
    """Gives a predictor values as shares of the largest, as pairs need them."""

    predictor: Predictor

    def fit(self, networks: npt.NDArray[np.intp], values: Floats) -> None:
        self.predictor.fit(networks, values / (float(np.abs(values).max()) or 1.0))

    def predict(self, networks: npt.NDArray[np.intp]) -> Floats:
        return self.predictor.predict(networks)
