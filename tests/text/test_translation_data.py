"""What a supernet for translation is trained and evaluated on."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("sentencepiece")

import torch
from bag_net import BagNet
from text_cases import translated, write_lines, write_pairs
from torch.nn import functional

from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.text.batches import packed
from mathnas.text.held_out import HeldOutSentences
from mathnas.text.vocabulary import VOCABULARY_FILE, Vocabulary
from mathnas.training.config import TrainingConfig
from mathnas.training.data import TrainingData, training_data
from mathnas.training.processes import Processes
from mathnas.training.trainer import train

ALONE = Processes(torch.device("cpu"))
SIZE = 80
PAIRS = translated(300)
CONFIG = TrainingConfig(
    recipe="uniform", epochs=4, batch_size=400, held_out=50, learning_rate=0.02,
    optimizer="adamw", label_smoothing=0.0,
)  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> str:
    return f"text:{write_pairs(tmp_path, 'train', PAIRS)}"


def read(text: str, config: TrainingConfig = CONFIG, folder: Path | None = None) -> TrainingData:
    return training_data(text, config, ALONE, vocabulary_size=SIZE, folder=folder)


def sentences(data: TrainingData) -> HeldOutSentences:
    assert isinstance(data.held_out, HeldOutSentences)
    return data.held_out


# ---- scores --------------------------------------------------------------------------------------


def test_the_score_is_the_cross_entropy_of_every_token() -> None:
    supernet = BagNet(12).eval()
    source = [[5, 6, 2], [7, 2], [8, 9, 10, 11, 2]]
    target = [[6, 2], [5, 4, 9, 2], [10, 2]]
    held_out = HeldOutSentences.of(source, target)
    assert held_out.tokens == 8
    assert held_out.metric.unit == "nats"
    for network in ((0,), (1,)):
        nats = []
        for own, other in zip(source, target, strict=True):
            inputs, labels = packed([own], [other])
            logits = supernet(inputs, network)
            nats += functional.cross_entropy(logits, labels, reduction="none").tolist()
        found = held_out.score(supernet, network)
        assert found == pytest.approx(math.fsum(nats) / 8, rel=1e-5)


def test_a_network_without_preference_scores_the_logarithm_of_the_vocabulary() -> None:
    supernet = BagNet(12)
    torch.nn.init.zeros_(supernet.bag.out.weight)
    torch.nn.init.zeros_(supernet.bag.out.bias)
    held_out = HeldOutSentences.of([[5, 2]] * 3, [[6, 7, 2]] * 3)
    assert held_out.score(supernet, (1,)) == pytest.approx(math.log(12))


def test_networks_of_another_vocabulary_are_refused() -> None:
    held_out = HeldOutSentences.of([[5, 2]], [[13, 2]])
    assert held_out.score(BagNet(14), (0,)) > 0
    with pytest.raises(InvalidInputError, match=r"2 tokens of ids up to 13, but got \(2, 12\)"):
        held_out.score(BagNet(14, outputs=12), (0,))
    with pytest.raises(InvalidInputError, match="at least one"):
        HeldOutSentences(())


# ---- data ----------------------------------------------------------------------------------------


def test_pairs_are_held_out_and_never_trained_on(files: str) -> None:
    data = read(files)
    vocabulary = Vocabulary.learn([s for side in zip(*PAIRS, strict=True) for s in side], SIZE)
    assert data.classes == vocabulary.size == SIZE
    assert data.notes["languages"] == ["en", "de"]
    assert data.notes["held_out"] == 50
    assert data.notes["sentences"] == {"trained": 250, "cut": 0, "empty": 0}
    trained = sum(len(inputs) for inputs, _ in data.batches.epoch(0))
    kept = sum(len(inputs) for inputs, _ in sentences(data).batches)
    assert (trained, kept) == (250, 50)
    assert read(files, CONFIG.replace(held_out=0)).held_out is None
    with pytest.raises(InvalidInputError, match="name files to validate with"):
        read(files, CONFIG.replace(held_out=300))


def test_a_part_to_validate_with_is_taken_whole(files: str, tmp_path: Path) -> None:
    valid = write_pairs(tmp_path, "valid", translated(20, seed=9))
    data = read(f"{files},{valid}")
    assert sum(len(inputs) for inputs, _ in data.batches.epoch(0)) == 300
    assert sum(len(inputs) for inputs, _ in sentences(data).batches) == 20
    assert data.notes["held_out"] == 0


def test_the_vocabulary_stays_with_the_training(files: str, tmp_path: Path) -> None:
    data = read(files, folder=tmp_path / "out")
    path = tmp_path / "out" / VOCABULARY_FILE
    kept = Vocabulary.load(path)
    assert data.notes["vocabulary"] == {
        "file": VOCABULARY_FILE,
        "sha256": kept.fingerprint,
        "size": SIZE,
    }
    again = read(files, folder=tmp_path / "out")
    for (inputs, labels), (same, too) in zip(
        data.batches.epoch(1), again.batches.epoch(1), strict=True
    ):
        assert torch.equal(inputs, same)
        assert torch.equal(labels, too)
    path.write_bytes(b"rubbish")
    with pytest.raises(FileFormatError, match=r"vocabulary\.model is not a vocabulary"):
        read(files, folder=tmp_path / "out")


def test_a_vocabulary_can_be_given(files: str, tmp_path: Path) -> None:
    words = sorted({word for pair in PAIRS for sentence in pair for word in sentence.split()})
    path = write_lines(tmp_path / "dict.txt", [f"{word} 1" for word in words])
    config = CONFIG.replace(vocabulary=str(path))
    data = training_data(files, config, ALONE, folder=tmp_path / "out")
    assert data.classes == len(words) + 4
    kept = Vocabulary.load(tmp_path / "out" / VOCABULARY_FILE)
    assert kept.fingerprint == Vocabulary.given(path).fingerprint
    kept.save(tmp_path / "words.vocabulary")
    same = config.replace(vocabulary=str(tmp_path / "words.vocabulary"))
    assert training_data(files, same, ALONE, folder=tmp_path / "out").notes == data.notes
    with pytest.raises(
        InvalidInputError, match=rf"this one has {SIZE}, and .*dict\.txt has {len(words) + 4}"
    ):
        read(files, config, folder=tmp_path / "other")
    assert not (tmp_path / "other" / VOCABULARY_FILE).exists()
    write_lines(path, [f"{word} 1" for word in words[::-1]])
    with pytest.raises(InvalidInputError, match="is another one than"):
        training_data(files, config, ALONE, folder=tmp_path / "out")


def test_a_vocabulary_that_cannot_be_learned_tells_whose_size_it_is(files: str) -> None:
    with pytest.raises(InvalidInputError, match=r"ask for fewer .* of the supernet's space"):
        training_data(files, CONFIG, ALONE, vocabulary_size=5_000)


@pytest.mark.parametrize("text", ["text:a", "multi30k:fr-en", "text"])
def test_wrong_names_are_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        read(text)


def test_networks_of_images_are_not_trained_on_sentences(
    run: Callable[..., tuple[int, str, str]],
) -> None:
    code, _, err = run("train", "out", "--space", "digits", "--data", "multi30k")
    assert code == 1
    assert "for digits images, but multi30k is of sentence pairs" in " ".join(err.split())


# ---- training ------------------------------------------------------------------------------------


def test_the_trainer_learns_to_translate(files: str) -> None:
    """A network that reads the source foretells its translation better than one that does not."""
    data = read(files)
    supernet = BagNet(SIZE)
    before = sentences(data).score(supernet, (1,))
    report = train(supernet, data, CONFIG.replace(epochs=12))
    assert report.steps == 12 * data.batches.steps_per_epoch
    blind, reads = (sentences(data).score(supernet, network) for network in ((0,), (1,)))
    assert reads < blind < before
    assert report.scores == {"smallest": blind, "largest": reads}
    assert (data.samples, report.metric) == ("tokens", sentences(data).metric)


def test_two_processes_share_pairs_and_vocabulary(files: str, tmp_path: Path) -> None:
    CONFIG.save(tmp_path / "config.json")
    script = Path(__file__).parent / "scripts" / "train_pairs.py"
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *(str(script), files, "config.json"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"seen{i}.json").read_text()) for i in range(2))
    assert first["pairs"] + second["pairs"] == 250
    assert first["weights"] == second["weights"]
    assert first["vocabulary"] == second["vocabulary"]
    kept = Vocabulary.load(tmp_path / "out" / VOCABULARY_FILE)
    assert kept.fingerprint == first["vocabulary"]["sha256"]
