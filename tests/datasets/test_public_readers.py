"""Readers of the registered files, against the facts that are known about them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mathnas import datasets
from mathnas.errors import EvaluationError, FileFormatError, InvalidInputError
from mathnas.evaluation import Measurement, TabularEvaluator
from mathnas.space import Floats
from mathnas.spaces import NASBench201
from mathnas.spaces.nasbench201 import edges_reaching_output, expression, has_path

Require = Callable[..., Path]
PI5 = [f"{q}_pi5_{e}_cifar100" for q in ("latency_ms", "energy_mj") for e in ("litert", "onnx")]


def column(table: TabularEvaluator, metric: str) -> Floats:
    values = (table.evaluate(network)[metric] for network in table.networks)
    return np.array([v.value if isinstance(v, Measurement) else v for v in values])


def totals(table: TabularEvaluator) -> tuple[Floats, Floats]:
    """MACs and parameters of the table's networks by the formulas of its space."""
    space = table.space
    networks = np.array(table.networks)
    assert space.block_params is not None
    assert space.fixed_params is not None
    params = space.fixed_params + space.block_params[networks + space.offsets[:-1]].sum(axis=1)
    return space.macs(networks), params


@pytest.fixture(scope="module")
def table(require: Require) -> datasets.NASBench201Table:
    require("nasbench201")
    return datasets.nasbench201()


