"""Loss and BLEU of translation networks on held-out sentences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from mathnas._threads import torch_threads
from mathnas.errors import InvalidInputError
from mathnas.evaluation import Measurement, StreamingEvaluator
from mathnas.metrics import metric_named
from mathnas.nets.beam_search import BeamSearch, translations
from mathnas.nets.supertransformer import END, PAD, SubTransformer, SuperTransformerNet
from mathnas.nets.tensors import tensors_digest
from mathnas.space import Network

_TOKENS_AT_ONCE = 4096


@dataclass(frozen=True)
class SentencePairs:
    """Sentences of two languages as token ids, each ending in `END`.

    Attributes:
        sources, targets: the same number of each, at least one.

    Raises:
        InvalidInputError: their numbers differ, or a sentence does not end in `END`.
    """

    sources: Sequence[Sequence[int]]
    targets: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        if not len(self.sources) == len(self.targets) > 0:
            raise InvalidInputError(
                f"every sentence has a translation, and there is at least one, but got "
                f"{len(self.sources)} sources and {len(self.targets)} targets."
            )
        for kind, sentences in (("source", self.sources), ("target", self.targets)):
            for place, sentence in enumerate(sentences):
                if not sentence or sentence[-1] != END:
                    raise InvalidInputError(
                        f"a sentence ends in </s> ({END}), but {kind} {place} does not."
                    )

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def digest(self) -> str:
        """Twelve digits that change with any token."""
        text = json.dumps([list(map(list, self.sources)), list(map(list, self.targets))])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def batches(self, tokens: int = _TOKENS_AT_ONCE) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Sources, what the decoder reads, and what it should say next: shape (batch, length) each,
        filled up with `PAD`; sentences of like lengths together, at most so many tokens."""
        order = sorted(range(len(self)), key=lambda i: (len(self.targets[i]), len(self.sources[i])))
        while order:
            longest = max(len(self.targets[order[-1]]), len(self.sources[order[-1]]))
            count = max(1, tokens // longest)
            chosen, order = order[-count:], order[:-count]
            targets = [self.targets[place] for place in chosen]
            yield (
                _padded([self.sources[place] for place in chosen]),
                _padded([[END, *target[:-1]] for target in targets]),
                _padded(targets),
            )


class TranslationScore(Protocol):
    """Compares translations of the pairs' sources with references.

    Attributes:
        signature: how, in a few words that tell whether two numbers can be compared.
    """

    @property
    def signature(self) -> str: ...

    def __call__(self, translated: Sequence[Sequence[int]]) -> float:
        """BLEU, 0 to 100, of token ids of all sentences, in their order."""
        ...


class TranslationEvaluator(StreamingEvaluator):
    """Mean cross entropy in nats a token (``loss``) of extracted networks, and BLEU (``bleu``).

    Networks of one encoder that are evaluated together encode the sentences once. Values depend on
    nothing but weights and sentences; the seed is not used.

    Args:
        supernet: the trained supernet.
        pairs: held-out sentences.
        score: what tells BLEU; None measures the loss alone, which takes a fraction of the time.
        search: how translations are found.
        threads: torch threads of one evaluation.
        batch_size: networks that are evaluated together.

    Raises:
        InvalidInputError: a count is below 1.
    """

    noisy = False

    def __init__(
        self,
        supernet: SuperTransformerNet,
        pairs: SentencePairs,
        *,
        score: TranslationScore | None = None,
        search: BeamSearch | None = None,
        threads: int = 1,
        batch_size: int = 8,
    ) -> None:
        for name, count in (("threads", threads), ("batch_size", batch_size)):
            if count < 1:
                raise InvalidInputError(f"{name} is at least 1, but got {count}.")
        self.supernet, self.pairs = supernet, pairs
        self.score, self.search = score, search or BeamSearch()
        self.threads, self.batch_size = threads, batch_size
        names = ["loss", *(["bleu"] if score is not None else [])]
        self.metrics = tuple(map(metric_named, names))
        self.conditions = {
            "weights": tensors_digest(supernet.state_dict().values()),
            "sentences": f"{len(pairs)} pairs {pairs.digest}",
        }
        if score is not None:
            self.conditions["bleu"] = (
                f"{score.signature}|beam:{self.search.beam}|lenpen:{self.search.length_penalty:g}"
            )

    def evaluate_each(
        self, networks: Sequence[Network], seeds: Sequence[int] = ()
    ) -> Iterator[tuple[int, Mapping[str, Measurement | float]]]:
        layers = self.supernet.space.encoder_layers
        groups: dict[Network, list[int]] = {}
        for place, network in enumerate(networks):
            chosen = self.supernet.space.check(network)
            groups.setdefault(chosen[:layers], []).append(place)
        for places in groups.values():
            # mode and threads belong to whoever runs, so not to the caller between two results
            with torch_threads(self.threads), torch.inference_mode():
                statics = [self.supernet.extract(networks[place]) for place in places]
                losses = self._losses(statics)
            for place, static, loss in zip(places, statics, losses, strict=True):
                yield place, {"loss": loss, **self._bleu(static)}

    def _losses(self, networks: Sequence[SubTransformer]) -> list[float]:
        """Of networks that have one encoder."""
        sums = [_Sum() for _ in networks]
        device = networks[0].encoder.embed_tokens.weight.device
        for batch in self.pairs.batches():
            source, given, expected = (tokens.to(device) for tokens in batch)
            memory = networks[0].encode(source)
            real = expected != PAD
            for network, found in zip(networks, sums, strict=True):
                features = network.decoder(given, memory, network.decoder_choices)
                logits = network.decoder.logits(features[real])
                nats = functional.cross_entropy(logits, expected[real], reduction="sum")
                found.add(float(nats), int(real.sum()))
        return [found.mean for found in sums]

    def _bleu(self, network: SubTransformer) -> dict[str, float]:
        if self.score is None:
            return {}
        device = network.encoder.embed_tokens.weight.device
        with torch_threads(self.threads):
            found = translations(network, self.pairs.sources, self.search, device=device)
        return {"bleu": self.score([one.tokens for one in found])}


@dataclass
class _Sum:
    """Nats of tokens that were seen so far."""

    nats: float = field(default=0.0)
    tokens: int = field(default=0)

    def add(self, nats: float, tokens: int) -> None:
        self.nats += nats
        self.tokens += tokens

    @property
    def mean(self) -> float:
        return self.nats / self.tokens


def _padded(sentences: Sequence[Sequence[int]]) -> Tensor:
    rows = torch.full((len(sentences), max(map(len, sentences))), PAD)
    for row, sentence in zip(rows, sentences, strict=True):
        row[: len(sentence)] = torch.tensor(sentence, dtype=torch.long)
    return rows
