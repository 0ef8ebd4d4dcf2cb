"""Measurements, and the evaluators that come with the core."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from core_cases import space_of

from mathnas import (
    EvaluationError,
    FunctionEvaluator,
    InvalidInputError,
    Measurement,
    Network,
    StreamingEvaluator,
    TabularEvaluator,
    metric_named,
)
from mathnas.errors import FileFormatError
from mathnas.evaluation import BatchError

SPACE = space_of([2, 3])


# ---- measurements --------------------------------------------------------------------------------


def test_a_measurement_is_a_float_with_spread_and_repeats() -> None:
    measurement = Measurement(np.float32(2.5), spread=0.1, repeats=3)
    assert type(measurement.value) is float
    assert measurement == Measurement(2.5, 0.1, 3)
    assert Measurement(2.5) == Measurement(2.5, None, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"repeats": 0}, "at least 1 repeat, but got 0"),
        ({"spread": -0.1}, "at least 0, but got -0.1"),
        ({"spread": math.nan}, "finite"),
    ],
)
def test_an_impossible_measurement_is_refused(arguments: Mapping[str, float], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Measurement(1.0, **arguments)  # type: ignore[arg-type]


# ---- one after another ---------------------------------------------------------------------------


class Backwards(StreamingEvaluator):
    """The last network comes first; those with a block 2 never do."""

    metrics = (metric_named("loss"),)

    def evaluate_each(
        self, networks: Sequence[Network], seeds: Sequence[int] = ()
    ) -> Iterator[tuple[int, Mapping[str, float]]]:
        for place in reversed(range(len(networks))):
            if 2 not in networks[place]:
                seed = seeds[place] if seeds else 0
                yield place, {"loss": float(10 * seed + sum(networks[place]))}


def test_a_stream_gives_single_networks_and_batches_in_their_order() -> None:
    evaluator = Backwards()
    assert evaluator.evaluate((1, 0), seed=4) == {"loss": 41.0}
    assert evaluator.evaluate((1, 0)) == {"loss": 1.0}
    found = evaluator.evaluate_batch([(0, 0), (1, 0), (1, 1)], [1, 2, 3])
    assert found == [{"loss": 10.0}, {"loss": 21.0}, {"loss": 32.0}]
    assert evaluator.evaluate_batch([]) == []


def test_a_stream_that_leaves_networks_out_is_told() -> None:
    with pytest.raises(BatchError, match=r"0 to 2, but Backwards left out 1: raise where"):
        Backwards().evaluate_batch([(0, 0), (0, 2), (0, 1)])
    with pytest.raises(TypeError, match="evaluate_each"):
        StreamingEvaluator()  # type: ignore[abstract]


# ---- functions -----------------------------------------------------------------------------------


def test_a_function_of_one_metric_returns_a_number() -> None:
    evaluator = FunctionEvaluator(lambda network: sum(network), ["latency_ms"])
    assert evaluator.metrics == (metric_named("latency_ms"),)
    assert evaluator.evaluate((1, 2), seed=0) == {"latency_ms": 3}
    assert evaluator.evaluate_batch([(0, 0), (1, 1)], [0, 0]) == [
        {"latency_ms": 0},
        {"latency_ms": 2},
    ]


def test_a_function_of_several_metrics_returns_a_mapping() -> None:
    def measured(network: Network) -> Mapping[str, Measurement | float]:
        return {"accuracy": 70.0, "latency_ms": Measurement(3.0, 0.5, 10)}

    evaluator = FunctionEvaluator(measured, ["accuracy", metric_named("latency_ms")])
    assert evaluator.evaluate((0, 0), seed=0) == measured((0, 0))
    number = FunctionEvaluator(lambda network: 1.0, ["accuracy", "latency_ms"])
    with pytest.raises(EvaluationError, match=r"2 metrics returns a mapping.*but got 1\.0"):
        number.evaluate((0, 0), seed=0)


def test_an_evaluator_is_free_to_run_beside_others_unless_it_says_so() -> None:
    plain = FunctionEvaluator(lambda network: 1.0, ["accuracy"])
    assert (plain.exclusive, plain.threads, plain.batch_size, dict(plain.conditions)) == (
        False,
        1,
        1,
        {},
    )
    timed = FunctionEvaluator(
        lambda network: 1.0,
        ["latency_ms"],
        exclusive=True,
        threads=4,
        conditions={"device": "pi"},
    )
    assert (timed.exclusive, timed.threads, timed.conditions) == (True, 4, {"device": "pi"})


# ---- tables --------------------------------------------------------------------------------------


def test_a_table_is_looked_up() -> None:
    rows: dict[Network, dict[str, Measurement | float]] = {
        (0, 0): {"accuracy": 70.0, "latency_ms": 3.0},
        (1, 2): {"accuracy": 72.0, "bleu": 1.0},
    }
    evaluator = TabularEvaluator(SPACE, rows, ["accuracy"], conditions={"source": "paper"})
    assert evaluator.evaluate((1, 2)) == {"accuracy": 72.0}
    assert evaluator.networks == [(0, 0), (1, 2)]
    assert (1, 2) in evaluator
    assert (1, 1) not in evaluator
    assert evaluator.conditions == {"source": "paper"}


def test_a_network_that_the_table_lacks_is_named() -> None:
    evaluator = TabularEvaluator(SPACE, {(0, 0): {"accuracy": 70.0}}, ["accuracy"])
    with pytest.raises(EvaluationError, match="has 1 networks, but not 1,2: choose among"):
        evaluator.evaluate((1, 2))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({(0, 3): {"accuracy": 70.0}}, "blocks 0 to 2, but got 3"),
        ({(0,): {"accuracy": 70.0}}, r"shape \(k, 2\)"),
        ({(0, 0): {"loss": 1.0}}, "0,0 has no accuracy"),
        ({(0, 0): {"accuracy": math.nan}}, "must be finite, but accuracy = nan"),
        ({(0, 0): {"accuracy": Measurement(math.inf)}}, "must be finite, but accuracy = inf"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_at_once(
    rows: Mapping[Network, Mapping[str, float]], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        TabularEvaluator(SPACE, rows, ["accuracy"])


def written(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_gives_networks_by_index_or_name_and_a_column_a_metric(tmp_path: Path) -> None:
    path = written(
        tmp_path, 'network,accuracy,latency_ms\n"0,0",70,3\n"b1,b2",72.5,1e1\n" 1 , 0 ",71,4\n'
    )
    evaluator = TabularEvaluator.from_csv(path, SPACE, conditions={"device": "pi"})
    assert [metric.name for metric in evaluator.metrics] == ["accuracy", "latency_ms"]
    assert evaluator.networks == [(0, 0), (1, 2), (1, 0)]
    assert evaluator.evaluate((1, 2)) == {"accuracy": 72.5, "latency_ms": 10}
    some = TabularEvaluator.from_csv(path, SPACE, metrics=["latency_ms"])
    assert some.evaluate((0, 0)) == {"latency_ms": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column 'network'"),
        ("net,accuracy\n", "has no column 'network'"),
        ("network,accuracy\n", "has no column 'latency_ms'"),
    ],
)
def test_a_csv_without_a_needed_column_is_a_clear_error(
    text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(FileFormatError, match=message):
        TabularEvaluator.from_csv(written(tmp_path, text), SPACE, metrics=["latency_ms"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('"0,7",70', "line 3: node 'n1' has blocks 0 to 2, but got 7"),
        ('"0,x",70', "line 3: node 'n1' has no block 'x'"),
        ('"0,1",fast', "line 3: could not convert"),
        ('"0,1",nan', "line 3: a measurement must be finite"),
        ('"0,1"', "line 3: "),
        ('"0,0",70', "line 3: 0,0 stands twice"),
    ],
)
def test_a_wrong_line_of_a_csv_is_named(line: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, f'network,accuracy\n"0,0",70\n{line}\n')
    with pytest.raises(InvalidInputError, match=message):
        TabularEvaluator.from_csv(path, SPACE)


def test_a_line_that_ends_before_the_network_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "accuracy,network\n70\n")
    with pytest.raises(InvalidInputError, match="line 2: "):
        TabularEvaluator.from_csv(path, SPACE)


def test_a_csv_that_cannot_be_read_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes(b"network,accuracy\n\xe4\xf6,1\n")
    for name in ("missing.csv", "latin.csv", "."):
        with pytest.raises(FileFormatError, match="cannot be read as CSV"):
            TabularEvaluator.from_csv(tmp_path / name, SPACE)
