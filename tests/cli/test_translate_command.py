"""``mathnas extract`` and ``mathnas translate``, with a translator that knows nothing yet."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("sacrebleu")

import torch

from mathnas.nets.beam_search import BeamSearch, translations
from mathnas.nets.extracted import load_extracted
from mathnas.nets.files import save_supernet
from mathnas.nets.supertransformer import SubTransformer, SuperTransformerNet
from mathnas.text.bleu import bleu
from mathnas.text.vocabulary import VOCABULARY_FILE, Vocabulary
from supertransformer_cases import tiny_space

torch.set_num_threads(1)

Run = Callable[..., tuple[int, str, str]]
WORDS = [f"w{number}" for number in range(26)]
SPACE = tiny_space(decoder_layers=2)
NETWORK = "f8_h2,f24_h4,f8_h4,f24_s2_c4_a1,absent"
SENTENCES = ["w3 w4 w5", "", "w9", "w1 w2 w3 w4 w5 w6"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a supernet of random weights, its vocabulary and a text."""
    folder = tmp_path_factory.mktemp("translate")
    (folder / "dict.txt").write_text("".join(f"{word} 1\n" for word in WORDS))
    vocabulary = Vocabulary.given(folder / "dict.txt")
    vocabulary.save(folder / VOCABULARY_FILE)
    notes = {
        "data": "text:a.en,a.de",
        "vocabulary": {"file": VOCABULARY_FILE, "sha256": vocabulary.fingerprint, "size": 30},
    }
    net = SuperTransformerNet(SPACE, seed=1)
    save_supernet(folder / "supernet.safetensors", net, notes=notes)
    (folder / "text.en").write_text("".join(f"{line}\n" for line in SENTENCES))
    return folder


@pytest.fixture
def run(run: Callable[..., tuple[int, str, str]]) -> Run:
    """With paths and numbers among the arguments."""
    return lambda *arguments: run(*map(str, arguments))


@pytest.fixture
def network(place: Path, run: Run) -> Path:
    path = place / "net.safetensors"
    if not path.exists():
        code, _, err = run(
            *("extract", "--supernet", place / "supernet.safetensors"),
            *("--network", NETWORK, "-o", path),
        )
        assert code == 0, err
    return path


def expected(network: Path, beam: int = 4) -> list[str]:
    module = load_extracted(network)
    assert isinstance(module, SubTransformer)
    vocabulary = Vocabulary.load(network.with_name(VOCABULARY_FILE))
    found = translations(module, vocabulary.encode(SENTENCES), BeamSearch(beam))
    return [vocabulary.decode(one.tokens) for one in found]


def test_a_text_is_translated_line_by_line(place: Path, network: Path, run: Run) -> None:
    code, out, err = run("translate", network, place / "text.en")
    assert code == 0, err
    assert out.split("\n")[:-1] == expected(network)
    assert "4 sentences" in err


def test_a_file_is_written_and_scored(place: Path, network: Path, run: Run) -> None:
    out_file, references = place / "out.de", place / "refs.de"
    right = [f"{line} w1 w2 w3 w4" for line in expected(network, 2)]
    references.write_text("".join(f"{line}\n" for line in right))
    code, out, err = run(
        *("translate", network, place / "text.en", "-o", out_file, "--beam", 2),
        *("--references", references, "--json"),
    )
    assert code == 0, err
    found = json.loads(out)
    assert out_file.read_text().splitlines() == expected(network, 2)
    assert [one["text"] for one in found["translations"]] == expected(network, 2)
    assert found["sentences"] == 4
    assert "nrefs:1" in found["bleu"]["signature"]
    assert found["bleu"]["value"] == pytest.approx(bleu(expected(network, 2), right).score)


