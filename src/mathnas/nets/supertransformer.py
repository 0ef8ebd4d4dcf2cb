"""HAT's SuperTransformer (Wang et al., ACL 2020): translation with one set of weights for all.

Post-norm encoder and decoder layers whose weights are named and shaped as in the public checkpoints
(`mathnas.nets.hat_checkpoints`). A narrower feed-forward network is the first channels of the
widest; other numbers of heads group the same projections; a decoder layer may attend to the last,
the last two or the last three encoder layers, one behind another in time.

Sentences are rows of token ids that end in `END` and are filled up with `PAD`. What a supernet is
trained on is one tensor of both languages, see `SuperTransformerNet.forward`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mathnas.nets.dropout import checked_dropout
from mathnas.nets.linear import new_linear
from mathnas.nets.supernet import Supernet
from mathnas.space import Network
from mathnas.spaces.supertransformer import (
    ATTENTION,
    DecoderChoice,
    EncoderChoice,
    SuperTransformer,
    attended_layers,
)
from mathnas.tokens import END, PAD, UNKNOWN

_FIRST_POSITION = PAD + 1
_LONGEST_PERIOD = 10_000.0
_ATTENTION_SHARE = 1 / 3  # of the dropout: HAT has 0.3 and 0.1


@dataclass(frozen=True)
class Memory:
    """What a decoder reads of source sentences.

    Attributes:
        outputs: of the last encoder layers, the last one first; shape (batch, source, width) each.
        real: which tokens are no padding, shape (batch, source); None where all are.
    """

    outputs: tuple[Tensor, ...]
    real: Tensor | None = None


@dataclass(frozen=True)
class DecoderState:
    """Where an incremental decoder is: what its next step needs of all before it.

    Attributes:
        cross: of each layer the keys and the values of the source, shape (batch, heads, time,
            channels a head) each; `time` is one, two or three times the source's.
        real: which of the source's tokens are no padding, shape (batch, source); None: all.
        own: of each layer the keys and the values of the tokens so far, shape (batch * beam,
            heads, tokens, channels a head) each.
    """

    cross: tuple[tuple[Tensor, Tensor], ...]
    real: Tensor | None
    own: tuple[tuple[Tensor, Tensor], ...]

    @property
    def tokens(self) -> int:
        """How many tokens each target has so far."""
        return self.own[0][0].shape[2]

    def of_targets(self, rows: Tensor) -> DecoderState:
        """With other targets of the same sources: rows of batch * beam."""
        own = tuple((keys[rows], values[rows]) for keys, values in self.own)
        return replace(self, own=own)

    def of_sources(self, rows: Tensor, beam: int) -> DecoderState:
        """With some of the sources, and all of their targets."""
        targets = (rows[:, None] * beam + torch.arange(beam, device=rows.device)).flatten()
        cross = tuple((keys[rows], values[rows]) for keys, values in self.cross)
        real = None if self.real is None else self.real[rows]
        return replace(self.of_targets(targets), cross=cross, real=real)


class SubTransformer(nn.Module):
    """One network with weights of its own, in evaluation mode: what a supernet extracts.

    It translates in three steps: `encode`, `start`, and `step` for each token
    (`mathnas.nets.beam_search`).

    Attributes:
        encoder, decoder: their layers.
        encoder_choices, decoder_choices: what the layers are.
    """

    def __init__(
        self,
        encoder: TransformerEncoder,
        decoder: TransformerDecoder,
        encoder_choices: Sequence[EncoderChoice],
        decoder_choices: Sequence[DecoderChoice],
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.encoder_choices = tuple(encoder_choices)
        self.decoder_choices = tuple(decoder_choices)

    def forward(self, x: Tensor) -> Tensor:
        """As `SuperTransformerNet.forward`."""
        source, target = x.unbind(1)
        return self.foretell(target, self.encode(source))

    def foretell(self, target: Tensor, memory: Memory) -> Tensor:
        """Logits of what follows each token of targets that are there: what the decoder reads,
        shape (batch, target), to shape (tokens, vocabulary), without padding."""
        return self.decoder.foretell(target, memory, self.decoder_choices)

    def encode(self, source: Tensor) -> Memory:
        """Source sentences, token ids of shape (batch, source), once for all targets."""
        return self.encoder(source, self.encoder_choices)  # type: ignore[no-any-return]

    def start(self, memory: Memory, beam: int = 1) -> DecoderState:
        """Before the first token of `beam` targets for each source."""
        return self.decoder.start(memory, self.decoder_choices, beam)

    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """One more token of each target.

        Args:
            tokens: the last ones, shape (batch, beam); `END` at the beginning.

        Returns:
            Logits of the next ones, shape (batch, beam, vocabulary), and the state after it.
        """
        features, state = self.decoder.step(tokens, state, self.decoder_choices)
        return self.decoder.logits(features), state


class SuperTransformerNet(Supernet):
    """All SubTransformers of a space.

    Args:
        space: widths, choices, vocabulary.
        dropout: of embeddings and of what layers add; that of attention is a third of it, and it
            applies while training.
        seed: of the weights.

    Raises:
        InvalidInputError: the dropout is not in [0, 1).
    """

    space: SuperTransformer

    def __init__(
        self, space: SuperTransformer | None = None, *, dropout: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__()
        self.space = space if space is not None else SuperTransformer()
        ffn = max(self.space.ffn)
        self.encoder, self.decoder = _parts(
            self.space, [ffn] * self.space.encoder_layers, [ffn] * self.space.decoder_layers
        )
        self.set_dropout(dropout)
        self._reset(torch.Generator().manual_seed(seed))

    def forward(self, x: Tensor, network: Network) -> Tensor:
        """Sentence pairs to logits of the targets' next tokens.

        Args:
            x: token ids, shape (batch, 2, length): sources, ending in `END`, and what the decoder
                reads, `END` and then the targets; all filled up with `PAD`.

        Returns:
            Shape (tokens, vocabulary): of each position that the decoder reads and that is no
            padding, sentence by sentence.
        """
        encoder, decoder = self.choices(network)
        source, target = x.unbind(1)
        return self.decoder.foretell(target, self.encoder(source, encoder), decoder)

    def choices(
        self, network: Sequence[int | str]
    ) -> tuple[list[EncoderChoice], list[DecoderChoice]]:
        """What the layers of a network are; only those that are present.

        Raises:
            InvalidInputError: the network does not belong to the space.
        """
        chosen, layers = self.space.check(network), self.space.encoder_layers
        decoder = map(self.space.decoder_choice, chosen[layers:])
        return (
            [self.space.encoder_choice(block) for block in chosen[:layers]],
            [choice for choice in decoder if choice is not None],
        )

    def extract(self, network: Network) -> SubTransformer:
        encoder_choices, decoder_choices = self.choices(network)
        encoder, decoder = _parts(
            self.space,
            [choice.ffn for choice in encoder_choices],
            [choice.ffn for choice in decoder_choices],
        )
        for new, old in [
            *zip(encoder.layers, self.encoder.layers, strict=False),
            *zip(decoder.layers, self.decoder.layers, strict=False),
        ]:
            _copy_first(new, old)
        _copy_first(encoder.embed_tokens, self.encoder.embed_tokens)
        found = SubTransformer(encoder, decoder, encoder_choices, decoder_choices)
        return found.to(self.encoder.embed_tokens.weight.device).eval()

    def extremes(self) -> tuple[Network, Network]:
        """The network of first choices with one decoder layer, and that of last choices."""
        absent = self.space.sizes[-1] - 1
        encoder, decoder = self.space.encoder_layers, self.space.decoder_layers
        smallest = (0,) * (encoder + 1) + (absent,) * (decoder - 1)
        last = len(self.space.encoder_choices) - 1, len(self.space.decoder_choices) - 1
        return smallest, (last[0],) * encoder + (last[1],) * decoder

    def example_inputs(self, batch: int) -> Tensor:
        """Random sentence pairs as `forward` takes them, of the lengths that MACs are counted at;
        the same each time."""
        generator = torch.Generator().manual_seed(0)
        length = max(self.space.source, self.space.target)
        x = torch.full((batch, 2, length), PAD)
        for row, own in zip(x.unbind(1), (self.space.source, self.space.target), strict=True):
            words = torch.randint(
                min(UNKNOWN, self.space.vocabulary - 1),
                self.space.vocabulary,
                (batch, own - 1),
                generator=generator,
            )
            row[:, : own - 1] = words
        x[:, 0, self.space.source - 1] = END
        x[:, 1, 1:] = x[:, 1, :-1].clone()
        x[:, 1, 0] = END
        return x

    def set_dropout(self, share: float) -> None:
        """Let so much be dropped while training; see the class.

        Raises:
            InvalidInputError: it is not in [0, 1).
        """
        checked_dropout(share)
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = share
            elif isinstance(module, ElasticAttention):
                module.dropout = share * _ATTENTION_SHARE

    def _reset(self, generator: torch.Generator) -> None:
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Embedding):
                    width = module.weight.shape[1]
                    module.weight.normal_(0.0, width**-0.5, generator=generator)
                    module.weight[PAD] = 0
                elif isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight, generator=generator)
                    module.bias.zero_()
                elif isinstance(module, ElasticAttention):
                    module.reset(generator)


# ---- encoder and decoder --------------------------------------------------------------------


class TransformerEncoder(nn.Module):
    """Embedding and encoder layers.

    Args:
        embed_tokens: the table of all tokens, of which the first `width` columns are read.
        width: of the embedding.
        positions: width of the table of positions, of which the first columns are read.
        ffn: width of each layer's feed-forward network.
        projection: of the attentions.
    """

    def __init__(
        self,
        embed_tokens: nn.Embedding,
        width: int,
        positions: int,
        ffn: Sequence[int],
        projection: int,
    ) -> None:
        super().__init__()
        self.embed_tokens = embed_tokens
        self.width, self.positions = width, positions
        self.dropout = nn.Dropout(0.0)
        self.layers = nn.ModuleList(EncoderLayer(width, own, projection) for own in ffn)

    def forward(self, source: Tensor, choices: Sequence[EncoderChoice]) -> Memory:
        """Token ids of shape (batch, source) through all layers, each as its choice says."""
        source = _trimmed(source)
        padding = source == PAD
        # a graph for one length without padding has no mask
        real = ~padding if not torch.compiler.is_exporting() and bool(padding.any()) else None
        mask = None if real is None else real[:, None, None, :]
        x = _embedded(source, self.embed_tokens, self.width, self.positions)
        x = self.dropout(x)
        outputs: list[Tensor] = []
        for layer, choice in zip(self.layers, choices, strict=True):
            x = layer(x, mask, choice)
            outputs.insert(0, x)
        return Memory(tuple(outputs[:_MOST_ATTENDED]), real)


class TransformerDecoder(nn.Module):
    """Decoder layers; logits are products with the embedding of the tokens.

    Args:
        embed_tokens: the encoder's table.
        width: of the embedding.
        positions: as of the encoder.
        memory: width of the encoder's outputs.
        ffn: width of each layer's feed-forward network.
        projection: of the attentions.
    """

    def __init__(
        self,
        embed_tokens: nn.Embedding,
        width: int,
        positions: int,
        memory: int,
        ffn: Sequence[int],
        projection: int,
    ) -> None:
        super().__init__()
        self._embed_tokens = [embed_tokens]  # a list: the encoder's is not registered twice
        self.width, self.positions = width, positions
        self.dropout = nn.Dropout(0.0)
        self.layers = nn.ModuleList(DecoderLayer(width, memory, own, projection) for own in ffn)

    @property
    def embed_tokens(self) -> nn.Embedding:
        """The table of all tokens."""
        return self._embed_tokens[0]

    def forward(self, target: Tensor, memory: Memory, choices: Sequence[DecoderChoice]) -> Tensor:
        """Features of shape (batch, target, width) of all positions at once; each sees those before
        it. Layers beyond the choices are absent."""
        x = self.dropout(_embedded(target, self.embed_tokens, self.width, self.positions))
        for layer, choice in _present(self.layers, choices):
            x = layer(x, memory, choice)
        return cast(Tensor, x)

    def foretell(self, target: Tensor, memory: Memory, choices: Sequence[DecoderChoice]) -> Tensor:
        """See `SubTransformer.foretell`."""
        target = _trimmed(target)
        return self.logits(self(target, memory, choices)[target != PAD])

    def start(
        self, memory: Memory, choices: Sequence[DecoderChoice], beam: int = 1
    ) -> DecoderState:
        """See `SubTransformer.start`."""
        cross, own = [], []
        for layer, choice in _present(self.layers, choices):
            cross.append(
                layer.encoder_attn.keys_values(_attended(memory, choice), choice.cross_heads)
            )
            none = layer.self_attn.in_proj_bias.new_zeros(
                len(memory.outputs[0]) * beam,
                choice.self_heads,
                0,
                layer.self_attn.projection // choice.self_heads,
            )
            own.append((none, none))
        return DecoderState(tuple(cross), memory.real, tuple(own))

    def step(
        self, tokens: Tensor, state: DecoderState, choices: Sequence[DecoderChoice]
    ) -> tuple[Tensor, DecoderState]:
        """Features of the last tokens, shape (batch, beam, width), and the state after them."""
        batch, beam = tokens.shape
        x = _embedded(
            tokens.flatten()[:, None], self.embed_tokens, self.width, self.positions, state.tokens
        )
        own = []
        for place, (layer, choice) in enumerate(_present(self.layers, choices)):
            x, kept = layer.step(x, beam, state.own[place], state.cross[place], state.real, choice)
            own.append(kept)
        return x.view(batch, beam, self.width), replace(state, own=tuple(own))

    def logits(self, features: Tensor) -> Tensor:
        """Of the next tokens: (..., width) to (..., vocabulary)."""
        return functional.linear(features, self.embed_tokens.weight[:, : self.width])


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward network, each added to its input and normalised."""

    def __init__(self, width: int, ffn: int, projection: int) -> None:
        super().__init__()
        self.self_attn = ElasticAttention(width, width, projection)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = new_linear(width, ffn), new_linear(ffn, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.0)

    def forward(self, x: Tensor, mask: Tensor | None, choice: EncoderChoice) -> Tensor:
        attended = self.self_attn(x, x, choice.heads, mask=mask)
        x = self.self_attn_layer_norm(x + self.dropout(attended))
        fed = _fed_forward(x, self.fc1, self.fc2, choice.ffn, self.dropout)
        return cast(Tensor, self.final_layer_norm(x + self.dropout(fed)))


