"""Loss and BLEU of translation networks on held-out sentences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn import functional

from mathnas._threads import torch_threads
from mathnas.errors import InvalidInputError
from mathnas.evaluation import Measurement, StreamingEvaluator
from mathnas.metrics import metric_named
from mathnas.nets.beam_search import BeamSearch, translations
from mathnas.nets.supertransformer import SubTransformer, SuperTransformerNet
from mathnas.nets.tensors import tensors_digest
from mathnas.space import Network
from mathnas.text.bleu import Bleu, bleu, bootstrap
from mathnas.text.held_out import HeldOutSentences
from mathnas.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class ReferenceBleu:
    """Compares translations with one reference each.

    Attributes:
        references: detokenised sentences.
        vocabulary: of the translations' tokens.
        tokenize: sacrebleu's tokeniser; see `mathnas.text.bleu.bleu`.
    """

    references: Sequence[str]
    vocabulary: Vocabulary
    tokenize: str = "13a"

    @cached_property
    def signature(self) -> str:
        """sacrebleu's: numbers of one signature can be compared."""
        first = list(self.references[:1])
        return bleu(first, first, tokenize=self.tokenize).signature

    def __call__(self, translated: Sequence[Sequence[int]]) -> Bleu:
        """Token ids of a translation for each reference, in their order."""
        words = [self.vocabulary.decode(tokens) for tokens in translated]
        return bleu(words, list(self.references), tokenize=self.tokenize)


class TranslationEvaluator(StreamingEvaluator):
    """Mean cross entropy in nats a token (``loss``) of extracted networks, and BLEU (``bleu``).

    Networks of one encoder that are evaluated together encode the sentences once. Values depend on
    nothing but weights and sentences; the seed is not used. The notes of a BLEU hold its standard
    error over sentences (``standard_error``, by bootstrap).

    Args:
        supernet: the trained supernet.
        source_ids, target_ids: held-out sentences, ``</s>`` at their ends.
        score: what tells BLEU; None measures the loss alone, which takes a fraction of the time.
        search: how translations are found.
        threads: torch threads of one evaluation.
        batch_size: networks that are evaluated together.

    Raises:
        InvalidInputError: a count is below 1, there are no sentences, or not as many of both.
    """

    noisy = False

    def __init__(
        self,
        supernet: SuperTransformerNet,
        source_ids: Sequence[Sequence[int]],
        target_ids: Sequence[Sequence[int]],
        *,
        score: ReferenceBleu | None = None,
        search: BeamSearch | None = None,
        threads: int = 1,
        batch_size: int = 8,
    ) -> None:
        for name, count in (("threads", threads), ("batch_size", batch_size)):
            if count < 1:
                raise InvalidInputError(f"{name} is at least 1, but got {count}.")
        if score is not None and len(score.references) != len(source_ids):
            raise InvalidInputError(
                f"there is a reference for every sentence, but got {len(score.references)} for "
                f"{len(source_ids)}."
            )
        self.supernet = supernet
        self.sources = [list(map(int, ids)) for ids in source_ids]
        self.held_out = HeldOutSentences.of(self.sources, target_ids)
        self.score, self.search = score, search or BeamSearch()
        self.threads, self.batch_size = threads, batch_size
        names = ["loss", *(["bleu"] if score is not None else [])]
        self.metrics = tuple(map(metric_named, names))
        self.conditions = {
            "weights": tensors_digest(supernet.state_dict().values()),
            "sentences": f"{len(self.sources)} pairs {_digest(self.sources, target_ids)}",
        }
        if score is not None:
            search = self.search
            self.conditions["bleu"] = (
                f"{score.signature}|beam:{search.beam}|lenpen:{search.length_penalty:g}"
                f"|most:{search.ratio:g}x+{search.most}"
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
        nats = [0.0] * len(networks)
        device = networks[0].encoder.embed_tokens.weight.device
        for inputs, labels in self.held_out.batches:
            source, target = inputs.to(device).unbind(1)
            memory, expected = networks[0].encode(source), labels.to(device)
            for place, network in enumerate(networks):
                logits = network.foretell(target, memory)
                nats[place] += float(functional.cross_entropy(logits, expected, reduction="sum"))
        return [total / self.held_out.tokens for total in nats]

    def _bleu(self, network: SubTransformer) -> dict[str, Measurement]:
        if self.score is None:
            return {}
        device = network.encoder.embed_tokens.weight.device
        with torch_threads(self.threads):
            found = translations(network, self.sources, self.search, device=device)
        own = self.score([one.tokens for one in found])
        notes = {"standard_error": f"{bootstrap(own).standard_error:.3f}"}
        return {"bleu": Measurement(own.score, notes=notes)}


def _digest(*texts: Sequence[Sequence[int]]) -> str:
    """Twelve digits that change with any token."""
    ids = [[list(map(int, sentence)) for sentence in text] for text in texts]
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:12]
