"""From a supernet to a package, and back to its networks."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping
from dataclasses import replace

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import numpy as np
import torch
from torch import Tensor, nn

from mathnas import BlockEffects, BlockTable, GroupedSpace, InvalidInputError, metric_named
from mathnas.errors import MissingExtraError
from mathnas.nets.calibrated import Sharing, calibrated_parts
from mathnas.nets.digits import DigitsConfig, DigitsNet, DigitsNode
from mathnas.nets.grouped import GroupedSupernet
from mathnas.nets.mbconv import MBConvChoice
from mathnas.nets.supernet import ChainSupernet
from mathnas.posterior import Posterior
from mathnas.runtime.deploying import choose_blocks, default_sharing, deploy, storage_of
from mathnas.runtime.package import HEAD, STEM, Package, PackagedPart
from mathnas.space import Network, SearchSpace

torch.set_num_threads(1)

NET = DigitsNet(
    DigitsConfig(
        stem=4,
        nodes=(
            DigitsNode(4, 1, (None, MBConvChoice(3, 1), MBConvChoice(5, 2))),
            DigitsNode(6, 2, (MBConvChoice(3, 1), MBConvChoice(5, 1), MBConvChoice(7, 2))),
            DigitsNode(6, 1, (None, MBConvChoice(3, 2), MBConvChoice(3, 3))),
        ),
        head=8,
    )
).eval()
GENERATOR = torch.Generator().manual_seed(0)
BATCHES = [torch.rand(16, 1, 8, 8, generator=GENERATOR) for _ in range(2)]
NETWORKS = [(0, 0, 0), (1, 2, 1), (2, 1, 2), (2, 2, 0)]


def table_of(space: SearchSpace) -> BlockTable:
    """More MACs are slower and better; the numbers are made up."""
    rng = np.random.default_rng(0)
    columns = {}
    for name in ("accuracy", "latency_ms"):
        effects = rng.random(space.num_blocks) + np.concatenate([np.arange(n) for n in space.sizes])
        columns[name] = BlockEffects(
            metric_named(name), 1.0, effects, np.zeros(len(effects)), np.ones(len(effects))
        )
    return BlockTable(space, (0,) * space.num_nodes, columns)


def logits(package: Package, network: Network, images: Tensor) -> Tensor:
    """What a device computes from a package's parts, one after the other."""
    if package.engine == "torch":
        return torch_logits(package, network, images)
    x = images.numpy()
    for part in package.parts_of(network):
        x = run_graph(package, part, x)
    return torch.from_numpy(x)


def torch_logits(package: Package, network: Network, images: Tensor) -> Tensor:
    before: tuple[int | None, ...] = (None, *network)
    modules: list[tuple[nn.Module, PackagedPart]] = [(NET.extract_stem(), package.parts[STEM])]
    for node, block in enumerate(network):
        part = package.part(node, block, before[node])
        if part is not None:
            modules.append((NET.extract_block(node, block), part))
    modules.append((NET.extract_head(), package.parts[HEAD]))
    for module, part in modules:
        state = {name: package.tensors[tensor] for name, tensor in part.tensors.items()}
        module.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
        with torch.no_grad():
            images = module(images)
    return images


def run_graph(package: Package, part: PackagedPart, x: np.ndarray) -> np.ndarray:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    arrays = [package.tensors[name] for name in part.tensors.values()]
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(a)) for a in arrays]
    options.add_external_initializers(list(part.tensors), values)
    assert part.graph is not None
    session = onnxruntime.InferenceSession(
        package.tensors[part.graph].tobytes(), options, providers=["CPUExecutionProvider"]
    )
    (outputs,) = session.run(None, {session.get_inputs()[0].name: x})
    return np.asarray(outputs)


