"""Studies of trained supernets: images that one was not trained on, networks, comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

import mathnas as mn
from mathnas.images.known import open_images
from mathnas.images.loader import calibration_batches, evaluation_tensors
from mathnas.images.preprocessing import Preprocessing
from mathnas.images.sources import ImageSource, holdout
from mathnas.nets.files import read_supernet
from mathnas.nets.scores import LabelledImages
from mathnas.nets.supernet import Supernet
from mathnas.training.networks import AllowedNetworks
from mathnas.validation import quality

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trained:
    """A trained supernet and its data.

    Attributes:
        training: what it was trained on.
        held: training images that were kept from it.
        test: the test images.
    """

    supernet: Supernet
    preprocessing: Preprocessing
    training: ImageSource
    held: ImageSource
    test: ImageSource

    @classmethod
    def open(cls, path: Path) -> Trained:
        supernet, notes = read_supernet(path)
        count, seed = notes["held_out"], notes["held_out_seed"]
        assert isinstance(count, int)
        assert isinstance(seed, int)
        training, held = holdout(open_images("cifar10", "train"), count, seed)
        return cls(
            supernet,
            Preprocessing.from_dict(notes["preprocessing"]),
            training,
            held,
            open_images("cifar10", "test"),
        )

    def images(self, source: ImageSource, count: int | None) -> LabelledImages:
        """So many images, the same share of every class; None: all."""
        return LabelledImages(*evaluation_tensors(source, self.preprocessing, count))

    def calibration(self, count: int, seed: int) -> tuple[torch.Tensor, ...]:
        """Training images for batch-norm statistics."""
        return calibration_batches(self.training, self.preprocessing, count, seed=seed)


def values_of(study: mn.Study, metric: str, networks: Sequence[mn.Network]) -> Floats:
    """What a study holds of these networks, shape (k,)."""
    known = {found.network: found.measurement.value for found in study.evaluations(metric)}
    return np.array([known[network] for network in networks])


def random_networks(space: mn.SearchSpace, count: int, seed: int) -> list[mn.Network]:
    """Distinct networks: the depth of every stage uniform, then each block that is present."""
    draw, rng = AllowedNetworks(space, {}).draw, np.random.default_rng(seed)
    found: dict[mn.Network, None] = {}
    while len(found) < count:
        found[draw(rng)] = None
    return list(found)


def spearman(first: Floats, second: Floats) -> float:
    found = quality(first, second).spearman
    assert found is not None, "all are equal"
    return found


def compared(predicted: Floats, measured: Floats, unit: str = "") -> str:
    found = quality(predicted, measured)
    return (
        f"Spearman {found.spearman:.3f}, Kendall {found.kendall:.3f}, mean error "
        f"{found.mae:.3f}{unit}, bias {found.bias:+.3f}{unit}"
    )
