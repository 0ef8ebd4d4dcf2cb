"""Alternatives as a line of text."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mathnas.compression.alternative import Alternative
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
    """Alternatives from ``skip,width:0.75,0.5,int8``: a bare number is of the kind before it.

    Raises:
        InvalidInputError: a kind is unknown, a number is missing or out of range, or an alternative
            stands twice.
    """
    found: list[Alternative] = []
    kind = ""
    for word in (part.strip() for part in text.split(",")):
        name, colon, number = word.partition(":")
        if name in _PLAIN and not colon:
            found.append(_PLAIN[name]())
            continue
        if colon:
            kind = name
        elif kind:
            number = name
        if kind not in _NUMBERED or not _is_number(number):
            known = [*_PLAIN, *(f"{own}:{what}" for own, (what, _) in _NUMBERED.items())]
            raise InvalidInputError(
                f"alternatives are {', '.join(known)}, separated by commas, as in "
                f"skip,width:0.75,0.5,int8, but got {word!r}."
            )
        found.append(_NUMBERED[kind][1](float(number)))
    names = [one.name for one in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInputError(f"every alternative stands once, but {twice} is in {text!r} twice.")
    return found


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
