"""How good translations are: BLEU (Papineni et al., ACL 2002), and how sure that is.

Scores are sacrebleu's (Post, 2018). What a sentence contributes to BLEU is ten counts, whose
sums over sentences give the score. So the sentences are looked at once, and the bootstrap (Koehn,
2004) draws and adds counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mathnas.errors import InvalidInputError, MissingExtraError

_Counts = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]
_ORDER = 4  # of the longest n-grams
_WEIGHTS_AT_ONCE = 2**22


@dataclass(frozen=True)
class Bleu:
    """BLEU of translations, with what each sentence contributes.

    Attributes:
        counts: shape (sentences, 10): n-grams of length 1 to 4 that are right, n-grams of length 1
            to 4, tokens of the translation, tokens of the reference.
        signature: sacrebleu's, which says how it was computed.
    """

    counts: _Counts
    signature: str

    @property
    def score(self) -> float:
        """BLEU of all sentences together, 0 to 100."""
        return _score(self.counts.sum(0))

    def __len__(self) -> int:
        return len(self.counts)

    def __str__(self) -> str:
        return f"BLEU {self.score:.2f} ({self.signature})"


@dataclass(frozen=True, slots=True)
class BleuEstimate:
    """A BLEU, or the difference of two, and how far it depends on the choice of sentences.

    Attributes:
        value: of all sentences.
        standard_error: standard deviation over resamples.
        low, high: between which the share `confidence` of the resamples lies, the rest in equal
            parts below and above.
        confidence: that share.
        resamples: how many there were.
    """

    value: float
    standard_error: float
    low: float
    high: float
    confidence: float
    resamples: int

    def __str__(self) -> str:
        return (
            f"{self.value:.2f} +- {self.standard_error:.2f} "
            f"({100 * self.confidence:g} %: {self.low:.2f} to {self.high:.2f})"
        )


def bleu(
    translations: Sequence[str],
    references: Sequence[str],
    *,
    tokenize: str = "13a",
    lowercase: bool = False,
) -> Bleu:
    """BLEU against one reference a sentence.

    Args:
        translations, references: detokenised sentences, as many of one as of the other.
        tokenize: sacrebleu's tokeniser, for example ``13a``, ``intl``, ``char``; ``none`` for
            sentences that are tokenised already.
        lowercase: leave the case of letters out of account.

    Raises:
        InvalidInputError: there are no sentences, not as many references, or no such tokeniser.
        MissingExtraError: sacrebleu is not installed.
    """
    if not len(translations) == len(references) > 0:
        raise InvalidInputError(
            "every translation has a reference, and there is at least one, but got "
            f"{len(translations)} translations and {len(references)} references."
        )
    metric_of = _sacrebleu()
    if tokenize not in metric_of.TOKENIZERS:
        known = ", ".join(sorted(metric_of.TOKENIZERS))
        raise InvalidInputError(f"sacrebleu's tokenisers are {known}, but got {tokenize!r}.")
    # with effective_order it does not warn that a sentence alone has few n-grams; the counts are
    # the same
    of_one = metric_of(tokenize=tokenize, lowercase=lowercase, effective_order=True)
    rows = []
    for translation, reference in zip(translations, references, strict=True):
        found = of_one.sentence_score(translation, [reference])
        rows.append([*found.counts, *found.totals, found.sys_len, found.ref_len])
    whole = metric_of(tokenize=tokenize, lowercase=lowercase)
    whole.corpus_score(translations[:1], [references[:1]])  # the signature tells the references
    return Bleu(np.array(rows, np.int64), str(whole.get_signature()))


def bootstrap(
    translated: Bleu, resamples: int = 1_000, *, seed: int = 0, confidence: float = 0.95
) -> BleuEstimate:
    """How sure a BLEU is: that of sentences drawn from these with replacement, many times.

    Args:
        translated: from `bleu`.
        resamples: how many times.
        seed: of what is drawn.
        confidence: share of the resamples between `low` and `high`.

    Raises:
        InvalidInputError: there are no resamples, or the confidence is not between 0 and 1.
    """
    values = _resampled([translated], resamples, seed)[0]
    return _estimate(translated.score, values, confidence)


def paired_bootstrap(
    first: Bleu,
    second: Bleu,
    resamples: int = 1_000,
    *,
    seed: int = 0,
    confidence: float = 0.95,
) -> BleuEstimate:
    """How sure the difference of two systems is, BLEU of `first` minus BLEU of `second`.

    Both are scored on the same resamples of the same sentences, so that what makes sentences hard
    for both does not count.

    Args:
        first, second: from `bleu`, with the same references in the same order.
        resamples, seed, confidence: as in `bootstrap`.

    Raises:
        InvalidInputError: they are not of the same sentences or computed in different ways;
            otherwise as `bootstrap`.
    """
    same = len(first) == len(second) and np.array_equal(first.counts[:, -1], second.counts[:, -1])
    if not same or first.signature != second.signature:
        raise InvalidInputError(
            "two systems are compared on the same sentences and in the same way, but got "
            f"{len(first)} and {len(second)} sentences"
            + ", whose references differ," * (len(first) == len(second) and not same)
            + f" and the signatures {first.signature} and {second.signature}."
        )
    values = _resampled([first, second], resamples, seed)
    return _estimate(first.score - second.score, values[0] - values[1], confidence)


def _estimate(value: float, values: _Floats, confidence: float) -> BleuEstimate:
    if not 0 < confidence < 1:
        raise InvalidInputError(f"a confidence is between 0 and 1, but got {confidence}.")
    outside = (1 - confidence) / 2
    low, high = np.quantile(values, [outside, 1 - outside])
    spread = float(values.std(ddof=1))
    return BleuEstimate(value, spread, float(low), float(high), confidence, len(values))


def _resampled(systems: Sequence[Bleu], resamples: int, seed: int) -> _Floats:
    """BLEU of each system on each resample, shape (systems, resamples); all draw the same."""
    if resamples < 2:
        raise InvalidInputError(f"a spread takes at least 2 resamples, but got {resamples}.")
    sentences = len(systems[0])
    rng = np.random.default_rng(seed)
    at_once = max(1, _WEIGHTS_AT_ONCE // sentences)
    found: list[list[float]] = [[] for _ in systems]
    for first in range(0, resamples, at_once):
        # how often each sentence was drawn
        often = rng.multinomial(
            sentences,
            np.full(sentences, 1 / sentences),
            size=min(at_once, resamples - first),
        )
        for own, system in zip(found, systems, strict=True):
            own += [_score(sums) for sums in often @ system.counts]
    return np.array(found)


def _score(sums: _Counts) -> float:
    right, all_ = sums[:_ORDER].tolist(), sums[_ORDER : 2 * _ORDER].tolist()
    translated, reference = sums[2 * _ORDER :].tolist()
    found = _sacrebleu().compute_bleu(
        right, all_, translated, reference, smooth_method="exp", max_ngram_order=_ORDER
    )
    return float(found.score)


def _sacrebleu() -> Any:
    """sacrebleu's class for BLEU."""
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise MissingExtraError(
            "BLEU is computed by sacrebleu: pip install 'mathnas[text]'."
        ) from error
    return BLEU
