"""Latency on the command line: the engine that is named, on this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mathnas.cli._extras import needing
from mathnas.cli._supernets import (
    OptionKinds,
    SupernetFile,
    new_supernet,
    read_options,
    refuse_options,
    seen_as,
    yes_or_no,
)
from mathnas.devices.common import LatencyEvaluator
from mathnas.devices.engines import engine_named, models_for
from mathnas.devices.noise import NoiseRule
from mathnas.devices.timing import TimingSettings
from mathnas.errors import InvalidInputError
from mathnas.space import Network, SearchSpace

_OPTIONS: OptionKinds = {
    **dict.fromkeys(("engine", "precision", "statistics"), str),
    **dict.fromkeys(("attempts", "batch", "resolution", "rounds", "threads", "together"), int),
    "beam": int,
    **dict.fromkeys(("accept_noise", "reference"), yes_or_no),
}
_OF_IMAGES = ("batch", "precision", "resolution")


def latency_evaluator(
    text: str, space: SearchSpace | None, *, one_graph: bool = False
) -> LatencyEvaluator[Any]:
    """The evaluator of ``latency[:FILE][,engine=NAME,batch=1,...]``.

    Times do not depend on weights, so without a file a new supernet of `space` serves. Translators
    encode a sentence and decode step by step (`mathnas.nets.translation_engine`).

    Args:
        one_graph: whether a network must be one graph, which translators are not.

    Raises:
        InvalidInputError: an option is unknown or wrong, no space is known, or the supernet is of
            other blocks than `space`.
        MissingExtraError: the engine or torch is not installed.
    """
    path, options = read_options(text, _OPTIONS, "latency[:FILE.safetensors]")

    def number(name: str, default: int) -> int:
        return int(str(options.get(name, default)))

    name = str(options.get("engine", "onnxruntime"))
    statistics = str(options.get("statistics", ""))
    engine = engine_named(
        name,
        threads=number("threads", 1),
        batch=number("batch", 1),
        precision=str(options.get("precision", "fp32")),
    )
    with needing("latency", "torch"):
        import torch

        from mathnas.nets.inputs import example_inputs
        from mathnas.nets.supertransformer import SuperTransformerNet
    file = None if path is None else SupernetFile.read(path)
    if file is not None:
        supernet = seen_as(file.supernet, space)
    elif space is not None:
        supernet = new_supernet(space)
    else:
        raise InvalidInputError(
            "latency is that of a space's networks: add --space, or write latency:FILE.safetensors."
        )
    models: Callable[[Network], Any]
    if isinstance(supernet, SuperTransformerNet):
        if one_graph:
            raise InvalidInputError(
                "a network runs as one graph there, but a translator is two, the encoder and a "
                "step: measure on that machine with mathnas evaluate --evaluator latency."
            )
        refuse_options(options, _OF_IMAGES, "images", "this supernet translates")
        from mathnas.cli._translators import Translators

        beam = number("beam", 0) or None
        translators = Translators.of(supernet, name, threads=engine.threads, beam=beam)
        models, engine, inputs = translators, translators.engine, {}
    else:
        refuse_options(options, ("beam",), "sentences", "this supernet takes images")
        example = example_inputs(supernet, engine.batch, number("resolution", 0) or None)
        models = models_for(name, supernet, example)
        inputs = {"resolution": str(example.shape[-1])}
    evaluator = LatencyEvaluator(
        models,
        engine,
        timing=TimingSettings(rounds=number("rounds", TimingSettings().rounds)),
        batch_size=number("together", 8),
        statistics=statistics.split("+") if statistics else (),
        reference=supernet.space.reference if options.get("reference") else None,
        noise=NoiseRule(attempts=number("attempts", NoiseRule().attempts)),
        accept_noise=bool(options.get("accept_noise", False)),
    )
    evaluator.conditions = {
        **evaluator.conditions,
        **inputs,
        "torch": str(torch.__version__),  # which made the modules and graphs
    }
    return evaluator
