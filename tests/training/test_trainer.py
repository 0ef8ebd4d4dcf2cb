"""What training does to the weights: recipes, schedules, averages, reports."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch
from torch import Tensor
from torch.nn import functional
from training_cases import ALONE, Choosing, repeated, same_bits, small_net, square_data

from mathnas import InvalidInputError, Network
from mathnas.metrics import metric_named
from mathnas.nets.digits import DigitsNet
from mathnas.nets.files import load_supernet, load_weights, save_supernet, supernet_notes
from mathnas.nets.supernet import Supernet
from mathnas.training.config import Phase, TrainingConfig
from mathnas.training.data import TrainingData
from mathnas.training.losses import AlphaDivergenceLoss, Batch, DistilledLoss
from mathnas.training.recipes import Pass, Passes, StepRule, summed
from mathnas.training.reports import TrainingProgress
from mathnas.training.trainer import CONFIG_FILE, SUPERNET_FILE, TEACHER_FILE, TrainingReport, train


def run(
    net: DigitsNet | Choosing,
    data: TrainingData,
    config: TrainingConfig,
    folder: Path | None = None,
) -> TrainingReport:
    return train(net, data, config, folder, processes=ALONE)


def gradients(net: Choosing) -> list[Tensor]:
    """The gradients of the rows, one a backward pass, as training goes on."""
    found: list[Tensor] = []
    net.rows.register_hook(lambda own: found.append(own.clone()))  # type: ignore[no-untyped-call]
    return found


def rows(*values: list[float]) -> Choosing:
    net = Choosing(tuple(float(i + 1) for i in range(len(values))))
    with torch.no_grad():
        net.rows.copy_(torch.tensor(values))
    return net


# ---- recipes ------------------------------------------------------------------------------------


def test_every_sandwich_step_runs_largest_smallest_and_random_networks() -> None:
    net = Choosing((5.0, 9.0, 1.0, 3.0))
    run(net, repeated([0, 1], 50), TrainingConfig(epochs=1))
    steps = [net.runs[start : start + 4] for start in range(0, len(net.runs), 4)]
    assert len(steps) == 50
    assert all(step[:2] == [(1,), (2,)] for step in steps)
    assert {network for step in steps for network in step[2:]} == {(0,), (1,), (2,), (3,)}


def test_in_a_sandwich_the_others_learn_from_the_largest_and_not_from_the_labels() -> None:
    net = rows([0.3, 0.0, -0.3], [0.0, 1.0, 2.0])
    found = gradients(net)
    soft, own = net.rows.detach()[1].softmax(0), net.rows.detach().softmax(1)
    config = TrainingConfig(epochs=1, random_networks=0, label_smoothing=0.0)
    run(net, repeated([0, 0, 0], 1), config)
    largest, smallest = found
    torch.testing.assert_close(largest[1], own[1] - torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(smallest[0], own[0] - soft)
    # the largest is the teacher: nothing flows back to it
    assert torch.equal(smallest[1], torch.zeros(3))


def test_in_a_sandwich_the_others_may_learn_by_the_alpha_divergence() -> None:
    net = rows([0.3, 0.0, -0.3], [0.0, 1.0, 2.0])
    found = gradients(net)
    logits = net.rows.detach()[:1].clone().requires_grad_()
    loss = AlphaDivergenceLoss()(logits, Batch(logits, torch.zeros(1), net.rows.detach()[1:]))
    (expected,) = torch.autograd.grad(loss, logits)
    config = TrainingConfig(epochs=1, random_networks=0, student_loss="alpha")
    run(net, repeated([0, 0, 0], 1), config)
    _, smallest = found
    torch.testing.assert_close(smallest[0], expected[0])
    assert torch.equal(smallest[1], torch.zeros(3))


def test_shrinking_learns_from_labels_and_from_the_frozen_teacher() -> None:
    net = rows([0.3, 0.0, -0.3], [0.0, 1.0, 2.0])
    found = gradients(net)
    soft, before = net.rows.detach()[1].softmax(0), net.rows.detach().clone()
    phase = Phase("small", 2, blocks={"only": ("b0",)}, networks=2, distill=0.5)
    config = TrainingConfig(
        recipe="shrinking", phases=(phase,), label_smoothing=0.0, weight_decay=0.0
    )
    run(net, repeated([0, 0, 0], 1), config)
    own, label = before.softmax(1)[0], torch.tensor([1.0, 0.0, 0.0])
    assert len(found) == 4
    for gradient in found[:2]:
        torch.testing.assert_close(gradient[0], 0.5 * (own - soft) + (own - label))
        assert torch.equal(gradient[1], torch.zeros(3))
    # the teacher ran once a step, before the networks, and did not change
    assert torch.equal(net.rows[1], before[1])


def test_the_distilled_loss_is_the_weighted_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, teacher = (torch.randn(5, 3, generator=generator) for _ in range(2))
    labels = torch.tensor([0, 1, 2, 0, 1])
    found = DistilledLoss(2.0, 0.1)(logits, Batch(logits, labels, teacher))
    soft = -(teacher.softmax(1) * logits.log_softmax(1)).sum(1).mean()
    target = 0.9 * functional.one_hot(labels, 3) + 0.1 / 3
    hard = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(found, 2.0 * soft + hard)


def test_uniform_runs_one_network_a_step_on_the_labels() -> None:
    net = Choosing((1.0, 2.0, 3.0))
    run(net, repeated([2], 40), TrainingConfig(recipe="uniform", epochs=1))
    assert len(net.runs) == 40
    assert set(net.runs) == {(0,), (1,), (2,)}
    assert net.rows.argmax(1).tolist() == [2, 2, 2]


def test_phases_run_in_turn_each_with_its_networks() -> None:
    net = Choosing((1.0, 2.0, 3.0))
    phases = (
        Phase("largest", 1, largest=True, distill=0.0),
        Phase("two", 1, blocks={"only": ("b[01]",)}, networks=2),
        Phase("all", 2),
    )
    run(net, repeated([0], 10), TrainingConfig(recipe="shrinking", phases=phases))
    assert net.runs[:10] == [(2,)] * 10
    # the teacher is a copy, so only the networks that learn are seen
    assert len(net.runs) == 10 + 20 + 20
    assert set(net.runs[10:30]) == {(0,), (1,)}
    assert set(net.runs[30:]) == {(0,), (1,), (2,)}


def test_the_teacher_is_the_supernet_at_the_start_of_shrinking_or_a_file(tmp_path: Path) -> None:
    phases = (Phase("largest", 2, largest=True, distill=0.0), Phase("all", 1))
    config = TrainingConfig(recipe="shrinking", phases=phases, batch_size=20)
    first = small_net()
    run(first, square_data(), config.replace(phases=phases[:1]))
    run(small_net(), square_data(), config, tmp_path / "own")
    assert same_bits(load_supernet(tmp_path / "own" / TEACHER_FILE), first)

    save_supernet(tmp_path / "given", small_net(seed=9))
    given = config.replace(teacher=str(tmp_path / "given"))
    run(small_net(), square_data(), given, tmp_path / "other")
    assert same_bits(load_supernet(tmp_path / "other" / TEACHER_FILE), small_net(seed=9))


def test_channels_are_sorted_before_the_phase_that_says_so() -> None:
    class Sorting(Choosing):
        sorted_after: tuple[int, ...] = ()

        def sort_channels(self) -> None:
            self.sorted_after = (*self.sorted_after, len(self.runs))

    phases = (Phase("a", 1, distill=0.0), Phase("b", 1, distill=0.0, sort_channels=True))
    config = TrainingConfig(recipe="shrinking", phases=phases)
    net = Sorting((1.0, 2.0))
    run(net, repeated([0], 7), config)
    assert net.sorted_after == (7,)
    with pytest.raises(InvalidInputError, match="'b' sorts channels, but Choosing has no"):
        run(Choosing((1.0, 2.0)), repeated([0], 7), config)


def test_residuals_are_zeroed_before_the_first_step() -> None:
    class Zeroing(Choosing):
        zeroed_after: tuple[int, ...] = ()

        def zero_residuals(self) -> None:
            self.zeroed_after = (*self.zeroed_after, len(self.runs))

    config = TrainingConfig(recipe="uniform", epochs=1, zero_residuals=True)
    net = Zeroing((1.0, 2.0))
    run(net, repeated([0], 7), config)
    assert net.zeroed_after == (0,)
    with pytest.raises(InvalidInputError, match="Choosing has no zero_residuals"):
        run(Choosing((1.0, 2.0)), repeated([0], 7), config)


def test_dropout_is_set_before_the_first_step() -> None:
    class Dropping(Choosing):
        dropout: float | None = None

        def set_dropout(self, dropout: float) -> None:
            assert not self.runs
            self.dropout = dropout

    config = TrainingConfig(recipe="uniform", epochs=1, dropout=0.3)
    net = Dropping((1.0, 2.0))
    run(net, repeated([0], 7), config)
    assert net.dropout == 0.3
    run(net, repeated([0], 7), config.replace(dropout=None))
    assert net.dropout == 0.3
    with pytest.raises(InvalidInputError, match=r"0\.3, but Choosing has no .* set dropout=null"):
        run(Choosing((1.0, 2.0)), repeated([0], 7), config)


def test_recipe_and_combination_can_be_replaced() -> None:
    """A rule of one's own: gradients of two groups, the second turned round."""

    def both(supernet: object, phase: object, config: object) -> StepRule:
        def loss(logits: Tensor, batch: Batch) -> Tensor:
            return logits.sum()

        return lambda rng: [Pass((0,), loss, "smallest"), Pass((1,), loss, "largest")]

    def opposed(passes: Sequence[Pass], step: Passes) -> None:
        summed(passes[:1], step)
        first = [own.grad.clone() for own in step.parameters if own.grad is not None]
        for own in step.parameters:
            own.grad = None
        summed(passes[1:], step)
        for own, gradient in zip(step.parameters, first, strict=True):
            assert own.grad is not None
            own.grad = gradient - own.grad

    net = Choosing((1.0, 2.0))
    config = TrainingConfig(epochs=1, momentum=0.0, weight_decay=0.0, learning_rate=0.1)
    train(net, repeated([0], 1), config, processes=ALONE, recipe=both, combine=opposed)
    assert net.rows[0].tolist() == pytest.approx([-0.1] * 3)
    assert net.rows[1].tolist() == pytest.approx([0.1] * 3)


