"""Public pickles: the two layouts, and that nothing in a pickle is run."""

from __future__ import annotations

import bz2
import contextlib
import os
import pickle
import subprocess
from collections import OrderedDict, UserDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mathnas.datasets import hw_nas_bench, nats_bench
from mathnas.datasets._pickles import as_floats, read_pickle
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.evaluation import Measurement
from mathnas.spaces import NASBench201

MARKER = "mathnas-was-here"


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


class Innocent:
    """A class of the author's own."""


def hostile() -> dict[str, object]:
    touch = f"touch {MARKER}"
    return {
        "os.system": Calls(os.system, touch),
        "eval": Calls(eval, f"__import__('os').system('{touch}')"),
        "exec": Calls(exec, f"open('{MARKER}', 'w')"),
        "getattr": Calls(getattr, "text", "join"),
        "subprocess": Calls(subprocess.check_call, ["touch", MARKER]),
        "open": Calls(open, MARKER, "w"),
        "nested in data": {"nasbench201": [(1, {"x": Calls(os.system, touch)})]},
        "nested in a reduce": Calls(OrderedDict, [("a", Calls(os.system, touch))]),
        "as an argument": Calls(np.dtype, Calls(os.system, touch)),
        "class": Innocent(),
        "other container": UserDict({"a": 1}),
        "numpy file": Calls(np.load, MARKER),
        "numpy subclass": np.rec.array([(1.0,)], dtype=[("a", "f8")]),
        "import": Calls(__import__, "antigravity"),
    }


