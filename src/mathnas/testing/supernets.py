"""What every supernet keeps: needs torch, so it is imported by itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mathnas.errors import InvalidInputError
from mathnas.nets.batchnorm import recalibrate
from mathnas.nets.supernet import ChainSupernet, Supernet
from mathnas.space import Network

_TENSORS_TRIED = 12


class SupernetContract:
    """Inherit and override the fixtures `supernet` and `inputs`.

    The tests change a copy of the supernet first, so that statistics, shifts and weights are not
    the special ones of a new network. Inputs need not be images. Override `rows` where an input has
    not one row of logits, as a sentence has one a token, and `macs` and `params` where the space
    counts otherwise than they do.

    Attributes:
        bias_macs: whether the space counts one MAC more for every output of a layer with a bias.

    Example::

        class TestMySupernet(SupernetContract):
            @pytest.fixture
            def supernet(self) -> Supernet:
                return MySupernet(side=32)

            @pytest.fixture
            def inputs(self) -> Tensor:
                return torch.rand(4, 3, 32, 32)
    """

    bias_macs: ClassVar[bool] = False

    def rows(self, inputs: Tensor) -> int:
        """How many rows of logits a network gives for some inputs: one for each."""
        return len(inputs)

    def macs(self, network: nn.Module, x: Tensor) -> float:
        """What the space should count as the MACs of an extracted network, for one input, shape
        (1, ...): those of convolutions and linear layers."""
        return counted_macs(network, x, with_bias=self.bias_macs)

    def params(self, network: nn.Module) -> int:
        """What the space should count as the parameters of an extracted network: all."""
        return sum(parameter.numel() for parameter in network.parameters())

    @pytest.fixture
    def supernet(self) -> Supernet:
        """The supernet under test, small enough to run some dozens of its networks."""
        raise NotImplementedError("override the fixture `supernet` and return your supernet.")

    @pytest.fixture
    def inputs(self) -> Tensor:
        """At least two inputs, of the size for which the space counts MACs."""
        raise NotImplementedError("override the fixture `inputs` and return some inputs.")

    @pytest.fixture
    def networks(self, supernet: Supernet) -> Sequence[Network]:
        """Networks to try: the reference and a random sample."""
        space = supernet.space
        return [space.reference, *space.sample(min(4, space.num_networks), seed=1)]

    @pytest.fixture
    def net(self, supernet: Supernet) -> Supernet:
        """A copy of the supernet with other weights and statistics, in evaluation mode."""
        changed = copy.deepcopy(supernet)
        unsettle(changed)
        return changed.eval()

    # ---- extraction --------------------------------------------------------------------------

    def test_an_extracted_network_computes_the_same(
        self, net: Supernet, networks: Sequence[Network], inputs: Tensor
    ) -> None:
        for network in networks:
            static = net.extract(network)
            with torch.no_grad():
                expected = net(inputs, network)
                difference = (static(inputs) - expected).abs().max()
            assert expected.shape[0] == self.rows(inputs)
            assert expected.ndim == 2
            assert difference <= 1e-6 * expected.abs().max(), f"{network} differs"

    def test_an_extracted_network_is_in_evaluation_mode(
        self, net: Supernet, networks: Sequence[Network]
    ) -> None:
        static = net.train().extract(networks[0])
        assert not any(part.training for part in static.modules())

    def test_an_extracted_network_has_its_own_memory(
        self, net: Supernet, networks: Sequence[Network], inputs: Tensor
    ) -> None:
        static, other = net.extract(networks[0]), net.extract(networks[0])
        assert not _memory(static) & _memory(net)
        assert not _memory(static) & _memory(other)
        with torch.no_grad():
            before = static(inputs)
            for tensor in [*net.parameters(), *net.buffers()]:
                tensor += 1
            assert torch.equal(static(inputs), before)

    def test_an_extracted_network_can_be_recalibrated(
        self, net: Supernet, networks: Sequence[Network], inputs: Tensor
    ) -> None:
        for network in networks:
            static = net.extract(network)
            with_own_statistics = recalibrate(static, [inputs])[0]
            with torch.no_grad():
                expected = net.train()(inputs, network)
            assert torch.isfinite(static(inputs)).all()
            if not any(isinstance(part, nn.Dropout) and part.p for part in net.modules()):
                # both normalise with the statistics of this batch
                scale = float(expected.abs().max())
                torch.testing.assert_close(
                    with_own_statistics, expected, rtol=1e-3, atol=1e-3 * scale
                )

    def test_what_is_no_network_is_not_extracted(self, net: Supernet) -> None:
        reference = net.space.reference
        for wrong in ((*reference, 0), reference[1:], (net.space.sizes[0], *reference[1:])):
            with pytest.raises(InvalidInputError):
                net.extract(wrong)

    def test_macs_are_those_of_the_space(
        self, net: Supernet, networks: Sequence[Network], inputs: Tensor
    ) -> None:
        if net.space.block_macs is None:
            pytest.skip("the space does not know its MACs")
        for network in networks:
            counted = self.macs(net.extract(network), inputs[:1])
            assert net.space.macs([network])[0] == counted, f"{network} has other MACs"

    def test_parameters_are_those_of_the_space(
        self, net: Supernet, networks: Sequence[Network]
    ) -> None:
        space = net.space
        for network in networks:
            chosen = [node.blocks[block] for node, block in zip(space.nodes, network, strict=True)]
            known = [space.fixed_params, *(block.params for block in chosen)]
            numbers = [count for count in known if count is not None]
            if len(numbers) < len(known):
                pytest.skip("the space does not know its parameters")
            numbers += [
                float(pair.params[network[pair.first], network[pair.second]])
                for pair in space.pair_costs
                if pair.params is not None
            ]
            counted = self.params(net.extract(network))
            assert sum(numbers) == counted, f"{network} has other parameters"

    # ---- running -----------------------------------------------------------------------------

    def test_threads_run_different_networks_at_the_same_time(
        self, net: Supernet, networks: Sequence[Network], inputs: Tensor
    ) -> None:
        def run(network: Network) -> Tensor:
            with torch.no_grad():
                logits: Tensor = net(inputs, network)
            return logits

        alone = {network: run(network) for network in networks}
        asked = list(networks) * 4
        with ThreadPoolExecutor(2) as pool:
            for network, logits in zip(asked, pool.map(run, asked), strict=True):
                torch.testing.assert_close(logits, alone[network])

    def test_a_run_stores_nothing(
        self, net: Supernet, networks: Sequence[Network], inputs: Tensor
    ) -> None:
        """Statistics of one network would be wrong for the others."""
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        for network in networks:
            net.train()(inputs, network)
            net.eval()(inputs, network)
        for name, tensor in net.state_dict().items():
            assert torch.equal(tensor, before[name]), f"a run changes {name}"

    def test_the_global_random_state_is_left_alone(
        self, net: Supernet, networks: Sequence[Network], inputs: Tensor
    ) -> None:
        before = torch.get_rng_state()
        numpy_before = str(np.random.get_state())  # noqa: NPY002
        for network in networks:
            net.extract(network)
            net(inputs, network)
        assert torch.equal(torch.get_rng_state(), before)
        assert str(np.random.get_state()) == numpy_before  # noqa: NPY002

    def test_gradients_reach_all_that_a_network_uses(
        self, net: Supernet, networks: Sequence[Network], inputs: Tensor
    ) -> None:
        """What has no gradient may be anything."""
        for network in networks:
            _gradients(net, network, inputs)
            with torch.no_grad():
                before = net(inputs, network)
                for parameter in net.parameters():
                    if parameter.grad is None:
                        parameter.fill_(torch.nan)
                assert torch.equal(net(inputs, network), before), (
                    f"{network} uses a parameter without a gradient"
                )
                for parameter in net.parameters():
                    parameter.nan_to_num_(0.5)

    def test_gradients_reach_nothing_else(
        self, net: Supernet, networks: Sequence[Network], inputs: Tensor
    ) -> None:
        """What has a gradient changes what is extracted, number by number (some are tried)."""
        rng = np.random.default_rng(0)
        for network in networks[:2]:
            _gradients(net, network, inputs)
            reached = [
                (name, parameter, parameter.grad.flatten().nonzero().flatten())
                for name, parameter in net.named_parameters()
                if parameter.grad is not None and parameter.grad.any()
            ]
            assert reached, f"nothing of {network} is trained"
            for place in rng.permutation(len(reached))[:_TENSORS_TRIED].tolist():
                name, parameter, numbers = reached[place]
                number = int(numbers[rng.integers(len(numbers))])
                before = net.extract(network).state_dict()
                with torch.no_grad():
                    parameter.view(-1)[number] += 1
                after = net.extract(network).state_dict()
                assert any(not torch.equal(before[key], after[key]) for key in before), (
                    f"{network} trains {name}[{number}] without using it"
                )

    def test_drawn_networks_are_networks(self, supernet: Supernet) -> None:
        draw: Callable[[np.random.Generator], Network] | None = getattr(supernet, "draw", None)
        if draw is None:
            pytest.skip("the supernet leaves drawing networks to the trainer")
        rng = np.random.default_rng(0)
        drawn = [draw(rng) for _ in range(50)]
        assert all(supernet.space.check(network) == network for network in drawn)
        assert len(set(drawn)) > 1
        assert [draw(np.random.default_rng(0)) for _ in range(2)] == [drawn[0]] * 2

    def test_extreme_networks_are_networks(self, supernet: Supernet) -> None:
        extremes: Callable[[], tuple[Network, Network]] | None
        extremes = getattr(supernet, "extremes", None)
        if extremes is None:
            pytest.skip("the supernet leaves finding its extreme networks to the trainer")
        smallest, largest = extremes()
        for network in (smallest, largest):
            assert supernet.space.check(network) == network
        if supernet.space.block_macs is not None:
            macs = supernet.space.macs([smallest, largest])
            assert macs[0] <= macs[1]

    # ---- chains ------------------------------------------------------------------------------

    def test_nodes_one_by_one_are_the_whole(
        self, net: Supernet, networks: Sequence[Network], inputs: Tensor
    ) -> None:
        if not isinstance(net, ChainSupernet):
            pytest.skip("the supernet is no chain")
        with torch.no_grad():
            for network in networks:
                x, static = net.run_stem(inputs), net.extract_stem()(inputs)
                for node, block in enumerate(network):
                    run = net.cut_node(node, block)
                    x, before = net.run_node(node, block, x), x
                    assert torch.equal(run(before), x)
                    static = net.extract_block(node, block)(static)
                    torch.testing.assert_close(static, x)
                logits = net.run_head(x)
                torch.testing.assert_close(net.extract_head()(static), logits)
                assert torch.equal(logits, net(inputs, network))


def unsettle(module: nn.Module, seed: int = 0) -> None:
    """Give a network weights, shifts and statistics that no new one has."""
    generator = torch.Generator().manual_seed(seed)

    def around(tensor: Tensor, spread: float) -> Tensor:
        return tensor + spread * torch.randn(tensor.shape, generator=generator)

    with torch.no_grad():
        for parameter in module.parameters():
            scale = float(parameter.abs().mean())
            parameter.copy_(around(parameter, 0.1 * scale if scale else 0.1))
        for part in module.modules():
            if isinstance(part, _BatchNorm) and part.running_mean is not None:
                assert part.running_var is not None
                part.running_mean.copy_(around(part.running_mean, 0.2))
                part.running_var.copy_(around(part.running_var, 0.2).abs() + 0.1)


def counted_macs(module: nn.Module, x: Tensor, *, with_bias: bool = False) -> int:
    """Multiply-accumulates of convolutions and linear layers, by watching one input pass.

    Args:
        x: one input.
        with_bias: a layer's bias adds one for every output.
    """
    total = 0

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        total += output[0].numel() * layer.weight[0].numel()
        if with_bias and layer.bias is not None:
            total += output[0].numel()

    layers = [part for part in module.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        module(x)
    for hook in hooks:
        hook.remove()
    return total


def _gradients(net: Supernet, network: Network, inputs: Tensor) -> None:
    """Fill the gradients of one run, in training mode; back to evaluation mode."""
    for parameter in net.parameters():
        parameter.grad = None
    logits = net.train()(inputs, network)
    weights = torch.linspace(1, 2, logits.numel()).reshape(logits.shape)
    torch.autograd.backward((logits * weights).sum())
    net.eval()


def _memory(module: nn.Module) -> set[int]:
    """Where the tensors of a module begin."""
    tensors = [*module.parameters(), *module.buffers()]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}
