"""HAT's SuperTransformer: encoder and decoder layers, elastic depth (Wang et al., ACL 2020)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from mathnas.errors import InvalidInputError
from mathnas.space import Block, BlockNode, DepthRule, Network, SearchSpace

FFN = (1024, 2048, 3072)
HEADS = (4, 8)
ATTENTION = (-1, 1, 2)
ABSENT = "absent"
_EMBED, _PROJECTION, _LAYERS, _TOKENS = 512, 512, 6, 30
_VOCABULARY = 32_768
_MOST_LAYERS = 100
_MOST = 65_536  # of any width or length: sums stay exact in floating point
_MOST_WORDS = 2**20


@dataclass(frozen=True, slots=True)
class EncoderChoice:
    """What an encoder layer's block is.

    Attributes:
        ffn: width of the feed-forward network.
        heads: of the self-attention.
    """

    ffn: int
    heads: int


@dataclass(frozen=True, slots=True)
class DecoderChoice:
    """What a decoder layer's block is, where the layer is present.

    Attributes:
        ffn: width of the feed-forward network.
        self_heads: of the self-attention.
        cross_heads: of the attention to the encoder.
        attention: which encoder layers that attends to: -1 the last one, 1 the last two, 2 the last
            three, one behind another in time.
    """

    ffn: int
    self_heads: int
    cross_heads: int
    attention: int


class Configuration(TypedDict):
    """A SubTransformer by HAT's genes; lists have one entry a layer, in their order."""

    encoder_ffn_embed_dim: list[int]
    encoder_self_attention_heads: list[int]
    decoder_layer_num: int
    decoder_ffn_embed_dim: list[int]
    decoder_self_attention_heads: list[int]
    decoder_ende_attention_heads: list[int]
    decoder_arbitrary_ende_attn: list[int]


