"""NASViT's supernet (Gong et al., ICLR 2022), MathNAS's SuperViT: inverted residuals, then
transformer blocks that attend over the whole map.

Widths, depths, kernels and expansions are elastic: a narrower form is the first channels, filters
and heads of the widest, a smaller kernel the centre of the larger. Tensors are named and shaped as
in the public checkpoint (`mathnas.nets.nasvit_checkpoints`), so that those load as they are.

Heads of an attention are mixed before and after the softmax (talking heads, Shazeer et al., 2020).
`torch.nn.functional.scaled_dot_product_attention` takes what is added before a softmax, but nothing
between it and the values, so attention is written out: two products with 1x1 convolutions over the
heads around the softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mathnas.errors import InvalidInputError
from mathnas.nets.dropout import checked_dropout
from mathnas.nets.elastic import ElasticConv2d
from mathnas.nets.linear import new_linear, reset_linear, sliced_linear
from mathnas.nets.mbconv import ConvNorm, ElasticConvNorm, MBConv
from mathnas.nets.squeeze import ElasticSqueezeExcite
from mathnas.nets.supernet import StagedNetwork, Supernet
from mathnas.space import Network
from mathnas.spaces.supervit import (
    HEAD_EXPANSION,
    VALUE_RATIO,
    Stage,
    StageChoice,
    SuperViT,
    middle_channels,
)

Layer: TypeAlias = Callable[[Tensor], Tensor]

SCALE_DEPTHS, SCALE_TOKENS = 10, 8  # rows of the tables of scales
_FIRST_SCALE = 1e-4
_POSITION_DEVIATION = 0.02


class SuperViTNet(Supernet):
    """First convolution, seven stages, head: the nine nodes of the space.

    A value between two nodes is one tensor of shape (batch, channels, height, width); how many
    channels it has is chosen by the node before. So the weights that a block uses depend on its
    input, and an extracted block fits one width: networks run node by node (`run_node`), but the
    supernet is no `ChainSupernet`, whose blocks fit behind any other.

    Args:
        space: resolution, classes, strides. It sets the resolution of extracted networks; images
            of other sides run on the shared weights too, as far as positions are known.
        dropout: before the classifier, while training.
        seed: of the weights.

    Raises:
        InvalidInputError: the nodes of the space are dimensions, or the dropout is not in [0, 1).
    """

    space: SuperViT

    def __init__(
        self, space: SuperViT | None = None, *, dropout: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__()
        self.space = space if space is not None else SuperViT()
        if self.space.partition != "stages":
            raise InvalidInputError(
                f"the nodes of a SuperViT's networks are its stages, but those of "
                f"{self.space.name} are {self.space.partition}: make the space with "
                "partition='stages'."
            )
        first, *strides = self.space.strides
        widest = max(self.space.first_widths)
        self.first_conv = ElasticConvNorm(ElasticConv2d(3, widest, (3,), stride=first), nn.SiLU())
        blocks: list[nn.Module] = []
        self._starts: list[int] = []
        for stage, stride in zip(self.space.stages, strides, strict=True):
            self._starts.append(len(blocks))
            out = max(stage.widths)
            blocks.append(ElasticResidual(stage, widest, stride))
            for _ in range(max(stage.depths) - 1):
                blocks.append(
                    ElasticTransformer(out, self.space.window, self.space.head_dim)
                    if stage.transformer
                    else ElasticResidual(stage, out, 1)
                )
            widest = out
        self.blocks = nn.ModuleList(blocks)
        middle, head = HEAD_EXPANSION * widest, max(self.space.head_widths)
        self.last_conv = nn.ModuleDict(
            {
                "final_expand_layer": ElasticConvNorm(ElasticConv2d(widest, middle), nn.SiLU()),
                "feature_mix_layer": nn.ModuleDict({"conv": ElasticConv2d(middle, head)}),
            }
        )
        self.dropout = nn.Dropout()
        self.set_dropout(dropout)
        self.classifier = nn.ModuleDict({"linear": ElasticLinear(head, self.space.classes)})
        self._reset(torch.Generator().manual_seed(seed))

    def forward(self, x: Tensor, network: Network) -> Tensor:
        """Images of shape (batch, 3, side, side) to logits of shape (batch, classes)."""
        for node, block in enumerate(network):
            x = self.run_node(node, block, x)
        return self.run_head(x)

    def run_node(self, node: int, block: int, x: Tensor) -> Tensor:
        """A node's input to its output through one of its blocks: images for the first node, pooled
        features of shape (batch, width) out of the last."""
        if node == 0:
            return cast(Tensor, self.first_conv(x, out_channels=self.space.first_widths[block]))
        if node > len(self.space.stages):
            x = self._expand(x, out_channels=HEAD_EXPANSION * x.shape[1])
            x = self._mix(x.mean((2, 3), keepdim=True), out_channels=self.space.head_widths[block])
            return functional.silu(x).flatten(1)
        choice = self.space.stages[node - 1].choices[block]
        for layer in self.stage(node, choice.depth):
            x = layer(x, choice)
        return x

    def run_head(self, x: Tensor) -> Tensor:
        """The last node's output to logits of shape (batch, classes)."""
        return cast(Tensor, self._classify(self.dropout(x)))

    def extract(self, network: Network) -> StagedNetwork:
        """One network with its own memory, in evaluation mode, for images of the space's side.

        Scales of residuals and biases of positions are constants of it, no parameters.

        Raises:
            InvalidInputError: the network does not belong to the space.
        """
        first, stages, head = self.space.choices(network)
        nodes: list[nn.Module] = [self.first_conv.extract(3, out_channels=first)]
        width = first
        for node, (choice, side) in enumerate(
            zip(stages, self.space.sides[1:], strict=True), start=1
        ):
            layers = []
            for layer in self.stage(node, choice.depth):
                layers.append(layer.extract(width, choice, side))
                width = choice.width
            nodes.append(nn.Sequential(*layers))
        middle = HEAD_EXPANSION * width
        nodes.append(
            nn.Sequential(
                self._expand.extract(width, out_channels=middle),
                nn.AdaptiveAvgPool2d(1),
                ConvNorm(self._mix.extract(middle, out_channels=head), None, nn.SiLU()),
                nn.Flatten(),
            )
        )
        classifier = nn.Sequential(
            nn.Dropout(self.dropout.p), self._classify.extract(head, self.space.classes)
        )
        return StagedNetwork(nn.Identity(), nodes, classifier).eval()

    def part_keys(self, network: Network) -> Sequence[tuple[int, ...]]:
        """A block and the width of its input make a part."""
        first, stages, _ = self.space.choices(network)
        widths = [3, first, *(stage.width for stage in stages)]
        nodes = zip(range(self.space.num_nodes), self.space.check(network), widths, strict=True)
        return [(), *nodes, (self.space.num_nodes, network[-1])]

    def extremes(self) -> tuple[Network, Network]:
        """The networks of the first and of the last blocks: least and most of every dimension."""
        return (0,) * self.space.num_nodes, tuple(size - 1 for size in self.space.sizes)

    def stage(self, node: int, depth: int) -> Sequence[ElasticResidual | ElasticTransformer]:
        """The first blocks of a stage's node."""
        start = self._starts[node - 1]
        found = [self.blocks[start + place] for place in range(depth)]
        return cast("list[ElasticResidual | ElasticTransformer]", found)

    def zero_residuals(self) -> None:
        """Let every inverted residual add nothing to its shortcut at first, by a scale of 0 of its
        last normalisation (Goyal et al., 2017); so NASViT starts."""
        for layer in self.blocks:
            if isinstance(layer, ElasticResidual):
                nn.init.zeros_(layer.project.norm.weight)

    def set_dropout(self, dropout: float) -> None:
        """Drop other shares before the classifier.

        Raises:
            InvalidInputError: it is not in [0, 1).
        """
        self.dropout.p = checked_dropout(dropout)

    @property
    def _expand(self) -> ElasticConvNorm:
        return cast(ElasticConvNorm, self.last_conv["final_expand_layer"])

    @property
    def _mix(self) -> ElasticConv2d:
        return cast(ElasticConv2d, cast(nn.ModuleDict, self.last_conv["feature_mix_layer"])["conv"])

    @property
    def _classify(self) -> ElasticLinear:
        return cast(ElasticLinear, self.classifier["linear"])

    def _reset(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, (ElasticConv2d, ElasticSqueezeExcite, ElasticAttention)):
                module.reset(generator)
            elif isinstance(module, ElasticLinear):
                reset_linear(module.linear, generator)


