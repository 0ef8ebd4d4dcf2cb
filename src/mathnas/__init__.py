"""mathnas: fit a network to a device.

Block performances from few evaluations, prediction of any network, and search to proven optimality
over modular search spaces. Importing this package loads numpy and nothing else from outside.
"""

from mathnas._version import __version__
from mathnas.designs import balanced_sampling, d_optimal_sampling
from mathnas.device import Device
from mathnas.errors import (
    EvaluationError,
    FileFormatError,
    InvalidInputError,
    MathNASError,
    MathNASWarning,
    MissingDataError,
    MissingExtraError,
    VerificationError,
)
from mathnas.evaluation import (
    Evaluation,
    Evaluator,
    FunctionEvaluator,
    Measurement,
    StreamingEvaluator,
    TabularEvaluator,
)
from mathnas.fitting import fit
from mathnas.gaussian_process import FeatureRegression, GaussianProcess, fit_features
from mathnas.grouped import GroupedSpace
from mathnas.metrics import Direction, Metric, metric_named
from mathnas.refinement import Refinement, refine
from mathnas.runner import EvaluationReport, evaluate
from mathnas.sampling import (
    Sample,
    average_flops_network,
    full_sampling,
    partial_sampling,
    random_sampling,
    single_sampling,
)
from mathnas.scales import (
    ExponentialScale,
    IdentityScale,
    LogitScale,
    LogScale,
    PowerScale,
    ResponseScale,
    scales_for,
)
from mathnas.search import (
    Answer,
    DeviceFronts,
    Explanation,
    Front,
    Infeasible,
    Limit,
    Ranking,
    Rule,
    Selection,
    Status,
    choose_candidates,
    device_fronts,
    explain,
    k_best,
    pareto_front,
    search,
)
from mathnas.space import Block, BlockNode, DepthRule, Network, PairCosts, SearchSpace
from mathnas.study import Failure, Measurements, Study
from mathnas.table import BlockEffects, BlockTable, Form, PairEffects, Prediction
from mathnas.transfer import transfer, transfer_plan
from mathnas.validation import (
    MetricValidation,
    Quality,
    Validation,
    fit_without,
    quality,
    validate,
    validation_sampling,
)
from mathnas.variance import VarianceShares, table_shares, variance_shares

__all__ = [
    "Answer",
    "Block",
    "BlockEffects",
    "BlockNode",
    "BlockTable",
    "DepthRule",
    "Device",
    "DeviceFronts",
    "Direction",
    "Evaluation",
    "EvaluationError",
    "EvaluationReport",
    "Evaluator",
    "Explanation",
    "ExponentialScale",
    "Failure",
    "FeatureRegression",
    "FileFormatError",
    "Form",
    "Front",
    "FunctionEvaluator",
    "GaussianProcess",
    "GroupedSpace",
    "IdentityScale",
    "Infeasible",
    "InvalidInputError",
    "Limit",
    "LogScale",
    "LogitScale",
    "MathNASError",
    "MathNASWarning",
    "Measurement",
    "Measurements",
    "Metric",
    "MetricValidation",
    "MissingDataError",
    "MissingExtraError",
    "Network",
    "PairCosts",
    "PairEffects",
    "PowerScale",
    "Prediction",
    "Quality",
    "Ranking",
    "Refinement",
    "ResponseScale",
    "Rule",
    "Sample",
    "SearchSpace",
    "Selection",
    "Status",
    "StreamingEvaluator",
    "Study",
    "TabularEvaluator",
    "Validation",
    "VarianceShares",
    "VerificationError",
    "__version__",
    "average_flops_network",
    "balanced_sampling",
    "choose_candidates",
    "d_optimal_sampling",
    "device_fronts",
    "evaluate",
    "explain",
    "fit",
    "fit_features",
    "fit_without",
    "full_sampling",
    "k_best",
    "metric_named",
    "pareto_front",
    "partial_sampling",
    "quality",
    "random_sampling",
    "refine",
    "scales_for",
    "search",
    "single_sampling",
    "table_shares",
    "transfer",
    "transfer_plan",
    "validate",
    "validation_sampling",
    "variance_shares",
]