@pytest.fixture(scope="module")
def packages() -> Mapping[tuple[str, Sharing], Package]:
    pytest.importorskip("onnx")
    kinds = [*itertools.product(["torch"], Sharing), ("onnxruntime", Sharing.ENTRY)]
    return {
        (engine, sharing): deploy(
            NET, table_of(NET.space), BATCHES, engine=engine, sharing=sharing, notes={"a": 1}
        )
        for engine, sharing in kinds
    }


def test_networks_of_a_package_are_the_calibrated_ones(
    packages: Mapping[tuple[str, Sharing], Package],
) -> None:
    """In every engine, at any batch size."""
    for (engine, sharing), package in packages.items():
        parts = calibrated_parts(NET, BATCHES, sharing=sharing)
        for network, count in zip(NETWORKS, (1, 2, 5, 16), strict=True):
            images = BATCHES[0][:count]
            with torch.no_grad():
                expected = parts.network(network)(images)
            found = logits(package, network, images)
            assert torch.allclose(found, expected, atol=1e-4), (engine, sharing, network)


def test_what_a_package_says(packages: Mapping[tuple[str, Sharing], Package]) -> None:
    package = packages["onnxruntime", Sharing.ENTRY]
    assert package.input_shape == (1, 8, 8)
    assert package.skipped == {(0, 0), (2, 0)}
    assert package.notes == {"a": 1, "sharing": "entry", "calibration_images": 32}
    assert (package.statistics, packages["torch", Sharing.BLOCK].statistics) == ("pair", "block")
    graphs = {part.graph for part in package.parts.values()}
    assert len(graphs) == 2 + 7  # one a block, whatever is before it


