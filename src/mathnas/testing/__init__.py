"""Contracts of the extension points, as test classes to inherit: needs pytest.

A space, evaluator, solver, meter or method of your own keeps the contract if a subclass of the
class here passes. ``docs/extending.md`` and ``docs/baselines.md`` show one of each. Those of
supernets, which needs torch too, and of engines for resident parts are imported by themselves:
``mathnas.testing.supernets``, ``mathnas.testing.resident``.
"""

import pkgutil

import pytest

# before the modules are imported, so that their failed assertions show the values
pytest.register_assert_rewrite(*(f"{__name__}.{m.name}" for m in pkgutil.iter_modules(__path__)))

from mathnas.testing.engines import EngineContract  # noqa: E402
from mathnas.testing.evaluators import EvaluatorContract  # noqa: E402
from mathnas.testing.meters import MeterContract  # noqa: E402
from mathnas.testing.methods import MethodContract  # noqa: E402
from mathnas.testing.policies import PolicyContract  # noqa: E402
from mathnas.testing.programs import best_by_brute_force, random_program  # noqa: E402
from mathnas.testing.solvers import SolverContract  # noqa: E402
from mathnas.testing.spaces import SpaceContract  # noqa: E402

__all__ = [
    "EngineContract",
    "EvaluatorContract",
    "MeterContract",
    "MethodContract",
    "PolicyContract",
    "SolverContract",
    "SpaceContract",
    "best_by_brute_force",
    "random_program",
]
