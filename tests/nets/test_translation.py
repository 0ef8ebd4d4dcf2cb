"""Translation networks measured: loss, BLEU, latency, and in onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from mathnas import Evaluator, FileFormatError, InvalidInputError
from mathnas.devices.timing import TimingSettings, time_in_turns
from mathnas.nets.beam_search import BeamSearch, translations
from mathnas.nets.supertransformer import END, PAD, SuperTransformerNet
from mathnas.nets.translation_engine import TranslationEngine
from mathnas.nets.translation_evaluator import SentencePairs, TranslationEvaluator
from mathnas.space import Network
from mathnas.spaces import SuperTransformer
from mathnas.testing.evaluators import EvaluatorContract

torch.set_num_threads(1)

NET = SuperTransformerNet(
    SuperTransformer(
        16,
        16,
        ffn=(8, 24),
        heads=(2, 4),
        encoder_layers=3,
        decoder_layers=3,
        projection=16,
        source=9,
        target=8,
        vocabulary=30,
    ),
    seed=3,
).eval()
GENERATOR = torch.Generator().manual_seed(0)


def sentence(length: int) -> tuple[int, ...]:
    return (*torch.randint(3, 30, (length - 1,), generator=GENERATOR).tolist(), END)


PAIRS = SentencePairs(
    [sentence(length) for length in (5, 1, 9, 3, 7)],
    [sentence(length) for length in (4, 6, 2, 1, 7)],
)


class Words:
    """Percent of the translations' tokens that are in the reference."""

    signature = "words:1"

    def __call__(self, translated: Sequence[Sequence[int]]) -> float:
        found = [
            token in target
            for one, target in zip(translated, PAIRS.targets, strict=True)
            for token in one
        ]
        return 100 * sum(found) / len(found)


class TestTranslationEvaluator(EvaluatorContract):
    @pytest.fixture
    def evaluator(self) -> Evaluator:
        search = BeamSearch(beam=2, most=3, ratio=0.5)
        return TranslationEvaluator(NET, PAIRS, score=Words(), search=search)

    @pytest.fixture
    def networks(self) -> Sequence[Network]:
        return [*NET.space.sample(4, seed=0), *NET.extremes()]


def test_loss_is_the_mean_over_tokens() -> None:
    networks = [*NET.space.sample(5, seed=1), *NET.extremes()]
    networks.append((*networks[0][:3], *networks[1][3:]))  # shares an encoder
    evaluator = TranslationEvaluator(NET, PAIRS)
    found = evaluator.evaluate_batch(networks)
    for network, values in zip(networks, found, strict=True):
        nats = 0.0
        for source, target in zip(PAIRS.sources, PAIRS.targets, strict=True):
            x = torch.full((2, 1, 12), PAD)
            x[0, 0, : len(source)] = torch.tensor(source)
            x[1, 0, : len(target)] = torch.tensor([END, *target[:-1]])
            with torch.no_grad():
                logits = NET(x, network)
            nats += float(torch.nn.functional.cross_entropy(logits, torch.tensor(target))) * len(
                target
            )
        tokens = sum(map(len, PAIRS.targets))
        assert values["loss"] == pytest.approx(nats / tokens, abs=1e-5)
        assert evaluator.evaluate(network)["loss"] == pytest.approx(values["loss"], abs=1e-6)


def test_bleu_is_of_the_best_translations() -> None:
    search = BeamSearch(beam=3)
    network = NET.extremes()[1]
    evaluator = TranslationEvaluator(NET, PAIRS, score=Words(), search=search)
    found = translations(NET.extract(network), PAIRS.sources, search)
    assert evaluator.evaluate(network)["bleu"] == Words()([one.tokens for one in found])
    assert "words:1|beam:3|lenpen:0.6" in evaluator.conditions["bleu"]


def test_pairs_that_are_none_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="every sentence has a translation"):
        SentencePairs([(5, END)], [])
    with pytest.raises(InvalidInputError, match="target 1 does not"):
        SentencePairs([(END,), (END,)], [(END,), (5,)])
    with pytest.raises(InvalidInputError, match="at least 1"):
        TranslationEvaluator(NET, PAIRS, batch_size=0)


