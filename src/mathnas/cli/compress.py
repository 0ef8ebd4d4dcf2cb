"""``mathnas compress``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mathnas.cli._extras import needing
from mathnas.cli._images import ImageChoice, read_test_images
from mathnas.cli._objects import load_object
from mathnas.cli._options import (
    AsJson,
    LimitTexts,
    Resolution,
    at_least_one,
    kept_when_stopped,
    print_json,
    progress_of,
)
from mathnas.errors import InvalidInputError
from mathnas.fitting import fit
from mathnas.runner import evaluate
from mathnas.sampling import single_sampling
from mathnas.search import Answer, search
from mathnas.study import Study

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mathnas.compression import ModuleSupernet, ScoreEvaluator
    from mathnas.evaluation import Evaluator

_LATENCY = "latency_ms"
_BATCH = 16


def register(app: typer.Typer) -> None:
    app.command(
        "compress",
        help="Fit a trained PyTorch model to limits, without training: its blocks get "
        "alternatives, what each does to the outputs is estimated on unlabelled images, and the "
        "best combination is solved for and written to a file. What was measured is kept in a "
        "study: the same command goes on where it was stopped.",
        epilog="Examples:\n\n"
        "mathnas compress my_package:make_model --data folder:images --limit macs=-25% "
        "-o small.onnx\n\n"
        "mathnas compress my_package:make_model --data folder:images --limit latency_ms=-30% "
        "--nodes 'blocks.*' --alternatives skip,width:0.75,0.5 -o small.onnx",
    )(compress)


def compress(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:OBJECT",
            help="The model, or a function that makes it, in a module that can be imported from "
            "this folder.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="NAME.onnx; NAME.pt2, a program of torch.export; or NAME.safetensors, with a "
            "NAME.py that makes the network again.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="NAME",
            help="Images: folder:PATH, parquet:PATH, cifar10, ...; labels are not used.",
        ),
    ],
    limit: LimitTexts = None,
    alternatives: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="What every node may become: skip, width:SHARE, heads:SHARE, kernel:SIZE, "
            "rank:SHARE, int8, int4; a bare number is of the kind before it.",
        ),
    ] = "skip,width:0.75,0.5",
    nodes: Annotated[
        list[str] | None,
        typer.Option(
            "--nodes",
            metavar="PATTERN",
            help="Submodules that are nodes, as blocks.*; by default the repeated blocks. May be "
            "repeated.",
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            help="Images: half of them fit the alternatives, the others tell what these do."
        ),
    ] = 128,
    resolution: Resolution = None,
    study_path: Annotated[
        Path | None,
        typer.Option(
            "--study", metavar="FILE", help="Where measurements are kept; by default OUTPUT.study."
        ),
    ] = None,
    threads: Annotated[int, typer.Option(help="Of torch, and of the engine that is timed.")] = 1,
    accept_noise: Annotated[
        bool,
        typer.Option("--accept-noise", help="Keep latencies of a machine that is too busy."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    with needing("compressing a model", "torch"):
        from mathnas.compression import ScoreEvaluator, export_compressed, from_module
        from mathnas.compression.export import SUFFIXES
        from mathnas.compression.parsing import read_alternatives
    _check(output, SUFFIXES, limit, samples)
    at_least_one("--threads", threads)
    wanted = read_alternatives(alternatives)
    original = _model(model)
    images = read_test_images(ImageChoice(data, count=samples, resolution=resolution), {}).images
    fitting, scoring = images[::2], images[1::2]
    progress = progress_of(as_json)
    supernet = from_module(original, _batches(fitting), wanted, nodes=nodes, progress=progress)
    path = output.with_suffix(".study") if study_path is None else study_path
    with Study(path, supernet.space) as study, kept_when_stopped(study, path):
        work = _Work(supernet, study, ScoreEvaluator(supernet, _batches(scoring), threads=threads))
        if any(text.startswith(_LATENCY) for text in limit or []):
            work.latency = _latency(supernet, images[:1], threads, accept_noise)
        answer = work.answer(limit or [], progress)
        measured = work.measured(answer, progress) if isinstance(answer, Answer) else {}
    told: dict[str, object] = {
        **answer.to_dict(),
        "measured": measured,
        "study": str(path),
        "refused": [
            {"node": one.node, "alternative": one.alternative, "reason": one.reason}
            for one in supernet.refusals
        ],
    }
    if isinstance(answer, Answer):
        export_compressed(
            supernet.extract(answer.network),
            output,
            images[:1],
            make=model if output.suffix == ".safetensors" else None,
        )
        told["output"] = str(output)
    if as_json:
        print_json(told)
    else:
        typer.echo(str(answer))
        for name, value in measured.items():
            typer.echo(f"measured {name}: {value:.4g}")
        if supernet.refusals:
            typer.echo(
                f"{len(supernet.refusals)} alternatives cannot be made, the first of "
                f"{supernet.refusals[0].node}: {supernet.refusals[0].reason}"
            )
    if not isinstance(answer, Answer):
        raise typer.Exit(1)
    if not as_json:
        typer.echo(f"written: {output}")


@dataclass
class _Work:
    """What is measured of a model's networks."""

    supernet: ModuleSupernet
    study: Study
    scores: ScoreEvaluator
    latency: Evaluator | None = None

    def answer(self, limits: Sequence[str], progress: Any) -> Any:
        """The best combination under limits, from single switches in the original."""
        sample = single_sampling(self.supernet.space, self.supernet.space.reference)
        metrics = [metric.name for metric in self.scores.metrics]
        evaluate(self.study, sample, self.scores, progress=progress)
        conditions = {name: dict(self.scores.conditions) for name in metrics}
        if self.latency is not None:
            evaluate(self.study, sample, self.latency, progress=progress)
            metrics.append(_LATENCY)
        table = fit(self.study, metrics, conditions=conditions)
        return search(table, minimize=metrics[0], limits=list(limits))

    def measured(self, answer: Answer, progress: Any) -> dict[str, float]:
        """What the answer is found to do, by metric."""
        found: dict[str, float] = {}
        for evaluator in (self.scores, self.latency):
            if evaluator is None:
                continue
            evaluate(self.study, [answer.network], evaluator, progress=progress)
            for metric in evaluator.metrics:
                rows = list(self.study.evaluations(metric.name, network=answer.network))
                found[metric.name] = rows[-1].measurement.value
        return found