# ---- inverted residuals --------------------------------------------------------------------------


class ElasticResidual(nn.Module):
    """An inverted residual of elastic widths, kernel and expansion; all have a shortcut.

    Where the stride is 2, the shortcut averages; where widths differ, a 1x1 convolution follows.

    Args:
        stage: its choices.
        channels: of the widest input.
        stride: of the depthwise convolution.
    """

    def __init__(self, stage: Stage, channels: int, stride: int) -> None:
        super().__init__()
        self.of_stage = stage
        self.stride = stride
        middle = middle_channels(stage, channels, max(stage.expansions))
        out = max(stage.widths)
        depthwise = ElasticConv2d(
            middle, middle, stage.kernels, stride=stride, depthwise=True, matrices=False
        )
        gate = ElasticSqueezeExcite(middle, 8) if stage.squeeze else None
        parts: dict[str, nn.Module] = {}
        if stage.expands:
            parts["inverted_bottleneck"] = ElasticConvNorm(
                ElasticConv2d(channels, middle), nn.SiLU()
            )
        parts["depth_conv"] = ElasticConvNorm(depthwise, nn.SiLU(), gate)
        parts["point_linear"] = ElasticConvNorm(ElasticConv2d(middle, out))
        self.mobile_inverted_conv = nn.ModuleDict(parts)
        self.shortcut = nn.ModuleDict({"conv": ElasticConv2d(channels, out)})

    @property
    def project(self) -> ElasticConvNorm:
        """The last convolution, with its normalisation."""
        return self._part("point_linear")

    def forward(self, x: Tensor, choice: StageChoice) -> Tensor:
        """x of shape (batch, channels, height, width)."""
        channels, y = x.shape[1], x
        if self.of_stage.expands:
            middle = middle_channels(self.of_stage, channels, choice.expansion)
            y = self._part("inverted_bottleneck")(y, out_channels=middle)
        y = self._part("depth_conv")(y, kernel=choice.kernel)
        y = self.project(y, out_channels=choice.width)
        x = _shrunk(x, self.stride)
        if channels != choice.width:
            x = self._widen(x, out_channels=choice.width)
        return cast(Tensor, x + y)

    def extract(self, channels: int, choice: StageChoice, side: int) -> Residual:
        """One form as a static block with its own memory."""
        middle = middle_channels(self.of_stage, channels, choice.expansion)
        expand = None
        if self.of_stage.expands:
            expand = self._part("inverted_bottleneck").extract(channels, out_channels=middle)
        return Residual(
            MBConv(
                expand,
                self._part("depth_conv").extract(middle, kernel=choice.kernel),
                self.project.extract(middle, out_channels=choice.width),
                shortcut=False,
            ),
            self._widen.extract(channels, out_channels=choice.width)
            if channels != choice.width
            else None,
            self.stride,
        )

    @property
    def _widen(self) -> ElasticConv2d:
        return cast(ElasticConv2d, self.shortcut["conv"])

    def _part(self, name: str) -> ElasticConvNorm:
        return cast(ElasticConvNorm, self.mobile_inverted_conv[name])


