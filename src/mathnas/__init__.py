"""mathnas: fit a network to a device.

Block performances from few evaluations, prediction of any network, and search to proven optimality
over modular search spaces. Importing this package loads numpy and nothing else from outside.
"""

from mathnas._version import __version__
from mathnas.errors import (
    EvaluationError,
    FileFormatError,
    InvalidInputError,
    MathNASError,
    MathNASWarning,
    MissingDataError,
    MissingExtraError,
)
from mathnas.evaluation import (
    Evaluation,
    Evaluator,
    FunctionEvaluator,
    Measurement,
    TabularEvaluator,
)
from mathnas.metrics import Direction, Metric, metric_named
from mathnas.space import Block, BlockNode, DepthRule, Network, SearchSpace

__all__ = [
    "Block",
    "BlockNode",
    "DepthRule",
    "Direction",
    "Evaluation",
    "EvaluationError",
    "Evaluator",
    "FileFormatError",
    "FunctionEvaluator",
    "InvalidInputError",
    "MathNASError",
    "MathNASWarning",
    "Measurement",
    "Metric",
    "MissingDataError",
    "MissingExtraError",
    "Network",
    "SearchSpace",
    "TabularEvaluator",
    "__version__",
    "metric_named",
]
