"""Accuracy of sub-networks of a trained supernet."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from mathnas._threads import torch_threads
from mathnas.errors import InvalidInputError
from mathnas.evaluation import Evaluator, Measurement
from mathnas.metrics import metric_named
from mathnas.nets.batchnorm import recalibrate
from mathnas.nets.supernet import ChainSupernet
from mathnas.space import Network


@dataclass(frozen=True)
class LabelledImages:
    """Images and their classes.

    Attributes:
        images: shape (k, channels, height, width).
        labels: class indices, shape (k,).
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.labels) > 0:
            raise InvalidInputError(
                f"there is one label an image and at least one image, but got {len(self.images)} "
                f"images and {len(self.labels)} labels."
            )

    def __len__(self) -> int:
        return len(self.images)


class AccuracyEvaluator(Evaluator):
    """Accuracy in percent of extracted, recalibrated sub-networks on held-out images.

    The conditions hold digests of weights and images, so that a study never mixes the values of
    two trainings.

    Everything is fixed at construction, so a network's value is the same however often, in which
    order and in which process it is asked for; the seed is not used. Networks that are evaluated
    together share the work of their common first nodes: statistics and activations there do not
    depend on what follows.

    Args:
        supernet: the trained supernet.
        calibration: images for the batch-norm statistics, one tensor a batch; training images.
        held_out: images on which accuracy is measured; never trained on.
        with_loss: measure the mean cross entropy (``loss``, in nats) too.
        threads: torch threads of one evaluation.
        images_at_once: held-out images that run together.
        batch_size: networks that are evaluated together.

    Raises:
        InvalidInputError: no calibration batch, or a count below 1.
    """

    noisy = False

    def __init__(
        self,
        supernet: ChainSupernet,
        calibration: Sequence[Tensor],
        held_out: LabelledImages,
        *,
        with_loss: bool = False,
        threads: int = 1,
        images_at_once: int = 500,
        batch_size: int = 8,
    ) -> None:
        if not calibration:
            raise InvalidInputError(
                "an accuracy evaluator needs a calibration batch, but got none."
            )
        for name, count in (
            ("threads", threads),
            ("images_at_once", images_at_once),
            ("batch_size", batch_size),
        ):
            if count < 1:
                raise InvalidInputError(f"{name} is at least 1, but got {count}.")
        self.supernet = supernet
        self.calibration = tuple(calibration)
        self.held_out = held_out
        self.metrics = tuple(
            metric_named(name) for name in ("accuracy", *(["loss"] if with_loss else []))
        )
        self.conditions = {
            "weights": _digest(supernet.state_dict().values()),
            "calibration": f"{sum(map(len, calibration))} images {_digest(calibration)}",
            "held_out": f"{len(held_out)} images {_digest([held_out.images, held_out.labels])}",
        }
        self.threads = threads
        self.images_at_once = images_at_once
        self.batch_size = batch_size

    def evaluate(self, network: Network, seed: int = 0) -> Mapping[str, Measurement | float]:
        return self.evaluate_batch([network], [seed])[0]

    def evaluate_batch(
        self, networks: Sequence[Network], seeds: Sequence[int] = ()
    ) -> Sequence[Mapping[str, Measurement | float]]:
        chosen = [self.supernet.space.check(network) for network in networks]
        with torch_threads(self.threads), torch.inference_mode():
            root = _Branch(_ready(self.supernet.extract_stem()))
            self._grow(root, chosen, 0, recalibrate(root.module, self.calibration))
            scores = {network: _Score() for network in chosen}
            for images, labels in zip(
                torch.split(self.held_out.images, self.images_at_once),
                torch.split(self.held_out.labels, self.images_at_once),
                strict=True,
            ):
                root.score(images, labels, (), scores)
        return [self._values(scores[network]) for network in chosen]

    def __getstate__(self) -> dict[str, object]:
        # tensors travel inside bytes: torch would otherwise send them to another process by
        # shared memory, one open file a tensor
        buffer = io.BytesIO()
        torch.save(self.__dict__, buffer)
        return {"saved": buffer.getvalue()}

    def __setstate__(self, state: dict[str, bytes]) -> None:
        # an object from our own pickle, so not restricted to weights
        self.__dict__ = torch.load(io.BytesIO(state["saved"]), weights_only=False)

    def _grow(
        self, branch: _Branch, networks: Sequence[Network], node: int, batches: list[Tensor]
    ) -> None:
        """Extract and recalibrate what follows `branch` in `networks`, depth first.

        `batches` are the calibration activations behind the branch; only those on the current
        path are alive at any time.
        """
        if node == self.supernet.space.num_nodes:
            branch.head = _ready(self.supernet.extract_head())
            recalibrate(branch.head, batches)
            return
        for block in sorted({network[node] for network in networks}):
            following = _Branch(_ready(self.supernet.extract_block(node, block)))
            branch.following[block] = following
            subset = [network for network in networks if network[node] == block]
            self._grow(following, subset, node + 1, recalibrate(following.module, batches))

    def _values(self, score: _Score) -> Mapping[str, Measurement | float]:
        values = {
            "accuracy": 100.0 * score.correct / len(self.held_out),
            "loss": score.loss / len(self.held_out),
        }
        return {metric.name: values[metric.name] for metric in self.metrics}


def _ready(module: nn.Module) -> nn.Module:
    # depthwise convolutions on a CPU take half the time in this layout
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _digest(tensors: Iterable[Tensor]) -> str:
    """Twelve digits that change with any value."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


@dataclass
class _Score:
    """Sums over the held-out images that were seen so far."""

    correct: int = 0
    loss: float = 0.0


@dataclass
class _Branch:
    """A recalibrated part and what follows it; networks are the paths from the stem to a head."""

    module: nn.Module
    following: dict[int, _Branch] = field(default_factory=dict)
    head: nn.Module | None = None

    def score(
        self, x: Tensor, labels: Tensor, path: Network, scores: Mapping[Network, _Score]
    ) -> None:
        """Add the results of every network through this branch on one batch of inputs."""
        x = self.module(x)
        for block, branch in self.following.items():
            branch.score(x, labels, (*path, block), scores)
        if self.head is not None:
            logits = self.head(x)
            scores[path].correct += int((logits.argmax(1) == labels).sum())
            scores[path].loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
