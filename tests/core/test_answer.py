"""What a search answers, as text, as HTML and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html.parser import HTMLParser

import numpy as np
import pytest
from core_cases import table_of

from mathnas import (
    Answer,
    Block,
    BlockNode,
    BlockTable,
    Infeasible,
    Network,
    SearchSpace,
    Status,
    search,
)
from mathnas.search import Program, Solution


def table() -> BlockTable:
    def node(name: str) -> BlockNode:
        return BlockNode(name, (Block("conv3x3", macs=1e6), Block("a<b & c", macs=2e6)))

    return table_of(
        SearchSpace([node("stem"), node("<i>body</i>")], fixed_macs=1e6),
        {"accuracy": [0, 3, 0, 2], "latency_ms": [0, 1.5, 0, 1]},
        base=10,
    )


class Stopped:
    """A solver that always runs out of time, with one network or none."""

    name = "stopped"

    def __init__(self, networks: Sequence[Network] = (), bound: float = -math.inf) -> None:
        self.networks = networks
        self.bound = bound

    def solve(
        self, program: Program, *, count: int = 1, time_limit: float | None = None
    ) -> Solution:
        status = Status.FEASIBLE if self.networks else Status.UNKNOWN
        return Solution(status, self.networks, self.bound, 0.25, self.name)


@pytest.fixture
def answer() -> Answer:
    found = search(table(), limits={"latency_ms": 12, "macs": 5e6})
    assert isinstance(found, Answer)
    return found


def test_an_answer_is_true_and_no_answer_is_false(answer: Answer) -> None:
    assert answer
    assert not search(table(), limits={"latency_ms": 1})


def test_an_answer_names_its_network_in_every_way(answer: Answer) -> None:
    assert answer.network == (1, 0)
    assert answer.blocks == {"stem": "a<b & c", "<i>body</i>": "conv3x3"}
    assert {name: p.value for name, p in answer.predictions.items()} == {
        "macs": 4e6,
        "accuracy": 13,
        "latency_ms": 11.5,
    }
    assert answer.value == answer.bound == 13


def test_an_answer_says_what_each_limit_costs(answer: Answer) -> None:
    latency, macs = answer.limits
    assert (latency.used, latency.slack, latency.binds) == (11.5, 0.5, True)
    assert (macs.used, macs.slack, macs.binds) == (4e6, 1e6, False)


def test_the_text_of_an_answer(answer: Answer) -> None:
    lines = str(answer).splitlines()
    assert lines[0] == "proven highest predicted accuracy: 13.00 %  [1,0]"
    assert "  latency_ms   11.5 ms" in lines
    assert "  limit latency_ms <= 12 ms: uses 11.5 ms, 0.5 ms left, binds" in lines
    assert "  limit macs <= 5 M: uses 4 M, 1 M left, does not bind" in lines
    assert "  stem         a<b & c" in lines
    assert "optimal: of 4 networks, none that meets the limits has a higher" in lines[-1]


def test_the_text_of_a_minimised_answer_says_lowest() -> None:
    text = str(search(table(), minimize="latency_ms"))
    assert text.startswith("proven lowest predicted latency_ms: 10 ms  [0,0]")
    assert "none has a lower predicted latency_ms" in text


class Cells(HTMLParser):
    """Tags that open and close, and the text between them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(page: str) -> Cells:
    cells = Cells()
    cells.feed(page)
    cells.close()
    assert cells.open == []
    return cells


def test_the_html_of_an_answer_is_closed_and_escaped(answer: Answer) -> None:
    page = answer._repr_html_()
    assert "<i>" not in page
    assert "a<b" not in page
    text = parsed(page).text
    assert "proven highest predicted accuracy: 13.00 %" in text
    assert "<i>body</i>" in text
    assert "a<b & c" in text
    assert "limit latency_ms <= 12 ms" in text
    assert "uses 4 M, 1 M left, does not bind" in text


