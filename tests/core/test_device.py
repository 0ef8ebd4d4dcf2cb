"""Records of devices, and a study with several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_cases import space_of

from mathnas import (
    Evaluation,
    Evaluator,
    FileFormatError,
    InvalidInputError,
    Measurement,
    Network,
    Study,
    evaluate,
    fit,
    full_sampling,
    metric_named,
)
from mathnas.device import Device

SPACE = space_of([2, 3])
BOARD = Device(
    "Board 5, 4 cores", "Cortex", 4, "Linux aarch64", 8000.0, "Board 5", "ondemand", 2400
)
PHONE = Device("phone", "Kryo", 8, "Linux aarch64")


# ---- records ------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", [BOARD, PHONE])
def test_records_come_back(device: Device) -> None:
    assert Device.from_dict(device.to_dict()) == device
    assert None not in device.to_dict().values()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": " "}, "a device has a name"),
        ({"cores": 0}, "cores of a device is a positive number"),
        ({"memory_mb": -1.0}, "memory_mb of a device"),
        ({"max_mhz": float("nan")}, "max_mhz of a device"),
        ({"cores": "four"}, "file.cores: expected int"),
        ({"cpu": None}, "file: the field 'cpu' is missing"),
        ({"speed": 3}, "file: unknown field 'speed'"),
    ],
)
def test_records_that_are_none(change: dict[str, Any], words: str) -> None:
    with pytest.raises((InvalidInputError, FileFormatError), match=words):
        Device.from_dict({**BOARD.to_dict(), **change}, "file")


def test_a_record_for_people() -> None:
    assert str(BOARD) == (
        "Board 5; Cortex, 4 cores; up to 2400 MHz; governor ondemand; 8 GB; Linux aarch64"
    )
    assert str(PHONE) == "Kryo, 8 cores; Linux aarch64"


# ---- in a study ---------------------------------------------------------------------------------


def latency(device: str, network: Network) -> float:
    """Additive, and another one on each device."""
    costs = {"phone": [[0, 3], [0, 5, 1]], BOARD.name: [[0, 1], [0, 2, 8]]}[device]
    return 10.0 + sum(node[block] for node, block in zip(costs, network, strict=True))


def fact(network: Network, metric: str, value: float, **conditions: str) -> Evaluation:
    return Evaluation(network, metric, Measurement(value), 0, conditions)


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    """Latency on two devices, energy on one, accuracy on none."""
    facts: list[Evaluation] = []
    for network in full_sampling(SPACE).networks:
        facts += [
            fact(network, "latency_ms", latency(name, network), device=name, threads="1")
            for name in ("phone", BOARD.name)
        ]
        facts.append(fact(network, "energy_mj", 1.0 + sum(network), device=BOARD.name))
        facts.append(fact(network, "accuracy", 60.0 + sum(network), images="500"))
    with Study(tmp_path / "devices.study", SPACE) as made:
        made.add(facts)
        yield made


def test_a_table_is_of_one_device_and_of_what_serves_all(study: Study) -> None:
    for text, name in (("phone", "phone"), ("board", BOARD.name)):
        table = fit(study, device=text)
        assert table.provenance["device"] == name
        assert table.column("latency_ms").conditions["device"] == name
        networks = list(SPACE.enumerate())
        expected = [latency(name, network) for network in networks]
        assert table.predict(networks, "latency_ms").tolist() == pytest.approx(expected)
        assert table.exact((1, 2), "accuracy") == pytest.approx(63.0)
        # what was measured on the other device alone is left out
        assert ("energy_mj" in table.columns) == (name == BOARD.name)


def test_without_a_choice_the_error_lists_the_devices(study: Study) -> None:
    with pytest.raises(
        InvalidInputError,
        match=r"latency_ms .* are of one device, .* phone; Board 5, 4 cores.*--device",
    ):
        fit(study)
    with pytest.raises(InvalidInputError, match=r"0 sets of conditions fit.*\"phone\""):
        fit(study, ["energy_mj"], device="phone")


@pytest.mark.parametrize(
    ("text", "where"), [("watch", "is in none"), ("o", "is in phone; Board 5")]
)
def test_names_that_choose_no_device(study: Study, text: str, where: str) -> None:
    with pytest.raises(InvalidInputError, match=f"'{text}' {where}.* has phone; Board 5, 4 cores"):
        study.device_named(text)


def test_a_name_is_found_exactly_or_by_a_part(study: Study) -> None:
    study.add_device(Device("phone 2", "Kryo", 8, "Linux"))
    assert study.device_named("phone") == "phone"  # although it is a part of the other
    assert study.device_named("PHONE 2") == "phone 2"
    assert study.device_named("5, 4") == BOARD.name


def test_measurements_are_counted_by_device(study: Study) -> None:
    assert study.measured_on() == {"phone": 6, BOARD.name: 12}


def test_a_metric_measured_with_and_without_a_device(study: Study) -> None:
    study.add([fact((0, 0), "loss", 1.0), fact((0, 0), "loss", 2.0, device="phone")])
    assert study.measurements("loss", device="phone").values == [2.0]
    assert study.measurements("loss", device="board").values == [1.0]
    with pytest.raises(InvalidInputError, match=r"those of \(no device\); phone"):
        study.measurements("loss")


# ---- records in a study ------------------------------------------------------------------------


def test_the_newest_record_of_a_device_is_given(study: Study) -> None:
    study.add_device(BOARD)
    study.add_device(PHONE)
    study.add_device(BOARD)
    faster = Device.from_dict({**BOARD.to_dict(), "governor": "performance"})
    study.add_device(faster)
    assert study.devices == {BOARD.name: faster, "phone": PHONE}
    # the older one is kept, and nothing is written twice
    assert study._store.read("SELECT COUNT(*) FROM devices") == [(3,)]
    with Study(study.path, read_only=True) as reader:
        assert reader.devices == study.devices


def test_one_name_is_one_device(study: Study) -> None:
    study.add_device(PHONE)
    with pytest.raises(InvalidInputError, match=r"'phone' in .*'Kryo' and now 'Exynos': name one"):
        study.add_device(Device("phone", "Exynos", 8, "Linux"))


class OnBoard(Evaluator):
    metrics = (metric_named("latency_ms"),)
    device = BOARD
    conditions: Mapping[str, str] = {"device": BOARD.name}

    def evaluate(self, network: Network, seed: int) -> Mapping[str, Measurement | float]:
        notes: dict[str, object] = {"load": 0.25, "attempts": "1"}
        return {"latency_ms": Measurement(1.0 + sum(network), notes=notes)}  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [1, 2])
def test_evaluating_keeps_the_record_and_the_notes(tmp_path: Path, workers: int) -> None:
    networks: Sequence[Network] = list(SPACE.enumerate())
    with Study(tmp_path / "a.study", SPACE) as study:
        evaluate(study, networks, OnBoard(), workers=workers)
        assert study.devices == {BOARD.name: BOARD}
        notes = [found.measurement.notes for found in study.evaluations()]
        assert notes == [{"load": "0.25", "attempts": "1"}] * len(networks)
        assert np.isnan(study.measurements("latency_ms").spread).all()


def test_notes_that_are_no_mapping() -> None:
    with pytest.raises(InvalidInputError, match="notes are a mapping of texts to texts"):
        Measurement(1.0, notes="busy")  # type: ignore[arg-type]
