"""What a model card says of a network: what was predicted, and what is measured of its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mathnas.cli._answers import SavedAnswer
from mathnas.cli._extras import needing
from mathnas.cli._images import ChosenImages, ImageChoice
from mathnas.errors import InvalidInputError
from mathnas.evaluation import Measurement
from mathnas.metrics import Direction, Metric, metric_named
from mathnas.space import Network
from mathnas.table import BlockTable

if TYPE_CHECKING:
    from mathnas.nets.cards import CardMeasurement, CardPrediction
    from mathnas.nets.export import ExportedFile
    from mathnas.nets.extracted import ExtractedNetwork

MEASURES = ("accuracy", "loss", "latency_ms")


def read_measures(text: str | None) -> tuple[str, ...] | None:
    """The names behind ``--measure``; None where it is not given.

    Raises:
        InvalidInputError: one is not in `MEASURES`.
    """
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if names == ("none",):
        return ()
    for name in names:
        if name not in MEASURES:
            raise InvalidInputError(
                f"--measure takes some of {', '.join(MEASURES)}, or none, but got {name!r}."
            )
    return names


def predictions_for(
    network: Network, table: BlockTable | None, answer: SavedAnswer | None
) -> list[CardPrediction]:
    """Those of a table; without one, those that stand in the answer of a search."""
    from mathnas.nets.cards import CardPrediction, predictions_of

    if table is not None:
        return predictions_of(table, network)
    found = []
    for name, record in ({} if answer is None else answer.predictions).items():
        if isinstance(record, dict) and isinstance(record.get("value"), (int, float)):
            # for its name and unit alone
            metric = Metric(
                str(name), str(record.get("unit") or ""), Direction.MINIMIZE, additive=False
            )
            found.append(CardPrediction(metric, float(record["value"]), None, None, {}))
    return found


def measured_of(
    extracted: ExtractedNetwork,
    exported: ExportedFile,
    wanted: Sequence[str],
    choice: ImageChoice | None,
    images: ChosenImages | None,
    batch: int,
    threads: int,
) -> list[CardMeasurement]:
    """What is measured of a network as it was written.

    Args:
        wanted: some of `MEASURES`.
        choice, images: for accuracy and loss.
        batch, threads: of the engine that latency is measured on.
    """
    from mathnas.nets.cards import CardMeasurement
    from mathnas.nets.scores import score

    found = []
    if images is not None and images.held_out is not None and choice is not None:
        result = score(extracted.module, images.held_out)
        conditions: Mapping[str, str] = {
            "data": choice.data,
            "images": f"{len(images.held_out)}, {images.split}",
            "resolution": str(images.held_out.images.shape[-1]),
        }
        for name, value in (("accuracy", result.accuracy), ("loss", result.loss)):
            if name in wanted:
                found.append(CardMeasurement(metric_named(name), Measurement(value), conditions))
    if "latency_ms" in wanted:
        measurement, conditions = _latency(extracted, exported, batch, threads)
        found.append(CardMeasurement(metric_named("latency_ms"), measurement, conditions))
    return found


def _latency(
    extracted: ExtractedNetwork, exported: ExportedFile, batch: int, threads: int
) -> tuple[Measurement, Mapping[str, str]]:
    """Of the file where it is ONNX, otherwise of a graph that is made for it."""
    with needing("latency", "onnx"):
        import torch

        from mathnas.devices.common import LatencyEvaluator
        from mathnas.devices.onnxruntime import OnnxRuntimeEngine
        from mathnas.nets.onnx_export import export_onnx
    if exported.format == ".onnx":
        content = exported.path.read_bytes()
    else:
        example = torch.zeros(batch, *exported.input_shape)
        content = export_onnx(extracted.module, example).SerializeToString()
    # the network is there by now, so its card tells of noise instead of lacking the time
    engine = OnnxRuntimeEngine(threads, batch)
    evaluator = LatencyEvaluator(lambda _: content, engine, accept_noise=True)
    value = evaluator.evaluate(extracted.network)["latency_ms"]
    assert isinstance(value, Measurement)  # an engine's times have a spread
    of = "the file" if exported.format == ".onnx" else "an ONNX graph of the network"
    return value, {
        **evaluator.conditions,
        "noise": value.notes.get("flags", "none"),
        "resolution": str(exported.input_shape[-1]),
        "measured": of,
    }
