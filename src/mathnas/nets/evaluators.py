"""Accuracy of sub-networks of a trained supernet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn

from mathnas._threads import torch_threads
from mathnas.errors import InvalidInputError
from mathnas.evaluation import Measurement, StreamingEvaluator
from mathnas.metrics import metric_named
from mathnas.nets.batchnorm import Statistics
from mathnas.nets.scores import LabelledImages, Score
from mathnas.nets.supernet import ChainSupernet, Supernet
from mathnas.nets.tensors import TravelsInBytes, tensors_digest
from mathnas.space import Network

# bytes of the largest activation: beyond it, memory has to come from the system each time
_FAST = 2**24


class AccuracyEvaluator(TravelsInBytes, StreamingEvaluator):
    """Accuracy in percent of extracted, recalibrated sub-networks on held-out images.

    The conditions hold digests of weights and images, so that a study never mixes the values of
    two trainings.

    Everything is fixed at construction, so a network's value is the same however often, in which
    order, with how much memory and in which process it is asked for; the seed is not used.

    Networks of a `ChainSupernet` that are evaluated together share their common first nodes: what
    is computed there, under batch statistics for the recalibration and on held-out images, does not
    depend on what follows. It is kept while a following node still needs it, and every part of a
    network is dropped as soon as it has run. Networks of other supernets run one by one.

    Args:
        supernet: the trained supernet.
        calibration: images for the batch-norm statistics, one tensor a batch; training images.
        held_out: images on which accuracy is measured; never trained on.
        with_loss: measure the mean cross entropy (``loss``, in nats) too.
        threads: torch threads of one evaluation.
        images_at_once: held-out images that run together; by default as many as let the largest
            activation stay small enough to be fast.
        memory: bytes of activations that are kept between nodes. Where those of all images do not
            fit, images go through the networks in portions, which costs little time, but then all
            networks of a batch are finished by the last portion, instead of one after another.
            A batch of images inside one node, and one node's weights, come on top.
        batch_size: networks that are evaluated together.

    Raises:
        InvalidInputError: no calibration batch, or a count below 1.
    """

    noisy = False

    def __init__(
        self,
        supernet: Supernet,
        calibration: Sequence[Tensor],
        held_out: LabelledImages,
        *,
        with_loss: bool = False,
        threads: int = 1,
        images_at_once: int | None = None,
        memory: int = 2**30,
        batch_size: int = 32,
    ) -> None:
        if not calibration:
            raise InvalidInputError(
                "an accuracy evaluator needs a calibration batch, but got none."
            )
        for name, count in (
            ("threads", threads),
            ("images_at_once", images_at_once),
            ("memory", memory),
            ("batch_size", batch_size),
        ):
            if count is not None and count < 1:
                raise InvalidInputError(f"{name} is at least 1, but got {count}.")
        self.supernet = supernet
        self.calibration = tuple(calibration)
        self.held_out = held_out
        self.metrics = tuple(
            metric_named(name) for name in ("accuracy", *(["loss"] if with_loss else []))
        )
        self.conditions = {
            "weights": tensors_digest(supernet.state_dict().values()),
            "calibration": f"{sum(map(len, calibration))} images {tensors_digest(calibration)}",
            "held_out": f"{len(held_out)} images "
            f"{tensors_digest([held_out.images, held_out.labels])}",
        }
        self.threads = threads
        self.memory = memory
        self.batch_size = batch_size
        with torch_threads(threads), torch.inference_mode():
            self._sizes, largest = self._probed(held_out.images[:1])
        self.images_at_once = images_at_once or max(1, min(500, _FAST // largest))

    def evaluate_each(
        self, networks: Sequence[Network], seeds: Sequence[int] = ()
    ) -> Iterator[tuple[int, Mapping[str, Measurement | float]]]:
        measuring = self._measured([self.supernet.space.check(network) for network in networks])
        while True:
            # threads and mode belong to whoever runs, so not to the caller between two results
            with torch_threads(self.threads), torch.inference_mode():
                found = next(measuring, None)
            if found is None:
                return
            yield found

    def _measured(
        self, networks: Sequence[Network]
    ) -> Iterator[tuple[int, Mapping[str, Measurement | float]]]:
        tree = _Part()
        for place, network in enumerate(networks):
            tree.add(_steps(self.supernet, network), place)
        tree.arrange(self._sizes)
        for portion in self._portions(tree.memory):
            for end, outputs in self._descend(tree, portion.calibration, portion.images):
                for logits, labels in zip(outputs, portion.labels, strict=True):
                    end.score.add(logits, labels)
                if end.score.images == len(self.held_out):
                    values = self._values(end.score)
                    yield from ((place, values) for place in end.places)

    def _descend(
        self, part: _Part, calibration: list[Tensor], images: list[Tensor]
    ) -> Iterator[tuple[_Part, list[Tensor]]]:
        """Run all that follows `part` on its outputs, depth first; the ends and their outputs.

        The lists are emptied while the last following part runs.
        """
        for number, following in enumerate(part.following.values(), start=1):
            last = number == len(part.following)
            module = _ready(_extract(self.supernet, following.step))
            given, shown = (
                _taken(batches) if last else iter(batches) for batches in (calibration, images)
            )
            calibrated = following.statistics.observe(module, given)
            following.statistics.write(module)
            outputs = [module(batch) for batch in shown]
            del module
            if following.following:
                yield from self._descend(following, calibrated, outputs)
            elif outputs:
                yield following, outputs

    def _portions(self, bytes_an_image: int) -> Iterator[_Portion]:
        """All images, or what fits in the memory at a time: calibration first."""
        images = torch.split(self.held_out.images, self.images_at_once)
        labels = torch.split(self.held_out.labels, self.images_at_once)
        fitting = self.memory // max(1, bytes_an_image)
        if sum(map(len, [*self.calibration, *images])) <= fitting:
            yield _Portion(list(self.calibration), list(images), list(labels))
            return
        for start, stop in _runs(self.calibration, fitting):
            yield _Portion(list(self.calibration[start:stop]), [], [])
        for start, stop in _runs(images, fitting):
            yield _Portion([], list(images[start:stop]), list(labels[start:stop]))

    def _probed(self, image: Tensor) -> tuple[list[int], int]:
        """Bytes of one image behind every part of the reference network, and its largest bytes
        anywhere."""
        sizes, largest = [], image.nbytes

        def look(module: nn.Module, inputs: object, output: object) -> None:
            nonlocal largest
            if isinstance(output, Tensor):
                largest = max(largest, output.nbytes)

        for step in _steps(self.supernet, self.supernet.space.reference):
            part = _extract(self.supernet, step)
            for module in part.modules():
                module.register_forward_hook(look)
            image = part(image)
            sizes.append(image.nbytes)
        return sizes, largest

    def _values(self, score: Score) -> Mapping[str, Measurement | float]:
        values = {"accuracy": score.accuracy, "loss": score.loss}
        return {metric.name: values[metric.name] for metric in self.metrics}


# ---- networks in parts ----------------------------------------------------------------------

# names a part: () is the stem, (node, block) a block, (nodes,) the head; a network all of it
_Step: TypeAlias = tuple[int, ...]


def _steps(supernet: Supernet, network: Network) -> list[_Step]:
    if isinstance(supernet, ChainSupernet):
        return [(), *enumerate(network), (len(network),)]
    return [network]


def _extract(supernet: Supernet, step: _Step) -> nn.Module:
    if not isinstance(supernet, ChainSupernet):
        return supernet.extract(step)
    if len(step) == 2:
        return supernet.extract_block(*step)
    return supernet.extract_head() if step else supernet.extract_stem()


@dataclass
class _Part:
    """A part of networks and what follows it; a network is the path from the root to an end.

    Attributes:
        step: which part; the root is none.
        following: by step.
        places: of the networks that end here.
        memory: bytes an image that are kept at a time to run what follows, outputs included.
    """

    step: _Step = ()
    following: dict[_Step, _Part] = field(default_factory=dict)
    places: list[int] = field(default_factory=list)
    statistics: Statistics = field(default_factory=Statistics)
    score: Score = field(default_factory=Score)
    memory: int = 0

    def add(self, steps: Sequence[_Step], place: int) -> None:
        """Add a network."""
        part = self
        for step in steps:
            part = part.following.setdefault(step, _Part(step))
        part.places.append(place)

    def arrange(self, sizes: Sequence[int], own: int = 0) -> None:
        """Put the part that needs most memory last: the outputs before it are gone by then.

        Args:
            sizes: bytes of an image behind each further part.
            own: bytes of an image behind this one.
        """
        self.memory = own
        if not self.following:
            return
        for part in self.following.values():
            part.arrange(sizes[1:], sizes[0])
        order = sorted(self.following.values(), key=lambda part: part.memory)
        self.following = {part.step: part for part in order}
        *others, last = order
        self.memory = max(own + sizes[0], last.memory, *(own + part.memory for part in others))


@dataclass
class _Portion:
    """Batches of calibration and of held-out images that go through all parts together."""

    calibration: list[Tensor]
    images: list[Tensor]
    labels: list[Tensor]


def _runs(batches: Sequence[Tensor], most: int) -> Iterator[tuple[int, int]]:
    """Start and stop of runs of batches of at most `most` images, or of one batch."""
    start = count = 0
    for place, batch in enumerate(batches):
        if place > start and count + len(batch) > most:
            yield start, place
            start, count = place, 0
        count += len(batch)
    yield start, len(batches)


def _taken(batches: list[Tensor]) -> Iterator[Tensor]:
    """The batches, each taken out of the list."""
    while batches:
        yield batches.pop(0)


def _ready(module: nn.Module) -> nn.Module:
    # depthwise convolutions on a CPU take half the time in this layout
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
