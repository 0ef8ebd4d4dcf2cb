"""Search spaces that mathnas knows: one file a space, declarative, without torch."""

from mathnas.spaces.families import Family, catalogue, named, partitioned, restore
from mathnas.spaces.fbnet import FBNet
from mathnas.spaces.mobilenetv3 import MobileNetV3
from mathnas.spaces.nasbench201 import NASBench201
from mathnas.spaces.nasbench_macro import NASBenchMacro
from mathnas.spaces.supertransformer import SuperTransformer
from mathnas.spaces.supervit import SuperViT

__all__ = [
    "FBNet",
    "Family",
    "MobileNetV3",
    "NASBench201",
    "NASBenchMacro",
    "SuperTransformer",
    "SuperViT",
    "catalogue",
    "named",
    "partitioned",
    "restore",
]
