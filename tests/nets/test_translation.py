"""Translation networks in onnxruntime, and their latency."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from mathnas import FileFormatError, InvalidInputError
from mathnas.devices.timing import TimingSettings, time_in_turns
from mathnas.nets.beam_search import BeamSearch
from mathnas.nets.supertransformer import SuperTransformerNet
from mathnas.nets.translation_engine import TranslationEngine
from mathnas.tokens import END
from supertransformer_cases import tiny_space

torch.set_num_threads(1)

NET = SuperTransformerNet(
    tiny_space(source=9, target=8),
    seed=3,
).eval()
GENERATOR = torch.Generator().manual_seed(0)


def sentence(length: int) -> tuple[int, ...]:
    return (*torch.randint(3, 30, (length - 1,), generator=GENERATOR).tolist(), END)


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
