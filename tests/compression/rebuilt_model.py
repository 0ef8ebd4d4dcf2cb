"""What a user's own package may hold: it knows nothing of mathnas."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand, self.norm = nn.Conv2d(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.depthwise = nn.Conv2d(4 * width, 4 * width, 5, padding=2, groups=4 * width)
        self.act = nn.ReLU(inplace=True)
        self.project = nn.Conv2d(4 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.depthwise(self.act(self.norm(self.expand(x)))))
        found: Tensor = x + self.project(y)
        return found


def convolutional() -> nn.Module:
    """Weights are drawn anew each time: a file has its own."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), *(Block(16) for _ in range(6)), nn.Flatten(), nn.Linear(16 * 36, 10)
    )


class Tokens(nn.Module):
    """Two inputs, a dictionary of outputs, tuples between layers, a weight that is there twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.out = nn.Linear(16, 20, bias=False)
        self.out.weight = self.embed.weight
        self.register_buffer("scale", torch.ones(1))

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, mask=mask)[0]
        return {"logits": self.out(x) * self.scale, "pooled": x.mean(1)}


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor]:
        return (x + self.down(torch.relu(self.up(x))) * mask[..., None],)


tokens = Tokens()  # a model, too, not only what makes one


def number() -> int:
    return 3
