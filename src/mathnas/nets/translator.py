"""What translates: a network in torch, or its graphs in a runtime."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from mathnas.nets.supertransformer import DecoderState


class Translator(Protocol):
    """Encodes sentences once, then decodes their translations token by token."""

    def encode(self, source: Tensor) -> Any:
        """What decoding needs of source sentences, token ids of shape (batch, source)."""
        ...

    def start(self, memory: Any, beam: int = 1) -> DecoderState:
        """Before the first token of `beam` targets for each source."""
        ...

    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """One more token of each target, shape (batch, beam), to logits of the next ones, shape
        (batch, beam, vocabulary)."""
        ...
