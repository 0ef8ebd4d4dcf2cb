"""Spaces by name, from declarations, and listed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mathnas.errors import FileFormatError, InvalidInputError, MathNASWarning
from mathnas.space import Block, BlockNode, SearchSpace
from mathnas.spaces import (
    FBNet,
    MobileNetV3,
    NASBench201,
    NASBenchMacro,
    SuperTransformer,
    SuperViT,
    catalogue,
    named,
    restore,
)

SPACES = [
    NASBench201("cifar10"),
    NASBench201("imagenet16-120"),
    NASBenchMacro(),
    FBNet(),
    MobileNetV3(1.2, 192, 10),
    SuperTransformer(640, 512, heads=(2, 4, 8)),
    SuperViT(192, 10),
    SuperViT(32, 10, (1, 1, 2, 2, 2, 1, 1, 2), "dimensions"),
]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_restore_brings_the_class_back(space: SearchSpace) -> None:
    restored = restore(json.loads(json.dumps(space.to_dict())))
    assert type(restored) is type(space)
    assert restored == space


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_a_space_is_named_by_its_own_name(space: SearchSpace) -> None:
    assert named(space.name) == space


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_files_give_the_same_space(space: SearchSpace, tmp_path: Path) -> None:
    path = tmp_path / "space.json"
    space.save(path)
    restored = named(str(path))
    assert type(restored) is type(space)
    assert restored == space


@pytest.mark.parametrize(
    "change",
    [
        {"fixed_macs": 1.0},
        {"family": {"name": "nasbench201", "dataset": "svhn"}},
        {"family": {"name": "nasbench201", "dataset": ["cifar10"]}},
        {"family": {"name": "nasbench201", "colour": "red"}},
        {"family": {"name": "mobilenetv3", "width": "wide"}},
    ],
)
def test_a_declaration_that_differs_from_its_family_holds(change: dict[str, object]) -> None:
    declaration = {**NASBench201("cifar10").to_dict(), **change}
    with pytest.warns(MathNASWarning, match="used as declared"):
        restored = restore(declaration)
    assert type(restored) is SearchSpace
    assert restored == SearchSpace.from_dict(declaration)
    assert restored.canonical((3, 3, 3, 0, 0, 0)) == (3, 3, 3, 0, 0, 0)


def test_spaces_of_unknown_families_are_used_as_declared() -> None:
    node = BlockNode("only", (Block("a"), Block("b")))
    for family in (None, {"name": "somebody-elses"}):
        space = SearchSpace([node], family=family)
        assert restore(space.to_dict()) == space


def test_a_broken_declaration_is_refused() -> None:
    with pytest.raises(FileFormatError, match="format"):
        restore({"nodes": []})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nasbench201", NASBench201()),
        ("nasbench201:cifar10", NASBench201("cifar10")),
        ("nasbench201:dataset=ImageNet16-120", NASBench201("imagenet16-120")),
        ("mobilenetv3:width=1.2,resolution=192", MobileNetV3(1.2, 192)),
        ("mobilenetv3: 1.2, classes=10", MobileNetV3(1.2, classes=10)),
        ("fbnet", FBNet()),
        (
            "supertransformer:ffn=512+1024,attention=-1",
            SuperTransformer(ffn=(512, 1024), attention=(-1,)),
        ),
    ],
)
def test_command_line_names(text: str, expected: SearchSpace) -> None:
    assert named(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nasbench2o1", "did you mean 'nasbench201'"),
        ("zzz", "known are nasbench201"),
        ("nasbench201:svhn", "'svhn'"),
        ("mobilenetv3:width=wide", "width got 'wide'"),
        ("mobilenetv3:1.0,224", "'224'"),
        ("mobilenetv3:width=1.0,width=1.2", "twice"),
        ("mobilenetv3:height=3", "'height'"),
        ("fbnet:1", "no arguments"),
    ],
)
def test_wrong_names_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        named(text)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileFormatError, match=r"absent-space\.json"):
        named("absent-space.json")


def test_catalogue_describes_every_family() -> None:
    listed = {family.name: family for family in catalogue()}
    assert set(listed) == {
        "nasbench201",
        "nasbench_macro",
        "mobilenetv3",
        "fbnet",
        "supertransformer",
        "supervit",
    }
    for family in listed.values():
        space = family.default()
        assert space.family is not None
        assert space.family["name"] == family.name
        assert family.description
        assert "\n" not in family.description
