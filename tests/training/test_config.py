"""The configuration: defaults, checks, files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mathnas import FileFormatError, InvalidInputError
from mathnas.training.config import CONFIG_FORMAT, Phase, TrainingConfig

FULL = TrainingConfig(
    recipe="shrinking",
    phases=(
        Phase("largest", 3, largest=True, distill=0.0, warmup_epochs=0.5),
        Phase("kernels", 2, blocks={"*": ("k?_e6",), "*.layer4": ("k?_e6", "absent")}),
        Phase("widths", 1, networks=4, learning_rate=0.01, sort_channels=True),
    ),
    clip=1.0,
    ema=0.999,
    teacher="teacher.safetensors",
)


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    for config in (TrainingConfig(), FULL):
        config.save(tmp_path / "config.json")
        assert TrainingConfig.load(tmp_path / "config.json") == config
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["format"] == CONFIG_FORMAT
    assert record["phases"][1]["blocks"] == {"*": ["k?_e6"], "*.layer4": ["k?_e6", "absent"]}


def test_every_default_is_in_the_file(tmp_path: Path) -> None:
    config = TrainingConfig()
    config.save(tmp_path / "config.json")
    record = json.loads((tmp_path / "config.json").read_text())
    assert set(TrainingConfig.__slots__) <= set(record)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rte": 0.1}, "unknown field 'learning_rte': did you mean 'learning_rate'"),
        ({"zzz": 1}, "unknown field 'zzz': known are recipe, epochs"),
        ({"phases": {}}, "phases: expected a list"),
        ({"phases": [{"epochs": 1}]}, r"phases\[0\]: the field 'name' is missing"),
        ({"phases": [{"name": "a", "epoch": 1}]}, r"phases\[0\]: unknown field 'epoch': did you"),
    ],
)
def test_files_that_say_something_else_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        TrainingConfig.from_fields(fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"recipe": "sandwhich"}, "recipe is one of sandwich, shrinking, uniform, but got"),
        ({"batch_size": 0}, "batch_size is a whole number, 1 or more, but got 0"),
        ({"batch_size": 1.5}, "batch_size is a whole number"),
        ({"batch_size": True}, "batch_size is a whole number"),
        ({"learning_rate": "high"}, "learning_rate is a number above 0, but got 'high'"),
        ({"learning_rate": float("nan")}, "learning_rate is a number above 0"),
        ({"ema": 1.0}, r"ema is a number in \[0, 1\) or null, but got 1.0"),
        ({"channels_last": 1}, "channels_last is true or false"),
        ({"phases": [{"name": "a", "epochs": 1}]}, "phases belong to the recipe 'shrinking'"),
        ({"teacher": "t"}, "a teacher belongs to the recipe 'shrinking'"),
        ({"recipe": "shrinking", "epochs": 1}, "shrinking takes at least 2 epochs"),
        (
            {"recipe": "shrinking", "epochs": 2, "phases": [{"name": "a", "epochs": 1}]},
            r"phases tell their own epochs \(here 1 in all\), but epochs is 2",
        ),
        (
            {"recipe": "shrinking", "phases": [{"name": "a", "epochs": 1, "networks": 0}]},
            "trains at least 1 network, but phase 'a' has networks=0",
        ),
        (
            {"recipe": "shrinking", "phases": [{"name": "a", "epochs": 1, "blocks": {"*": "k"}}]},
            r"phases\[0\]: blocks of a phase are lists of patterns",
        ),
        (
            {
                "recipe": "shrinking",
                "phases": [{"name": "a", "epochs": 1, "largest": True, "networks": 2}],
            },
            "trains one network",
        ),
        ({"warmup_epochs": 31.0}, "no longer than its phase"),
        ({"warmup_steps": 0}, "warmup_steps is a whole number, 1 or more or null, but got 0"),
        (
            {"warmup_epochs": 1.0, "warmup_steps": 5},
            "in epochs or in steps, but got warmup_epochs=1.0 and warmup_steps=5",
        ),
        (
            {
                "recipe": "shrinking",
                "phases": [{"name": "a", "epochs": 1, "warmup_epochs": 1, "warmup_steps": 5}],
            },
            r"phases\[0\]: a warm-up is told in epochs or in steps",
        ),
        ({"schedule": "linear"}, "schedule is one of cosine, inverse-sqrt, constant, but got"),
        ({"initial_rate": 1e-7}, "initial_rate is 1e-07 and there is no warm-up"),
        ({"final_rate": 0.06}, "final_rate is not above the highest rate, but it is 0.06 and the"),
        ({"schedule": "constant", "final_rate": 0.01}, "does not fall, but final_rate is 0.01"),
        (
            {
                "recipe": "shrinking",
                "final_rate": 0.02,
                "phases": [{"name": "a", "epochs": 1, "learning_rate": 0.01}],
            },
            "it is 0.02 and the learning_rate of phase 'a' is 0.01",
        ),
        (
            {"student_loss": "alpha", "recipe": "uniform"},
            "student_loss belongs to the recipe 'sandwich', but recipe is 'uniform'",
        ),
        ({"ema": 0.9, "average_epochs": 3}, "in one way, but got ema=0.9 and average_epochs=3"),
        (
            {"recipe": "shrinking", "epochs": 9, "average_epochs": 7},
            "average_epochs is 7 and phase 'all' has 6 epochs",
        ),
        ({"dropout": 1.0}, r"dropout is a number in \[0, 1\) or null, but got 1.0"),
        ({"combine": "mean"}, "combine is one of sum, resolve, but got 'mean'"),
        ({"combine": "resolve", "recipe": "uniform"}, "resolved in the recipe 'sandwich'"),
        ({"resolve_after": 5}, "resolve_after belongs to combine='resolve'"),
        (
            {"combine": "resolve", "resolve_after": 30},
            "resolve_after is 30 and there are 30 epochs in all",
        ),
        ({"beta2": 1.0}, r"beta2 is a number in \[0, 1\), but got 1.0"),
        ({"eps": 0}, "eps is a number above 0"),
    ],
)
def test_impossible_values_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        TrainingConfig.from_fields(fields)


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("{")
    with pytest.raises(FileFormatError, match="damaged or not JSON"):
        TrainingConfig.load(path)
    with pytest.raises(FileFormatError, match="cannot be read"):
        TrainingConfig.load(tmp_path / "none.json")


def test_residuals_are_zeroed_of_random_weights_only() -> None:
    with pytest.raises(InvalidInputError, match=r"random weights, but .* from those of net\.st"):
        TrainingConfig(zero_residuals=True, start="net.st")


def test_the_plan_has_the_epochs_that_were_asked_for() -> None:
    assert [p.epochs for p in TrainingConfig().plan()] == [30]
    (phase,) = TrainingConfig(epochs=5, warmup_steps=7).plan()
    assert (phase.warmup_epochs, phase.warmup_steps) == (0, 7)
    (phase,) = TrainingConfig(epochs=5, random_networks=3, warmup_epochs=1).plan()
    assert (phase.epochs, phase.networks, phase.warmup_epochs) == (5, 3, 1)
    first, second = TrainingConfig(recipe="shrinking", epochs=10).plan()
    assert (first.largest, first.epochs, first.distill) == (True, 3, 0.0)
    assert (second.largest, second.epochs, second.distill) == (False, 7, 1.0)
    assert FULL.plan() == FULL.phases


def test_differences_that_change_no_weights_do_not_count() -> None:
    config = TrainingConfig()
    changed = config.replace(log_interval=1, checkpoint_interval=1, evaluation_interval=0)
    assert config.difference(changed) is None
    assert config.difference(config.replace(clip=2.0)) == "clip"