class Residual(nn.Module):
    """A static inverted residual with a shortcut for any stride and widths."""

    def __init__(self, conv: MBConv, shortcut: nn.Conv2d | None, stride: int) -> None:
        super().__init__()
        self.conv = conv
        self.shortcut = shortcut
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """x of shape (batch, channels, height, width)."""
        y = self.conv(x)
        x = _shrunk(x, self.stride)
        if self.shortcut is not None:
            x = self.shortcut(x)
        return cast(Tensor, x + y)


def _shrunk(x: Tensor, stride: int) -> Tensor:
    """Averages of 2x2 pixels where the stride is 2; odd sides are padded by zeros."""
    if stride == 1:
        return x
    height, width = x.shape[2:]
    return functional.avg_pool2d(x, stride, stride, padding=(height % 2, width % 2))


# ---- transformer blocks --------------------------------------------------------------------------


class _Parts(NamedTuple):
    """What a transformer block of one form applies, in the order of its use."""

    norm1: Layer
    queries: Layer
    keys: Layer
    values: Layer
    value_conv: Layer  # on the values as an image
    before: Layer  # over the heads, before the softmax
    after: Layer  # and after it
    project: Layer
    norm3: Layer
    mlp2: Layer
    norm2: Layer
    mlp1: Layer
    positions: Tensor  # added to the scores, shape (heads, tokens, tokens)
    attention_scale: Tensor  # of the residuals, shape (width,)
    mlp_scale: Tensor


