"""Latency of a translator as HAT measures it (Wang et al., ACL 2020, section 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version

import torch
from torch import Tensor

from mathnas._threads import torch_threads
from mathnas.errors import InvalidInputError
from mathnas.nets.translator import Translator
from mathnas.tokens import END

_WORD = 7  # that dummy sentences repeat
_RUNTIMES = ("torch", "onnxruntime")


@dataclass(frozen=True, slots=True)
class TranslationEngine:
    """Encodes a sentence, and decodes so many tokens one after another with a beam; see
    `mathnas.devices.common.Engine`.

    The keys and values of the sentence and of the tokens so far are kept, as in use; what a beam
    search does between steps is no part of it, as in HAT's measurements. One run is the encoder
    and all steps.

    Args:
        runtime: what the translators run in, ``torch`` or ``onnxruntime``.
        threads: inside one operator.
        source, target: tokens of the sentence, and steps.
        beam: translations at a time.
        words: size of the vocabulary.

    Raises:
        InvalidInputError: a setting is out of range.
    """

    runtime: str = "torch"
    threads: int = 1
    source: int = 30
    target: int = 30
    beam: int = 5
    words: int = _WORD + 1

    def __post_init__(self) -> None:
        if self.runtime not in _RUNTIMES:
            raise InvalidInputError(
                f"translators run in {' or '.join(_RUNTIMES)} here, but got {self.runtime!r}."
            )
        counts = (self.threads, self.source, self.target, self.beam, self.words - END)
        if min(counts) < 1:
            raise InvalidInputError(
                "threads, tokens, steps and beam are at least 1, and there are more words than "
                f"the special ones, but got {self}."
            )

    @property
    def name(self) -> str:
        return self.runtime

    @property
    def version(self) -> str:
        return version(self.runtime)

    @property
    def precision(self) -> str:
        return "fp32"

    @property
    def batch(self) -> int:
        """Sentences at a time."""
        return 1

    @property
    def conditions(self) -> Mapping[str, str]:
        return {"translation": f"{self.source} to {self.target} tokens, beam {self.beam}"}

    def prepare(self, model: Translator) -> Callable[[], object]:
        """One run of the translator, in evaluation mode."""
        word = min(_WORD, self.words - 1)
        source = torch.full((1, self.source), word)
        source[0, -1] = END
        tokens = torch.full((1, self.beam), word)
        return _Translation(model, source, tokens, self.target, self.threads)


@dataclass(frozen=True, slots=True)
class _Translation:
    translator: Translator
    source: Tensor
    tokens: Tensor
    steps: int
    threads: int

    @torch.inference_mode()
    def __call__(self) -> Tensor:
        with torch_threads(self.threads):
            state = self.translator.start(self.translator.encode(self.source), self.tokens.shape[1])
            for _ in range(self.steps):
                logits, state = self.translator.step(self.tokens, state)
        return logits