class SuperTransformer(SearchSpace):
    """The SubTransformers of HAT's supernet for translation, at fixed embedding widths.

    Nodes are layers: ``encoder.layer1``, ..., then ``decoder.layer1``, ... An encoder layer chooses
    the width of its feed-forward network and its heads, as ``f2048_h8``; a decoder layer chooses
    the width, the heads of its self- and cross-attention and the encoder layers that it attends
    to, as ``f2048_s8_c4_a-1``. Decoder layers after the first may be ``absent``, the last first.
    Block indices are the codes of MathNAS's partition. With the default choices, and each choice
    counted by its place among them, an encoder's is 2 ffn + heads; a decoder's is
    12 attention + 6 cross heads + 3 self heads + ffn, and 36 where it is absent.

    MACs and parameters are those of the layers, without the embedding table and the vocabulary's
    layer. MACs are multiply-accumulates of one sentence under teacher forcing: what HAT calls FLOPs
    is twice as much. Queries, keys and values have a fixed width, so heads cost nothing. MACs and
    parameters are exact sums over layers because embedding widths are fixed; as choices of their
    own they would multiply what layers cost, so each pair of widths is a space.

    Args:
        encoder_embed, decoder_embed: embedding widths.
        ffn: widths of feed-forward networks.
        heads: heads of an attention.
        attention: some of -1, 1 and 2; see `DecoderChoice`.
        encoder_layers: all of them present.
        decoder_layers: at most; at least one is present.
        projection: width of the queries, as of the keys and of the values, all heads together.
        source, target: lengths in tokens that MACs are counted at.
        vocabulary: how many tokens there are, of both languages together.
        positions: width of the table of sines and cosines whose first columns tell positions; by
            default the wider embedding. HAT's is always that of its supernet, 640.

    Raises:
        InvalidInputError: an argument is out of range.

    Example:
        >>> from mathnas.spaces import SuperTransformer
        >>> space = SuperTransformer()
        >>> space.num_networks
        104461669668096
        >>> smallest = space.check(["f1024_h4"] * 6 + ["f1024_s4_c4_a-1"] + ["absent"] * 5)
        >>> f"{2 * space.macs([smallest])[0] / 1e9:.3f} GFLOPs"
        '0.958 GFLOPs'
        >>> space.to_config(smallest)["decoder_layer_num"]
        1
    """

    def __init__(
        self,
        encoder_embed: int = _EMBED,
        decoder_embed: int = _EMBED,
        ffn: Sequence[int] = FFN,
        heads: Sequence[int] = HEADS,
        attention: Sequence[int] = ATTENTION,
        encoder_layers: int = _LAYERS,
        decoder_layers: int = _LAYERS,
        projection: int = _PROJECTION,
        source: int = _TOKENS,
        target: int = _TOKENS,
        vocabulary: int = _VOCABULARY,
        positions: int | None = None,
    ) -> None:
        self.encoder_embed = _embed(encoder_embed, "encoder")
        self.decoder_embed = _embed(decoder_embed, "decoder")
        self.ffn = _choices(
            ffn, "widths of feed-forward networks", "channels of a feed-forward network", FFN
        )
        self.heads = _choices(heads, "numbers of heads", "heads of an attention", HEADS)
        self.encoder_layers = _number(encoder_layers, "encoder layers", _MOST_LAYERS)
        self.decoder_layers = _number(decoder_layers, "decoder layers", _MOST_LAYERS)
        self.projection = _number(projection, "channels of queries, keys and values")
        self.source = _number(source, "tokens of the source sentence")
        self.target = _number(target, "tokens of the target sentence")
        self.vocabulary = _number(vocabulary, "tokens of the vocabulary", _MOST_WORDS)
        wider = max(self.encoder_embed, self.decoder_embed)
        self.positions = wider if positions is None else _embed(positions, "positions")
        if self.positions < wider:
            raise InvalidInputError(
                f"a table of positions is at least as wide as the embeddings, but its width is "
                f"{self.positions}, and an embedding's is {wider}."
            )
        for number in self.heads:
            if self.projection % number:
                raise InvalidInputError(
                    f"heads share the projection width equally, but {number} heads do not divide "
                    f"{self.projection}: give a multiple as projection, or other heads."
                )
        self.attention = self._checked_attention(attention)
        self.encoder_choices = tuple(
            EncoderChoice(width, heads) for width in self.ffn for heads in self.heads
        )
        self.decoder_choices = tuple(
            DecoderChoice(width, own, cross, attended)
            for attended in self.attention
            for cross in self.heads
            for own in self.heads
            for width in self.ffn
        )
        optional = tuple(range(self.encoder_layers + 1, self.encoder_layers + self.decoder_layers))
        arguments = self._arguments()
        super().__init__(
            [*self._encoder_nodes(), *self._decoder_nodes()],
            name="supertransformer:"
            + ",".join(
                f"{key}={value}"
                for key, value in arguments.items()
                if key.endswith("_embed") or value != {**_DEFAULTS, "positions": wider}[key]
            ),
            fixed_macs=0,
            fixed_params=0,
            depth_rules=[DepthRule(optional, (self._absent,) * len(optional))] if optional else [],
            family={"name": "supertransformer", **arguments},
        )

    def encoder_choice(self, block: int) -> EncoderChoice:
        """What an encoder layer's block is, by its index."""
        return self.encoder_choices[block]

    def decoder_choice(self, block: int) -> DecoderChoice | None:
        """What a decoder layer's block is, by its index; None where the layer is absent."""
        return None if block == self._absent else self.decoder_choices[block]

    def from_config(
        self,
        encoder_ffn_embed_dim: Sequence[int],
        encoder_self_attention_heads: Sequence[int],
        decoder_layer_num: int,
        decoder_ffn_embed_dim: Sequence[int],
        decoder_self_attention_heads: Sequence[int],
        decoder_ende_attention_heads: Sequence[int],
        decoder_arbitrary_ende_attn: Sequence[int],
    ) -> Network:
        """The network of a SubTransformer's genes.

        Args:
            encoder_ffn_embed_dim, encoder_self_attention_heads: of each encoder layer.
            decoder_layer_num: how many decoder layers are present.
            decoder_ffn_embed_dim, decoder_self_attention_heads, decoder_ende_attention_heads,
            decoder_arbitrary_ende_attn: of each decoder layer that is present. Entries beyond them
                are ignored, so lists may be as long as the deepest decoder's.

        Raises:
            InvalidInputError: a length or a value is not of the space.
        """
        if not 1 <= decoder_layer_num <= self.decoder_layers:
            raise InvalidInputError(
                f"1 to {self.decoder_layers} decoder layers are present (decoder_layer_num), but "
                f"got {decoder_layer_num}."
            )
        encoder = _by_layer(
            {
                "encoder_ffn_embed_dim": encoder_ffn_embed_dim,
                "encoder_self_attention_heads": encoder_self_attention_heads,
            },
            self.encoder_layers,
            self.encoder_layers,
        )
        decoder = _by_layer(
            {
                "decoder_ffn_embed_dim": decoder_ffn_embed_dim,
                "decoder_self_attention_heads": decoder_self_attention_heads,
                "decoder_ende_attention_heads": decoder_ende_attention_heads,
                "decoder_arbitrary_ende_attn": decoder_arbitrary_ende_attn,
            },
            decoder_layer_num,
            self.decoder_layers,
        )
        network = []
        for place, (width, heads) in enumerate(encoder, start=1):
            one = EncoderChoice(width, heads)
            if one not in self.encoder_choices:
                raise InvalidInputError(
                    f"an encoder layer has a feed-forward width in {self.ffn} and heads in "
                    f"{self.heads}, but encoder layer {place} got {width} and {heads}."
                )
            network.append(self.encoder_choices.index(one))
        for place, (width, own, cross, attended) in enumerate(decoder, start=1):
            other = DecoderChoice(width, own, cross, attended)
            if other not in self.decoder_choices:
                raise InvalidInputError(
                    f"a decoder layer has a feed-forward width in {self.ffn}, self and cross heads "
                    f"in {self.heads} and attention in {self.attention}, but decoder layer {place} "
                    f"got {width}, {own}, {cross} and {attended}."
                )
            network.append(self.decoder_choices.index(other))
        return (*network, *(self._absent,) * (self.decoder_layers - decoder_layer_num))

    def to_config(self, network: Sequence[int | str]) -> Configuration:
        """The genes of a network; decoder lists have one entry for each layer that is present."""
        chosen = self.check(network)
        encoder = [self.encoder_choices[block] for block in chosen[: self.encoder_layers]]
        decoder = [
            self.decoder_choices[block]
            for block in chosen[self.encoder_layers :]
            if block != self._absent
        ]
        return {
            "encoder_ffn_embed_dim": [layer.ffn for layer in encoder],
            "encoder_self_attention_heads": [layer.heads for layer in encoder],
            "decoder_layer_num": len(decoder),
            "decoder_ffn_embed_dim": [layer.ffn for layer in decoder],
            "decoder_self_attention_heads": [layer.self_heads for layer in decoder],
            "decoder_ende_attention_heads": [layer.cross_heads for layer in decoder],
            "decoder_arbitrary_ende_attn": [layer.attention for layer in decoder],
        }

    # ---- inside -----------------------------------------------------------------------------

    @property
    def _absent(self) -> int:
        return len(self.decoder_choices)

    def _checked_attention(self, attention: Sequence[int]) -> tuple[int, ...]:
        listed = () if isinstance(attention, (str, int)) else tuple(attention)
        known = tuple(own for own in ATTENTION if own in listed)
        if not known or listed != known:
            raise InvalidInputError(
                f"a decoder layer attends to the last encoder layer (-1), the last two (1) or the "
                f"last three (2), listed once each and in this order, but attention is {attention}."
            )
        attended = max(map(attended_layers, known))
        if attended > self.encoder_layers:
            raise InvalidInputError(
                f"a decoder layer attends to encoder layers that there are, but attention "
                f"{known[-1]} means {attended} of {self.encoder_layers}: leave it out, or have "
                "more encoder layers."
            )
        return known

    def _arguments(self) -> dict[str, int | str]:
        """The arguments as they are written in names and files."""
        return {
            "encoder_embed": self.encoder_embed,
            "decoder_embed": self.decoder_embed,
            "ffn": _written(self.ffn),
            "heads": _written(self.heads),
            "attention": _written(self.attention),
            "encoder_layers": self.encoder_layers,
            "decoder_layers": self.decoder_layers,
            "projection": self.projection,
            "source": self.source,
            "target": self.target,
            "vocabulary": self.vocabulary,
            "positions": self.positions,
        }

    def _encoder_nodes(self) -> list[BlockNode]:
        blocks = tuple(
            Block(f"f{choice.ffn}_h{choice.heads}", *self._encoder_costs(choice))
            for choice in self.encoder_choices
        )
        return [
            BlockNode(f"encoder.layer{place}", blocks)
            for place in range(1, self.encoder_layers + 1)
        ]

    def _decoder_nodes(self) -> list[BlockNode]:
        blocks = tuple(
            Block(
                f"f{choice.ffn}_s{choice.self_heads}_c{choice.cross_heads}_a{choice.attention}",
                *self._decoder_costs(choice),
            )
            for choice in self.decoder_choices
        )
        return [
            BlockNode(
                f"decoder.layer{place}", blocks if place == 1 else (*blocks, Block(ABSENT, 0, 0))
            )
            for place in range(1, self.decoder_layers + 1)
        ]

    def _encoder_costs(self, choice: EncoderChoice) -> tuple[int, int]:
        """(MACs, parameters) of an encoder layer: self-attention, feed-forward, two norms."""
        embed, inner, tokens = self.encoder_embed, self.projection, self.source
        macs = (
            tokens * 4 * inner * embed  # queries, keys, values and the output
            + 2 * tokens * tokens * inner  # scores, and values weighted by them
            + tokens * 2 * embed * choice.ffn
        )
        attention = 3 * (embed + 1) * inner + (inner + 1) * embed
        return macs, attention + _ffn_params(embed, choice.ffn) + 2 * 2 * embed

    def _decoder_costs(self, choice: DecoderChoice) -> tuple[int, int]:
        """(MACs, parameters) of a decoder layer: self-attention, cross-attention, feed-forward,
        three norms."""
        embed, inner, tokens = self.decoder_embed, self.projection, self.target
        keys = attended_layers(choice.attention) * self.source
        macs = (
            tokens * 4 * inner * embed
            + 2 * tokens * tokens * inner
            + tokens * 2 * inner * embed  # queries and the output
            + keys * 2 * inner * self.encoder_embed  # keys and values
            + 2 * tokens * keys * inner
            + tokens * 2 * embed * choice.ffn
        )
        own = 3 * (embed + 1) * inner + (inner + 1) * embed
        cross = (embed + 1 + 2 * (self.encoder_embed + 1)) * inner + (inner + 1) * embed
        return macs, own + cross + _ffn_params(embed, choice.ffn) + 3 * 2 * embed


