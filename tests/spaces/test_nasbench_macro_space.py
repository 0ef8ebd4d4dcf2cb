"""NAS-Bench-Macro: nodes, names and costs (the file's costs are compared in tests/datasets)."""

from __future__ import annotations

import pytest

from mathnas.errors import InvalidInputError
from mathnas.spaces import NASBenchMacro


def test_shape() -> None:
    space = NASBenchMacro()
    assert space.num_nodes == 8
    assert space.num_networks == 6_561
    assert space.nodes[0].name == "stage1.layer1"


@pytest.mark.parametrize(
    ("arch", "macs", "params"),
    [("02012100", 47_327_744, 890_666), ("11111221", 65_012_224, 2_181_386)],
)
def test_costs(arch: str, macs: int, params: int) -> None:
    space = NASBenchMacro()
    network = space.parse(arch)
    assert space.macs([network])[0] == macs
    assert space.block_params is not None
    assert space.fixed_params is not None
    rows = space.offsets[:-1] + list(network)
    assert space.fixed_params + space.block_params[rows].sum() == params


def test_identity_is_free_only_inside_a_stage() -> None:
    space = NASBenchMacro()
    free = [node.name for node in space.nodes if node.blocks[0].macs == 0]
    assert free == [name for name in (n.name for n in space.nodes) if not name.endswith("layer1")]


def test_archs_round_trip() -> None:
    space = NASBenchMacro()
    assert space.arch(space.parse("01201201")) == "01201201"
    assert space.parse("0,1,2,identity,mb3_k3,mb6_k5,0,1") == space.parse("01201201")


@pytest.mark.parametrize("text", ["0120120", "012012013", "0120120x", "", "01201203"])
def test_malformed_archs_are_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="8 digits from 0 to 2"):
        NASBenchMacro().parse(text)
