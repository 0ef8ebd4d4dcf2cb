"""Two processes under torchrun take the step that one takes on both halves of the batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("safetensors")

import torch
from torch import Tensor, nn
from torch.nn import functional
from training_cases import SCRIPTS, same_bits, small_net, square_data, start

from mathnas.nets.files import load_supernet
from mathnas.nets.tensors import read_tensors
from mathnas.training.processes import Processes
from mathnas.training.trainer import SUPERNET_FILE

TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]


Gradients = dict[str, Tensor]


def taken(net: nn.Module) -> Gradients:
    """The gradients of the parameters that have one; they have none afterwards."""
    found = {name: own.grad for name, own in net.named_parameters() if own.grad is not None}
    net.zero_grad(set_to_none=True)
    return found


def sums(teacher: Gradients, students: Gradients) -> Gradients:
    names = {**teacher, **students}
    zero = torch.zeros(())
    return {name: teacher.get(name, zero) + students.get(name, zero) for name in names}


def without_conflicts(teacher: Gradients, students: Gradients) -> Gradients:
    found = sums(teacher, students)
    for name in teacher.keys() & students.keys():
        own, other = students[name], teacher[name]
        share = min(2.0, max(0.0, -float((own * other).sum() / ((own * own).sum() + 1e-6))))
        found[name] = found[name] + share * own
    return found


@pytest.mark.parametrize(
    ("name", "combined"), [("sum", sums), ("resolve", without_conflicts)], ids=["sum", "resolve"]
)
def test_the_gradient_is_that_of_means_over_the_halves(
    name: str, combined: Callable[[Gradients, Gradients], Gradients], tmp_path: Path
) -> None:
    process = start([*TORCHRUN, str(SCRIPTS / "one_gradient.py"), name], tmp_path)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    found, record = read_tensors(tmp_path / "gradient0", "gradient", 1)
    other, _ = read_tensors(tmp_path / "gradient1", "gradient", 1)
    assert all(torch.equal(found[name], other[name]) for name in found)

    largest, *others = [tuple(network) for network in record.get("networks", list)]
    net = small_net().train()
    halves = []
    for rank in range(2):
        data = square_data(60, processes=Processes(torch.device("cpu"), rank, 2))
        ((images, labels),) = data.batches.epoch(0)
        assert len(labels) == 30
        halves.append((images, labels))
    soft = []
    for images, labels in halves:
        logits = net(images, largest)
        loss = functional.cross_entropy(logits, labels, label_smoothing=0.1)
        torch.autograd.backward(loss / 2)
        soft.append(logits.detach().softmax(1))
    teacher = taken(net)
    for (images, _), targets in zip(halves, soft, strict=True):
        for network in others:
            loss = functional.cross_entropy(net(images, network), targets)
            torch.autograd.backward(loss / 2)
    expected = combined(teacher, taken(net))
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    assert not same_bits(load_supernet(tmp_path / "out" / SUPERNET_FILE), small_net())


def test_alone_there_is_nothing_to_average() -> None:
    net = small_net()
    images, labels = next(iter(square_data(60).batches.epoch(0)))
    torch.autograd.backward(functional.cross_entropy(net(images, (1, 1)), labels))
    before = {
        name: own.grad.clone() for name, own in net.named_parameters() if own.grad is not None
    }
    processes = Processes(torch.device("cpu"))
    processes.average_gradients(list(net.parameters()))
    assert all(torch.equal(net.get_parameter(name).grad, own) for name, own in before.items())  # type: ignore[arg-type]
    assert processes.any(True)
    assert not processes.any(False)