def test_weights_stand_in_no_graph(packages: Mapping[tuple[str, Sharing], Package]) -> None:
    import onnx

    package = packages["onnxruntime", Sharing.ENTRY]
    for part in package.parts.values():
        assert part.graph is not None
        model = onnx.ModelProto.FromString(package.tensors[part.graph].tobytes())
        outside = {
            c.name for c in model.graph.initializer if c.data_location == onnx.TensorProto.EXTERNAL
        }
        assert outside == set(part.tensors)
        inside = [c for c in model.graph.initializer if c.name not in outside]
        assert all(np.prod(c.dims) <= 4 for c in inside)
        assert "BatchNormalization" not in {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_a_package_takes_no_more_than_was_reckoned(
    engine: str, packages: Mapping[tuple[str, Sharing], Package]
) -> None:
    single = GroupedSpace(NET.space, {node.name: [node.name] for node in NET.space.nodes})
    grouped = GroupedSpace(
        NET.space, {"early": [0], "late": [1, 2]}, {"late": [(1, 0), (0, 2), (0, 1)]}
    )
    view = GroupedSupernet(NET, grouped)
    for sharing in Sharing if engine == "torch" else [Sharing.ENTRY]:
        found = deploy(view, table_of(grouped), BATCHES, engine=engine, sharing=sharing)
        reckoned = storage_of(NET, 3, grouped, engine=engine, sharing=sharing).size(grouped)
        # candidates that begin with one block are reckoned to share it
        assert found.weight_bytes() <= reckoned <= 1.1 * found.weight_bytes()
    for (own, sharing), package in packages.items():
        if own == engine:
            reckoned = storage_of(NET, 3, engine=engine, sharing=sharing).size(single)
            assert package.weight_bytes() <= reckoned <= 2 * package.weight_bytes()
            # more may be kept than there are: no node has more than three blocks before it
            assert storage_of(NET, 9, engine=engine, sharing=sharing).size(single) == reckoned


def test_a_package_keeps_predictions_without_their_deviations() -> None:
    space = NET.space
    table = table_of(space)
    posterior = Posterior(np.ones((space.num_blocks, 1)), np.zeros(1), 0.0, 1.0)
    column = replace(table.columns["accuracy"], posterior=posterior)
    unsure = BlockTable(space, table.reference, {**table.columns, "accuracy": column})
    package = deploy(NET, unsure, BATCHES, engine="torch", sharing=Sharing.BLOCK)
    kept = package.table
    assert kept.columns["accuracy"].posterior is None
    assert np.array_equal(kept.predict_all("accuracy"), table.predict_all("accuracy"))


def test_what_is_reckoned_holds_for_statistics_that_are_equal_before_they_are_set() -> None:
    """A new supernet's are all zeros and ones."""
    new = DigitsNet().eval()
    single = GroupedSpace(new.space, {node.name: [node.name] for node in new.space.nodes})
    package = deploy(new, table_of(new.space), BATCHES, engine="torch", sharing=Sharing.BLOCK)
    reckoned = storage_of(new, 5, engine="torch", sharing=Sharing.BLOCK).size(single)
    assert package.weight_bytes() <= reckoned <= 1.02 * package.weight_bytes()


def test_blocks_that_share_weights_are_kept_once(
    packages: Mapping[tuple[str, Sharing], Package],
) -> None:
    """k3 and k5 of one expansion have the same 1x1 convolutions."""
    package = packages["torch", Sharing.BLOCK]
    one, other = (package.part(1, block, None) for block in (0, 1))
    assert one is not None
    assert other is not None
    assert set(one.tensors.values()) & set(other.tensors.values())
    assert package.weight_bytes() < sum(
        package.tensors[name].nbytes for p in package.parts.values() for name in p.tensors.values()
    )


def test_kept_blocks_fit_and_are_deployed() -> None:
    table = table_of(NET.space)
    groups = {"early": [0, 1], "late": [2]}
    common = {"engine": "torch", "sharing": Sharing.PAIR, "budgets": 8}
    free = choose_blocks(NET, table, groups, 2, maximize="accuracy", **common)  # type: ignore[arg-type]
    assert free.size is not None
    memory = free.size - 1
    held = choose_blocks(NET, table, groups, 2, maximize="accuracy", memory=memory, **common)  # type: ignore[arg-type]
    assert held.size is not None
    assert held.size <= memory
    assert held.value <= free.value
    view = GroupedSupernet(NET, held.space)
    resident = held.space.table(table)
    package = deploy(view, resident, BATCHES, engine="torch", sharing=Sharing.PAIR)
    assert package.weight_bytes() <= held.size
    for point in held.points:
        assert package.table.exact(point.network, "accuracy") == pytest.approx(point.value)


def test_every_node_is_a_group_by_default() -> None:
    chosen = choose_blocks(NET, table_of(NET.space), None, 2, maximize="accuracy", engine="torch")
    assert [node.name for node in chosen.space.nodes] == [node.name for node in NET.space.nodes]
    assert max(chosen.space.sizes) <= 2


def test_what_an_engine_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mathnas.runtime.onnx_packaging", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"for onnxruntime need onnx: .*mathnas\[onnx\]"):
        deploy(NET, table_of(NET.space), BATCHES, engine="onnxruntime")


def test_what_cannot_be_deployed() -> None:
    table = table_of(NET.space)
    other: ChainSupernet = DigitsNet().eval()
    with pytest.raises(InvalidInputError, match="an engine is one of onnxruntime, torch"):
        deploy(NET, table, BATCHES, engine="abacus")
    with pytest.raises(InvalidInputError, match="an engine is one of onnxruntime, torch"):
        deploy(NET, table, BATCHES, engine="abacus", sharing=Sharing.BLOCK)
    with pytest.raises(InvalidInputError, match="an engine is one of onnxruntime, torch"):
        storage_of(NET, 2, engine="abacus", sharing=Sharing.BLOCK)
    with pytest.raises(InvalidInputError, match="a package's table is of the blocks"):
        deploy(other, table, BATCHES, engine="torch")
    with pytest.raises(InvalidInputError, match="at least one batch"):
        deploy(NET, table, [], engine="torch")
    with pytest.raises(InvalidInputError, match="blocks of one space are chosen"):
        choose_blocks(other, table, None, 2)
    assert default_sharing("torch") is Sharing.PAIR