def _transformed(x: Tensor, parts: _Parts) -> Tensor:
    """A transformer block on x of shape (batch, width, height, width of the map)."""
    shape = x.shape
    tokens = x.flatten(2).transpose(1, 2)
    tokens = tokens + parts.attention_scale * _attended(parts.norm1(tokens), shape, parts)
    tokens = tokens + parts.mlp_scale * parts.mlp2(parts.norm3(tokens))
    tokens = tokens + parts.mlp_scale * parts.mlp1(parts.norm2(tokens))
    return tokens.transpose(1, 2).reshape(shape)


def _attended(x: Tensor, shape: torch.Size, parts: _Parts) -> Tensor:
    """Attention of tokens of shape (batch, tokens, width) over the whole map."""
    batch, width, *map_shape = shape
    heads = parts.positions.shape[0]

    def by_head(own: Tensor) -> Tensor:
        return own.reshape(batch, own.shape[1], heads, -1).transpose(1, 2)

    queries, keys = by_head(parts.queries(x) * (heads / width) ** 0.5), by_head(parts.keys(x))
    images = parts.values(x).transpose(1, 2).reshape(batch, VALUE_RATIO * width, *map_shape)
    values = by_head(parts.value_conv(images).flatten(2).transpose(1, 2))
    scores = queries @ keys.transpose(2, 3) + parts.positions
    shares = parts.after(parts.before(scores).softmax(-1))
    found = (shares @ values).transpose(1, 2).flatten(2)
    return parts.project(functional.silu(found))


class ElasticTransformer(nn.Module):
    """Attention and two small networks, each added to its input by a learned scale.

    Scales stand in tables, by the depth of the stage and the number of tokens (modulo 8). The
    normalisations are over tokens and channels together.

    Args:
        width: the widest.
        window: side of the largest map.
        head_dim: channels of a head.
    """

    def __init__(self, width: int, window: int, head_dim: int) -> None:
        super().__init__()
        table = (SCALE_DEPTHS, SCALE_TOKENS, width)
        self.rescale_attn = nn.Parameter(torch.full(table, _FIRST_SCALE))
        self.rescale_mlp = nn.Parameter(torch.full(table, _FIRST_SCALE))
        self.norm1, self.norm2, self.norm3 = (MapNorm(width) for _ in range(3))
        self.attn = ElasticAttention(width, window, head_dim)
        self.mlp1, self.mlp2 = (ElasticMLP(width) for _ in range(2))

    def forward(self, x: Tensor, choice: StageChoice) -> Tensor:
        """x of shape (batch, channels, height, width)."""
        width, *shape = x.shape[1:]
        attn = self.attn
        heads = attn.heads(width)
        return _transformed(
            x,
            _Parts(
                norm1=self.norm1,
                queries=partial(attn.q, outputs=width),
                keys=partial(attn.k, outputs=width),
                values=partial(attn.v, outputs=VALUE_RATIO * width),
                value_conv=attn.convolved,
                before=attn.proj_l.over_channels,
                after=attn.proj_w.over_channels,
                project=partial(attn.proj, outputs=width),
                norm3=self.norm3,
                mlp2=self.mlp2,
                norm2=self.norm2,
                mlp1=self.mlp1,
                positions=attn.positions(heads, shape[0], shape[1]),
                attention_scale=_scale(self.rescale_attn, choice.depth, shape, width, heads),
                mlp_scale=_scale(self.rescale_mlp, choice.depth, shape, width, heads),
            ),
        )

    def extract(self, channels: int, choice: StageChoice, side: int) -> Transformer:
        """One form as a static block with its own memory, for maps of side x side."""
        heads = self.attn.heads(channels)
        with torch.no_grad():
            return Transformer(
                self,
                channels,
                self.attn.positions(heads, side, side).clone(),
                _scale(self.rescale_attn, choice.depth, (side, side), channels, heads).clone(),
                _scale(self.rescale_mlp, choice.depth, (side, side), channels, heads).clone(),
            ).eval()


