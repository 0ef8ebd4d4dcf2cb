"""Which supernet belongs to which family of spaces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mathnas import spaces
from mathnas.errors import InvalidInputError
from mathnas.nets.digits import DigitsConfig, DigitsNet
from mathnas.nets.mobilenetv3 import MobileNetV3Net
from mathnas.nets.nasbench201 import NASBench201Net
from mathnas.nets.supernet import Supernet
from mathnas.nets.supertransformer import SuperTransformerNet
from mathnas.nets.supervit import SuperViTNet
from mathnas.space import SearchSpace
from mathnas.spaces import MobileNetV3, NASBench201, SuperTransformer, SuperViT


@dataclass(frozen=True, slots=True)
class SupernetFamily:
    """A kind of supernet that mathnas can build.

    Attributes:
        build: makes the supernet of a space of this family, with weights drawn from a seed.
        default: makes a space of the family, where `mathnas.spaces` has none of that name.
    """

    build: Callable[[SearchSpace, int], Supernet]
    default: Callable[[], SearchSpace] | None = None


def _digits(space: SearchSpace, seed: int) -> Supernet:
    return DigitsNet(DigitsConfig.from_family(space.family or {}), seed=seed)


def _mobilenetv3(space: SearchSpace, seed: int) -> Supernet:
    if not isinstance(space, MobileNetV3):
        raise _differing(space)
    return MobileNetV3Net(space, seed=seed)


def _nasbench201(space: SearchSpace, seed: int) -> Supernet:
    if not isinstance(space, NASBench201):
        raise _differing(space)
    return NASBench201Net(space, seed=seed)


def _supertransformer(space: SearchSpace, seed: int) -> Supernet:
    if not isinstance(space, SuperTransformer):
        raise _differing(space)
    return SuperTransformerNet(space, seed=seed)


def _supervit(space: SearchSpace, seed: int) -> Supernet:
    if not isinstance(space, SuperViT):
        raise _differing(space)
    return SuperViTNet(space, seed=seed)


_FAMILIES: dict[str, SupernetFamily] = {
    "digits": SupernetFamily(_digits, lambda: DigitsNet().space),
    "mobilenetv3": SupernetFamily(_mobilenetv3),
    "nasbench201": SupernetFamily(_nasbench201),
    "supertransformer": SupernetFamily(_supertransformer),
    "supervit": SupernetFamily(_supervit),
}


def supernet_for(space: SearchSpace, *, seed: int = 0) -> Supernet:
    """A new supernet of a space.

    Args:
        space: of a family that has a supernet.
        seed: of the weights.

    Raises:
        InvalidInputError: its family has none, or the family's space differs from this one.
    """
    name = str((space.family or {}).get("name", ""))
    if name not in _FAMILIES:
        raise InvalidInputError(
            f"supernets are known for {', '.join(_FAMILIES)}, but {space.name!r} is "
            f"{f'of the family {name!r}' if name else 'of no family'}: train a supernet of your "
            "own with mathnas.training.train."
        )
    supernet = _FAMILIES[name].build(spaces.restore(space.to_dict()), seed)
    if supernet.space != space:
        raise _differing(space)
    return supernet


def _differing(space: SearchSpace) -> InvalidInputError:
    name = (space.family or {}).get("name")
    return InvalidInputError(
        f"the space {space.name!r} says that it is of the family {name!r}, but its declaration "
        "differs from that of the supernet: make the space with this version of mathnas."
    )


def space_named(text: str) -> SearchSpace:
    """The space that a command line names, with those that only a supernet knows.

    Raises:
        InvalidInputError, FileFormatError: as `mathnas.spaces.named`.
    """
    family = _FAMILIES.get(text)
    if family is not None and family.default is not None:
        return family.default()
    return spaces.named(text)
