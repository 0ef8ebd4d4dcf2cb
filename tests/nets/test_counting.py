"""What spaces declare by formula, and what torch counts."""

from __future__ import annotations

import pytest

from mathnas.nets.counting import counted_macs, counted_params
from mathnas.nets.families import supernet_for
from mathnas.nets.inputs import example_inputs
from mathnas.space import SearchSpace
from mathnas.spaces import MobileNetV3, NASBench201

SPACES = [
    MobileNetV3(width=0.35, resolution=32, classes=10, stem_stride=1),
    MobileNetV3(width=0.5, resolution=64, classes=7),
    NASBench201("cifar10", channels=8, cells=1),
]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_macs_and_parameters_are_those_that_torch_counts(space: SearchSpace) -> None:
    supernet = supernet_for(space).eval()
    example = example_inputs(supernet, 2)
    params = space.block_params
    assert params is not None
    assert space.fixed_params is not None
    for network in space.sample(3, seed=0):
        module = supernet.extract(network).eval()
        # NAS-Bench-201 counts the classifier's bias too
        bias = 10 if isinstance(space, NASBench201) else 0
        assert counted_macs(module, example) + bias == space.macs([network])[0]
        rows = space.offsets[:-1] + list(network)
        assert counted_params(module) == space.fixed_params + params[rows].sum()