def _scale(table: Tensor, depth: int, shape: Sequence[int], width: int, heads: int) -> Tensor:
    row = table[depth, (shape[0] * shape[1]) % SCALE_TOKENS, :width]
    return row / heads


class Transformer(nn.Module):
    """A static transformer block for maps of one side.

    Args:
        elastic: whose first channels it has.
        width: how many.
        positions: what is added to scores, shape (heads, tokens, tokens).
        attention_scale, mlp_scale: of the residuals, shape (width,).
    """

    positions: Tensor
    attention_scale: Tensor
    mlp_scale: Tensor

    def __init__(
        self,
        elastic: ElasticTransformer,
        width: int,
        positions: Tensor,
        attention_scale: Tensor,
        mlp_scale: Tensor,
    ) -> None:
        super().__init__()
        attn, heads = elastic.attn, elastic.attn.heads(width)
        self.norm1, self.norm2, self.norm3 = (
            norm.extract(width) for norm in (elastic.norm1, elastic.norm2, elastic.norm3)
        )
        self.q, self.k = attn.q.extract(width, width), attn.k.extract(width, width)
        self.v = attn.v.extract(width, VALUE_RATIO * width)
        self.vconv = attn.extract_conv(VALUE_RATIO * width)
        self.before, self.after = (
            mix.extract_over_channels(heads) for mix in (attn.proj_l, attn.proj_w)
        )
        self.proj = attn.proj.extract(VALUE_RATIO * width, width)
        self.mlp1, self.mlp2 = elastic.mlp1.extract(width), elastic.mlp2.extract(width)
        self.register_buffer("positions", positions)
        self.register_buffer("attention_scale", attention_scale)
        self.register_buffer("mlp_scale", mlp_scale)

    def forward(self, x: Tensor) -> Tensor:
        """x of shape (batch, width, side, side).

        Raises:
            InvalidInputError: its map has another size.
        """
        if x.shape[2] * x.shape[3] != self.positions.shape[-1]:
            raise InvalidInputError(
                f"this network was extracted for one resolution, at which a map has "
                f"{self.positions.shape[-1]} tokens here, but got {x.shape[2]} x {x.shape[3]}: "
                "extract it from a supernet whose space has the resolution of the images."
            )
        return _transformed(
            x,
            _Parts(
                norm1=self.norm1,
                queries=self.q,
                keys=self.k,
                values=self.v,
                value_conv=self.vconv,
                before=self.before,
                after=self.after,
                project=self.proj,
                norm3=self.norm3,
                mlp2=self.mlp2,
                norm2=self.norm2,
                mlp1=self.mlp1,
                positions=self.positions,
                attention_scale=self.attention_scale,
                mlp_scale=self.mlp_scale,
            ),
        )


class ElasticAttention(nn.Module):
    """The layers of an attention whose first heads serve narrower inputs.

    Args:
        width: the widest.
        window: side of the largest map; offsets of positions beyond it are not known.
        head_dim: channels of a head, by the queries.
    """

    def __init__(self, width: int, window: int, head_dim: int) -> None:
        super().__init__()
        self.window, self.head_dim = window, head_dim
        heads, values = self.heads(width), VALUE_RATIO * width
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.q, self.k = ElasticLinear(width, width), ElasticLinear(width, width)
        self.v, self.proj = ElasticLinear(width, values), ElasticLinear(values, width)
        self.proj_l, self.proj_w = ElasticLinear(heads, heads), ElasticLinear(heads, heads)
        self.vconv = nn.Conv2d(
            values, values, 3, padding=1, groups=values, bias=False, device="meta"
        )
        self.vconv.weight = nn.Parameter(torch.zeros(self.vconv.weight.shape))

    def reset(self, generator: torch.Generator) -> None:
        """Draw the convolution and the biases of positions; linear layers are drawn apart."""
        with torch.no_grad():
            self.vconv.weight.normal_(0.0, (2 / 9) ** 0.5, generator=generator)
            self.relative_position_bias_table.normal_(0.0, _POSITION_DEVIATION, generator=generator)

    def heads(self, width: int) -> int:
        """Of an input of so many channels."""
        return width // self.head_dim

    def convolved(self, images: Tensor) -> Tensor:
        """Values as images, shape (batch, channels, height, width), each channel convolved."""
        channels = images.shape[1]
        return functional.conv2d(images, self.vconv.weight[:channels], padding=1, groups=channels)

    def extract_conv(self, channels: int) -> nn.Conv2d:
        """The convolution of the first channels, with its own memory."""
        conv = nn.Conv2d(
            channels, channels, 3, padding=1, groups=channels, bias=False, device="meta"
        )
        conv.weight = nn.Parameter(self.vconv.weight[:channels].detach().clone())
        return conv

    def positions(self, heads: int, height: int, width: int) -> Tensor:
        """What is added to the scores of a map's tokens, by the offset of the two positions: shape
        (heads, tokens, tokens).

        Raises:
            InvalidInputError: the map is larger than the window.
        """
        if max(height, width) > self.window:
            raise InvalidInputError(
                f"positions are told apart on maps up to {self.window} x {self.window}, but got "
                f"{height} x {width}: make the space with the resolution of the images."
            )
        device = self.relative_position_bias_table.device
        rows, columns = (_offsets(size, self.window, device) for size in (height, width))
        index = rows[:, None, :, None] * (2 * self.window - 1) + columns[None, :, None, :]
        found = self.relative_position_bias_table[:, :heads][index.flatten()]
        return found.view(height * width, height * width, heads).permute(2, 0, 1)


