"""The families of spaces by name: for the command line, for files, and for listings."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mathnas.errors import FileFormatError, InvalidInputError, MathNASWarning
from mathnas.grouped import GROUPED, GroupedSpace
from mathnas.space import SearchSpace
from mathnas.spaces.fbnet import FBNet
from mathnas.spaces.mobilenetv3 import MobileNetV3
from mathnas.spaces.nasbench201 import NASBench201
from mathnas.spaces.nasbench_macro import NASBenchMacro
from mathnas.spaces.supertransformer import SuperTransformer, read_choices
from mathnas.spaces.supervit import SuperViT


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of space that mathnas can build.

    Attributes:
        name: as on the command line and in the ``family`` record of a declaration.
        description: one line.
        build: makes a space from the family's arguments.
        parameters: the arguments by name, each with what reads it from text.
        arguments: how they are written, for help texts.
    """

    name: str
    description: str
    build: Callable[..., SearchSpace]
    parameters: Mapping[str, Callable[[str], object]]
    arguments: str = ""

    def default(self) -> SearchSpace:
        """The space with the default arguments, for its numbers of nodes, blocks and networks."""
        return self.build()

    def from_text(self, text: str) -> SearchSpace:
        """The space with arguments such as ``width=1.2,resolution=192``; the first name may be
        left out.

        Raises:
            InvalidInputError: an argument is unknown, twice there, or has a wrong value.
        """
        given: dict[str, object] = {}
        for place, part in enumerate(filter(None, (item.strip() for item in text.split(",")))):
            key, equals, value = part.partition("=")
            if not equals and place == 0 and self.parameters:
                key, value = next(iter(self.parameters)), part
            if key not in self.parameters or key in given:
                problem = "twice" if key in given else f"{key!r}"
                raise InvalidInputError(
                    f"{self.name} takes {self.arguments or 'no arguments'}, but got {problem} in "
                    f"{text!r}."
                )
            try:
                given[key] = self.parameters[key](value)
            except ValueError as error:
                raise InvalidInputError(
                    f"{self.name} takes {self.arguments}, but {key} got {value!r}: {error}."
                ) from error
        return self.build(**given)


_FAMILIES = (
    Family(
        "nasbench201",
        "NAS-Bench-201 / NATS-Bench topology: a cell of 6 edges, 5 operations each",
        NASBench201,
        {"dataset": str, "channels": int, "cells": int},
        "dataset=cifar10|cifar100|imagenet16-120,channels=16,cells=5",
    ),
    Family(
        "nasbench_macro",
        "NAS-Bench-Macro: 8 sequential layers, identity or inverted residual (CIFAR-10)",
        NASBenchMacro,
        {},
    ),
    Family(
        "mobilenetv3",
        "Once-for-All MobileNetV3: 20 layers, kernel and expansion each, elastic depth",
        MobileNetV3,
        {"width": float, "resolution": int, "classes": int, "stem_stride": int},
        "width=1.0,resolution=224,classes=1000,stem_stride=2",
    ),
    Family(
        "fbnet",
        "FBNet: 22 sequential layers, 9 blocks each (MACs unknown)",
        FBNet,
        {},
    ),
    Family(
        "supertransformer",
        "HAT SuperTransformer: 6 encoder layers and 1 to 6 decoder layers for translation",
        SuperTransformer,
        {
            "encoder_embed": int,
            "decoder_embed": int,
            "ffn": read_choices,
            "heads": read_choices,
            "attention": read_choices,
            "encoder_layers": int,
            "decoder_layers": int,
            "projection": int,
            "source": int,
            "target": int,
            "vocabulary": int,
            "positions": int,
        },
        "encoder_embed=512,decoder_embed=512,ffn=1024+2048+3072,heads=4+8,attention=-1+1+2,"
        "encoder_layers=6,decoder_layers=6,projection=512,source=30,target=30,"
        "vocabulary=32768,positions=512",
    ),
    Family(
        "supervit",
        "NASViT's SuperViT: first convolution, 7 stages of convolutions and attention, head",
        SuperViT,
        {
            "resolution": int,
            "classes": int,
            "strides": read_choices,
            "partition": str,
            "width": float,
        },
        "resolution=224,classes=1000,strides=2+1+2+2+2+2+1+2,partition=stages|dimensions,"
        "width=1|0.5|0.25",
    ),
)
_BY_NAME = {family.name: family for family in _FAMILIES}


