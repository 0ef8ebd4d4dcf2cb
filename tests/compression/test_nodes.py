"""Which parts of a model can be nodes, and what is said where they cannot."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from compression_cases import Chained, Residual, chained, odd, odd_batches, pictures
from torch import Tensor, nn

from mathnas.compression.nodes import CutError, check_nodes, find_nodes, named_nodes


def test_repeated_blocks_are_found() -> None:
    assert find_nodes(chained()) == ["blocks.0", "blocks.1", "blocks.2"]
    assert find_nodes(odd()) == ["first", "second", "third"]


def test_stages_of_a_residual_network_are_looked_into() -> None:
    stages = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.Sequential(Residual(4), Residual(4)),
        nn.Sequential(Residual(4)),
        nn.Flatten(),
    )
    assert find_nodes(stages) == ["1.0", "1.1", "2.0"]


def test_sequences_of_single_layers_are_blocks() -> None:
    def block() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU())

    assert find_nodes(nn.Sequential(block(), block(), nn.Flatten())) == ["0", "1"]


def test_layers_of_ones_own_are_no_blocks() -> None:
    class Padded(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(3, 3, 3)
            self.pad = nn.ZeroPad2d(1)

    model = nn.Sequential(Padded(), Residual(3), Padded(), Residual(3))
    assert find_nodes(model) == ["1", "3"]


def test_a_model_in_which_nothing_repeats_needs_names() -> None:
    with pytest.raises(CutError, match="name the nodes"):
        find_nodes(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))


def test_patterns_stay_inside_one_level() -> None:
    assert named_nodes(chained(), "blocks.*") == ["blocks.0", "blocks.1", "blocks.2"]
    assert named_nodes(chained(), ["blocks.2", "blocks.0.expand"]) == [
        "blocks.0.expand",
        "blocks.2",
    ]
    with pytest.raises(CutError, match=r"nothing in Chained is called 'layers\.\*'.*blocks\.0"):
        named_nodes(chained(), "layers.*")


def test_nodes_are_told_in_the_order_of_their_calls() -> None:
    class Backwards(Chained):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for block in reversed(self.blocks):
                x = block(x)
            return x

    found = check_nodes(Backwards(), ["blocks.0", "blocks.1", "blocks.2"], pictures())
    assert found == ["blocks.2", "blocks.1", "blocks.0"]


def test_a_submodule_that_is_called_twice_is_refused_by_name() -> None:
    with pytest.raises(CutError, match=r"'twice' cannot be cut out: the model calls it 2 times"):
        check_nodes(odd(), ["twice", "first"], odd_batches()[0])


def test_a_submodule_that_is_never_called_is_refused_with_what_could_be_taken() -> None:
    class Iterating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stage = nn.Sequential(Residual(3), Residual(3))

        def forward(self, x: Tensor) -> Tensor:
            for block in self.stage:
                x = block(x)
            return x

    with pytest.raises(CutError, match=r"'stage'.*never calls it.*Take what it holds \(stage\.0"):
        check_nodes(Iterating(), ["stage"], pictures())
    with pytest.raises(CutError, match=r"'blocks' cannot be cut out.*blocks\.\*"):
        check_nodes(chained(), ["blocks"], pictures())


def test_nodes_inside_each_other_are_refused() -> None:
    with pytest.raises(CutError, match=r"'blocks\.0' and 'blocks\.0\.expand' cannot both"):
        check_nodes(chained(), ["blocks.0", "blocks.0.expand"], pictures())


def test_modules_and_weights_that_are_shared_are_refused_by_name() -> None:
    model = chained()
    model.blocks[1] = model.blocks[0]
    with pytest.raises(CutError, match=r"'blocks\.0' and 'blocks\.1' cannot both"):
        check_nodes(model, ["blocks.0", "blocks.1"], pictures())
    with pytest.raises(CutError, match=r"the rest of the model uses a Residual of it as"):
        check_nodes(model, ["blocks.0"], pictures())
    model = chained()
    model.residual(1).expand.weight = model.residual(0).expand.weight
    with pytest.raises(CutError, match=r"'blocks\.0'.*'expand\.weight' is shared with node"):
        check_nodes(model, ["blocks.0", "blocks.1"], pictures())
    with pytest.raises(CutError, match=r"is shared with the rest of the model"):
        check_nodes(model, ["blocks.1"], pictures())


def test_the_model_itself_and_no_node_at_all_are_refused() -> None:
    model = chained()
    with pytest.raises(CutError, match="the model itself"):
        check_nodes(model, [""], pictures())
    with pytest.raises(CutError, match="at least one node"):
        check_nodes(model, [], pictures())
    assert torch.is_grad_enabled()
