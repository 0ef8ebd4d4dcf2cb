"""Public measurements: a registry with checked files, and readers that give evaluators.

Nothing is bundled. Set the environment variable ``MATHNAS_DATA`` to a folder that holds the files;
those with a public original are downloaded where they are missing. `catalogue` lists them.
"""

from mathnas.datasets._fbnet import fbnet
from mathnas.datasets._hat import FeatureTable, hat, hat_names
from mathnas.datasets._hw_nas_bench import hw_nas_bench
from mathnas.datasets._nasbench201 import NASBench201Table, nasbench201
from mathnas.datasets._nasbench_macro import nasbench_macro
from mathnas.datasets._nats_bench import nats_bench
from mathnas.datasets._ofa_mobilenetv3 import ofa_mobilenetv3, ofa_mobilenetv3_latency
from mathnas.datasets.registry import (
    DATA_VARIABLE,
    DataFile,
    DataSet,
    DataStatus,
    Presence,
    Source,
    catalogue,
    dataset_named,
    fetch,
    pinned,
)

__all__ = [
    "DATA_VARIABLE",
    "DataFile",
    "DataSet",
    "DataStatus",
    "FeatureTable",
    "NASBench201Table",
    "Presence",
    "Source",
    "catalogue",
    "dataset_named",
    "fbnet",
    "fetch",
    "hat",
    "hat_names",
    "hw_nas_bench",
    "nasbench201",
    "nasbench_macro",
    "nats_bench",
    "ofa_mobilenetv3",
    "ofa_mobilenetv3_latency",
    "pinned",
]
