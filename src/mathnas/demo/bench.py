"""What the demo's flow needs to know of what it runs on."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mathnas.errors import MissingExtraError
from mathnas.evaluation import Evaluator
from mathnas.space import Network, SearchSpace

_MODULES = ("torch", "onnx", "onnxscript", "onnxruntime", "sklearn")


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a found network was turned into.

    Attributes:
        note: in words.
        files: names of the files in the folder.
        measured: metrics of the delivered file itself, where there is one.
    """

    note: str
    files: tuple[str, ...] = ()
    measured: Mapping[str, float] = field(default_factory=dict)


class Bench(Protocol):
    """A space, how its networks are measured, and how a found one is delivered.

    Attributes:
        title: printed, and stored with the results.
        space: the networks.
        accuracy: measures ``accuracy``.
        latency: measures ``latency_ms``.
        provenance: how the numbers came to be; JSON values.
    """

    @property
    def title(self) -> str: ...

    @property
    def space(self) -> SearchSpace: ...

    @property
    def accuracy(self) -> Evaluator: ...

    @property
    def latency(self) -> Evaluator: ...

    @property
    def provenance(self) -> Mapping[str, object]: ...

    def deliver(self, network: Network, folder: Path) -> Delivery:
        """Write what a user would take away into `folder`."""
        ...


def require_demo_extra() -> None:
    """Check that what training and exporting need is installed, without importing it.

    Raises:
        MissingExtraError: something is missing.
    """
    missing = [name for name in _MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            "the demo trains a small network, which needs torch, onnx, onnxruntime and "
            f"scikit-learn, but {', '.join(missing)} cannot be found: install them with\n"
            "  pip install 'mathnas[demo]'\n"
            "or run `mathnas demo --tabular`, on measurements that mathnas carries."
        )
