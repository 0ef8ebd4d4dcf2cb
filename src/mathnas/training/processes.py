"""The device, and the processes that train together.

One process, or those that torchrun started: `accelerate` finds out which, and joins them. The
distributed wrapper of torch is not used: it expects one backward pass a step through one set of
parameters, and here a step has several, each through its own part of the supernet.
"""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import distributed, nn

from mathnas.errors import MissingExtraError


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        device: where it computes.
        rank: its number, from 0; process 0 writes and prints.
        world: how many there are.
    """

    device: torch.device
    rank: int = 0
    world: int = 1

    @classmethod
    def join(cls, device: str | None = None) -> Processes:
        """The processes that torchrun started, or this one alone.

        Args:
            device: for example ``cpu``; by default the accelerator where there is one.

        Raises:
            MissingExtraError: accelerate is not installed.
        """
        try:
            from accelerate import PartialState
        except ImportError as error:
            raise MissingExtraError(
                "training needs accelerate: pip install 'mathnas[train]'."
            ) from error
        # without being told so, accelerate joins no processes on a machine without an accelerator
        cpu = device == "cpu" or (device is None and not torch.accelerator.is_available())
        state = PartialState(cpu=cpu)
        if state.num_processes > 1:
            # a process that ends while gloo's threads still run is aborted
            atexit.register(_leave)
        found = state.device if device is None else torch.device(device)
        return cls(found, state.process_index, state.num_processes)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes, which have gradients for the same
        parameters because they run the same networks."""
        if self.world == 1:
            return
        gradients = [own.grad for own in parameters if own.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.world
        for gradient, mean in zip(
            gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(mean.view(gradient.shape))

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.world > 1:
            distributed.barrier()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.world == 1:
            return flag
        told = torch.tensor(float(flag), device=self.device)
        distributed.all_reduce(told)
        return bool(told > 0)


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
