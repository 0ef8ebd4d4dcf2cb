"""Alternatives for the parts of any trained PyTorch model, without training. Needs torch.

A model is cut at its nodes (`nodes`, `shell`, `chain`), each node gets blocks (`alternative` and
what inherits from it, fitted on unlabelled samples), and the whole is a supernet (`supernet`) whose
networks are scored against the original (`evaluator`, `scores`).
"""

from mathnas.compression.alternative import Alternative, Call, InapplicableError, RecordedNode
from mathnas.compression.chained import ChainedAlternative
from mathnas.compression.custom import FactoryAlternative
from mathnas.compression.evaluator import ScoreEvaluator
from mathnas.compression.export import Agreement, CompressedFile, export_compressed
from mathnas.compression.heads import HeadsAlternative
from mathnas.compression.kernels import KernelAlternative
from mathnas.compression.low_rank import LowRankAlternative
from mathnas.compression.nodes import CutError, find_nodes
from mathnas.compression.quantised import QuantisedAlternative, weight_bytes
from mathnas.compression.scores import (
    Accuracy,
    CosineDistance,
    Divergence,
    Loss,
    SampleScore,
    UserScore,
)
from mathnas.compression.skip import SkipAlternative
from mathnas.compression.supernet import ModuleSupernet, Refusal, from_module
from mathnas.compression.width import WidthAlternative

__all__ = [
    "Accuracy",
    "Agreement",
    "Alternative",
    "Call",
    "ChainedAlternative",
    "CompressedFile",
    "CosineDistance",
    "CutError",
    "Divergence",
    "FactoryAlternative",
    "HeadsAlternative",
    "InapplicableError",
    "KernelAlternative",
    "Loss",
    "LowRankAlternative",
    "ModuleSupernet",
    "QuantisedAlternative",
    "RecordedNode",
    "Refusal",
    "SampleScore",
    "ScoreEvaluator",
    "SkipAlternative",
    "UserScore",
    "WidthAlternative",
    "export_compressed",
    "find_nodes",
    "from_module",
    "weight_bytes",
]
