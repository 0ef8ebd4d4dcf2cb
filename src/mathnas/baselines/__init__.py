"""Other ways to search by evaluations, to compare with on your own space.

Each of `METHODS` and `TRAINED_METHODS` takes what `mathnas.refine` takes and returns an `Outcome`:
the same budget, and an answer that was measured and whose measured values meet the limits.
`docs/baselines.md` tells where they come from.

`Predictor` is what the predictors that others published share, trained afresh, and `graphs` what
some of them read. These need torch and are imported from their own modules, `mathnas.baselines.mlp`
(Once-for-All's and HAT's) and `mathnas.baselines.brp_nas`; everything else imports neither torch
nor pymoo.
"""

from collections.abc import Callable, Mapping

from mathnas.baselines.best_blocks import best_blocks
from mathnas.baselines.evolution import evolution
from mathnas.baselines.graphs import Graphs, chain_graphs, graphs_of
from mathnas.baselines.hat_features import HAT_FEATURES, hat_features
from mathnas.baselines.hat_finder import hat_search
from mathnas.baselines.learned_search import brp_nas_search, hat_mlp, learned_search, ofa_mlp
from mathnas.baselines.local_search import local_search
from mathnas.baselines.nsga2 import nsga2
from mathnas.baselines.ofa_finder import Finding, ofa_finder, ofa_search
from mathnas.baselines.predictions import ByMetric, Predictions
from mathnas.baselines.predictor import Predictor
from mathnas.baselines.random_search import random_search
from mathnas.baselines.single_sampling_search import single_sampling_search
from mathnas.refinement import refine
from mathnas.trials import Outcome

METHODS: Mapping[str, Callable[..., Outcome]] = {
    "mathnas": refine,
    "random": random_search,
    "evolution": evolution,
    "local": local_search,
    "nsga2": nsga2,
    "ofa-finder": ofa_search,
    "hat-finder": hat_search,
    "single": single_sampling_search,
    "best-blocks": best_blocks,
}
TRAINED_METHODS: Mapping[str, Callable[..., Outcome]] = {  # with PyTorch, for seconds to minutes
    "ofa-mlp": ofa_mlp,
    "hat-mlp": hat_mlp,
    "brp-nas": brp_nas_search,
}

__all__ = [
    "HAT_FEATURES",
    "METHODS",
    "TRAINED_METHODS",
    "ByMetric",
    "Finding",
    "Graphs",
    "Predictions",
    "Predictor",
    "best_blocks",
    "brp_nas_search",
    "chain_graphs",
    "evolution",
    "graphs_of",
    "hat_features",
    "hat_mlp",
    "hat_search",
    "learned_search",
    "local_search",
    "nsga2",
    "ofa_finder",
    "ofa_mlp",
    "ofa_search",
    "random_search",
    "single_sampling_search",
]
