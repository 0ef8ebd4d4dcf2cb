"""PyTorch itself: eager, compiled, on the processor or a graphics card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mathnas._threads import torch_threads
from mathnas.devices.common import check_threads_and_batch
from mathnas.errors import InvalidInputError

DTYPES: Mapping[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True, slots=True)
class ModuleModel:
    """A static network with an example of its inputs: what engines of modules read.

    Attributes:
        module: in evaluation mode; one input, one output.
        example: shape (batch, ...), on the processor.
    """

    module: nn.Module
    example: Tensor

    def check(self, batch: int) -> None:
        """Raises:
        InvalidInputError: the module is in training mode, or the example has another batch.
        """
        if self.module.training:
            raise InvalidInputError(
                "a module is timed in evaluation mode, but this one is in training mode: call "
                "eval() first."
            )
        if self.example.shape[0] != batch:
            raise InvalidInputError(
                f"this engine runs {batch} inputs at once, but the example has the batch "
                f"{self.example.shape[0]}: give an example of this batch."
            )


@dataclass(frozen=True, slots=True)
class TorchEngine:
    """Runs modules in PyTorch; see `mathnas.devices.common.Engine`.

    Eager latency says little about a runtime for deployment: it is here to be compared with one, or
    for what is served by PyTorch.

    Args:
        threads: inside one operator, on the processor; torch has as many as before afterwards.
        batch: inputs in one run.
        precision: fp32, bf16 or fp16: of weights and inputs.
        compile: through `torch.compile`, in its first run; needs a C++ compiler.
        accelerator: a torch device other than the processor, as ``cuda``: times are then those of
            its events, from the first kernel's start to the last one's end.
        channels_last: memory format of inputs of four dimensions and of weights; what torch
            computes depthwise convolutions faster in.

    Raises:
        InvalidInputError: a setting is wrong, or there is no such device.
    """

    threads: int = 1
    batch: int = 1
    precision: str = "fp32"
    compile: bool = False
    accelerator: str | None = None
    channels_last: bool = True

    def __post_init__(self) -> None:
        check_threads_and_batch(self.threads, self.batch)
        if self.precision not in DTYPES:
            raise InvalidInputError(
                f"torch runs in {', '.join(DTYPES)} here, but got {self.precision!r}."
            )
        if self.accelerator is not None:
            if torch.device(self.accelerator).type != "cuda":
                raise InvalidInputError(
                    f"an accelerator that can be timed is cuda or cuda:N, but got "
                    f"{self.accelerator!r}."
                )
            if not torch.cuda.is_available():
                raise InvalidInputError(
                    f"times on {self.accelerator} need a graphics card that torch sees, but it "
                    "sees none: install torch with CUDA and a driver, or leave accelerator out."
                )

    @property
    def name(self) -> str:
        return "torch-compile" if self.compile else "torch"

    @property
    def version(self) -> str:
        return str(torch.__version__)

    @property
    def conditions(self) -> Mapping[str, str]:
        found = {"memory_format": "channels_last" if self.channels_last else "contiguous"}
        if self.accelerator is not None:
            found["accelerator"] = torch.cuda.get_device_name(self.accelerator)
        return found

    def prepare(self, model: ModuleModel) -> Callable[[], object]:
        """The module on its device, in precision and memory format, ready to run.

        The model itself is changed: a copy would double the memory of every prepared network.

        Raises:
            InvalidInputError: the model does not fit; see `ModuleModel.check`.
        """
        model.check(self.batch)
        place = torch.device(self.accelerator or "cpu")
        module = model.module.to(place, DTYPES[self.precision])
        example = model.example.to(place, DTYPES[self.precision])
        if self.channels_last:
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            if example.ndim == 4:
                example = example.to(memory_format=torch.channels_last)
        function: Callable[[Tensor], Tensor] = module
        if self.compile:
            function = torch.compile(module)
        if self.accelerator is not None:
            return EventTimed(function, example)
        return _OnProcessor(function, example, self.threads)


class _OnProcessor:
    """A run on the processor with a number of threads that is only its own."""

    def __init__(self, function: Callable[[Tensor], Tensor], example: Tensor, threads: int) -> None:
        self.function = function
        self.example = example
        self.threads = threads

    @torch.inference_mode()
    def __call__(self) -> Tensor:
        with torch_threads(self.threads):
            return self.function(self.example)


class EventTimed:
    """A run on a graphics card, timed by events in its stream, and over when the card is done.

    A `mathnas.devices.timing.OwnClock`.

    Args:
        function: that queues work for `example`.
        event: makes an event with ``record``, ``synchronize`` and ``elapsed_time``; by default
            CUDA's.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        example: Tensor,
        *,
        event: Callable[[], Any] | None = None,
    ) -> None:
        make = event or partial(torch.cuda.Event, enable_timing=True)
        self.function = function
        self.example = example
        self._start, self._end = make(), make()

    @torch.inference_mode()
    def __call__(self) -> Tensor:
        self._start.record()
        output = self.function(self.example)
        self._end.record()
        self._end.synchronize()
        return output

    def last_ms(self) -> float:
        """How long the last run took on the card, in milliseconds."""
        return float(self._start.elapsed_time(self._end))