def attended_layers(attention: int) -> int:
    """How many encoder layers a decoder layer attends to: 1, 2 or 3 for -1, 1 and 2."""
    return 1 + max(attention, 0)


def read_choices(text: str) -> tuple[int, ...]:
    """Numbers written as ``1024+2048``; `ValueError` for other text."""
    return tuple(int(part) for part in text.split("+"))


def _written(choices: Sequence[int]) -> str:
    return "+".join(map(str, choices))


# named only where they are not these: the widths tell the usual spaces apart
_DEFAULTS: Mapping[str, int | str] = {
    "ffn": _written(FFN),
    "heads": _written(HEADS),
    "attention": _written(ATTENTION),
    "encoder_layers": _LAYERS,
    "decoder_layers": _LAYERS,
    "projection": _PROJECTION,
    "source": _TOKENS,
    "target": _TOKENS,
    "vocabulary": _VOCABULARY,
}


def _ffn_params(embed: int, width: int) -> int:
    return 2 * embed * width + width + embed


def _number(value: int, what: str, most: int = _MOST) -> int:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not (whole and 1 <= value <= most):
        raise InvalidInputError(f"there are 1 to {most} {what}, as an integer, but got {value!r}.")
    return int(value)


def _embed(width: int, part: str) -> int:
    if _number(width, f"channels of the {part}'s embedding") % 2:
        raise InvalidInputError(
            f"half of an embedding's positions are sines and half cosines, so its width is even, "
            f"but the {part}'s is {width}: take {width + 1}."
        )
    return int(width)


def _choices(
    values: Sequence[int], what: str, unit: str, usual: tuple[int, ...]
) -> tuple[int, ...]:
    """Choices in ascending order, so that block indices are HAT's and MathNAS's codes."""
    if isinstance(values, (str, int)) or len(values) == 0:
        raise InvalidInputError(f"{what} are listed, as {usual}, but got {values!r}.")
    found = tuple(_number(value, unit) for value in values)
    if list(found) != sorted(set(found)):
        raise InvalidInputError(
            f"{what} are listed once each and in ascending order, as {usual}, but got {found}."
        )
    return found


def _by_layer(
    genes: Mapping[str, Sequence[int]], present: int, most: int
) -> Iterator[tuple[int, ...]]:
    """For each layer that is present its genes; lists may have one entry for each of `most`."""
    for name, values in genes.items():
        if not present <= len(values) <= most:
            entries = f"{present}" if present == most else f"{present} to {most}"
            raise InvalidInputError(
                f"{name} has one entry a layer, {entries} of them, but got {len(values)}."
            )
    return zip(*(values[:present] for values in genes.values()), strict=True)
