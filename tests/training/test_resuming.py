"""Training that is killed goes on to the same weights, bit for bit."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

from training_cases import ALONE, SCRIPTS, same_bits, small_net, square_data, start

from mathnas import InvalidInputError
from mathnas.nets.digits import DigitsNet
from mathnas.nets.files import load_supernet
from mathnas.training.config import Phase, TrainingConfig
from mathnas.training.trainer import CHECKPOINT_FILE, SUPERNET_FILE, train

PHASES = (
    Phase("largest", 2, largest=True, distill=0.0, warmup_epochs=1),
    Phase("wide", 2, blocks={"*": ("k?_e2",)}, networks=2),
    Phase("all", 3, networks=1),
)
CONFIGS = {
    "sandwich": TrainingConfig(epochs=7, batch_size=20, clip=1.0, warmup_epochs=1),
    "uniform": TrainingConfig(
        recipe="uniform", epochs=7, batch_size=20, optimizer="adamw", ema=0.9, precision="bf16"
    ),
    "scaled": TrainingConfig(recipe="uniform", epochs=7, batch_size=20, precision="fp16"),
    "resolved": TrainingConfig(
        epochs=7,
        batch_size=20,
        optimizer="adamw",
        combine="resolve",
        resolve_after=3,
        student_loss="alpha",
        schedule="inverse-sqrt",
        warmup_steps=4,
        average_epochs=4,
        precision="fp16",
    ),
    "shrinking": TrainingConfig(
        recipe="shrinking", phases=PHASES, batch_size=20, ema=0.8, learning_rate=0.1
    ),
}


class Stopped(Exception):
    pass


@pytest.mark.parametrize("name", CONFIGS)
def test_stops_at_any_step_do_not_change_a_bit(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name].replace(checkpoint_interval=2, log_interval=1)
    whole = small_net()
    train(whole, square_data(), config, processes=ALONE)
    rng = random.Random(name)
    resumed = []
    while True:
        net, last = small_net(), rng.randint(3, 8)
        steps: list[int] = []

        def stop(progress: object, seen: list[int] = steps, last: int = last) -> None:
            seen.append(0)
            if len(seen) == last:
                raise Stopped

        try:
            report = train(net, square_data(), config, tmp_path, processes=ALONE, told=stop)
        except Stopped:
            continue
        resumed.append(report.resumed)
        break
    assert resumed[0] > 10
    assert report.steps == 21
    assert same_bits(whole, net)
    assert same_bits(whole, load_supernet(tmp_path / SUPERNET_FILE))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_processes_leave_what_an_undisturbed_one_does(tmp_path: Path) -> None:
    config = CONFIGS["shrinking"].replace(checkpoint_interval=1, log_interval=1)
    config.save(tmp_path / "config.json")
    whole = small_net()
    train(whole, square_data(), config, processes=ALONE)
    rng = random.Random(0)
    done = 0
    for _ in range(2):
        process = start([str(SCRIPTS / "train_slowly.py"), "config.json"], tmp_path)
        assert process.stdout is not None
        wanted = done + rng.randint(2, 6)
        while done < wanted:
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            done = int(line)
        process.kill()
        process.communicate()
    assert done < 21, "no kill came in the middle"
    process = start([str(SCRIPTS / "train_slowly.py"), "config.json"], tmp_path)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    # what had been reported was in the checkpoint, or is done again
    assert int(output.split()[0]) in (done, done + 1, done + 2)
    assert same_bits(whole, load_supernet(tmp_path / "out" / SUPERNET_FILE))
    rows = (tmp_path / "out" / "log.csv").read_text().splitlines()
    assert [int(row.split(",")[0]) for row in rows[1:]] == list(range(1, 22))


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    config = CONFIGS["uniform"]
    one, two = small_net(), small_net(seed=5)
    first = train(one, square_data(held_out=True), config, tmp_path, processes=ALONE)
    again = train(two, square_data(held_out=True), config, tmp_path, processes=ALONE)
    assert (first.resumed, again.resumed) == (0, 21)
    assert same_bits(one, two)
    assert again.scores == first.scores


def test_only_the_same_training_goes_on(tmp_path: Path) -> None:
    config = CONFIGS["sandwich"]
    train(small_net(), square_data(), config, tmp_path, processes=ALONE)
    for changes, message in (
        ({"learning_rate": 0.2}, "begun with learning_rate=0.05, but learning_rate is 0.2"),
        ({"ema": 0.9}, "begun with ema=None"),
        ({"epochs": 8}, "begun with epochs=7"),
    ):
        other = config.replace(**changes)
        with pytest.raises(InvalidInputError, match=message):
            train(small_net(), square_data(), other, tmp_path, processes=ALONE)
    # how often it reports may change
    train(small_net(), square_data(), config.replace(log_interval=3), tmp_path, processes=ALONE)
    with pytest.raises(InvalidInputError, match=r"is of the space 'digits' \(.*\), but the super"):
        train(DigitsNet(), square_data(), config, tmp_path, processes=ALONE)


def test_a_supernet_without_a_checkpoint_is_not_replaced(tmp_path: Path) -> None:
    config = TrainingConfig(epochs=1, batch_size=20)
    train(small_net(), square_data(), config, tmp_path, processes=ALONE)
    (tmp_path / CHECKPOINT_FILE).unlink()
    with pytest.raises(InvalidInputError, match="no checkpoint to go on from"):
        train(small_net(), square_data(), config, tmp_path, processes=ALONE)
