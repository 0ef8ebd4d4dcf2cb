"""Which networks a command evaluates."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Annotated

import typer

from mathnas import designs, sampling
from mathnas.space import Network, SearchSpace


class Design(str, Enum):
    """Which networks are evaluated."""

    SINGLE = "single"
    PARTIAL = "partial"
    FULL = "full"
    RANDOM = "random"
    BALANCED = "balanced"
    D_OPTIMAL = "d-optimal"


Named = Annotated[
    list[str] | None,
    typer.Option(
        "--network",
        help="This network instead of a sample, as 3,0,2 or block names; may be repeated.",
    ),
]
DesignName = Annotated[Design, typer.Option("--sampling", help="The sample.")]
Share = Annotated[float, typer.Option(help="Share of partial sampling.")]
Unpaired = Annotated[
    bool, typer.Option("--unpaired", help="Partial sampling of networks, not of contexts.")
]
Count = Annotated[int, typer.Option(help="Networks of random, balanced or d-optimal sampling.")]
Context = Annotated[
    str | None,
    typer.Option(
        metavar="NETWORK",
        help="Reference network, as 3,0,2 or block names; by default the average-FLOPs one.",
    ),
]
RepeatReference = Annotated[bool, typer.Option(help="Measure the reference again with each node.")]


def networks_asked_for(
    space: SearchSpace,
    named: Sequence[str] | None,
    design: Design,
    *,
    share: float,
    unpaired: bool,
    count: int,
    context: str | None,
    repeat_reference: bool,
    seed: int,
) -> sampling.Sample | list[Network]:
    """The networks that are named or, where none is, the sample that the options ask for.

    Raises:
        InvalidInputError: a name is none of the space, or the sample cannot be made.
    """
    if named:
        return [space.parse(text) for text in named]
    base = None if context is None else space.parse(context)
    if design is Design.SINGLE:
        return sampling.single_sampling(space, base, repeat_reference=repeat_reference)
    if design is Design.PARTIAL:
        form: sampling.Form = "unpaired" if unpaired else "paired"
        return sampling.partial_sampling(space, share, form=form, seed=seed, reference=base)
    if design is Design.FULL:
        return sampling.full_sampling(space, base)
    if design is Design.RANDOM:
        return sampling.random_sampling(space, count, seed=seed)
    make = designs.balanced_sampling if design is Design.BALANCED else designs.d_optimal_sampling
    return make(space, count, seed=seed)
