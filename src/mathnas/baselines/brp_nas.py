"""BRP-NAS: a graph network that predicts latency, or which of two networks is more accurate.

Written from the description of Dudziak et al., "BRP-NAS: Prediction-based NAS using GCNs" (NeurIPS
2020). Where this differs from the authors' training:

- float32 instead of float64, by default: the same on the scale of the predictions' errors;
- the networks of a batch of pairs are embedded once each, so that pairs which share a network share
  its dropout; where nothing is dropped the loss is the same;
- networks are ranked by the comparison of two networks made symmetric, which is a difference of
  scores, instead of by sorting with a comparison that need not be consistent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import lr_scheduler

from mathnas._threads import torch_threads
from mathnas.baselines.graphs import Graphs, graphs_of
from mathnas.baselines.predictor import checked_evaluations
from mathnas.errors import InvalidInputError
from mathnas.space import Floats, Indices, SearchSpace

_CHUNK = 256  # graphs that are embedded together where no gradients are needed
_FACTOR, _PATIENCE, _THRESHOLD = 0.5, 10, 0.01  # of the learning rate's plateaus


@dataclass(frozen=True, slots=True)
class Training:
    """How a graph network is trained.

    Attributes:
        learns: ``values`` (absolute error of one output) or ``pairs`` (Kullback-Leibler divergence
            between the softmax of two networks' values and the output, over all ordered pairs).
        learning_rate, weight_decay: of AdamW.
        dropout: share of the activations that is dropped behind every layer.
        batch: networks or pairs of one step.
        epochs: at most this many.
        schedule: ``plateau`` halves the learning rate after 10 epochs without an improvement of
            1 %; ``cosine`` lowers it to 0 over all epochs.
        validation: share of the networks that only decides what is kept; 0: all are trained on,
            and the loss on them, nothing dropped, decides.
        settling: epochs before which training neither stops nor meets a plateau.
        patience: epochs without a better validation loss after which training stops.
        normalise: train on values that are moved and scaled to 0..1.

    Raises:
        InvalidInputError: a value is out of its range.
    """

    learns: Literal["values", "pairs"]
    learning_rate: float
    dropout: float
    batch: int
    schedule: Literal["plateau", "cosine"]
    validation: float
    weight_decay: float = 5e-4
    epochs: int = 250
    settling: int = 20
    patience: int = 35
    normalise: bool = False

    def __post_init__(self) -> None:
        for name, kinds in (("learns", ("values", "pairs")), ("schedule", ("plateau", "cosine"))):
            if getattr(self, name) not in kinds:
                raise InvalidInputError(
                    f"{name} is one of {', '.join(kinds)}, but got {getattr(self, name)!r}."
                )
        for name in ("dropout", "validation"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidInputError(
                    f"{name} is a share from 0 to below 1, but got {getattr(self, name)}."
                )
        for name in ("batch", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"{name} is at least 1, but got {getattr(self, name)}.")
        if not self.learning_rate > 0:
            raise InvalidInputError(f"learning_rate is above 0, but got {self.learning_rate}.")


LATENCY = Training("values", 4e-4, 0.002, 1, "plateau", 0.1, normalise=True)
"""The authors' for latency, 900 networks to train on and 100 to validate; any unit."""

ACCURACY = Training("pairs", 3.5e-4, 0.2, 64, "cosine", 0.0)
"""The authors' for accuracy (as a share, 0..1) from 100 networks; from 25 or 50 `batch` is 32."""


class GraphNetwork(nn.Module):
    """Graph layers H' = dropout(ReLU(LayerNorm(A (H W) + b))), read out at the global node.

    Args:
        features: labels of a graph's node.
        width, layers: of the graph layers.
        outputs: 1 for a value; 2 for a comparison, of two embeddings one after the other.
        dropout: share of the activations that is dropped.
        generator: for the first weights and for dropout.
        dtype: of weights and activations.
    """

    def __init__(
        self,
        features: int,
        *,
        width: int,
        layers: int,
        outputs: int,
        dropout: float,
        generator: torch.Generator,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.dropout = dropout
        sizes = [features] + [width] * (layers - 1)

        def uniform(*shape: int, scale: int = width) -> nn.Parameter:
            values = torch.rand(shape, generator=generator, dtype=dtype)
            return nn.Parameter((2 * values - 1) / scale**0.5)

        self.weights = nn.ParameterList([uniform(size, width) for size in sizes])
        self.biases = nn.ParameterList([uniform(width) for _ in sizes])
        self.gains = nn.ParameterList([nn.Parameter(torch.ones(width, dtype=dtype)) for _ in sizes])
        self.shifts = nn.ParameterList(
            [nn.Parameter(torch.zeros(width, dtype=dtype)) for _ in sizes]
        )
        # column (output, place of the network in the comparison)
        self.head = uniform(width, outputs**2, scale=width * outputs)
        self.head_bias = uniform(outputs, scale=width * outputs)
        # dropout draws 16 bits an activation, which is a third of the work of torch's own
        self._dropped = round(dropout * 2**16)

    def embed(self, mixed: Tensor, adjacency: Tensor) -> Tensor:
        """Embeddings of graphs, shape (g, width).

        Args:
            mixed: adjacency times features, shape (g, n, f).
            adjacency: shape (g, n, n).
        """
        dropping = self.training and self._dropped > 0
        # what is kept is scaled up; the links do it for the next layer
        scale = 1 / (1 - self._dropped / 2**16) if dropping else 1.0
        links = scale * adjacency if dropping else adjacency
        hidden = mixed
        for layer, weight in enumerate(self.weights):
            last = layer == len(self.weights) - 1  # behind it only the global node is read
            if layer:
                # (A H) W is A (H W)
                hidden = torch.bmm(links[:, :1] if last else links, hidden)
            elif last:
                hidden = hidden[:, :1]
            rows = torch.addmm(self.biases[layer], hidden.flatten(0, 1), weight)
            kept = self._kept(rows) if dropping else None
            active = _Activation.apply(  # type: ignore[no-untyped-call]
                rows, self.gains[layer], self.shifts[layer], kept
            )
            hidden = active.unflatten(0, hidden.shape[:2])
        return scale * hidden[:, 0] if dropping else hidden[:, 0]

    def values(self, embeddings: Tensor) -> Tensor:
        """The single output, shape (g,)."""
        return embeddings @ self.head[:, 0] + self.head_bias[0]

    def margins(self, embeddings: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """By how much the first output is above the second in the comparison of two networks each.

        Args:
            embeddings: shape (g, width).
            first, second: which of the embeddings are compared, shape (p,).
        """
        places = self.places(embeddings)
        bias = self.head_bias[0] - self.head_bias[1]
        return places[first, 0] + places[second, 1] + bias

    def places(self, embeddings: Tensor) -> Tensor:
        """What a network adds to the margin as the first and as the second one, shape (g, 2)."""
        return embeddings @ (self.head[:, :2] - self.head[:, 2:])

    def _kept(self, rows: Tensor) -> Tensor:
        """0 where an activation is dropped, 1 elsewhere; of the shape of `rows`."""
        words = torch.empty(-(-rows.numel() // 4), dtype=torch.int64)
        bits = words.random_(-(2**63), None, generator=self.generator).view(torch.int16)
        kept = bits[: rows.numel()] >= self._dropped - 2**15
        return kept.view(rows.shape).to(rows.dtype)


class _Activation(torch.autograd.Function):
    """LayerNorm, ReLU and dropout (unscaled) in one step that keeps a single intermediate array."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, gain: Tensor, shift: Tensor, kept: Tensor | None) -> Tensor:
        active, mean, inverse = torch.native_layer_norm(rows, rows.shape[1:], gain, shift, 1e-5)
        active.relu_()
        if kept is not None:
            active.mul_(kept)
        ctx.save_for_backward(rows, mean, inverse, gain, shift, active)
        return active

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        rows, mean, inverse, gain, shift, active = ctx.saved_tensors
        # what is not active was below 0 or dropped
        gradient = torch.ops.aten.threshold_backward(gradient, active, 0)
        into, of_gain, of_shift = torch.ops.aten.native_layer_norm_backward(
            gradient, rows, rows.shape[1:], mean, inverse, gain, shift, [True, True, True]
        )
        return into, of_gain, of_shift, None


class BRPNASPredictor:
    """The predictor of BRP-NAS.

    With ``LATENCY`` it predicts values. With ``ACCURACY`` it predicts scores: the difference of two
    networks' scores is the logarithm of the odds of one output over the other, made symmetric. The
    training's target for it is the difference of the values, so scores are values up to a constant
    that nothing determines: they are meant for ranking.

    Args:
        space: whose networks are read, as `graphs_of` makes them graphs.
        training: `LATENCY`, `ACCURACY` or a variant of them.
        seed: of the first weights, the order of training, dropout and validation.
        width, layers: of the graph network.
        dtype: ``float32``, or the authors' ``float64``, which takes twice the time.
        threads: torch threads.
        on_epoch: called after every epoch with its number and the validation loss.

    Raises:
        InvalidInputError: a size is below 1, or the data type is another.
    """

    def __init__(
        self,
        space: SearchSpace,
        training: Training = LATENCY,
        *,
        seed: int = 0,
        width: int = 600,
        layers: int = 4,
        dtype: Literal["float32", "float64"] = "float32",
        threads: int = 1,
        on_epoch: Callable[[int, float], None] | None = None,
    ) -> None:
        for name, size in (("width", width), ("layers", layers), ("threads", threads)):
            if size < 1:
                raise InvalidInputError(f"{name} is at least 1, but got {size}.")
        if dtype not in ("float32", "float64"):
            raise InvalidInputError(f"dtype is float32 or float64, but got {dtype!r}.")
        self.space = space
        self.training = training
        self.seed = seed
        self.width, self.layers = width, layers
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.threads = threads
        self.on_epoch = on_epoch
        self.network_: GraphNetwork | None = None
        self.epochs_ = 0  # of the last training
        self._rng = np.random.default_rng(seed)
        self._low, self._span = 0.0, 1.0

    def fit(self, networks: npt.ArrayLike, values: npt.ArrayLike) -> None:
        """Train a new graph network; see `Predictor.fit`.

        Args:
            networks: shape (k, m), k at least 2; with a validation share each part needs one.
            values: shape (k,); for pairs on the scale on which a difference of 1 is large, for
                example accuracy as a share.
        """
        self.network_ = None
        self.train(networks, values)

    def train(
        self, networks: npt.ArrayLike, values: npt.ArrayLike, *, training: Training | None = None
    ) -> None:
        """As `fit`, but go on from the weights that there are, with a new optimiser.

        Args:
            networks, values: as in `fit`.
            training: for this time; it must learn the same and drop the same share.
        """
        settings = self.training if training is None else training
        if (settings.learns, settings.dropout) != (self.training.learns, self.training.dropout):
            raise InvalidInputError(
                f"a network that learns {self.training.learns} with dropout "
                f"{self.training.dropout} goes on so, but got {settings.learns} with "
                f"{settings.dropout}: make another predictor."
            )
        known, targets = checked_evaluations(self.space, networks, values, fewest=2)
        held_out = round(settings.validation * len(known))
        if settings.validation and not 1 <= held_out < len(known) - (settings.learns == "pairs"):
            raise InvalidInputError(
                f"a validation share of {settings.validation} of {len(known)} networks leaves too "
                "few to train on or to validate: evaluate more networks, or set it to 0."
            )
        inputs = self._inputs(graphs_of(self.space, known))
        if self.network_ is None:
            self.network_ = self._new(inputs[0].shape[2])
            if settings.normalise:
                self._low, self._span = float(targets.min()), float(np.ptp(targets)) or 1.0
        wanted = torch.from_numpy((targets - self._low) / self._span).to(self.dtype)
        order = self._rng.permutation(len(known)) if held_out else np.arange(len(known))
        with torch_threads(self.threads), _no_subnormals():
            self._run(settings, *inputs, wanted, order[held_out:], order[:held_out])

    def predict(self, networks: npt.ArrayLike) -> Floats:
        """Values, or for pairs scores that rank; see `Predictor.predict`."""
        network = self._fitted()
        graphs = graphs_of(self.space, networks)
        with torch_threads(self.threads), torch.no_grad():
            embeddings = self._embeddings(*self._inputs(graphs))
            if self.training.learns == "pairs":
                places = network.places(embeddings).double()
                scores: Floats = (0.5 * (places[:, 0] - places[:, 1])).numpy()
                return scores
            predicted: Floats = network.values(embeddings).double().numpy()
            return self._low + self._span * predicted

    # ---- parts ------------------------------------------------------------------------------

    def _fitted(self) -> GraphNetwork:
        if self.network_ is None:
            raise InvalidInputError("a predictor predicts after fit(), but nothing was fitted yet.")
        return self.network_

    def _new(self, features: int) -> GraphNetwork:
        self._rng = np.random.default_rng(self.seed)
        self._low, self._span = 0.0, 1.0
        return GraphNetwork(
            features,
            width=self.width,
            layers=self.layers,
            outputs=2 if self.training.learns == "pairs" else 1,
            dropout=self.training.dropout,
            generator=torch.Generator().manual_seed(self.seed),
            dtype=self.dtype,
        )

    def _inputs(self, graphs: Graphs) -> tuple[Tensor, Tensor]:
        """What `GraphNetwork.embed` takes."""
        mixed = torch.from_numpy(graphs.adjacency @ graphs.features).to(self.dtype)
        return mixed, torch.tensor(graphs.adjacency, dtype=self.dtype)

    def _embeddings(self, mixed: Tensor, adjacency: Tensor) -> Tensor:
        """Embeddings with nothing dropped, shape (k, width)."""
        network = self._fitted().eval()
        parts = zip(torch.split(mixed, _CHUNK), torch.split(adjacency, _CHUNK), strict=True)
        return torch.cat([network.embed(*part) for part in parts])

    def _run(
        self,
        settings: Training,
        mixed: Tensor,
        adjacency: Tensor,
        wanted: Tensor,
        trained: Indices,
        held_out: Indices,
    ) -> None:
        """Train on some rows until the others, or they themselves, say that it is enough."""
        network = self._fitted()
        loss_of = pair_loss if settings.learns == "pairs" else value_loss
        items = _pairs(trained) if settings.learns == "pairs" else trained[:, None]
        judged = held_out if len(held_out) else trained
        judged_items = torch.from_numpy(
            _pairs(np.arange(len(judged)))
            if settings.learns == "pairs"
            else np.arange(len(judged))[:, None]
        )
        judged_rows = torch.from_numpy(judged)
        optimiser = torch.optim.AdamW(
            network.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        plateau = lr_scheduler.ReduceLROnPlateau(
            optimiser, factor=_FACTOR, patience=_PATIENCE, threshold=_THRESHOLD
        )
        cosine = lr_scheduler.CosineAnnealingLR(optimiser, settings.epochs)
        best, best_epoch, kept = np.inf, 0, _weights(network)
        for epoch in range(1, settings.epochs + 1):
            network.train()
            for batch in _batches(items, settings.batch, self._rng):
                used, places = np.unique(batch, return_inverse=True)
                rows = torch.from_numpy(used)
                embeddings = network.embed(mixed[rows], adjacency[rows])
                chosen = torch.from_numpy(places.reshape(batch.shape))
                loss = loss_of(network, embeddings, chosen, wanted[rows])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            with torch.no_grad():
                embeddings = self._embeddings(mixed[judged_rows], adjacency[judged_rows])
                found = loss_of(network, embeddings, judged_items, wanted[judged_rows])
            current = float(found) / len(judged_items)
            self.epochs_ = epoch
            if self.on_epoch is not None:
                self.on_epoch(epoch, current)
            if current < best:
                best, best_epoch, kept = current, epoch, _weights(network)
            if settings.schedule == "cosine":
                cosine.step()
            elif epoch > settings.settling:
                plateau.step(current)
            if epoch > settings.settling and epoch - best_epoch >= settings.patience:
                break
        network.load_state_dict(kept)


def value_loss(network: GraphNetwork, embeddings: Tensor, items: Tensor, wanted: Tensor) -> Tensor:
    """Sum of absolute errors.

    Args:
        network: whose head is used.
        embeddings: shape (g, width).
        items: which of them count, shape (p, 1).
        wanted: values of the embedded networks, shape (g,).
    """
    return (network.values(embeddings) - wanted)[items[:, 0]].abs().sum()


def pair_loss(network: GraphNetwork, embeddings: Tensor, items: Tensor, wanted: Tensor) -> Tensor:
    """Sum of KL(softmax of two values || softmax of two outputs).

    Args:
        network: whose head is used.
        embeddings: shape (g, width).
        items: the pairs, shape (p, 2).
        wanted: values of the embedded networks, shape (g,).
    """
    first, second = items[:, 0], items[:, 1]
    margins = network.margins(embeddings, first, second)
    target = torch.sigmoid(wanted[first] - wanted[second])
    # the softmax of two is the sigmoid of their difference: cross entropy less the target's own
    cross = functional.binary_cross_entropy_with_logits(margins, target, reduction="sum")
    own = torch.xlogy(target, target) + torch.xlogy(1 - target, 1 - target)
    return cross + own.sum()


@contextmanager
def _no_subnormals() -> Iterator[None]:
    """Numbers too small for the usual precision are 0: the moments of weights whose gradient stays
    0 shrink to them, and computing with them is many times slower."""
    before = float(np.float64(5e-324) * 1.0) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _pairs(rows: Indices) -> Indices:
    """All ordered pairs of different rows, shape (n (n - 1), 2)."""
    count = len(rows)
    first, second = np.divmod(np.arange(count**2), count)
    different = first != second
    return np.stack([rows[first[different]], rows[second[different]]], axis=1)


def _batches(items: Indices, size: int, rng: np.random.Generator) -> Iterator[Indices]:
    """All items in a new order, `size` at a time."""
    order = rng.permutation(len(items))
    for start in range(0, len(items), size):
        yield items[order[start : start + size]]


def _weights(network: GraphNetwork) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


# ---- which networks to evaluate -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sampled:
    """What `iterative` evaluated, in this order.

    Attributes:
        networks: shape (k, m).
        values: shape (k,).
    """

    networks: Indices
    values: Floats


def iterative(
    predictor: BRPNASPredictor,
    evaluate: Callable[[Indices], Floats],
    candidates: npt.ArrayLike,
    *,
    count: int = 100,
    iterations: int = 5,
    seed: int = 0,
) -> Sampled:
    """Train a predictor on networks that it chooses itself: BRP-NAS's iterative sampling.

    Every iteration adds as many networks. The first are random. Later, all candidates are ranked by
    the predictor: half of the new networks are its best, and the others random among the best
    1 / 2^i of the ranking in iteration i (counted from 0), none twice. The predictor keeps its
    weights, and its batch and epochs grow linearly to those of its training.

    Args:
        predictor: is trained from new weights.
        evaluate: values of networks of shape (k, m), shape (k,); higher is better.
        candidates: the networks that may be chosen, shape (c, m).
        count: networks to evaluate in all.
        iterations: in how many parts.
        seed: of what is drawn.

    Raises:
        InvalidInputError: `count` is no multiple of `iterations` with at least 2 each, or more than
            the candidates allow.
    """
    known = predictor.space.check_many(candidates)
    step = count // iterations if iterations > 0 else 0
    if step < 2 or step * iterations != count:
        raise InvalidInputError(
            f"every iteration adds the same number of networks, at least 2, but got {count} "
            f"networks in {iterations} iterations."
        )
    # the last iteration draws from a small share of the ranking, where all may be taken already
    if count + step > len(known) // 2 ** (iterations - 1):
        raise InvalidInputError(
            f"{count} networks in {iterations} iterations are drawn from at least "
            f"{(count + step) * 2 ** (iterations - 1)} candidates, but got {len(known)}: "
            "choose fewer of either."
        )
    rng = np.random.default_rng(seed)
    chosen: Indices = rng.permutation(len(known))[:step]
    values = np.asarray(evaluate(known[chosen]), dtype=np.float64)
    full = predictor.training
    predictor.network_ = None
    for iteration in range(iterations):
        if iteration:
            ranking = np.argsort(-predictor.predict(known), kind="stable")
            free = ranking[~np.isin(ranking, chosen)]
            best = free[: step - step // 2]
            upper = ranking[: len(ranking) // 2**iteration]
            others = upper[~np.isin(upper, [*chosen, *best])]
            new = np.concatenate([best, rng.choice(others, step // 2, replace=False)])
            chosen = np.concatenate([chosen, new])
            values = np.concatenate([values, evaluate(known[new])])
        share = (iteration + 1) / iterations
        part = replace(
            full,
            batch=max(1, round(share * full.batch)),
            epochs=max(1, round(share * full.epochs)),
        )
        predictor.train(known[chosen], values, training=part)
    return Sampled(known[chosen], values)