# ---- optimiser ----------------------------------------------------------------------------------


def rates(config: TrainingConfig, steps: int) -> list[float]:
    told: list[TrainingProgress] = []
    config = config.replace(log_interval=1)
    train(Choosing((1.0, 2.0)), repeated([0], steps), config, processes=ALONE, told=told.append)
    return [progress.learning_rate for progress in told]


def test_the_rate_rises_and_falls_in_every_phase() -> None:
    phases = (
        Phase("a", 2, distill=0.0, warmup_epochs=1),
        Phase("b", 1, distill=0.0, learning_rate=0.5),
    )
    found = rates(TrainingConfig(recipe="shrinking", phases=phases, learning_rate=0.1), 10)
    assert found[:10] == pytest.approx([0.1 * (step + 1) / 10 for step in range(10)])
    cosine = [0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(10)]
    assert found[10:20] == pytest.approx([0.1 * share for share in cosine])
    assert found[20:] == pytest.approx([0.5 * share for share in cosine])


def test_the_schedule_is_that_of_the_configuration() -> None:
    config = TrainingConfig(
        epochs=2,
        learning_rate=0.1,
        schedule="inverse-sqrt",
        warmup_steps=5,
        initial_rate=0.05,
        final_rate=0.06,
    )
    found = rates(config, 10)
    assert found[:5] == pytest.approx([0.06, 0.07, 0.08, 0.09, 0.1])
    falling = [0.1 * (5 / (step + 1)) ** 0.5 for step in range(5, 20)]
    assert found[5:] == pytest.approx([max(0.06, rate) for rate in falling])


