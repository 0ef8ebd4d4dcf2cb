"""Supernets by the family of their space."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")

from mathnas.errors import InvalidInputError, MathNASWarning
from mathnas.nets.digits import DigitsNet
from mathnas.nets.families import space_named, supernet_for
from mathnas.nets.mobilenetv3 import MobileNetV3Net
from mathnas.nets.nasbench201 import NASBench201Net
from mathnas.nets.supernet import Supernet
from mathnas.nets.supervit import SuperViTNet
from mathnas.space import SearchSpace
from mathnas.spaces import FBNet, MobileNetV3, NASBench201, SuperViT

SPACES: list[tuple[SearchSpace, type[Supernet]]] = [
    (NASBench201("cifar10", channels=4, cells=2), NASBench201Net),
    (MobileNetV3(0.35, 32, classes=10, stem_stride=1), MobileNetV3Net),
    (DigitsNet().space, DigitsNet),
    (SuperViT(32, 10, (1, 1, 2, 2, 2, 1, 1, 2)), SuperViTNet),
]


@pytest.mark.parametrize(("space", "kind"), SPACES, ids=lambda value: getattr(value, "name", ""))
def test_a_space_and_its_file_have_the_same_supernet(
    space: SearchSpace, kind: type[Supernet]
) -> None:
    for given in (space, SearchSpace.from_dict(json.loads(json.dumps(space.to_dict())))):
        supernet = supernet_for(given, seed=1)
        assert isinstance(supernet, kind)
        assert supernet.space == space


def test_command_lines_name_spaces_of_supernets() -> None:
    assert space_named("nasbench201:cifar10,channels=4,cells=2") == SPACES[0][0]
    assert space_named("digits") == SPACES[2][0]


def test_a_space_without_a_supernet_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="supernets are known for digits"):
        supernet_for(FBNet())


def test_a_space_that_only_says_so_is_refused() -> None:
    declaration = json.loads(json.dumps(SPACES[0][0].to_dict()))
    declaration["nodes"][0]["blocks"][2]["macs"] = 1
    with (
        pytest.warns(MathNASWarning, match="differs"),
        pytest.raises(InvalidInputError, match="declaration differs from that of the supernet"),
    ):
        supernet_for(SearchSpace.from_dict(declaration))
