"""Compressed networks of several signatures, and the modules that their originals come from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from compression_cases import Odd, batches, chained, odd, odd_batches
from torch import Tensor, nn

from mathnas.compression.alternative import Alternative
from mathnas.compression.batches import Batch
from mathnas.compression.quantised import QuantisedAlternative
from mathnas.compression.skip import SkipAlternative
from mathnas.compression.supernet import ModuleSupernet, from_module
from mathnas.compression.width import WidthAlternative

ALTERNATIVES: tuple[Alternative, ...] = (
    SkipAlternative(),
    WidthAlternative(0.5),
    QuantisedAlternative(8),
    QuantisedAlternative(4),
)


class Normed(nn.Module):
    """Inverted residuals with normalisations, one of them looked at twice."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.expand = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.norm = nn.BatchNorm2d(3 * width)
        self.depthwise = nn.Conv2d(3 * width, 3 * width, 3, padding=1, groups=3 * width)
        self.norm2 = nn.BatchNorm2d(3 * width)
        self.project = nn.Conv2d(3 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.expand(x)))
        y = torch.relu(self.norm2(self.depthwise(y)))
        found: Tensor = x + self.project(y)
        return found


def normed() -> nn.Module:
    """Blocks whose normalisations have statistics, some of them negative weights."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), *(Normed() for _ in range(4)), nn.Flatten(), nn.Linear(8 * 36, 10)
    )
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            with torch.no_grad():
                part.weight.normal_(1, 0.6)
                part.bias.normal_()
    return model.eval()


def supernet_of(
    model: nn.Module, samples: Sequence[Batch], alternatives: Sequence[Alternative] = ALTERNATIVES
) -> ModuleSupernet:
    return from_module(model, samples, alternatives)


def plain_network(*blocks: str) -> nn.Module:
    return supernet_of(chained(), batches()).extract(blocks)


def normed_network(*blocks: str) -> nn.Module:
    return supernet_of(normed(), batches()).extract(blocks)


def odd_network(*blocks: str) -> nn.Module:
    """Two inputs by name, a dictionary as the output."""
    return supernet_of(odd(), odd_batches(), ALTERNATIVES[1:]).extract(blocks)


__all__ = ["Odd", "normed", "normed_network", "odd_network", "plain_network", "supernet_of"]
