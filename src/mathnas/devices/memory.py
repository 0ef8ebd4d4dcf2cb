"""Memory of networks: peak resident memory on an engine, and size of the weights.

A process's peak only grows, and what an earlier network left is used again by the next, so every
network gets a process of its own. What the interpreter and the engine take without a network is
measured the same way and subtracted.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Generic

from mathnas.devices.common import Engine, ModelT, engine_conditions
from mathnas.devices.host import Device, this_device
from mathnas.errors import EvaluationError, InvalidInputError
from mathnas.evaluation import Evaluator, FunctionEvaluator, Measurement
from mathnas.metrics import metric_named
from mathnas.space import Network, SearchSpace

BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.0}
_SECONDS = 300.0


class MemoryEvaluator(Evaluator, Generic[ModelT]):
    """Peak resident memory of a process that loads and runs a network (``memory_mb``).

    MB are 10^6 bytes, above the peak of the same process without a network (in the notes:
    ``process_mb``). What an engine shares between networks (its code, its pools) is in the
    process's own part as far as loading the engine brings it; the rest is in every network's.

    Args:
        models: a network to the form that the engine reads; it is sent by pickle.
        engine: what runs it; sent by pickle too.
        device: by default this machine.
        runs: of the network, before the peak is read.

    Raises:
        InvalidInputError: `runs` is below 1.
    """

    exclusive = True

    def __init__(
        self,
        models: Callable[[Network], ModelT],
        engine: Engine[ModelT],
        *,
        device: Device | None = None,
        runs: int = 3,
    ) -> None:
        if runs < 1:
            raise InvalidInputError(f"a network runs at least once, but got runs={runs}.")
        self.models = models
        self.engine = engine
        self.device = device or this_device()
        self.runs = runs
        self.metrics = (metric_named("memory_mb"),)
        self.threads = engine.threads
        self.conditions = {
            "device": self.device.name,
            **engine_conditions(engine),
            "statistic": f"peak resident memory of {runs} runs above the process's own",
        }

    def evaluate(self, network: Network, seed: int = 0) -> Mapping[str, Measurement | float]:
        """Raises:
        EvaluationError: the process fails; what it printed is in the message.
        """
        peak = self._peak_mb(self.models(network))
        own = self._process_mb
        notes = {"peak_mb": f"{peak:.6g}", "process_mb": f"{own:.6g}"}
        return {"memory_mb": Measurement(max(peak - own, 0.0), notes=notes)}

    @cached_property
    def _process_mb(self) -> float:
        """Peak of a process without a network: the lowest of three, for pages come and go."""
        return min(self._peak_mb(None) for _ in range(3))

    def _peak_mb(self, model: ModelT | None) -> float:
        """Peak resident memory in MB; no model: of the process itself."""
        try:
            work = pickle.dumps((self.engine, model, self.runs))
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise EvaluationError(
                f"memory is measured in a process of its own, to which engine and network are "
                f"sent by pickle, but {self.engine.name} cannot be: {error}."
            ) from error
        try:
            done = subprocess.run(
                [sys.executable, "-m", "mathnas.devices._resident"],
                input=work,
                # what can be imported here is imported there
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                capture_output=True,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise EvaluationError(
                f"a network is loaded and run {self.runs} times within {_SECONDS:g} s, but the "
                "process that measures its memory took longer: let it run less often (runs=)."
            ) from error
        lines = done.stdout.decode(errors="replace").split()
        if done.returncode or not lines:
            said = done.stderr.decode(errors="replace").strip() or "nothing"
            raise EvaluationError(
                f"the process that measures memory ended with {done.returncode}: {said[-2000:]}"
            )
        return int(lines[-1]) / 1e6


def weights_evaluator(space: SearchSpace, precision: str = "fp32") -> FunctionEvaluator:
    """The size of a network's weights (``memory_mb_weights``), by the space's formula.

    Args:
        space: with parameters of every block.
        precision: of the weights, which says how many bytes one has.

    Raises:
        InvalidInputError: the space does not count parameters, or the precision is unknown.
    """
    if space.block_params is None or space.fixed_params is None:
        raise InvalidInputError(
            f"weights are counted by the space, but {space.name} does not say how many parameters "
            "its blocks have: declare them (params=)."
        )
    if precision not in BYTES:
        raise InvalidInputError(
            f"bytes of a weight are known for {', '.join(BYTES)}, but got {precision!r}."
        )

    def size(network: Network) -> float:
        return float(space.params([network])[0]) * BYTES[precision] / 1e6

    return FunctionEvaluator(
        size, ["memory_mb_weights"], conditions={"precision": precision}, noisy=False
    )