def test_graphs_translate_too(place: Path, network: Path, run: Run) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from mathnas.nets.translation_graphs import TranslationGraphs

    module = load_extracted(network)
    assert isinstance(module, SubTransformer)
    TranslationGraphs.export(module, beam=3).write(place / "net.onnx")
    code, out, err = run("translate", place / "net.onnx", place / "text.en", "--beam", 3)
    assert code == 0, err
    assert out.split("\n")[:-1] == expected(network, 3)
    code, _, err = run("translate", place / "net.onnx", place / "text.en")
    assert code == 1
    assert "for a beam of 3: give --beam 3" in err
    (place / "few.txt").write_text("a 1\n")
    Vocabulary.given(place / "few.txt").save(place / "few.model")
    options = ("--beam", 3, "--vocabulary", place / "few.model")
    code, _, err = run("translate", place / "net.onnx", place / "text.en", *options)
    assert code == 1
    assert "has 30 tokens, but the vocabulary has 5" in err


def test_the_card_tells_how_to_translate(place: Path, network: Path, run: Run) -> None:
    card = network.with_name("net.safetensors.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)
    found: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        exec(code.replace("A sentence.", SENTENCES[0]), {"print": found.append})
    assert found == expected(network)[:1]
    assert "| input | sentences, as ids of the vocabulary |" in card


def test_no_input_gives_no_translation(
    network: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert run("translate", network, "-")[:2] == (0, "")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"w9\r\nw3")))
    code, out, _ = run("translate", network, "-")
    assert code == 0
    assert len(out.split("\n")) == 3
    assert out.startswith(expected(network)[2])


def test_what_does_not_fit_is_an_error(
    place: Path, network: Path, run: Run, tmp_path: Path
) -> None:
    text = place / "text.en"
    (tmp_path / "net.safetensors").write_bytes(network.read_bytes())
    code, _, err = run("translate", tmp_path / "net.safetensors", text)
    assert code == 1
    assert "no vocabulary.model beside net.safetensors" in err

    (tmp_path / "dict.txt").write_text("".join(f"{word}x 1\n" for word in WORDS))
    Vocabulary.given(tmp_path / "dict.txt").save(tmp_path / "other.model")
    code, _, err = run("translate", network, text, "--vocabulary", tmp_path / "other.model")
    assert code == 1
    assert "trained with the vocabulary" in err

    (tmp_path / "dict.txt").write_text("a 1\n")
    Vocabulary.given(tmp_path / "dict.txt").save(tmp_path / "few.model")
    code, _, err = run("translate", network, text, "--vocabulary", tmp_path / "few.model")
    assert code == 1
    assert "has 30 tokens, but the vocabulary has 5" in err

    (tmp_path / "short.de").write_text("w1\n")
    code, _, err = run("translate", network, text, "--references", tmp_path / "short.de")
    assert code == 1
    assert "has 1 lines and" in err

    code, _, err = run("translate", network, text, "--beam", 0)
    assert code == 1
    assert "at least 1 translation" in err

    (tmp_path / "bad.en").write_bytes(b"\xff\xfe")
    code, _, err = run("translate", network, tmp_path / "bad.en")
    assert code == 1
    assert "UTF-8" in err

    code, _, err = run(
        *("extract", "--supernet", place / "supernet.safetensors"),
        *("--network", NETWORK, "-o", tmp_path / "net.onnx"),
    )
    assert code == 1
    assert "mathnas.nets.translation_graphs" in err


def test_what_does_not_translate_is_an_error(
    place: Path, network: Path, run: Run, tmp_path: Path
) -> None:
    text, supernet = place / "text.en", place / "supernet.safetensors"
    for wrong, told in (
        (supernet, f"mathnas extract --supernet {supernet}"),
        (place, "cut one out of its supernet"),
        (place / "none.safetensors", "No such file or directory."),
        (place / "none.onnx", "No such file or directory. A translator is two graphs"),
        (place / "net.step.onnx", "NAME.onnx for NAME.encoder.onnx and NAME.step.onnx"),
    ):
        code, _, err = run("translate", wrong, text)
        assert code == 1
        assert told in err

    for option in (("--measure", "latency_ms"), ("--finetune-epochs", 1), ("--data", "cifar10")):
        code, _, err = run(
            *("extract", "--supernet", supernet, "--network", NETWORK, *option),
            *("-o", tmp_path / "net.safetensors"),
        )
        assert code == 1
        assert "mathnas translate --references" in err
