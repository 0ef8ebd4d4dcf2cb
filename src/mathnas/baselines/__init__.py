"""Predictors that others published, trained afresh, to compare mathnas with at equal budgets.

`Predictor` is what they share and `graphs` what some of them read; these need numpy alone. The
predictors themselves need torch and are imported from their own modules: `mathnas.baselines.mlp`
(Once-for-All's and HAT's) and `mathnas.baselines.brp_nas`.
"""

from mathnas.baselines.graphs import Graphs, chain_graphs, graphs_of
from mathnas.baselines.predictor import Predictor

__all__ = ["Graphs", "Predictor", "chain_graphs", "graphs_of"]