def test_the_record_of_an_answer_is_plain_json(answer: Answer) -> None:
    record = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    assert record["status"] == "optimal"
    assert record["network"] == [1, 0]
    assert record["blocks"]["stem"] == "a<b & c"
    assert (record["objective"], record["direction"]) == ("accuracy", "maximize")
    assert record["predictions"]["latency_ms"] == {"value": 11.5, "spread": 0.0, "unit": "ms"}
    assert (record["bound"], record["gap"]) == (13.0, 0.0)
    assert record["limits"][0] == {
        "metric": "latency_ms",
        "sense": "<=",
        "value": 12.0,
        "used": 11.5,
        "slack": 0.5,
        "binds": True,
        "at_confidence": None,
    }
    assert (record["confidence"], record["cut_off"]) == (None, 0)


def test_an_answer_that_is_not_proven_shows_its_gap() -> None:
    # in normal form the accuracy above the base is -3, and 4 more are not excluded
    found = search(table(), solver=Stopped([(1, 0)], bound=-7.0), limits={"macs": 5e6})
    assert isinstance(found, Answer)
    assert (found.status, found.bound, found.gap) == (Status.FEASIBLE, 17, 4)
    assert str(found).startswith("highest found so far predicted accuracy: 13.00 %")
    assert "not proven optimal in the time" in found.guarantee
    assert "up to 4.00 % higher" in found.guarantee
    assert "not settled whether it binds" in str(found)
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["limits"][0]["binds"] is None


def test_an_answer_without_any_bound_is_still_plain_json() -> None:
    found = search(table(), solver=Stopped([(1, 0)]))
    assert isinstance(found, Answer)
    assert found.bound == math.inf
    assert "higher without bound" in found.guarantee
    assert "inf" not in str(found)
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (record["bound"], record["gap"]) == (None, None)


def test_spreads_appear_where_they_are_known() -> None:
    known, unknown = table(), table()
    known.column("latency_ms").spread[:] = 0.3
    unknown.column("latency_ms").spread[:] = np.nan
    shown = search(known)
    assert isinstance(shown, Answer)
    assert "12.5 ms (block spread 0.42)" in str(shown)
    hidden = search(unknown)
    assert isinstance(hidden, Answer)
    assert (
        json.loads(json.dumps(hidden.to_dict(), allow_nan=False))["predictions"]["latency_ms"][
            "spread"
        ]
        is None
    )


def test_the_reasons_of_an_infeasible_search_in_every_form() -> None:
    nothing = search(table(), limits={"latency_ms": 10.5, "accuracy": 11})
    assert isinstance(nothing, Infeasible)
    assert str(nothing) == (
        "no network meets the limits (proven):\n"
        "  latency_ms <= 10.5 ms cannot hold together with accuracy >= 11.00 %: "
        "the lowest possible latency_ms is 11 ms.\n"
        "  accuracy >= 11.00 % cannot hold together with latency_ms <= 10.5 ms: "
        "the highest possible accuracy is 10.00 %."
    )
    page = nothing._repr_html_()
    assert "latency_ms <= 10.5 ms cannot hold together with accuracy >= 11.00 %" in "".join(
        parsed(page).text
    )
    assert "&lt;=" in page
    record = json.loads(json.dumps(nothing.to_dict(), allow_nan=False))
    assert record["status"] == "infeasible"
    assert record["conflicts"][0] == {
        "metric": "latency_ms",
        "sense": "<=",
        "value": 10.5,
        "together_with": [{"metric": "accuracy", "sense": ">=", "value": 11.0}],
        "best_possible": 11.0,
        "at_confidence": None,
    }
    assert record["reasons"] == list(nothing.reasons)


def test_rounding_does_not_hide_by_how_little_a_limit_fails() -> None:
    nothing = search(table(), limits={"latency_ms": 9.99999999})
    assert isinstance(nothing, Infeasible)
    assert nothing.reasons == (
        "latency_ms <= 9.99999999 ms cannot hold: the lowest possible latency_ms is 10.0 ms.",
    )


def test_running_out_of_time_is_not_called_infeasible() -> None:
    nothing = search(table(), solver=Stopped(), limits={"latency_ms": 12})
    assert isinstance(nothing, Infeasible)
    assert nothing.status is Status.UNKNOWN
    assert nothing.conflicts == ()
    assert str(nothing) == (
        "no network was found in the time, and none is excluded:\n"
        "  give more time (time_limit), or loosen a limit."
    )
    assert json.loads(json.dumps(nothing.to_dict()))["status"] == "unknown"
