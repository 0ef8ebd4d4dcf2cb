"""Scores of a model's networks, from common first blocks that run once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mathnas._threads import torch_threads
from mathnas.compression.batches import (
    Batch,
    checked_batches,
    first_tensor,
    sample_count,
    tensors_of,
)
from mathnas.compression.chain import Prefix
from mathnas.compression.scores import CosineDistance, SampleScore
from mathnas.compression.supernet import ModuleSupernet
from mathnas.errors import InvalidInputError
from mathnas.evaluation import Measurement, StreamingEvaluator
from mathnas.nets.tensors import TravelsInBytes, tensors_digest
from mathnas.space import Network


class ScoreEvaluator(TravelsInBytes, StreamingEvaluator):
    """Scores of networks on samples, against what the original gives.

    Networks that are evaluated together share what their common first blocks compute, batch by
    batch: what is kept at a time are the outputs of one batch.

    Args:
        supernet: of a model.
        samples: batches as the model takes them; not those that alternatives were fitted on, where
            there are enough.
        labels: of each batch, where a score needs them.
        scores: by default `CosineDistance`, which needs no labels.
        threads: torch threads of one evaluation.
        share: whether common first blocks run once; the values are the same.
        batch_size: networks that are evaluated together.

    Raises:
        InvalidInputError: no samples, labels of other lengths, or a score without its labels.
    """

    noisy = False

    def __init__(
        self,
        supernet: ModuleSupernet,
        samples: Sequence[Batch],
        labels: Sequence[Tensor] | None = None,
        *,
        scores: Sequence[SampleScore] = (),
        threads: int = 1,
        share: bool = True,
        batch_size: int = 32,
    ) -> None:
        self.supernet = supernet
        self.samples = checked_batches(samples, "samples")
        self.scores = tuple(scores) or (CosineDistance(),)
        self.labels = None if labels is None else tuple(labels)
        counts = [sample_count(batch) for batch in self.samples]
        if self.labels is not None and [len(own) for own in self.labels] != counts:
            raise InvalidInputError(
                f"there is one label a sample, batch by batch, but got {counts} samples and "
                f"{[len(own) for own in self.labels]} labels."
            )
        lacking = [score.metric.name for score in self.scores if score.labelled]
        if lacking and self.labels is None:
            raise InvalidInputError(
                f"{', '.join(lacking)} compares with labels, but there are none: give labels, or "
                "take a score that compares with the original."
            )
        for name, count in (("threads", threads), ("batch_size", batch_size)):
            if count < 1:
                raise InvalidInputError(f"{name} is at least 1, but got {count}.")
        self.metrics = tuple(score.metric for score in self.scores)
        self.threads, self.share, self.batch_size = threads, share, batch_size
        self.conditions = {
            "weights": tensors_digest(supernet.state_dict().values()),
            "samples": f"{sum(counts)} {tensors_digest(tensors_of(self.samples))}",
            **({} if labels is None else {"labels": tensors_digest(labels)}),
        }
        with torch_threads(threads), torch.inference_mode():
            self._originals = [supernet(batch, supernet.space.reference) for batch in self.samples]

    def evaluate_each(
        self, networks: Sequence[Network], seeds: Sequence[int] = ()
    ) -> Iterator[tuple[int, Mapping[str, Measurement | float]]]:
        chosen = [self.supernet.space.check(network) for network in networks]
        groups = [chosen] if self.share else [[network] for network in chosen]
        place = 0
        for group in groups:
            # threads and mode belong to whoever runs, so not to the caller between two results
            with torch_threads(self.threads), torch.inference_mode():
                found = self._scored(group)
            for values in found:
                yield place, values
                place += 1

    def _scored(self, networks: Sequence[Network]) -> list[dict[str, Measurement | float]]:
        tree = _Branch()
        for place, network in enumerate(networks):
            tree.add(network, place)
        sums = [[0.0] * len(self.scores) for _ in networks]
        count = 0
        for number, batch in enumerate(self.samples):
            original = self._originals[number]
            labels = None if self.labels is None else self.labels[number]
            count += len(original)
            for place, outputs in self._descend(tree, batch, Prefix(), 0):
                for one, score in enumerate(self.scores):
                    values = score.each(outputs, original, labels)
                    sums[place][one] += float(values.sum(dtype=torch.float64))
        names = [metric.name for metric in self.metrics]
        return [dict(zip(names, (total / count for total in own), strict=True)) for own in sums]

    def _descend(
        self, branch: _Branch, batch: Batch, prefix: Prefix, node: int
    ) -> Iterator[tuple[int, Tensor]]:
        """The places of the networks below a branch, each with its outputs for a batch."""
        for block, below in branch.following.items():
            only = below.only
            if only is None:
                module = self.supernet.node_blocks(node)[block]
                longer = self.supernet.chain.extended(batch, prefix, module)
                yield from self._descend(below, batch, longer, node + 1)
            else:
                network, places = only
                blocks = self.supernet.chosen(network)
                found = first_tensor(self.supernet.chain.run(batch, blocks, prefix))
                for place in places:
                    yield place, found


@dataclass
class _Branch:
    """Networks that have their first blocks in common.

    Attributes:
        following: by the next block.
        places: in the batch, by network.
    """

    following: dict[int, _Branch] = field(default_factory=dict)
    places: dict[Network, list[int]] = field(default_factory=dict)

    def add(self, network: Network, place: int) -> None:
        """Add a network."""
        branch = self
        for block in network:
            branch = branch.following.setdefault(block, _Branch())
            branch.places.setdefault(network, []).append(place)

    @property
    def only(self) -> tuple[Network, list[int]] | None:
        """The network, where there is a single one."""
        return next(iter(self.places.items())) if len(self.places) == 1 else None
