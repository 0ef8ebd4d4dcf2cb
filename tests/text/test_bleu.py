"""BLEU: sacrebleu's scores, and how sure they are."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sacrebleu")

from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from text_cases import translated

from mathnas.errors import InvalidInputError
from mathnas.text.bleu import Bleu, bleu, bootstrap, paired_bootstrap

REFERENCES = [german for _, german in translated(60)]
SENTENCES = st.lists(
    st.sampled_from(["the", "cat", ",", "sat", "on", "Mat", ".", "1,000"]), max_size=9
).map(" ".join)


def damaged(references: list[str], share: float, seed: int = 0) -> list[str]:
    """Translations with some words missing."""
    rng = np.random.default_rng(seed)
    return [" ".join(word for word in line.split() if rng.random() > share) for line in references]


GOOD, BAD = (bleu(damaged(REFERENCES, share), REFERENCES) for share in (0.1, 0.3))


@settings(deadline=None)
@given(st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=8), st.booleans())
def test_scores_are_those_of_sacrebleu(pairs: list[tuple[str, str]], lowercase: bool) -> None:
    translations, references = map(list, zip(*pairs, strict=True))
    theirs = BLEU(lowercase=lowercase)
    wanted = theirs.corpus_score(translations, [references])
    found = bleu(translations, references, lowercase=lowercase)
    assert found.score == pytest.approx(wanted.score, abs=1e-9)
    assert found.signature == str(theirs.get_signature())
    sums = found.counts.sum(0).tolist()
    assert sums == [*wanted.counts, *wanted.totals, wanted.sys_len, wanted.ref_len]


def test_tokenisers_have_their_own_scores_and_signatures() -> None:
    lines, references = ["Äpfel,Birnen und 3.5"], ["Äpfel, Birnen und 3.5"]
    for tokenize in ("13a", "intl", "none", "char"):
        theirs = BLEU(tokenize=tokenize)
        wanted = theirs.corpus_score(lines, [references]).score
        found = bleu(lines, references, tokenize=tokenize)
        assert found.score == pytest.approx(wanted)
        assert f"tok:{tokenize}" in found.signature
        assert str(found) == f"BLEU {wanted:.2f} ({found.signature})"


@pytest.mark.parametrize("seed", [0, 1])
def test_resamples_are_scored_as_sacrebleu_scores_them(seed: int) -> None:
    """The sentences of every resample, written out and scored anew."""
    translations = damaged(REFERENCES, 0.2)
    found = bootstrap(bleu(translations, REFERENCES), 20, seed=seed)
    count = len(REFERENCES)
    often = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=20)
    scores = [
        BLEU()
        .corpus_score(
            np.repeat(np.array(translations, object), times).tolist(),
            [np.repeat(np.array(REFERENCES, object), times).tolist()],
        )
        .score
        for times in often
    ]
    assert found.standard_error == pytest.approx(np.std(scores, ddof=1))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(scores, [0.025, 0.975])))


def test_the_standard_error_is_that_of_new_sentences() -> None:
    """What the bootstrap says from one sample, against the spread over fresh samples."""

    def sample(seed: int) -> Bleu:
        references = [german for _, german in translated(200, seed)]
        return bleu(damaged(references, 0.2, seed), references)

    fresh = np.std([sample(seed).score for seed in range(1, 25)], ddof=1)
    found = bootstrap(sample(0))
    assert 0.6 < found.standard_error / fresh < 1.7
    assert found.low < found.value < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * found.standard_error, rel=0.15)


def test_pairs_of_systems_are_told_apart_better_than_alone() -> None:
    found = paired_bootstrap(GOOD, BAD)
    assert found.value == pytest.approx(GOOD.score - BAD.score)
    assert 0 < found.low < found.value < found.high
    back = paired_bootstrap(BAD, GOOD)
    assert (back.value, back.low) == pytest.approx((-found.value, -found.high))
    # the same errors in the same sentences cost the two the same
    slightly = damaged(REFERENCES, 0.3)
    slightly[0] = REFERENCES[0]
    near = paired_bootstrap(bleu(slightly, REFERENCES), BAD)
    alone = bootstrap(BAD)
    assert near.standard_error < alone.standard_error / 2


def test_a_system_does_not_differ_from_itself() -> None:
    found = paired_bootstrap(GOOD, GOOD, 50)
    assert (found.value, found.standard_error, found.low, found.high) == (0, 0, 0, 0)


def test_seeds_and_confidence_decide_what_is_drawn() -> None:
    assert bootstrap(GOOD, 50) == bootstrap(GOOD, 50)
    assert bootstrap(GOOD, 50) != bootstrap(GOOD, 50, seed=1)
    wide, narrow = (bootstrap(GOOD, 200, confidence=share) for share in (0.99, 0.5))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert "(50 %: " in str(narrow)


def test_resamples_in_several_pieces_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bootstrap(GOOD, 40)
    monkeypatch.setattr("mathnas.text.bleu._WEIGHTS_AT_ONCE", 3 * len(GOOD))
    assert bootstrap(GOOD, 40) == whole


def test_wrong_use_is_told() -> None:
    with pytest.raises(InvalidInputError, match="1 translations and 2 references"):
        bleu(["a"], ["a", "b"])
    with pytest.raises(InvalidInputError, match="0 translations"):
        bleu([], [])
    with pytest.raises(InvalidInputError, match=r"tokenisers are .*13a.*, but got 'words'"):
        bleu(["a"], ["a"], tokenize="words")
    with pytest.raises(InvalidInputError, match="at least 2 resamples, but got 1"):
        bootstrap(GOOD, 1)
    with pytest.raises(InvalidInputError, match="between 0 and 1, but got 95"):
        bootstrap(GOOD, confidence=95)
    for other, message in (
        (bleu(REFERENCES[1:], REFERENCES[1:]), "60 and 59 sentences and the signatures"),
        (bleu(["x y"] * 60, ["x y"] * 60), "whose references differ"),
        (bleu(REFERENCES, REFERENCES, tokenize="none"), "tok:none"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            paired_bootstrap(GOOD, other)