class DecoderLayer(nn.Module):
    """Self-attention, attention to the encoder, feed-forward network; as `EncoderLayer`."""

    def __init__(self, width: int, memory: int, ffn: int, projection: int) -> None:
        super().__init__()
        self.self_attn = ElasticAttention(width, width, projection)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.encoder_attn = ElasticAttention(width, memory, projection)
        self.encoder_attn_layer_norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = new_linear(width, ffn), new_linear(ffn, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.0)

    def forward(self, x: Tensor, memory: Memory, choice: DecoderChoice) -> Tensor:
        attended = self.self_attn(x, x, choice.self_heads, causal=True)
        x = self.self_attn_layer_norm(x + self.dropout(attended))
        attended = self.encoder_attn(
            x,
            _attended(memory, choice),
            choice.cross_heads,
            mask=_cross_mask(memory.real, choice),
        )
        return self._fed(x, attended, choice)

    def step(
        self,
        x: Tensor,
        beam: int,
        own: tuple[Tensor, Tensor],
        cross: tuple[Tensor, Tensor],
        real: Tensor | None,
        choice: DecoderChoice,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One token of each target.

        Args:
            x: shape (batch * beam, 1, width).
            own, cross, real: see `DecoderState`.

        Returns:
            As `x`, and the keys and values with those of this token.
        """
        new = self.self_attn.keys_values(x, choice.self_heads)
        own = torch.cat([own[0], new[0]], 2), torch.cat([own[1], new[1]], 2)
        attended = self.self_attn.attend(x, own, choice.self_heads)
        x = self.self_attn_layer_norm(x + attended)
        # targets of one source are queries of one attention: its keys are there once
        rows = x.view(-1, beam, x.shape[2])
        mask = _cross_mask(real, choice)
        attended = self.encoder_attn.attend(rows, cross, choice.cross_heads, mask=mask)
        return self._fed(x, attended.view(x.shape), choice), own

    def _fed(self, x: Tensor, attended: Tensor, choice: DecoderChoice) -> Tensor:
        x = self.encoder_attn_layer_norm(x + self.dropout(attended))
        fed = _fed_forward(x, self.fc1, self.fc2, choice.ffn, self.dropout)
        return cast(Tensor, self.final_layer_norm(x + self.dropout(fed)))


class ElasticAttention(nn.Module):
    """Attention whose projections have one width, whatever the number of heads.

    Args:
        width: of the queries' inputs and of the outputs.
        memory: of the keys' and values' inputs. Where it is the queries' too, the three input
            projections are one matrix, else one each, as the public checkpoints have them.
        projection: of queries, keys and values, all heads together.
    """

    def __init__(self, width: int, memory: int, projection: int) -> None:
        super().__init__()
        self.projection = projection
        self.dropout = 0.0  # of attention weights, while training
        if memory == width:
            self.in_proj_weight = nn.Parameter(torch.zeros(3 * projection, width))
        else:
            self.q_proj_weight = nn.Parameter(torch.zeros(projection, width))
            self.k_proj_weight = nn.Parameter(torch.zeros(projection, memory))
            self.v_proj_weight = nn.Parameter(torch.zeros(projection, memory))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * projection))
        self.out_proj = new_linear(projection, width)

    def reset(self, generator: torch.Generator) -> None:
        """Draw the input projections; their biases to zero."""
        with torch.no_grad():
            for weight in self.parameters(recurse=False):
                if weight.ndim > 1:
                    nn.init.xavier_uniform_(weight, generator=generator)
            self.in_proj_bias.zero_()

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        heads: int,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Queries of x, shape (batch, time, width), to keys and values of `memory`, shape (batch,
        other, memory's width).

        Args:
            mask: which keys may be seen, for shape (batch, heads, time, other).
            causal: whether no key behind its query may.
        """
        kept = self.keys_values(memory, heads)
        return self.attend(x, kept, heads, mask=mask, causal=causal)

    def keys_values(self, memory: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        """Keys and values, shape (batch, heads, other, channels a head) each."""
        size = self.projection
        if hasattr(self, "in_proj_weight"):
            both = functional.linear(memory, self.in_proj_weight[size:], self.in_proj_bias[size:])
            keys, values = both[..., :size], both[..., size:]
        else:
            bias = self.in_proj_bias
            keys = functional.linear(memory, self.k_proj_weight, bias[size : 2 * size])
            values = functional.linear(memory, self.v_proj_weight, bias[2 * size :])
        return _by_head(keys, heads), _by_head(values, heads)

    def attend(
        self,
        x: Tensor,
        kept: tuple[Tensor, Tensor],
        heads: int,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """As `forward`, with keys and values that are there."""
        size = self.projection
        joint = getattr(self, "in_proj_weight", None)
        weight = self.q_proj_weight if joint is None else joint[:size]
        queries = _by_head(functional.linear(x, weight, self.in_proj_bias[:size]), heads)
        found = functional.scaled_dot_product_attention(
            queries,
            *kept,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal,
        )
        return cast(Tensor, self.out_proj(found.transpose(1, 2).flatten(2)))


# ---- inside ---------------------------------------------------------------------------------

_MOST_ATTENDED = max(map(attended_layers, ATTENTION))


def _parts(
    space: SuperTransformer, encoder_ffn: Sequence[int], decoder_ffn: Sequence[int]
) -> tuple[TransformerEncoder, TransformerDecoder]:
    wider = max(space.encoder_embed, space.decoder_embed)
    embedding = nn.Embedding(
        space.vocabulary, wider, padding_idx=PAD, _weight=torch.zeros(space.vocabulary, wider)
    )
    encoder = TransformerEncoder(
        embedding, space.encoder_embed, space.positions, encoder_ffn, space.projection
    )
    decoder = TransformerDecoder(
        embedding,
        space.decoder_embed,
        space.positions,
        space.encoder_embed,
        decoder_ffn,
        space.projection,
    )
    return encoder, decoder


def _trimmed(tokens: Tensor) -> Tensor:
    """Without the columns at the end that are padding in all rows; a graph takes what it gets."""
    if torch.compiler.is_exporting():
        return tokens
    used = int((tokens != PAD).sum(1).max())
    return tokens[:, :used]


def _embedded(
    tokens: Tensor, table: nn.Embedding, width: int, positions: int, before: int = 0
) -> Tensor:
    """Tokens and their positions, shape (batch, tokens, width).

    Args:
        positions: width of the whole table of positions: sines, then cosines, of which the first
            `width` columns are added.
        before: tokens of each row before these.
    """
    found = math.sqrt(width) * functional.embedding(tokens, table.weight[:, :width], PAD)
    half = positions // 2
    device, kind = found.device, found.dtype
    step = -math.log(_LONGEST_PERIOD) / max(1, half - 1)
    rates = torch.exp(step * torch.arange(half, device=device, dtype=torch.float32))
    places = torch.arange(tokens.shape[1], device=device, dtype=torch.float32)
    angles = (places + (before + _FIRST_POSITION))[:, None] * rates
    added = torch.cat([angles.sin(), angles.cos()], 1)[:, :width]
    return found + added.to(kind)


def _attended(memory: Memory, choice: DecoderChoice) -> Tensor:
    """The encoder layers that a decoder layer attends to, one behind another in time."""
    layers = attended_layers(choice.attention)
    return memory.outputs[0] if layers == 1 else torch.cat(memory.outputs[:layers], 1)


def _cross_mask(real: Tensor | None, choice: DecoderChoice) -> Tensor | None:
    if real is None:
        return None
    return real.repeat(1, attended_layers(choice.attention))[:, None, None, :]


def _present(
    layers: nn.ModuleList, choices: Sequence[DecoderChoice]
) -> Iterator[tuple[DecoderLayer, DecoderChoice]]:
    for layer, choice in zip(layers, choices, strict=False):
        yield cast(DecoderLayer, layer), choice


def _fed_forward(
    x: Tensor, first: nn.Linear, second: nn.Linear, width: int, dropout: nn.Dropout
) -> Tensor:
    weight: Tensor = first.weight
    bias: Tensor = first.bias
    back: Tensor = second.weight
    if width < first.out_features:
        weight, bias, back = weight[:width], bias[:width], back[:, :width]
    inner = functional.relu(functional.linear(x, weight, bias))
    return functional.linear(dropout(inner), back, second.bias)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(batch, time, channels) as (batch, heads, time, channels a head)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def _copy_first(new: nn.Module, old: nn.Module) -> None:
    """Fill a module's tensors with the first entries of larger ones of the same names."""
    larger = dict(old.named_parameters())
    with torch.no_grad():
        for name, own in new.named_parameters():
            own.copy_(larger[name][tuple(slice(size) for size in own.shape)])
