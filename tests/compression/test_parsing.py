"""Alternatives as a line of text."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from mathnas import InvalidInputError
from mathnas.compression.parsing import read_alternatives


def test_a_bare_number_is_of_the_kind_before_it() -> None:
    found = read_alternatives("skip,width:0.75,0.5, int8,kernel:3,heads:0.5,0.25,rank:0.4")
    names = ["skip", "width:0.75", "width:0.5", "int8", "kernel:3", "heads:0.5", "heads:0.25"]
    assert [one.name for one in found] == [*names, "rank:0.4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "but got ''"),
        ("0.5", "but got '0.5'"),
        ("width", "but got 'width'"),
        ("width:wide", "but got 'width:wide'"),
        ("skip:1", "but got 'skip:1'"),
        ("slim:0.5", "skip, int4, int8, heads:SHARE, kernel:SIZE, rank:SHARE, width:SHARE"),
        ("width:1.5", "above 0 and below 1, but got 1.5"),
        ("kernel:2.5", "whole number, but got 2.5"),
        ("kernel:4", "odd and at least 1"),
        ("width:nan", "but got nan"),
        ("skip,skip", "skip is in 'skip,skip' twice"),
        ("width:0.5,0.50", "width:0.5 is in"),
    ],
)
def test_what_is_no_alternative_is_told(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read_alternatives(text)