def _check(
    output: Path, suffixes: Sequence[str], limit: Sequence[str] | None, samples: int
) -> None:
    if output.suffix not in suffixes:
        raise InvalidInputError(
            f"a compressed model is written as {', '.join(f'NAME{own}' for own in suffixes)}, but "
            f"got {output.name!r}."
        )
    for path in (output, output.with_suffix(".py"))[: 1 + (output.suffix == ".safetensors")]:
        if path.exists():
            raise InvalidInputError(f"{path} is there already: take another name, or remove it.")
    if not limit:
        raise InvalidInputError(
            "a compressed model meets limits, but there is none: write --limit macs=-25%, or "
            "latency_ms=-30%, params=2M."
        )
    if samples < 4:
        raise InvalidInputError(f"--samples is at least 4, but got {samples}.")


def _model(text: str) -> nn.Module:
    from torch import nn

    module, _, name = text.partition(":")
    if not module or not name:
        raise InvalidInputError(f"a model is named MODULE:OBJECT, but got {text!r}.")
    found = load_object(module, name, "model", ["forward"])
    if not isinstance(found, nn.Module):
        raise InvalidInputError(
            f"a model is a torch.nn.Module, but {text} gave a {type(found).__name__}."
        )
    return found


def _batches(images: Tensor) -> list[Tensor]:
    import torch

    return list(torch.split(images, _BATCH))


def _latency(
    supernet: ModuleSupernet, example: Tensor, threads: int, accept_noise: bool
) -> Evaluator:
    with needing("timing a model", "onnx"):
        from mathnas.devices.onnxruntime import OnnxRuntimeEngine
        from mathnas.devices.relative import RelativeLatencyEvaluator
        from mathnas.nets.onnx_export import NetworkGraphs
    return RelativeLatencyEvaluator(
        NetworkGraphs(supernet, example),
        OnnxRuntimeEngine(threads=threads),
        supernet.space.reference,
        accept_noise=accept_noise,
    )
