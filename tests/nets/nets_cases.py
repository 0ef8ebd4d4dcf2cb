"""Networks that the tests of this folder share."""

from __future__ import annotations

import torch
from torch import nn

from mathnas.nets.digits import DigitsConfig, DigitsNet, DigitsNode
from mathnas.nets.mbconv import MBConvChoice

# these networks are too small to gain from more, and waiting threads would slow other tests
torch.set_num_threads(1)

TINY = DigitsConfig(
    stem=4,
    nodes=(
        DigitsNode(4, 1, (None, MBConvChoice(3, 1), MBConvChoice(5, 2))),
        DigitsNode(6, 2, (MBConvChoice(3, 1), MBConvChoice(7, 2))),
        DigitsNode(6, 1, (None, MBConvChoice(3, 3))),
    ),
    head=8,
)


def lived_in(config: DigitsConfig = TINY, seed: int = 0) -> DigitsNet:
    """A supernet whose statistics, biases and kernel matrices are no longer those of a new one."""
    net = DigitsNet(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
            if name.endswith("_matrix"):
                tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
            elif tensor.is_floating_point() and (
                "norm" in name or "bn." in name or name.endswith("bias")
            ):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return net.eval()


def images(count: int, seed: int = 0, side: int = 8) -> torch.Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(seed))


def memory(module: nn.Module) -> set[int]:
    """Where the tensors of a module begin."""
    tensors = [*module.parameters(), *module.buffers()]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def live_in(net: nn.Module, seed: int = 0) -> None:
    """Give statistics, scales, shifts and biases of any network values that no new one has."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            tensors = [
                *module.named_parameters(recurse=False),
                *module.named_buffers(recurse=False),
            ]
            for name, tensor in tensors:
                if isinstance(module, nn.BatchNorm2d) or name == "bias":
                    if tensor.is_floating_point():
                        tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
                elif name.endswith("_matrix"):
                    tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
