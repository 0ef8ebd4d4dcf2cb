"""Every supernet of mathnas keeps the contract of supernets."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

pytest.importorskip("torch")

import torch
from nets_cases import TINY, images
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mathnas import Network
from mathnas.nets.counting import counted_macs
from mathnas.nets.digits import DigitsNet
from mathnas.nets.mobilenetv3 import MobileNetV3Net
from mathnas.nets.nasbench201 import NASBench201Net
from mathnas.nets.supernet import Supernet
from mathnas.nets.supertransformer import SubTransformer, SuperTransformerNet
from mathnas.nets.supervit import SuperViTNet
from mathnas.spaces import MobileNetV3, NASBench201, SuperViT
from mathnas.testing.supernets import SupernetContract
from mathnas.tokens import END, PAD
from supertransformer_cases import tiny_space


class TestDigitsNet(SupernetContract):
    @pytest.fixture(params=["tiny", "default"])
    def supernet(self, request: pytest.FixtureRequest) -> DigitsNet:
        return DigitsNet(TINY) if request.param == "tiny" else DigitsNet()

    @pytest.fixture
    def inputs(self) -> Tensor:
        return images(6)


class TestMobileNetV3Net(SupernetContract):
    @pytest.fixture
    def supernet(self) -> MobileNetV3Net:
        return MobileNetV3Net(MobileNetV3(0.35, resolution=32, classes=10))

    @pytest.fixture
    def inputs(self) -> Tensor:
        return images(4, side=32).expand(-1, 3, -1, -1)

    @pytest.fixture
    def networks(self, supernet: MobileNetV3Net) -> Sequence[Network]:
        """Smallest and largest too."""
        space = supernet.space
        extremes = [space.from_config([k] * 20, [e] * 20, [d] * 5) for k, e, d in EXTREMES]
        return [*extremes, *space.sample(2, seed=1)]


EXTREMES = ((3, 3, 2), (7, 6, 4))


class TestNASBench201Net(SupernetContract):
    bias_macs = True

    @pytest.fixture
    def supernet(self) -> NASBench201Net:
        return NASBench201Net(NASBench201("cifar10", channels=4, cells=2))

    @pytest.fixture
    def inputs(self) -> Tensor:
        return images(4, side=32).expand(-1, 3, -1, -1)

    @pytest.fixture
    def networks(self, supernet: NASBench201Net) -> Sequence[Network]:
        """Dead edges, nothing at all, and everything too."""
        return [(3, 2, 0, 0, 3, 0), (0, 0, 3, 0, 0, 2), *supernet.space.sample(3, seed=1)]


class TestSuperTransformerNet(SupernetContract):
    """A row of logits a token; the space counts layers alone, without the vocabulary's."""

    @pytest.fixture(params=[(16, 16), (12, 16)], ids=["equal widths", "unequal widths"])
    def supernet(self, request: pytest.FixtureRequest) -> SuperTransformerNet:
        encoder, decoder = request.param
        space = tiny_space(encoder, decoder, source=7, target=5)
        return SuperTransformerNet(space)

    @pytest.fixture
    def inputs(self, supernet: SuperTransformerNet) -> Tensor:
        """Pairs of the lengths that the space counts at, and a shorter one."""
        x = supernet.example_inputs(3)
        x[2, 0, 3] = END
        x[2, 0, 4:], x[2, 1, 3:] = PAD, PAD
        return x

    @pytest.fixture
    def networks(self, supernet: SuperTransformerNet) -> Sequence[Network]:
        """The shallowest and the deepest decoder too."""
        return [*supernet.extremes(), *supernet.space.sample(3, seed=1)]

    def rows(self, inputs: Tensor) -> int:
        return int((inputs[:, 1] != PAD).sum())

    def macs(self, network: nn.Module, x: Tensor) -> float:
        assert isinstance(network, SubTransformer)
        with sdpa_kernel(SDPBackend.MATH):  # the counter does not know the fused one
            counted = counted_macs(network, x)
        words = network.encoder.embed_tokens.num_embeddings
        return counted - self.rows(x) * network.decoder.width * words

    def params(self, network: nn.Module) -> int:
        assert isinstance(network, SubTransformer)
        return super().params(network) - network.encoder.embed_tokens.weight.numel()


class TestSuperViTNet(SupernetContract):
    """The space counts products of two activations too, as attention has them."""

    @pytest.fixture
    def supernet(self) -> SuperViTNet:
        return SuperViTNet(SuperViT(32, 10, (1, 1, 2, 2, 2, 1, 1, 2)))

    @pytest.fixture
    def inputs(self) -> Tensor:
        return images(2, side=32).expand(-1, 3, -1, -1)

    @pytest.fixture
    def networks(self, supernet: SuperViTNet) -> Sequence[Network]:
        """Smallest and largest too."""
        smallest, largest = supernet.extremes()
        return [smallest, *supernet.space.sample(2, seed=1), largest]

    def macs(self, network: nn.Module, x: Tensor) -> float:
        return counted_macs(network, x)


# ---- supernets that do not keep it ---------------------------------------------------------------


class Sharing(DigitsNet):
    """Extracts parts that are its own."""

    def extract_head(self) -> nn.Module:
        head = super().extract_head()
        assert isinstance(head, nn.Sequential)
        head[-1] = self.classifier
        return head


class Remembering(DigitsNet):
    """Keeps statistics while it trains."""

    def run_stem(self, x: Tensor) -> Tensor:
        self.stem_norm.running_mean += 0.1
        return super().run_stem(x)


class Straying(DigitsNet):
    """Trains what it does not use."""

    def run_head(self, x: Tensor) -> Tensor:
        unused = torch.stack([parameter.sum() for parameter in self.nodes.parameters()]).sum()
        return super().run_head(x) + (unused - unused.detach())


class Wrong(DigitsNet):
    """Extracts another block than it runs."""

    def extract_block(self, node: int, block: int) -> nn.Module:
        return super().extract_block(node, min(block, 1))


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        (Sharing, "test_an_extracted_network_has_its_own_memory"),
        (Remembering, "test_a_run_stores_nothing"),
        (Straying, "test_gradients_reach_nothing_else"),
        (Wrong, "test_an_extracted_network_computes_the_same"),
    ],
)
def test_the_contract_finds_what_is_broken(kind: type[DigitsNet], broken: str) -> None:
    contract = SupernetContract()
    net: Supernet = kind(TINY).eval()
    network = (0, 0, 0) if kind is Straying else (2, 0, 1)  # nodes 0 and 2 are skipped
    arguments = {"net": net, "networks": [network], "inputs": images(6)}
    with pytest.raises(AssertionError):
        getattr(contract, broken)(**arguments)
