"""Translation networks on held-out sentences: loss and BLEU."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

pytest.importorskip("torch")
pytest.importorskip("sacrebleu")

import torch
from torch.nn import functional

from mathnas import Evaluator, InvalidInputError, Measurement, Network
from mathnas.nets.beam_search import BeamSearch, translations
from mathnas.nets.supertransformer import SuperTransformerNet
from mathnas.testing.evaluators import EvaluatorContract
from mathnas.text.batches import packed
from mathnas.text.bleu import bleu
from mathnas.text.evaluator import ReferenceBleu, TranslationEvaluator
from mathnas.text.vocabulary import Vocabulary
from mathnas.tokens import END
from supertransformer_cases import tiny_space

torch.set_num_threads(1)

NET = SuperTransformerNet(
    tiny_space(),
    seed=3,
).eval()
GENERATOR = torch.Generator().manual_seed(0)


def sentence(length: int) -> list[int]:
    return [*torch.randint(4, 30, (length - 1,), generator=GENERATOR).tolist(), END]


SOURCES = [sentence(length) for length in (5, 1, 9, 3, 7)]
TARGETS = [sentence(length) for length in (4, 6, 2, 1, 7)]


@pytest.fixture(scope="module")
def score(tmp_path_factory: pytest.TempPathFactory) -> ReferenceBleu:
    """Words a4, a5, ... a29 with these ids."""
    path = tmp_path_factory.mktemp("words") / "dict.txt"
    path.write_text("".join(f"a{number} 1\n" for number in range(4, 30)))
    vocabulary = Vocabulary.given(path)
    assert vocabulary.size == 30
    return ReferenceBleu([vocabulary.decode(target) for target in TARGETS], vocabulary)


class TestTranslationEvaluator(EvaluatorContract):
    @pytest.fixture
    def evaluator(self, score: ReferenceBleu) -> Evaluator:
        search = BeamSearch(beam=2, most=3, ratio=0.5)
        return TranslationEvaluator(NET, SOURCES, TARGETS, score=score, search=search)

    @pytest.fixture
    def networks(self) -> Sequence[Network]:
        return [*NET.space.sample(4, seed=0), *NET.extremes()]


def test_loss_is_the_mean_over_tokens() -> None:
    networks = [*NET.space.sample(5, seed=1), *NET.extremes()]
    networks.append((*networks[0][:3], *networks[1][3:]))  # shares an encoder
    evaluator = TranslationEvaluator(NET, SOURCES, TARGETS)
    found = evaluator.evaluate_batch(networks)
    for network, values in zip(networks, found, strict=True):
        nats = 0.0
        for pair in zip(SOURCES, TARGETS, strict=True):
            inputs, labels = packed(*([one] for one in pair))
            with torch.no_grad():
                nats += float(functional.cross_entropy(NET(inputs, network), labels)) * len(labels)
        assert values["loss"] == pytest.approx(nats / sum(map(len, TARGETS)), abs=1e-5)
        assert evaluator.evaluate(network)["loss"] == pytest.approx(values["loss"], abs=1e-6)


def test_bleu_is_of_the_best_translations(score: ReferenceBleu) -> None:
    search = BeamSearch(beam=3)
    network = NET.extremes()[1]
    evaluator = TranslationEvaluator(NET, SOURCES, TARGETS, score=score, search=search)
    found = translations(NET.extract(network), SOURCES, search)
    words = [score.vocabulary.decode(one.tokens) for one in found]
    measured = evaluator.evaluate(network)["bleu"]
    assert isinstance(measured, Measurement)
    assert measured.value == bleu(words, score.references).score
    assert float(measured.notes["standard_error"]) >= 0
    assert evaluator.conditions["bleu"].startswith(score.signature)
    assert "beam:3|lenpen:0.6" in evaluator.conditions["bleu"]


def test_a_translation_that_is_the_reference_has_all_of_bleu(score: ReferenceBleu) -> None:
    assert score(TARGETS).score == pytest.approx(100.0)
    assert score([[END]] * 5).score == 0.0


def test_settings_that_do_not_fit_say_so(score: ReferenceBleu) -> None:
    with pytest.raises(InvalidInputError, match="batch_size is at least 1"):
        TranslationEvaluator(NET, SOURCES, TARGETS, batch_size=0)
    with pytest.raises(InvalidInputError, match="a reference for every sentence"):
        TranslationEvaluator(NET, SOURCES[:2], TARGETS[:2], score=score)
    with pytest.raises(InvalidInputError, match="sentence"):
        TranslationEvaluator(NET, SOURCES, TARGETS[:1])