def test_adam_has_the_decays_of_the_configuration() -> None:
    gradients_of = [1.0, -0.5, 0.25]

    def given(passes: Sequence[Pass], step: Passes) -> None:
        for own in step.parameters:
            own.grad = torch.full_like(own, gradients_of[len(seen)])
            seen.append(0)

    seen: list[int] = []
    net = Choosing((1.0,))
    config = TrainingConfig(
        recipe="uniform",
        epochs=1,
        optimizer="adamw",
        beta1=0.8,
        beta2=0.98,
        eps=1e-3,
        learning_rate=0.1,
        schedule="constant",
        weight_decay=0.0,
    )
    train(net, repeated([0], 3), config, processes=ALONE, combine=given)
    # Kingma and Ba, 2015, algorithm 1
    first = second = weight = 0.0
    for step, gradient in enumerate(gradients_of, start=1):
        first = 0.8 * first + 0.2 * gradient
        second = 0.98 * second + 0.02 * gradient**2
        root = (second / (1 - 0.98**step)) ** 0.5
        weight -= 0.1 * first / (1 - 0.8**step) / (root + 1e-3)
    torch.testing.assert_close(net.rows.detach(), torch.full((1, 3), weight))


def test_weights_decay_and_biases_do_not() -> None:
    net, fresh = small_net(), small_net()

    def nothing(passes: Sequence[Pass], step: Passes) -> None:
        for own in step.parameters:
            own.grad = torch.zeros_like(own)

    config = TrainingConfig(epochs=1, batch_size=60, learning_rate=0.1, weight_decay=0.5)
    train(net, square_data(60), config, processes=ALONE, combine=nothing)
    for name, own in net.named_parameters():
        # Nesterov's first step: (1 + momentum) times the gradient
        factor = 1 - 0.1 * 0.5 * 1.9 if own.ndim > 1 else 1.0
        torch.testing.assert_close(own, factor * fresh.get_parameter(name))


