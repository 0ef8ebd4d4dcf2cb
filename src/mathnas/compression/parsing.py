"""Alternatives as a line of text."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mathnas.compression.alternative import Alternative
from mathnas.compression.chained import ChainedAlternative
from mathnas.compression.heads import HeadsAlternative
from mathnas.compression.kernels import KernelAlternative
from mathnas.compression.low_rank import LowRankAlternative
from mathnas.compression.quantised import BITS, QuantisedAlternative
from mathnas.compression.skip import SkipAlternative
from mathnas.compression.width import WidthAlternative
from mathnas.errors import InvalidInputError

_PLAIN: dict[str, Callable[[], Alternative]] = {
    "skip": SkipAlternative,
    **{f"int{bits}": partial(QuantisedAlternative, bits) for bits in BITS},
}
_NUMBERED: dict[str, tuple[str, Callable[[float], Alternative]]] = {
    "heads": ("SHARE", HeadsAlternative),
    "kernel": ("SIZE", lambda size: KernelAlternative(_whole(size))),
    "rank": ("SHARE", LowRankAlternative),
    "width": ("SHARE", WidthAlternative),
}


def read_alternatives(text: str) -> list[Alternative]:
    """Alternatives from ``skip,width:0.75,0.5,int8``: a bare number is of the kind before it, and
    ``width:0.5+int8`` is one after the other.

    Raises:
        InvalidInputError: a kind is unknown, a number is missing or out of range, or an alternative
            stands twice.
    """
    found: list[Alternative] = []
    kind = ""
    for word in (part.strip() for part in text.split(",")):
        steps = [step.strip() for step in word.split("+")]
        if len(steps) > 1:
            found.append(ChainedAlternative([_one(step, word) for step in steps]))
            # of which of them a bare number would be is open
            kind = ""
            continue
        name, colon, _ = word.partition(":")
        if colon:
            kind = name
        bare = kind and not colon and name not in _PLAIN
        found.append(_one(f"{kind}:{word}" if bare else word, word))
    names = [one.name for one in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInputError(f"every alternative stands once, but {twice} is in {text!r} twice.")
    return found


def _one(step: str, word: str) -> Alternative:
    """One alternative; `word` is what it stands in, for messages."""
    name, colon, number = step.partition(":")
    if name in _PLAIN and not colon:
        return _PLAIN[name]()
    if name not in _NUMBERED or not _is_number(number):
        known = [*_PLAIN, *(f"{own}:{what}" for own, (what, _) in _NUMBERED.items())]
        raise InvalidInputError(
            f"alternatives are {', '.join(known)}, separated by commas, as in "
            f"skip,width:0.75,0.5,int8, or joined by +, but got {word!r}."
        )
    return _NUMBERED[name][1](float(number))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _whole(number: float) -> int:
    if not number.is_integer():
        raise InvalidInputError(f"a kernel's size is a whole number, but got {number:g}.")
    return int(number)