def test_batches_hold_every_pair_once() -> None:
    for tokens in (1, 10, 4096):
        seen = []
        for source, given, expected in PAIRS.batches(tokens):
            for one, read, said in zip(source, given, expected, strict=True):
                own = [row[row != PAD].tolist() for row in (one, read, said)]
                assert own[1] == [END, *own[2][:-1]]
                seen.append((tuple(own[0]), tuple(own[2])))
        expected_pairs = list(zip(PAIRS.sources, PAIRS.targets, strict=True))
        assert sorted(seen) == sorted((tuple(a), tuple(b)) for a, b in expected_pairs)


def test_a_run_of_the_engine_is_an_encoder_and_all_steps() -> None:
    calls: list[str] = []
    static = NET.extract(NET.extremes()[0])

    class Counted:
        def encode(self, source: torch.Tensor) -> object:
            calls.append(f"encode {tuple(source.shape)}")
            return static.encode(source)

        def start(self, memory: object, beam: int = 1) -> object:
            return static.start(memory, beam)  # type: ignore[arg-type]

        def step(self, tokens: torch.Tensor, state: object) -> object:
            calls.append(f"step {tuple(tokens.shape)}")
            return static.step(tokens, state)  # type: ignore[arg-type]

    engine = TranslationEngine(source=6, target=4, beam=3, words=30)
    run = engine.prepare(Counted())  # type: ignore[arg-type]
    run()
    assert calls == ["encode (1, 6)", *["step (1, 3)"] * 4]
    assert engine.conditions == {"translation": "6 to 4 tokens, beam 3"}
    with pytest.raises(InvalidInputError, match="torch or onnxruntime"):
        TranslationEngine(runtime="abacus")
    with pytest.raises(InvalidInputError, match="at least 1"):
        TranslationEngine(beam=0)


def test_deeper_decoders_take_longer() -> None:
    """Timed in turns; depth is three times the decoder's work."""
    engine = TranslationEngine(words=30)
    smallest = NET.extremes()[0]
    deep = (*smallest[:3], 0, 0, 0)
    runs = [engine.prepare(NET.extract(network)) for network in (smallest, deep)]
    fast, slow = time_in_turns(runs, TimingSettings(rounds=9))
    assert slow.value > 1.2 * fast.value


# ---- onnxruntime --------------------------------------------------------------------------------


@pytest.mark.parametrize("which", range(2))
def test_graphs_translate_as_the_module(which: int, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from mathnas.nets.translation_graphs import OnnxTranslator, TranslationGraphs

    network = [NET.extremes()[1], NET.space.sample(1, seed=7)[0]][which]
    static = NET.extract(network)
    graphs = TranslationGraphs.export(static, beam=3)
    graphs.write(tmp_path / "net.onnx")
    translator = OnnxTranslator.load(tmp_path / "net.onnx")
    search = BeamSearch(beam=3)
    for length in (2, 5, 9, 20):
        source = torch.tensor([sentence(length)])
        found, expected = search(translator, source)[0], search(static, source)[0]
        assert [one.tokens for one in found] == [one.tokens for one in expected]
        assert all(
            math.isclose(one.score, other.score, abs_tol=1e-4)
            for one, other in zip(found, expected, strict=True)
        )
    run = TranslationEngine(runtime="onnxruntime", source=6, target=4, beam=3, words=30)
    run.prepare(translator)()


def test_graphs_that_do_not_fit_say_so(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from mathnas.nets.translation_graphs import OnnxTranslator, TranslationGraphs, graph_paths

    static = NET.extract(NET.extremes()[0])
    with pytest.raises(InvalidInputError, match="at least 1 target"):
        TranslationGraphs.export(static, beam=0)
    translator = OnnxTranslator(TranslationGraphs.export(static, beam=2))
    with pytest.raises(InvalidInputError, match="one sentence at a time"):
        translator.encode(torch.tensor([[END], [END]]))
    with pytest.raises(InvalidInputError, match="a beam of 2, but 3"):
        translator.start(translator.encode(torch.tensor([[5, 6, END]])), 3)
    with pytest.raises(InvalidInputError, match=r"NAME\.onnx"):
        graph_paths("net.safetensors")
    (tmp_path / "a.encoder.onnx").write_bytes(b"no graph")
    with pytest.raises(FileFormatError, match="cannot be read as a graph"):
        OnnxTranslator.load(tmp_path / "a.onnx")