def test_the_gradient_is_clipped() -> None:
    net = rows([0.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    before = net.rows.detach().clone()
    config = TrainingConfig(epochs=1, momentum=0.0, weight_decay=0.0, clip=0.01, learning_rate=1.0)
    run(net, repeated([0], 1), config)
    assert float((net.rows.detach() - before).norm()) == pytest.approx(0.01, rel=1e-3)


def test_the_moving_average_is_what_is_left(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def watch(passes: Sequence[Pass], step: Passes) -> None:
        seen.append(step.parameters[0].detach().clone())
        summed(passes, step)

    net = Choosing((1.0, 2.0))
    config = TrainingConfig(epochs=1, ema=0.5, label_smoothing=0.0)
    train(net, repeated([0], 4), config, processes=ALONE, combine=watch)
    plain = Choosing((1.0, 2.0))
    run(plain, repeated([0], 4), config.replace(ema=None))
    average = seen[0]
    for step, weights in enumerate([*seen[1:], plain.rows.detach()]):
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weights
    torch.testing.assert_close(net.rows.detach(), average)


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_mean_of_the_last_epochs_weights_is_what_is_left(epochs: int) -> None:
    config = TrainingConfig(epochs=5, batch_size=20, average_epochs=epochs)
    ends: list[dict[str, Tensor]] = []

    def keep(progress: TrainingProgress) -> None:
        if progress.epoch == int(progress.epoch):
            ends.append({name: own.detach().clone() for name, own in plain.named_parameters()})

    plain, averaged = small_net(), small_net()
    last = config.replace(average_epochs=0, log_interval=1)
    train(plain, square_data(), last, processes=ALONE, told=keep)
    run(averaged, square_data(), config)
    assert len(ends) == 5
    for name, own in averaged.named_parameters():
        mean = torch.stack([weights[name] for weights in ends[-epochs:]]).mean(0)
        torch.testing.assert_close(own.detach(), mean)


def test_the_mean_of_the_last_epochs_is_what_is_evaluated() -> None:
    config = TrainingConfig(epochs=4, batch_size=20, average_epochs=2)
    seen: list[dict[str, Tensor]] = []

    class Watching:
        metric = metric_named("accuracy")

        def score(self, supernet: Supernet, network: Network) -> float:
            seen.append({name: own.clone() for name, own in supernet.named_parameters()})
            return 0.0

    data, net = square_data(), small_net()
    run(net, dataclasses.replace(data, held_out=Watching()), config)
    plain = small_net()
    run(plain, data, config.replace(average_epochs=0))
    last, own = seen[-1], dict(net.named_parameters())
    assert all(torch.equal(last[name], own[name]) for name in own)
    assert not all(torch.equal(plain.get_parameter(name), own[name]) for name in own)


# ---- the whole ----------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["sandwich", "shrinking", "uniform"])
def test_training_teaches_every_network(recipe: str) -> None:
    net = small_net()
    fields = {"recipe": recipe, "epochs": 40, "batch_size": 30, "optimizer": "adamw"}
    config = TrainingConfig.from_fields({**fields, "learning_rate": 2e-2})
    report = run(net, square_data(30, held_out=True), config)
    assert not net.training
    assert min(report.scores.values()) > 90
    net.train()
    images, labels = square_data(60).batches.epoch(0).__next__()
    with torch.no_grad():
        for network in net.space.enumerate():
            assert float(functional.cross_entropy(net(images, network), labels)) < 0.6


def test_the_seed_decides_everything() -> None:
    def trained(seed: int) -> DigitsNet:
        net = small_net(seed)
        run(net, square_data(seed=seed), TrainingConfig(epochs=2, batch_size=20, seed=seed))
        return net

    state = torch.get_rng_state()
    one, same, other = trained(1), trained(1), trained(2)
    assert torch.equal(torch.get_rng_state(), state)
    assert same_bits(one, same)
    assert not same_bits(one, other)


def test_what_is_left_in_the_folder(tmp_path: Path) -> None:
    config = TrainingConfig(epochs=4, batch_size=20, log_interval=5, evaluation_interval=2)
    net = small_net()
    report = run(net, square_data(held_out=True), config, tmp_path)
    assert report.file == tmp_path / SUPERNET_FILE
    assert same_bits(load_supernet(report.file), net)
    assert TrainingConfig.from_dict(supernet_notes(report.file)["training"]) == config
    assert TrainingConfig.load(tmp_path / CONFIG_FILE) == config
    with (tmp_path / "log.csv").open(newline="") as file:
        log = list(csv.DictReader(file))
    assert [row["step"] for row in log] == ["5", "6", "10", "12"]
    assert [bool(row["accuracy_largest"]) for row in log] == [False, True, False, True]
    assert float(log[-1]["accuracy_largest"]) == report.scores["largest"]
    assert all(float(row["loss_smallest"]) > 0 for row in log)


def test_events_for_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = TrainingConfig(epochs=2, batch_size=20, log_interval=3)
    train(small_net(), square_data(), config, tmp_path, processes=ALONE, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss_largest")] == [3, 6]


def test_training_starts_from_a_file(tmp_path: Path) -> None:
    save_supernet(tmp_path / "given", small_net(seed=4))
    config = TrainingConfig(epochs=1, batch_size=20)
    one, two = small_net(seed=4), small_net()
    run(one, square_data(), config)
    run(two, square_data(), config.replace(start=str(tmp_path / "given")))
    assert same_bits(one, two)
    load_weights(tmp_path / "given", two)
    assert not same_bits(one, two)


def test_classes_that_do_not_fit_are_refused() -> None:
    data = square_data()
    wrong = TrainingData("squares", data.batches, 4)
    with pytest.raises(InvalidInputError, match="this one has 3 and 'squares' has 4 classes"):
        run(small_net(), wrong, TrainingConfig(epochs=1, batch_size=20))


def test_weights_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    config = TrainingConfig(epochs=9, batch_size=20, learning_rate=1e30, log_interval=100)
    with pytest.raises(InvalidInputError, match=r"at step \d+ that of \w+ networks is"):
        run(small_net(), square_data(), config, tmp_path)
    assert not (tmp_path / SUPERNET_FILE).exists()
