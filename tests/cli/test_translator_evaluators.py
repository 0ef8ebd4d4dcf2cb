"""``supernet:`` and ``latency:`` of ``mathnas evaluate`` with translators; what refuses them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("sacrebleu")

import torch

import mathnas as mn
from mathnas.nets.beam_search import BeamSearch
from mathnas.nets.files import save_supernet
from mathnas.nets.supertransformer import SuperTransformerNet
from mathnas.text.corpus import read_parallel
from mathnas.text.evaluator import ReferenceBleu, TranslationEvaluator
from mathnas.text.vocabulary import VOCABULARY_FILE, Vocabulary
from supertransformer_cases import tiny_space

torch.set_num_threads(1)

Run = Callable[..., tuple[int, str, str]]
WORDS = [f"w{number}" for number in range(26)]
SPACE = tiny_space(
    heads=(2,), attention=(-1,), encoder_layers=2, decoder_layers=2, source=5, target=4
)
NET = SuperTransformerNet(SPACE, seed=1).eval()
NETWORKS = [(0, 1, 1, 0), (0, 0, 1, 2)]
ASKED = ("--network", "0,1,1,0", "--network", "0,0,1,2")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a supernet, its vocabulary, and pairs of which 5 were held out."""
    monkeypatch.chdir(tmp_path)
    Path("dict.txt").write_text("".join(f"{word} 1\n" for word in WORDS))
    vocabulary = Vocabulary.given("dict.txt")
    vocabulary.save(VOCABULARY_FILE)
    for part, first in (("train", 0), ("valid", 3)):
        lines = [" ".join(WORDS[first + row : first + row + 3]) for row in range(20)]
        for side, shift in (("en", 0), ("de", 1)):
            Path(f"{part}.{side}").write_text(
                "".join(f"{line}\n" for line in lines[shift:] + [lines[0]] * shift)
            )
    notes = {
        "data": "text:train.en,train.de",
        "held_out": 5,
        "held_out_seed": 2,
        "vocabulary": {"file": VOCABULARY_FILE, "sha256": vocabulary.fingerprint, "size": 30},
    }
    save_supernet("net.safetensors", NET, notes=notes)
    return tmp_path


def measured(path: str, metric: str) -> dict[mn.Network, float]:
    with mn.Study(path) as study:
        return {one.network: one.measurement.value for one in study.evaluations(metric)}


def conditions(path: str, metric: str) -> dict[str, str]:
    with mn.Study(path) as study:
        (found,) = study.conditions(metric)
    return found


def test_pairs_that_were_held_out_tell_the_loss(place: Path, run: Run) -> None:
    code, _, err = run("evaluate", "a.study", "--evaluator", "supernet:net.safetensors", *ASKED)
    assert code == 0, err
    _, held = read_parallel("train.en", "train.de").holdout(5, 2)
    vocabulary = Vocabulary.load(VOCABULARY_FILE)
    ids = vocabulary.encode(held.source), vocabulary.encode(held.target)
    expected = TranslationEvaluator(NET, *ids).evaluate_batch(NETWORKS)
    found = measured("a.study", "loss")
    assert [found[network] for network in NETWORKS] == [own["loss"] for own in expected]
    told = conditions("a.study", "loss")
    assert told["data"] == "text:train.en,train.de, held out of the training pairs"
    assert told["supernet"].startswith("net.safetensors ")


def test_named_pairs_are_translated(place: Path, run: Run) -> None:
    text = "text:train.en,train.de,valid.en,valid.de"
    evaluator = f"supernet:net.safetensors,data={text},bleu=true,beam=2"
    code, _, err = run("evaluate", "a.study", "--evaluator", evaluator, *ASKED)
    assert code == 0, err
    valid = read_parallel("valid.en", "valid.de")
    vocabulary = Vocabulary.load(VOCABULARY_FILE)
    ids = vocabulary.encode(valid.source), vocabulary.encode(valid.target)
    translating = TranslationEvaluator(
        NET, *ids, score=ReferenceBleu(valid.target, vocabulary), search=BeamSearch(2)
    )
    bleu, loss = measured("a.study", "bleu"), measured("a.study", "loss")
    for network in NETWORKS:
        own = translating.evaluate(network)
        assert (bleu[network], loss[network]) == (own["bleu"].value, own["loss"])  # type: ignore[union-attr]
    told = conditions("a.study", "bleu")
    assert told["data"] == f"{text}, valid"
    assert "|beam:2|" in told["bleu"]


def test_latency_is_that_of_steps(place: Path, run: Run) -> None:
    """As HAT measures it, of the lengths that the space counts at."""
    options = "rounds=1,attempts=1,accept_noise=true"
    evaluator = f"latency:net.safetensors,engine=torch,{options}"
    code, _, err = run("evaluate", "a.study", "--evaluator", evaluator, *ASKED)
    assert code == 0, err
    assert min(measured("a.study", "latency_ms").values()) > 0
    told = conditions("a.study", "latency_ms")
    assert (told["engine"], told["translation"]) == ("torch", "5 to 4 tokens, beam 5")

    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    evaluator = f"latency,beam=2,{options}"
    space = ("--space", SPACE.name)
    code, _, err = run("evaluate", "b.study", "--evaluator", evaluator, *space, *ASKED[:2])
    assert code == 0, err
    told = conditions("b.study", "latency_ms")
    assert (told["engine"], told["translation"]) == ("onnxruntime", "5 to 4 tokens, beam 2")


@pytest.mark.parametrize(
    ("evaluator", "told"),
    [
        ("supernet:net.safetensors,data=cifar10", "evaluated on sentence pairs"),
        ("supernet:net.safetensors,resolution=32", "resolution= is for images"),
        ("supernet:net.safetensors,data=text:valid.en,valid.de", "no part to evaluate on"),
        ("supernet:net.safetensors,vocabulary=other.model", "name the one that it was trained"),
        ("latency:net.safetensors,batch=8", "batch= is for images"),
        ("latency:net.safetensors,engine=torch-compile", "run in torch or onnxruntime"),
        ("latency:digits.safetensors,beam=8", "beam= is for sentences"),
        ("supernet:digits.safetensors,bleu=true,data=digits", "bleu= is for sentences"),
    ],
)
def test_what_does_not_fit_is_an_error(place: Path, run: Run, evaluator: str, told: str) -> None:
    from mathnas.nets.digits import DigitsNet

    save_supernet("digits.safetensors", DigitsNet())
    Path("dict.txt").write_text("a 1\n")
    Vocabulary.given("dict.txt").save("other.model")
    code, _, err = run("evaluate", "a.study", "--evaluator", evaluator, "--sampling", "single")
    assert code == 1
    assert told in err


def test_a_supernet_without_its_vocabulary_is_an_error(place: Path, run: Run) -> None:
    Path(VOCABULARY_FILE).unlink()
    code, _, err = run("evaluate", "a.study", "--evaluator", "supernet:net.safetensors", *ASKED)
    assert code == 1
    assert "no vocabulary.model beside net.safetensors" in err
    assert "vocabulary=FILE" in err


def test_measuring_of_one_graph_names_the_way_out(place: Path, run: Run) -> None:
    for command in (("measure", "net.safetensors"), ("bundle", "net.safetensors", "-o", "there")):
        code, _, err = run(*command)
        assert code == 1
        assert "mathnas evaluate --evaluator latency" in err