@pytest.mark.parametrize("name", hostile())
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_hostile_pickles_are_refused(
    name: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file.pickle"
    path.write_bytes(pickle.dumps(hostile()[name], protocol=protocol))
    with pytest.raises(FileFormatError, match="not a pickle of plain data"):
        read_pickle(path, most_bytes=10**6)
    with pytest.raises(FileFormatError, match="not a pickle of plain data"):
        hw_nas_bench(path)
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize(
    "program",
    [
        # what the stand-ins of numpy are may not be changed: state set on the callables
        b"cnumpy\ndtype\n}(Vcall\nK\x01ub.",
        b"cnumpy.core.multiarray\nscalar\n(N}(V__func__\nK\x01ut" + b"b.",
        b"ccollections\nOrderedDict\n(N}(Vcopy\nK\x01ut" + b"b.",
        # classes made through the side doors
        b"(icollections\nUserDict\n.",
        b"cos\nsystem\n(Vtouch x\ntR.",
        b"cnumpy\nndarray\n(K\x01tR.",
        # persistent and extension references
        b"Pabc\n.",
        b"\x80\x02\x82\x01.",
    ],
)
def test_hand_made_programs_are_refused_or_harmless(program: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.pickle"
    good = tmp_path / "good.pickle"
    good.write_bytes(pickle.dumps([np.float32(1.5), np.arange(3.0)], protocol=2))
    path.write_bytes(program)
    with contextlib.suppress(FileFormatError):
        read_pickle(path, most_bytes=10**6)
    # whatever it did, reading goes on as before
    value = read_pickle(good, most_bytes=10**6)
    assert isinstance(value, list)
    assert value[0] == 1.5
    np.testing.assert_array_equal(as_floats(value[1], "array"), np.arange(3.0))


@pytest.mark.parametrize(
    "content",
    [b"", b"not a pickle", b"\x80\x04", pickle.dumps([1] * 50)[:20], b"\x80\x63.", b"]."[::-1]],
)
def test_damaged_pickles_are_clear_errors(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.pickle"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"file\.pickle"):
        read_pickle(path, most_bytes=10**6)


def test_large_files_are_refused(tmp_path: Path) -> None:
    plain = tmp_path / "file.pickle"
    plain.write_bytes(pickle.dumps(bytes(2000)))
    squeezed = tmp_path / "bomb.pickle.pbz2"
    squeezed.write_bytes(bz2.compress(pickle.dumps(bytes(10**7))))
    assert squeezed.stat().st_size < 1000
    for path in (plain, squeezed):
        with pytest.raises(FileFormatError, match="more than 1000 bytes"):
            read_pickle(path, most_bytes=1000)


def test_damaged_compression_is_a_clear_error(tmp_path: Path) -> None:
    whole = bz2.compress(pickle.dumps([1, 2, 3]))
    for name, content in (("cut", whole[:-8]), ("plain", b"abc")):
        path = tmp_path / f"{name}.pbz2"
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match="cannot be read"):
            read_pickle(path, most_bytes=1000)
    with pytest.raises(FileFormatError, match="cannot be read"):
        read_pickle(tmp_path / "absent.pickle", most_bytes=1000)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", ["<f4", ">f8", "<i8", "u1", "f2", "bool"])
def test_numpy_numbers_come_through(protocol: int, kind: str, tmp_path: Path) -> None:
    values = np.array([0, 1, 1, 0, 1]).astype(kind)
    path = tmp_path / "file.pickle"
    data = {"array": values, "scalars": list(values), "plain": [1, 2.5], "keys": {(1, "a"): None}}
    path.write_bytes(pickle.dumps(data, protocol=protocol))
    read = read_pickle(path, most_bytes=10**6)
    assert isinstance(read, dict)
    np.testing.assert_array_equal(as_floats(read["array"], ""), [0, 1, 1, 0, 1])
    assert read["scalars"] == [0, 1, 1, 0, 1]
    assert read["plain"] == [1, 2.5]
    assert read["keys"] == {(1, "a"): None}


@pytest.mark.parametrize(
    "value",
    [
        np.array(["text"]),
        np.array([object()], dtype=object),
        np.zeros((2, 2)),
        np.array([1j]),
        np.zeros(2, dtype=[("a", "f8"), ("b", "i4")]),
        "text",
        [[1.0], [2.0]],
        ["1", "2"],
        [1.0, None],
        None,
    ],
)
def test_what_is_no_list_of_numbers_is_refused(value: object, tmp_path: Path) -> None:
    path = tmp_path / "file.pickle"
    path.write_bytes(pickle.dumps(value, protocol=4))
    with pytest.raises(FileFormatError):
        as_floats(read_pickle(path, most_bytes=10**6), "here")


# ---- HW-NAS-Bench ---------------------------------------------------------------------------


def hardware_table() -> dict[str, object]:
    rng = np.random.default_rng(0)
    count = 15_625
    return {
        "edgegpu_latency": list(rng.random(count)),
        "edgegpu_energy": rng.random(count),
        "raspi4_latency": rng.random(count).astype(np.float32),
        "fpga_latency": rng.random(count).tolist(),
        "eyeriss_arithmetic_intensity": rng.random(count).tolist(),
        "config": [{"arch_str": "..."}] * count,
    }


@pytest.mark.parametrize("protocol", [3, 4])
def test_hw_nas_bench_layout(protocol: int, tmp_path: Path) -> None:
    table = hardware_table()
    file = {"nasbench201": {"ImageNet16-120": table}, "fbnet": {"edgegpu_latency": {}}}
    path = tmp_path / "HW-NAS-Bench-v1_0.pickle"
    path.write_bytes(pickle.dumps(file, protocol=protocol))
    evaluator = hw_nas_bench(path, "ImageNet16-120")
    assert [metric.name for metric in evaluator.metrics] == [
        *("latency_ms_edgegpu", "energy_mj_edgegpu", "latency_ms_raspi4", "latency_ms_fpga"),
    ]
    assert evaluator.conditions["dataset"] == "imagenet16-120"
    space = NASBench201("imagenet16-120")
    assert evaluator.space == space
    for index in (0, 1, 15_624):
        row = evaluator.evaluate(space.at(index))
        for metric, key in (
            ("energy_mj_edgegpu", "edgegpu_energy"),
            ("latency_ms_fpga", "fpga_latency"),
        ):
            column = table[key]
            assert isinstance(column, (list, np.ndarray))
            assert row[metric] == column[index]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fpga_latency": [1.0] * 10}, "has 10 numbers"),
        ({"fpga_latency": [float("nan")] * 15_625}, "0 are finite"),
        ({"fpga_latency": {"a": 1.0}}, "numbers are expected"),
    ],
)
def test_wrong_hw_nas_bench_columns(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.pickle"
    path.write_bytes(pickle.dumps({"nasbench201": {"cifar10": {**hardware_table(), **change}}}))
    with pytest.raises(FileFormatError, match=message):
        hw_nas_bench(path)


@pytest.mark.parametrize("file", [[], {"nasbench201": {}}, {"nasbench201": {"cifar10": {}}}])
def test_other_files_are_no_hw_nas_bench(file: object, tmp_path: Path) -> None:
    path = tmp_path / "file.pickle"
    path.write_bytes(pickle.dumps(file))
    with pytest.raises(FileFormatError, match=r"no table|none of the devices"):
        hw_nas_bench(path)


# ---- NATS-Bench -----------------------------------------------------------------------------


def trial(accuracy: float, epochs: int, dataset: str, splits: list[str]) -> dict[str, object]:
    """One training as the benchmark's classes write it, accuracies rising to `accuracy`."""
    curve = {epoch: accuracy - (epochs - 1 - epoch) for epoch in range(epochs)}
    return {
        "name": dataset,
        "net_state_dict": None,
        "train_acc1es": OrderedDict(curve),
        "train_losses": OrderedDict((epoch, np.float64(0.5)) for epoch in curve),
        "train_times": OrderedDict(curve),
        "arch_config": {"channel": 16, "num_cells": 5, "class_num": 100},
        "params": 0.3,
        "flop": 47.1,
        "seed": 777,
        "epochs": epochs,
        "latency": [0.01],
        "eval_names": splits,
        "eval_acc1es": {f"{s}@{epoch}": v for s in splits for epoch, v in curve.items()},
        "eval_times": {},
        "eval_losses": {},
    }


def write_cell(folder: Path, index: int, accuracies: dict[int, float]) -> None:
    splits = ["ori-test", "x-valid", "x-test"]
    result = {
        str(epochs): {
            "arch_index": index,
            "arch_str": NASBench201().arch(NASBench201().at(index)),
            "dataset_seed": {"cifar100": list(accuracies), "cifar10": [777]},
            "clear_net_done": True,
            "all_results": {
                **{
                    ("cifar100", seed): trial(value - (200 - epochs), epochs, "cifar100", splits)
                    for seed, value in accuracies.items()
                },
                ("cifar10", 777): trial(90.0, epochs, "cifar10", ["ori-test"]),
            },
        }
        for epochs in (12, 200)
    }
    content = bz2.compress(pickle.dumps(result, protocol=4))
    (folder / f"{index:06d}.pickle.pbz2").write_bytes(content)


def test_nats_bench_layout(tmp_path: Path) -> None:
    write_cell(tmp_path, 11, {777: 60.0, 888: 62.0, 999: 64.0})
    write_cell(tmp_path, 284, {777: 55.5})
    (tmp_path / "meta.pickle.pbz2").write_bytes(b"not read")
    space = NASBench201("cifar100")
    table = nats_bench(tmp_path)
    assert table.networks == [space.at(11), space.at(284)]
    assert table.evaluate(space.at(11)) == {"accuracy_cifar100": Measurement(62.0, 2.0, 3)}
    assert table.evaluate(space.at(284)) == {"accuracy_cifar100": Measurement(55.5)}
    assert table.conditions["split"] == "x-test"
    short = nats_bench(tmp_path, epochs=12, split="x-valid")
    assert short.evaluate(space.at(284)) == {"accuracy_cifar100": Measurement(55.5 - 188)}
    cifar10 = nats_bench(tmp_path, "cifar10")
    assert cifar10.evaluate(space.at(11)) == {"accuracy_cifar10": Measurement(90.0)}


def test_nats_bench_arguments(tmp_path: Path) -> None:
    write_cell(tmp_path, 11, {777: 60.0})
    with pytest.raises(InvalidInputError, match=r"ori-test for cifar10.*split='x-test'"):
        nats_bench(tmp_path, "cifar10", split="x-test")
    with pytest.raises(InvalidInputError, match="epochs=90"):
        nats_bench(tmp_path, epochs=90)  # type: ignore[arg-type]
    with pytest.raises(FileFormatError, match="there is no 'ImageNet16-120'"):
        nats_bench(tmp_path, "imagenet16-120")


def test_nats_bench_folders_and_files(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="no files such as 000000"):
        nats_bench(tmp_path)
    with pytest.raises(FileFormatError, match="cannot be read"):
        nats_bench(tmp_path / "absent")
    write_cell(tmp_path, 11, {777: 60.0})
    (tmp_path / "000011.pickle.pbz2").rename(tmp_path / "000012.pickle.pbz2")
    with pytest.raises(FileFormatError, match="should hold the cell"):
        nats_bench(tmp_path)
    (tmp_path / "000012.pickle.pbz2").unlink()
    (tmp_path / "099999.pickle.pbz2").write_bytes(b"")
    with pytest.raises(InvalidInputError, match="99999"):
        nats_bench(tmp_path)


def test_hostile_cell_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    payload = pickle.dumps({"200": Calls(os.system, f"touch {MARKER}")}, protocol=4)
    (tmp_path / "000000.pickle.pbz2").write_bytes(bz2.compress(payload))
    with pytest.raises(FileFormatError, match=r"(posix|nt)\.system"):
        nats_bench(tmp_path)
    assert not (tmp_path / MARKER).exists()