def _offsets(size: int, window: int, device: torch.device) -> Tensor:
    """Differences of positions along one side, from 0 on; shape (size, size)."""
    places = torch.arange(size, device=device)
    return places[:, None] - places + window - 1


class ElasticMLP(nn.Module):
    """Linear, swish, linear, as wide inside as outside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = ElasticLinear(width, width), ElasticLinear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x of shape (batch, tokens, channels)."""
        width = x.shape[-1]
        inner = functional.silu(self.linear1(x, width))
        return cast(Tensor, self.linear2(inner, width))

    def extract(self, width: int) -> nn.Sequential:
        """The first channels as a static network with its own memory."""
        first, second = (part.extract(width, width) for part in (self.linear1, self.linear2))
        return nn.Sequential(first, nn.SiLU(), second)


class MapNorm(nn.Module):
    """Normalisation over tokens and channels of each map, with scale and shift for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """x of shape (batch, tokens, channels), at most as wide as this."""
        width = x.shape[-1]
        x = functional.layer_norm(x, x.shape[1:])
        return x * self.weight[:width] + self.bias[:width]

    def extract(self, width: int) -> MapNorm:
        """The first channels with their own memory."""
        norm = MapNorm(width)
        norm.weight = nn.Parameter(self.weight[:width].detach().clone())
        norm.bias = nn.Parameter(self.bias[:width].detach().clone())
        return norm


class ElasticLinear(nn.Module):
    """A linear layer whose first inputs and outputs serve narrower forms."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = new_linear(inputs, outputs)

    def forward(self, x: Tensor, outputs: int | None = None) -> Tensor:
        """x of shape (..., inputs); by default to all outputs."""
        weight, bias = self._slices(x.shape[-1], outputs or self.linear.out_features)
        return functional.linear(x, weight, bias)

    def over_channels(self, x: Tensor) -> Tensor:
        """Over the second axis of x, of shape (batch, inputs, ...), to as many outputs."""
        weight, bias = self._slices(x.shape[1], x.shape[1])
        return functional.conv2d(x, weight[:, :, None, None], bias)

    def extract(self, inputs: int, outputs: int) -> nn.Linear:
        """One form as a plain layer with its own memory."""
        return sliced_linear(self.linear, inputs, outputs)

    def extract_over_channels(self, width: int) -> nn.Conv2d:
        """As `over_channels`, with its own memory."""
        weight, bias = self._slices(width, width)
        conv = nn.Conv2d(width, width, 1, device="meta")
        conv.weight = nn.Parameter(weight.detach().clone()[:, :, None, None])
        conv.register_parameter("bias", nn.Parameter(bias.detach().clone()))
        return conv

    def _slices(self, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
        weight, bias = self.linear.weight, self.linear.bias
        if weight.shape == (outputs, inputs):
            return weight, bias
        return weight[:outputs, :inputs], bias[:outputs]
