"""``mathnas train``."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("safetensors")
pytest.importorskip("sklearn")

from training_cases import same_bits, start

from mathnas.nets.files import load_supernet, supernet_notes
from mathnas.training.config import TrainingConfig
from mathnas.training.trainer import CHECKPOINT_FILE

Run = Callable[..., tuple[int, str, str]]
BASE = ("train", "out", "--space", "digits", "--data", "digits", "--threads", "1")
SHORT = ("--set", "evaluation_interval=0", "--recipe", "uniform", "--device", "cpu")


def test_training_and_training_again(run: Run, tmp_path: Path) -> None:
    arguments = (*BASE, *SHORT, "--epochs", "2", "--set", "batch_size=250")
    code, out, err = run(*arguments)
    assert code == 0, err
    assert "6 steps" in out
    assert "accuracy: smallest" in out
    assert "images/s" in err
    notes = supernet_notes(tmp_path / "out" / "supernet.safetensors")
    assert notes["data"] == "digits"
    config = TrainingConfig.from_dict(notes["training"])
    assert (config.recipe, config.epochs, config.batch_size) == ("uniform", 2, 250)
    code, out, _ = run(*arguments, "--json")
    assert code == 0
    assert json.loads(out)["resumed"] == json.loads(out)["steps"] == 6
    assert json.loads(out)["metric"] == "accuracy"
    assert 0 < json.loads(out)["scores"]["largest"] <= 100
    code, _, err = run(*arguments, "--set", "seed=4")
    assert code == 1
    assert "begun with seed=0, but seed is 4" in err


def test_a_configuration_is_written_edited_and_used(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(*BASE, "--recipe", "sandwich", "--write-config", "c.json")
    assert (code, out) == (0, "written: c.json\n")
    assert not (tmp_path / "out").exists()
    assert TrainingConfig.load(tmp_path / "c.json") == TrainingConfig()
    # options come on top of the file
    run(
        *BASE, "--config", "c.json", "--epochs", "3", "--set", "ema=0.9", "--write-config", "d.json"
    )
    assert TrainingConfig.load(tmp_path / "d.json") == TrainingConfig(epochs=3, ema=0.9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "learning_rte=1"), "unknown field 'learning_rte': did you mean 'learning_rate'"),
        (("--set", "ema"), "--set is written NAME=VALUE, but got 'ema'"),
        (("--set", "schedule=inverse-sqrt", "--set", "warmup_steps=9999"), "warmup_steps=9999"),
        (("--set", "dropout=0.1"), "DigitsNet has no set_dropout(): set dropout=null"),
        (("--set", "precision=fp8"), "precision is one of no, bf16, fp16, but got 'fp8'"),
        (("--data", "letters"), "data to train on are digits"),
        (("--space", "fbnet"), "supernets are known for digits"),
        (("--space", "digit"), "a space is a known family or a JSON file"),
        (("--set", "batch_size=5000"), "797 images, 797 labels and batches of 5000"),
    ],
)
def test_wrong_use_is_told(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = run(*BASE, *arguments)
    assert code == 1
    assert message in err
    assert "Traceback" not in err


def test_a_damaged_checkpoint_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / CHECKPOINT_FILE).write_bytes(b"nonsense")
    code, _, err = run(*BASE)
    assert code == 1
    assert "is damaged" in err


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_stops_at_a_checkpoint_and_the_same_command_goes_on(
    run: Run, tmp_path: Path
) -> None:
    arguments = (
        *BASE,
        *SHORT,
        "--epochs",
        "5",
        "--set",
        "batch_size=64",
        "--set",
        "log_interval=1",
    )
    process = start(["-m", "mathnas", *arguments], tmp_path)
    log = tmp_path / "out" / "log.csv"
    while not log.exists() or log.read_text().count("\n") < 4:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "The same command goes on from there" in errors
    code, out, err = run(*arguments)
    assert code == 0, err
    assert "60 steps (from " in out
    stopped = load_supernet(tmp_path / "out" / "supernet.safetensors")
    whole = (arguments[0], "whole", *arguments[2:])
    assert run(*whole)[0] == 0
    assert same_bits(stopped, load_supernet(tmp_path / "whole" / "supernet.safetensors"))
