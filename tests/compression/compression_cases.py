"""Small models of odd structure, and alternatives whose effect is known."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from mathnas.compression.alternative import Alternative, InapplicableError, RecordedNode


class Residual(nn.Module):
    """Adds a small network to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(width, 2 * width, 1)
        self.act = nn.ReLU(inplace=True)
        self.project = nn.Conv2d(2 * width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.act(self.expand(x)))
        return x + y


class Chained(nn.Module):
    """A stem, blocks one after another, a head."""

    def __init__(self, blocks: int = 3, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        self.blocks = nn.ModuleList(Residual(width) for _ in range(blocks))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits

    def residual(self, place: int) -> Residual:
        block = self.blocks[place]
        assert isinstance(block, Residual)
        return block


class Odd(nn.Module):
    """Two inputs, one of them optional; functional calls; a layer used twice; a node whose output a
    much later part looks at; a tuple that flows between nodes; and a dictionary as the result."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(6, 6)
        self.first = Pair(6)
        self.second = Pair(6)
        self.third = Pair(6)
        self.norm = nn.LayerNorm(6)
        self.out = nn.Linear(6, 4)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        x = torch.tanh(self.twice(x))
        if mask is not None:
            x = x * mask[..., None]
        early, gate = self.first(x, scale=2.0)
        x, gate = self.second(self.twice(early), gate=gate)
        x, _ = self.third(self.norm(x), gate=gate)
        pooled = torch.nn.functional.gelu(x + 0.5 * early).mean(1)
        return {"logits": self.out(pooled), "pooled": pooled}


class Pair(nn.Module):
    """Takes arguments by name, gives two tensors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 3 * width)
        self.down = nn.Linear(3 * width, width)

    def forward(
        self, x: Tensor, gate: Tensor | None = None, scale: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        y = self.down(torch.relu(self.up(x))) * scale
        if gate is not None:
            y = y * torch.sigmoid(gate)
        return x + y, y.mean(1, keepdim=True)


class Scaled(Alternative):
    """The node with the weights of all its layers times a factor."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.name = f"scaled:{factor}"

    def build(self, node: RecordedNode) -> nn.Module:
        made = copy.deepcopy(node.module)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.mul_(self.factor)
        return made


class Impossible(Alternative):
    """No node has it."""

    name = "impossible"

    def build(self, node: RecordedNode) -> nn.Module:
        raise InapplicableError(f"{node.name} has nothing that could be made so.")


def chained(seed: int = 0) -> Chained:
    torch.manual_seed(seed)
    return Chained()


def odd(seed: int = 0) -> Odd:
    torch.manual_seed(seed)
    return Odd()


def pictures(count: int = 12, side: int = 8) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def batches(size: int = 6) -> list[Tensor]:
    return list(torch.split(pictures(), size))


def odd_batches() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [
        {
            "x": torch.randn(3, 5, 6, generator=generator),
            "mask": (torch.rand(3, 5, generator=generator) > 0.3).float(),
        }
        for _ in range(3)
    ]
