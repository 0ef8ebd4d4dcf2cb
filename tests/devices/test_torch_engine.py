"""PyTorch as an engine; a graphics card is played by a clock of our own."""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn

from mathnas import InvalidInputError
from mathnas.devices.common import Engine, engine_conditions
from mathnas.devices.timing import OwnClock, TimingSettings, time_in_turns
from mathnas.devices.torch import EventTimed, ModuleModel, TorchEngine
from mathnas.testing import EngineContract


def convolutions(layers: int, batch: int = 1) -> ModuleModel:
    module = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(layers))).eval()
    return ModuleModel(module, torch.rand(batch, 8, 16, 16))


class TestEager(EngineContract):
    @pytest.fixture
    def engine(self) -> Engine[ModuleModel]:
        return TorchEngine()

    @pytest.fixture
    def model(self) -> ModuleModel:
        return convolutions(1)

    @pytest.fixture
    def larger(self) -> ModuleModel:
        return convolutions(20)

    @pytest.fixture
    def misfit(self) -> ModuleModel:
        return convolutions(1, batch=2)


def test_a_compiled_module_computes_the_same() -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler, and there is none")
    model = convolutions(1)
    with torch.no_grad():
        expected = model.module(model.example)
    engine = TorchEngine(compile=True)
    assert engine.name == "torch-compile"
    found = engine.prepare(model)()
    assert isinstance(found, Tensor)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_weights_and_inputs_have_the_precision(precision: str) -> None:
    found = TorchEngine(precision=precision).prepare(convolutions(1))()
    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    assert isinstance(found, Tensor)
    assert found.dtype == wanted[precision]


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_memory_format_is_a_choice_and_a_condition(channels_last: bool) -> None:
    engine = TorchEngine(channels_last=channels_last)
    found = engine.prepare(convolutions(1))()
    assert isinstance(found, Tensor)
    assert found.is_contiguous(memory_format=torch.channels_last) == channels_last
    named = engine_conditions(engine)["memory_format"]
    assert named == ("channels_last" if channels_last else "contiguous")


class Threads(nn.Module):
    """Notes how many threads it runs with."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(torch.get_num_threads())
        return x


def test_threads_are_its_own_during_a_run_only() -> None:
    before = torch.get_num_threads()
    module = Threads().eval()
    TorchEngine(threads=before + 1).prepare(ModuleModel(module, torch.rand(1, 2)))()
    assert module.seen == [before + 1]
    assert torch.get_num_threads() == before


def test_a_module_in_training_is_refused() -> None:
    model = convolutions(1)
    model.module.train()
    with pytest.raises(InvalidInputError, match="in training mode: call eval"):
        TorchEngine().prepare(model)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="fp32, bf16, fp16 here, but got 'int8'"):
        TorchEngine(precision="int8")
    with pytest.raises(InvalidInputError, match="cuda or cuda:N, but got 'cpu'"):
        TorchEngine(accelerator="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a graphics card")
def test_without_a_graphics_card_there_are_no_times_on_it() -> None:
    with pytest.raises(InvalidInputError, match="but it sees none"):
        TorchEngine(accelerator="cuda")


class Card:
    """A graphics card: work that is queued takes its time, and events stand in one queue with it.

    The processor's clock says nothing about it: queueing takes no time.
    """

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.waited_for: list[float] = []

    def work(self, x: Tensor) -> Tensor:
        self.now_ms += 2.5
        return x

    def event(self) -> CardEvent:
        return CardEvent(self)


class CardEvent:
    def __init__(self, card: Card) -> None:
        self.card = card
        self.at_ms: float | None = None

    def record(self) -> None:
        self.card.now_ms += 0.1  # events are not for nothing
        self.at_ms = self.card.now_ms

    def synchronize(self) -> None:
        assert self.at_ms is not None
        self.card.waited_for.append(self.at_ms)

    def elapsed_time(self, end: CardEvent) -> float:
        assert self.at_ms is not None
        assert end.at_ms is not None
        return end.at_ms - self.at_ms


def test_times_on_a_card_are_those_of_its_events() -> None:
    card = Card()
    call = EventTimed(card.work, torch.rand(1), event=card.event)
    assert isinstance(call, OwnClock)
    (found,) = time_in_turns([call], TimingSettings(rounds=3, slice_ms=5.0))
    assert found.value == pytest.approx(2.6)
    assert found.spread == pytest.approx(0.0, abs=1e-9)
    assert len(card.waited_for) == round(card.now_ms / 2.7), "each run is over when it returns"


def test_what_runs_on_a_card_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to where CUDA is needed, which is not there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card of {device}")
    engine = TorchEngine(accelerator="cuda:1")
    assert engine_conditions(engine)["accelerator"] == "card of cuda:1"
