"""Cuts of models: what an earlier run computed is given back, and the outputs stay the same."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from compression_cases import Chained, Residual, chained, odd, odd_batches, pictures
from torch import Tensor, nn

from mathnas.compression.batches import Batch, run, tensors_of
from mathnas.compression.chain import Chain, Prefix
from mathnas.compression.nodes import CutError


def equal(one: object, other: object) -> bool:
    pairs = list(zip(tensors_of(one), tensors_of(other), strict=True))
    return bool(pairs) and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("model", "nodes", "batch"),
    [
        (chained(), ["blocks.0", "blocks.1", "blocks.2"], pictures()),
        (odd(), ["first", "second", "third"], odd_batches()[0]),
    ],
)
@torch.no_grad()
def test_a_run_behind_a_prefix_gives_what_the_whole_run_gives(
    model: nn.Module, nodes: list[str], batch: Batch
) -> None:
    chain = Chain(model, nodes, batch)
    expected = chain.run(batch, chain.nodes)
    for found, own in zip(tensors_of(expected), tensors_of(run(model.eval(), batch)), strict=True):
        torch.testing.assert_close(found, own)
    prefix = Prefix()
    for node in chain.nodes:
        assert equal(chain.run(batch, chain.nodes, prefix), expected)
        prefix = chain.extended(batch, prefix, node)
    assert equal(chain.run(batch, chain.nodes, prefix), expected)


def test_only_outputs_that_something_looks_at_are_kept() -> None:
    chain = Chain(chained(), ["blocks.0", "blocks.1", "blocks.2"], pictures())
    assert chain.needed == (frozenset(), frozenset({0}), frozenset({1}), frozenset({2}))
    # the end of this model looks at its first node again
    chain = Chain(odd(), ["first", "second", "third"], odd_batches()[0])
    assert chain.needed[-1] == {0, 2}
    with torch.no_grad():
        prefix = Prefix()
        for node in chain.nodes:
            prefix = chain.extended(odd_batches()[0], prefix, node)
    stored = [output[0].untyped_storage().nbytes() for output in prefix.outputs]
    assert stored == [3 * 5 * 6 * 4, 4, 3 * 5 * 6 * 4]


def test_calls_hold_what_the_node_was_given_and_gave() -> None:
    model, batch = odd(), odd_batches()[0]
    chain = Chain(model, ["first", "second"], batch)
    with torch.no_grad():
        call = chain.call(batch, Prefix())
        assert dict(call.kwargs) == {"scale": 2.0}
        assert equal(call.run(model.first), call.output)
        assert call.tensor is call.output[0]


def test_the_model_is_left_as_it_was() -> None:
    model = chained()
    model.train()
    model.blocks[1].eval()
    modes = [part.training for part in model.modules()]
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    chain = Chain(model, ["blocks.0", "blocks.1"], pictures())
    with torch.no_grad():
        chain.run(pictures(), [nn.Identity(), nn.Identity()])
    assert [part.training for part in model.modules()] == modes
    assert model.residual(0).act.inplace
    assert all(torch.equal(weights[name], own) for name, own in model.state_dict().items())
    assert not any(part._forward_pre_hooks for part in model.modules())
    assert chain.nodes[0].get_parameter("expand.weight") is model.residual(0).expand.weight


def test_a_node_that_changes_its_input_in_place_is_refused_by_name() -> None:
    class InPlace(Residual):
        def forward(self, x: Tensor) -> Tensor:
            x += self.project(self.act(self.expand(x)))
            return x

    model = chained()
    model.blocks[1] = InPlace(4)
    nodes = ["blocks.0", "blocks.1", "blocks.2"]
    with pytest.raises(CutError, match=r"'blocks\.\d'.*in place"):
        Chain(model, nodes, pictures())


def test_a_model_that_counts_its_runs_is_refused() -> None:
    class Counting(Chained):
        def __init__(self) -> None:
            super().__init__()
            self.runs = 0

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            return super().forward(x) + self.runs

    with pytest.raises(CutError, match="the same each time"):
        Chain(Counting(), ["blocks.0", "blocks.1"], pictures())


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    class Stuck(Chained):
        def __deepcopy__(self, memo: object) -> Chained:
            raise TypeError("no copies")

    with pytest.raises(CutError, match=r"cannot be copied \(TypeError: no copies\)"):
        Chain(Stuck(), ["blocks.0"], pictures())


def test_threads_run_networks_of_one_chain_at_the_same_time() -> None:
    from concurrent.futures import ThreadPoolExecutor

    chain = Chain(chained(), ["blocks.0", "blocks.1", "blocks.2"], pictures())
    whole, skipped = list(chain.nodes), [nn.Identity()] * 3

    @torch.no_grad()
    def outputs(place: int) -> Tensor:
        found: Tensor = chain.run(pictures(), skipped if place % 2 else whole)
        return found

    expected = [outputs(0), outputs(1)]
    with ThreadPoolExecutor(4) as pool:
        for place, found in enumerate(pool.map(outputs, range(40))):
            assert torch.equal(found, expected[place % 2])
