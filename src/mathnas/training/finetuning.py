"""Training an extracted network a little further, now that its weights serve it alone.

It is trained by the one trainer, as a supernet of a single network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from mathnas._progress import Show
from mathnas.errors import InvalidInputError
from mathnas.nets.batchnorm import recalibrate
from mathnas.nets.extracted import ExtractedNetwork, recalibrated
from mathnas.nets.fixed import FixedNetwork
from mathnas.nets.supernet import Supernet
from mathnas.training.config import Phase, TrainingConfig
from mathnas.training.data import TrainingData
from mathnas.training.losses import Batch, LabelLoss, Loss
from mathnas.training.networks import extremes_of
from mathnas.training.processes import Processes
from mathnas.training.recipes import Pass, Recipe, StepRule
from mathnas.training.reports import TrainingProgress
from mathnas.training.trainer import TrainingReport, train


@dataclass(frozen=True)
class GuidedLoss:
    """The labels, and the outputs of another network that does not change.

    Attributes:
        guide: inputs to logits, in evaluation mode.
        weight: of the soft cross entropy; the labels' has weight 1.
        smoothing: of the labels.
    """

    guide: nn.Module
    weight: float
    smoothing: float = 0.0

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            soft = self.guide(batch.inputs).float().softmax(1)
        labels = LabelLoss(self.smoothing)(logits, batch)
        return self.weight * functional.cross_entropy(logits, soft) + labels


def finetune(
    extracted: ExtractedNetwork,
    data: TrainingData,
    config: TrainingConfig,
    *,
    guide: nn.Module | None = None,
    distill: float = 1.0,
    device: str = "cpu",
    progress: Show = None,
    told: Callable[[TrainingProgress], None] | None = None,
) -> tuple[ExtractedNetwork, TrainingReport]:
    """Train `extracted`'s module in place, on labels and, where there is a `guide`, its outputs.

    On a CPU the result depends on nothing but the weights, the data and the configuration with its
    seed. While it is trained its batch norms use each batch's statistics and track them; afterwards
    they are recalibrated with the data's calibration batches.

    Args:
        data: batches to train on, and calibration batches.
        config: epochs, optimiser and schedule; its recipe must be ``uniform``.
        guide: for example `largest_network`.
        distill: weight of the guide's outputs; the labels have weight 1.
        device: where to train; the module comes back to the CPU.
        progress, told: see `mathnas.training.trainer.train`.

    Raises:
        InvalidInputError: the recipe is another one, there are no calibration batches, or the data
            do not fit.
    """
    if config.recipe != "uniform":
        raise InvalidInputError(
            "one network is trained by the recipe 'uniform', but the configuration has "
            f"{config.recipe!r}."
        )
    if not data.calibration:
        raise InvalidInputError(
            "batch norms are recalibrated after training, but the data have no calibration batches."
        )
    fixed = FixedNetwork(extracted.module, extracted.space, extracted.network)
    report = train(
        fixed,
        data,
        config,
        processes=Processes(torch.device(device)),
        recipe=_guided(None if guide is None else guide.to(device).eval(), distill),
        progress=progress,
        told=told,
    )
    extracted.module.to("cpu").eval()
    notes = {**extracted.notes, "finetuned_epochs": config.plan()[0].epochs, "seed": config.seed}
    # what its supernet computes it does no longer
    return recalibrated(replace(extracted, notes=notes), data.calibration), report


def largest_network(supernet: Supernet, data: TrainingData) -> nn.Module:
    """A supernet's largest network, extracted and recalibrated: a guide for smaller ones.

    Raises:
        InvalidInputError: there are no calibration batches, or MACs are unknown.
    """
    _, largest = extremes_of(supernet)
    module = supernet.extract(largest).eval()
    recalibrate(module, data.calibration)
    return module.requires_grad_(False)


def _guided(guide: nn.Module | None, weight: float) -> Recipe:
    def recipe(supernet: Supernet, phase: Phase, config: TrainingConfig) -> StepRule:
        assert isinstance(supernet, FixedNetwork)
        loss: Loss = LabelLoss(config.label_smoothing)
        if guide is not None:
            loss = GuidedLoss(guide, weight, config.label_smoothing)
        one = Pass(supernet.network, loss, "random")
        return lambda rng: [one]

    return recipe
