"""Sentence pairs to test networks on: how well they foretell the next token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mathnas.errors import InvalidInputError
from mathnas.metrics import Metric, metric_named
from mathnas.nets.supernet import Supernet
from mathnas.space import Network
from mathnas.text.batches import LONGEST, TokenBatches

_LOSS = metric_named("loss")
_TOKENS_AT_ONCE = 4_096


@dataclass(frozen=True)
class HeldOutSentences:
    """Pairs that are not trained on.

    Attributes:
        batches: inputs and labels, as `mathnas.text.batches.packed` gives them.
    """

    batches: tuple[tuple[Tensor, Tensor], ...]

    def __post_init__(self) -> None:
        if not self.batches:
            raise InvalidInputError("networks are tested on at least one pair, but got none.")

    @classmethod
    def of(
        cls,
        source_ids: Sequence[Sequence[int]],
        target_ids: Sequence[Sequence[int]],
        *,
        max_length: int = LONGEST,
    ) -> HeldOutSentences:
        """Pairs of sentences as ids, ``</s>`` at their ends; of longer ones the first
        `max_length` tokens."""
        tokens = max(_TOKENS_AT_ONCE, max_length)
        batches = TokenBatches(source_ids, target_ids, tokens, max_length=max_length)
        return cls(tuple(batches.epoch(0)))

    @property
    def metric(self) -> Metric:
        """What `score` gives: cross entropy, in nats a token."""
        return _LOSS

    @property
    def tokens(self) -> int:
        """Of the targets, ``</s>`` too."""
        return sum(len(labels) for _, labels in self.batches)

    def score(self, supernet: Supernet, network: Network) -> float:
        """Mean cross entropy of one network, extracted, against the target tokens, in nats.

        Every token is foretold from the source and the target tokens before it. Labels are not
        smoothed, whatever they are in training.

        Raises:
            InvalidInputError: the network is not of the space, or has fewer outputs than the
                vocabulary has tokens.
        """
        device = next(supernet.parameters()).device
        static = supernet.extract(network).eval()
        nats = 0.0
        with torch.inference_mode():
            for inputs, labels in self.batches:
                logits = static(inputs.to(device)).float()
                if logits.shape[0] != len(labels) or logits.shape[1] <= int(labels.max()):
                    raise InvalidInputError(
                        "a network for translation gives logits of shape (tokens, vocabulary), "
                        f"here for {len(labels)} tokens of ids up to {int(labels.max())}, but got "
                        f"{tuple(logits.shape)}."
                    )
                nats += float(functional.cross_entropy(logits, labels.to(device), reduction="sum"))
        return nats / self.tokens