class TestNASBench201:
    def test_is_read_quickly(self, require: Require) -> None:
        require("nasbench201")
        start = time.process_time()
        table = datasets.nasbench201()
        assert time.process_time() - start < 1
        assert len(table.networks) == 15_625

    def test_first_row(self, table: datasets.NASBench201Table) -> None:
        row = table.evaluate(table.space.at(0))
        assert row["accuracy_cifar100"] == 52.91333
        assert row["latency_ms_fpga"] == 2.57296
        assert row["energy_mj_fpga"] == 18.01072
        assert len(row) == 17

    @pytest.mark.parametrize(
        ("dataset", "suffix"), [("cifar100", "cifar100"), ("imagenet16-120", "imagenet16")]
    )
    def test_costs_of_every_cell_equal_the_formulas(
        self, require: Require, dataset: str, suffix: str
    ) -> None:
        require("nasbench201")
        table = datasets.nasbench201(dataset, [f"macs_{suffix}", f"params_{suffix}"])
        macs, params = totals(table)
        np.testing.assert_array_equal(column(table, f"params_{suffix}"), params)
        # the file leaves the bias of the classifier out of the MACs, NAS-Bench-201 counts it
        np.testing.assert_array_equal(
            column(table, f"macs_{suffix}"), macs - NASBench201(dataset).classes
        )

    def test_pi5_was_measured_once_a_class(self, table: datasets.NASBench201Table) -> None:
        values = np.stack([column(table, metric) for metric in PI5], axis=1)
        of_class: dict[str, tuple[float, ...]] = {}
        for cell, row in zip(table.networks, map(tuple, values.tolist()), strict=True):
            assert of_class.setdefault(expression(cell), row) == row
        assert len(set(of_class.values())) == len(of_class) == 6_466

    @pytest.mark.parametrize("metric", PI5)
    def test_measured_cells_of_the_pi5(self, table: datasets.NASBench201Table, metric: str) -> None:
        measured = table.measured_networks(metric)
        assert len(measured) == 6_466
        cell = table.space.parse("|none~0|+|none~0|none~1|+|skip_connect~0|none~1|nor_conv_3x3~2|")
        origin = table.measured_cell(cell, metric)
        assert origin != cell
        assert origin in set(measured)
        assert table.evaluate(origin)[metric] == table.evaluate(cell)[metric]

    def test_other_columns_were_measured_on_every_cell(
        self, table: datasets.NASBench201Table
    ) -> None:
        assert table.measured_networks("accuracy_cifar100") == table.networks
        assert table.measured_cell((0, 0, 3, 1, 0, 0), "latency_ms_fpga") == (0, 0, 3, 1, 0, 0)

    @pytest.mark.parametrize(
        ("metric", "reaching", "most"),
        [
            ("latency_ms_pi5_onnx_cifar100", False, 2.5),
            ("latency_ms_pi5_litert_cifar100", True, 3.2),
            ("latency_ms_fpga", False, 0.01),
            ("latency_ms_eyeriss", False, 0.01),
        ],
    )
    def test_devices_are_additive_on_measured_cells(
        self, table: datasets.NASBench201Table, metric: str, reaching: bool, most: float
    ) -> None:
        """Least squares on relative errors, over cells with a path: runtimes fold the others."""
        cells = [cell for cell in table.measured_networks(metric) if has_path(cell)]
        latency = np.array([table.evaluate(cell)[metric] for cell in cells], dtype=np.float64)
        forms = [edges_reaching_output(cell) if reaching else cell for cell in cells]
        one_hot = np.ones((len(forms), 31))
        one_hot[:, :30] = np.eye(5)[np.array(forms)].reshape(len(forms), 30)
        effects = np.linalg.lstsq(one_hot / latency[:, None], np.ones(len(forms)), rcond=None)[0]
        error = 100 * np.abs(one_hot @ effects / latency - 1).mean()
        assert error < most

    def test_unknown_metrics_are_refused(self, table: datasets.NASBench201Table) -> None:
        with pytest.raises(InvalidInputError, match="'latency_ms_abacus'"):
            datasets.nasbench201(metrics=["latency_ms_abacus"])
        with pytest.raises(InvalidInputError, match="'latency_ms_abacus'"):
            table.measured_cell((0,) * 6, "latency_ms_abacus")

    def test_cells_in_another_order_are_refused(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        path = tmp_path / "cells.csv"
        arch = NASBench201().arch((0,) * 6)
        path.write_text(f"index,arch,accuracy_cifar100\n0,{arch},1.0\n")
        monkeypatch.setattr("mathnas.datasets._nasbench201.fetch", lambda name: path)
        with pytest.raises(FileFormatError, match="order of the benchmark"):
            datasets.nasbench201()


class TestNASBenchMacro:
    def test_costs_of_every_network_equal_the_formulas(self, require: Require) -> None:
        require("nasbench_macro")
        table = datasets.nasbench_macro()
        assert len(table.networks) == table.space.num_networks == 6_561
        macs, params = totals(table)
        np.testing.assert_array_equal(column(table, "macs"), macs)
        np.testing.assert_array_equal(column(table, "params"), params)

    def test_mean_and_single_trainings(self, require: Require) -> None:
        require("nasbench_macro")
        network = (0, 2, 0, 1, 2, 1, 0, 0)
        mean = datasets.nasbench_macro().evaluate(network)["accuracy"]
        assert isinstance(mean, Measurement)
        assert mean.value == pytest.approx(89.19667, abs=1e-5)
        assert mean.repeats == 3
        singles = []
        for training in (0, 1, 2):
            value = datasets.nasbench_macro(training).evaluate(network)["accuracy"]
            assert isinstance(value, Measurement)
            assert (value.spread, value.repeats) == (None, 1)
            singles.append(value.value)
        assert mean.value == pytest.approx(np.mean(singles))
        assert mean.spread == pytest.approx(np.std(singles, ddof=1))

    @pytest.mark.parametrize("training", [3, -1])
    def test_other_trainings_are_refused(self, training: int) -> None:
        with pytest.raises(InvalidInputError, match="trainings 0 to 2"):
            datasets.nasbench_macro(training)  # type: ignore[arg-type]

    @pytest.mark.parametrize("text", ["[]", "{", '{"0": {}}', '{"00000000": {"test_acc": 3}}'])
    def test_damage_is_a_clear_error(
        self, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        path = tmp_path / "macro.json"
        path.write_text(text)
        monkeypatch.setattr("mathnas.datasets._nasbench_macro.fetch", lambda name: path)
        with pytest.raises(FileFormatError, match=r"macro\.json"):
            datasets.nasbench_macro()


def test_fbnet(require: Require) -> None:
    require("fbnet", "latency.csv")
    names = require("fbnet", "ops.csv").read_text().splitlines()[1:]
    table = datasets.fbnet()
    assert (len(table.networks), len(table.metrics)) == (5_000, 10)
    for index, block in enumerate(table.space.nodes[0].blocks):
        assert names[index] == f"{index},{block.name}"
    first = table.evaluate(table.networks[0])
    assert first["latency_ms_raspi4"] == 30.25286
    with pytest.raises(EvaluationError, match="5000 networks"):
        table.evaluate((0,) * 22)


def test_ofa_accuracy_and_costs(require: Require) -> None:
    require("ofa_mobilenetv3", "imagenet_top1.csv")
    table = datasets.ofa_mobilenetv3()
    assert len(table.networks) == 1_297
    macs, params = totals(table)
    np.testing.assert_array_equal(column(table, "macs"), macs)
    np.testing.assert_array_equal(column(table, "params"), params)
    repeats = Counter(
        value.repeats
        for value in (table.evaluate(network)["accuracy"] for network in table.networks)
        if isinstance(value, Measurement)
    )
    assert repeats == {1: 1206, 2: 62, 3: 27, 4: 2}


def test_ofa_latency_by_resolution(require: Require) -> None:
    require("ofa_mobilenetv3", "latency.csv")
    counts = {side: len(datasets.ofa_mobilenetv3_latency(side).networks) for side in (128, 204)}
    assert counts == {128: 218, 204: 203}
    table = datasets.ofa_mobilenetv3_latency(204)
    assert table.space.family is not None
    assert (table.space.family["resolution"], table.space.family["width"]) == (204, 1.2)
    assert [metric.name for metric in table.metrics] == [
        *("latency_ms_v100_1", "latency_ms_v100_32", "latency_ms_v100_64"),
        *("latency_ms_2080ti_1", "latency_ms_2080ti_64"),
    ]
    with pytest.raises(InvalidInputError, match=r"128, 132, .* 224 pixels, but got 225"):
        datasets.ofa_mobilenetv3_latency(225)


@pytest.mark.parametrize("name", datasets.hat_names())
def test_hat(require: Require, name: str) -> None:
    require("hat", f"{name}_all.csv")
    table = datasets.hat(name)
    assert table.features.shape == (2000, 10)
    assert table.targets.shape == (2000, 4)
    assert set(table.column("encoder_layer_num")) == {6.0}
    assert (table.column("latency_mean_decoder") > 0).all()
    with pytest.raises(InvalidInputError, match="'bleu'"):
        table.column("bleu")


def test_unknown_hat_table() -> None:
    assert len(datasets.hat_names()) == 4
    with pytest.raises(InvalidInputError, match="wmt14ende_cpu_xeon"):
        datasets.hat("wmt20")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not enough values"),
        ("ops,latency_ms_x\n0 1,2.0,3.0\n", "argument"),
        ("ops,latency_ms_x\n0 1,fast\n", "could not convert"),
        ("ops,latency_ms_x\n0 1,2.0\n", "22 nodes"),
        ("nets,latency_ms_x\n0 1,2.0\n", "convert"),
    ],
)
def test_damaged_tables_are_clear_errors(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "latency.csv"
    path.write_text(text)
    monkeypatch.setattr("mathnas.datasets._fbnet.fetch", lambda name, file: path)
    with pytest.raises(FileFormatError, match=message):
        datasets.fbnet()