def catalogue() -> tuple[Family, ...]:
    """The families that mathnas knows, for listings."""
    return _FAMILIES


def named(text: str) -> SearchSpace:
    """The space that a command line names.

    Args:
        text: a family (``nasbench201``), a family with arguments (``nasbench201:cifar10``,
            ``mobilenetv3:width=1.2,resolution=192``), or the path of a space's JSON file.

    Raises:
        InvalidInputError: no family has this name, or its arguments are wrong.
        FileFormatError: the file cannot be read, or is not a space.
    """
    name, _, arguments = text.partition(":")
    if name in _BY_NAME:
        return _BY_NAME[name].from_text(arguments)
    if text.endswith(".json") or Path(text).is_file():
        return restore(SearchSpace.load(text).to_dict())
    close = difflib.get_close_matches(name, _BY_NAME, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(_BY_NAME)}."
    raise InvalidInputError(
        f"a space is a known family or a JSON file that exists, but got {text!r}: {hint}"
    )


def partitioned(space: SearchSpace, name: str) -> GroupedSpace:
    """A space in the groups of one of its partitions: with the published candidates where there are
    such, else with all configurations.

    Raises:
        InvalidInputError: the space knows no such partition, or a group has too many
            configurations.

    Example:
        >>> from mathnas.spaces import MobileNetV3, partitioned
        >>> partitioned(MobileNetV3(), "stages").sizes
        (5, 5, 5, 5, 5)
    """
    if name not in space.partitions:
        raise InvalidInputError(
            f"{space.name} knows the partitions {', '.join(space.partitions) or 'none'}, but got "
            f"{name!r}."
        )
    if isinstance(space, MobileNetV3) and name == "stages":
        return space.stages("cpu")
    return GroupedSpace(space, space.partitions[name])


def restore(declaration: Mapping[str, object], where: str = "space") -> SearchSpace:
    """The space of a declaration, with its canonical form, forms, features and helpers where its
    family is known.

    A declaration says how its space is built again (``family``). The space that comes of it is
    used only where it equals the declaration; otherwise the declaration holds, with a warning.

    Raises:
        FileFormatError, InvalidInputError: the declaration is not a space; a message says `where`.

    Example:
        >>> from mathnas.spaces import NASBench201, restore
        >>> type(restore(NASBench201("cifar10").to_dict())).__name__
        'NASBench201'
    """
    declared = SearchSpace.from_dict(declaration, where)
    if declared.family is None:
        return declared
    arguments = dict(declared.family)
    name = str(arguments.pop("name", ""))
    built: SearchSpace | None
    if name == GROUPED:
        built = _grouped(declared.family, where)
    elif name in _BY_NAME:
        built = _build(_BY_NAME[name], arguments)
    else:
        return declared
    if built is not None and built == declared:
        return built
    warnings.warn(
        f"the space {declared.name!r} says that it is {name}, but its declaration differs "
        f"from the {name} of this mathnas: it is used as declared, without the family's "
        "canonical form, forms, features and helpers.",
        MathNASWarning,
        stacklevel=2,
    )
    return declared


def _build(family: Family, arguments: Mapping[str, object]) -> SearchSpace | None:
    """The space of a ``family`` record, or None where the record does not fit the family."""
    if not arguments.keys() <= family.parameters.keys():
        return None
    try:
        # through text: a record may hold anything
        return family.build(**{k: family.parameters[k](str(v)) for k, v in arguments.items()})
    except ValueError:
        return None


def _grouped(record: Mapping[str, object], where: str) -> GroupedSpace | None:
    """The space of the ``family`` record of a grouped space, or None where it is not one."""
    try:
        return GroupedSpace.from_family(
            record, f"{where}.family", lambda fine: restore(fine, f"{where}.family.space")
        )
    except (FileFormatError, InvalidInputError):
        return None
