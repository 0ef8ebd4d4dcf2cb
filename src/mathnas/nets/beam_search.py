"""Translations by beam search, with a length penalty (Wu et al., 2016; as in fairseq)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mathnas.errors import InvalidInputError
from mathnas.nets.translator import Translator
from mathnas.tokens import END, PAD, START


@dataclass(frozen=True, slots=True)
class BeamSearch:
    """How translations are searched.

    Attributes:
        beam: partial translations that are kept of each sentence; 1 is greedy.
        length_penalty: exponent of the length that log-probabilities are divided by; 0 compares
            sums, and larger numbers favour longer translations. HAT has 0.6.
        ratio, most: a translation has at most ``ratio`` times the source's tokens and ``most``
            more; there it is ended.

    Raises:
        InvalidInputError: a number is out of range.
    """

    beam: int = 4
    length_penalty: float = 0.6
    ratio: float = 2.0
    most: int = 10

    def __post_init__(self) -> None:
        if self.beam < 1 or self.most < 1 or not 0 <= self.ratio < 1000:
            raise InvalidInputError(
                "a beam holds at least 1 translation, which may have at least 1 token more than "
                f"`ratio` (0 to 1000) times the source's, but got {self}."
            )
        if not -10 <= self.length_penalty <= 10:
            raise InvalidInputError(
                f"a length penalty is an exponent, usually 0 to 2, but got {self.length_penalty}."
            )

    def __call__(self, network: Translator, source: Tensor) -> list[list[Hypothesis]]:
        """The translations of a batch of sentences, best first, at most `beam` of each.

        What is found for a sentence does not depend on the others, up to rounding.

        Args:
            network: in evaluation mode.
            source: token ids, shape (batch, tokens), each row ending in `END` and filled up with
                `PAD`.
        """
        if source.ndim != 2 or not bool((source == END).any(1).all()):
            raise InvalidInputError(
                "sentences are rows of tokens that end in </s>, but got the shape "
                f"{tuple(source.shape)}, or a row without it."
            )
        with torch.inference_mode():
            return _Run(self, network, source).found()


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A translation.

    Attributes:
        tokens: ids, `END` last.
        score: sum of log-probabilities over the penalised length; more is better.
    """

    tokens: tuple[int, ...]
    score: float


@dataclass
class _Run:
    """The search for one batch; sentences leave it when they are done."""

    search: BeamSearch
    network: Translator
    source: Tensor
    finished: list[list[Hypothesis]] = field(init=False)

    def found(self) -> list[list[Hypothesis]]:
        beam, device = self.search.beam, self.source.device
        sentences = torch.arange(len(self.source), device=device)  # those still searched
        self.finished = [[] for _ in sentences]
        lengths = (self.source != PAD).sum(1)
        limits = (self.search.ratio * lengths).long() + self.search.most
        state = self.network.start(self.network.encode(self.source), beam)
        tokens = torch.full((len(sentences), beam, 1), END, device=device)
        # one beginning of each: the others would be the same
        scores = torch.full((len(sentences), beam), -torch.inf, device=device)
        scores[:, 0] = 0.0
        while len(sentences):
            logits, state = self.network.step(tokens[:, :, -1], state)
            ends = limits[sentences] == tokens.shape[2]
            totals = scores[:, :, None] + _log_probabilities(logits, ends)
            origins, following, totals = _best(totals, 2 * beam)
            ending = following == END
            # as fairseq: an end among the best `beam` is a translation
            ended = ending.clone()
            ended[:, beam:] = False
            self._finish(sentences, tokens, origins, totals, ended)
            # the best `beam` that go on, in their order; at most `beam` of them all end
            order = ending.int().argsort(dim=1, stable=True)[:, :beam]
            origins, following, scores = (
                part.gather(1, order) for part in (origins, following, totals)
            )
            tokens = torch.cat(
                [
                    tokens.gather(1, origins[:, :, None].expand(-1, -1, tokens.shape[2])),
                    following[:, :, None],
                ],
                2,
            )
            starts = torch.arange(len(sentences), device=device)[:, None] * beam
            state = state.of_targets((starts + origins).flatten())
            goes_on = ~ends & torch.tensor(
                [len(self.finished[place]) < beam for place in sentences.tolist()], device=device
            )
            if not bool(goes_on.all()):
                state = state.of_sources(goes_on.nonzero()[:, 0], beam)
                sentences, tokens, scores = (p[goes_on] for p in (sentences, tokens, scores))
        return [sorted(own, key=lambda one: -one.score)[:beam] for own in self.finished]

    def _finish(
        self, sentences: Tensor, tokens: Tensor, origins: Tensor, totals: Tensor, ended: Tensor
    ) -> None:
        penalty = float(tokens.shape[2]) ** self.search.length_penalty  # with the end itself
        possible = ended & totals.isfinite()
        for row, rank in possible.nonzero().tolist():
            own = self.finished[int(sentences[row])]
            if len(own) < self.search.beam:
                words = tokens[row, origins[row, rank], 1:].tolist()
                own.append(Hypothesis((*words, END), float(totals[row, rank]) / penalty))


def _log_probabilities(logits: Tensor, ends: Tensor) -> Tensor:
    """Of the next tokens, in float32; only the end where there is no room for more."""
    found = logits.float().log_softmax(-1)
    found[..., [START, PAD]] = -torch.inf
    if bool(ends.any()):
        last = found[ends][..., END].clone()
        found[ends] = -torch.inf
        found[..., END][ends] = last
    return found


def _best(totals: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best extensions of each sentence: target that they extend, token, total."""
    batch, _, vocabulary = totals.shape
    flat = totals.view(batch, -1)
    values, places = flat.topk(min(count, flat.shape[1]), dim=1)
    return places // vocabulary, places % vocabulary, values


def translations(
    network: Translator,
    sentences: Sequence[Sequence[int]],
    search: BeamSearch | None = None,
    *,
    tokens_at_once: int = 4096,
    device: torch.device | str = "cpu",
) -> list[Hypothesis]:
    """The best translation of each sentence, in their order.

    Args:
        network: in evaluation mode.
        sentences: token ids, each ending in `END`.
        search: how; by default `BeamSearch()`.
        tokens_at_once: source tokens of a batch, times the beam.
        device: where the network is.

    Raises:
        InvalidInputError: a sentence does not end in `END`.
    """
    search = search or BeamSearch()
    order = sorted(range(len(sentences)), key=lambda place: len(sentences[place]))
    found: dict[int, Hypothesis] = {}
    while order:
        # batches of like lengths, the longest first: memory is soon as large as it will be
        length = max(1, len(sentences[order[-1]]))
        count = max(1, tokens_at_once // (length * search.beam))
        chosen, order = order[-count:], order[:-count]
        batch = torch.full((len(chosen), length), PAD)
        for row, place in zip(batch, chosen, strict=True):
            row[: len(sentences[place])] = torch.tensor(sentences[place], dtype=torch.long)
        for place, own in zip(chosen, search(network, batch.to(device)), strict=True):
            found[place] = own[0]
    return [found[place] for place in range(len(sentences))]
