"""``mathnas extract``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mathnas._version import __version__
from mathnas.cli._extras import needing
from mathnas.cli._images import CALIBRATION, ChosenImages, ImageChoice, choose_images
from mathnas.cli._images import data_to_train_on as training_images
from mathnas.cli._options import AsJson, is_study, print_json, progress_of, read_study, read_table
from mathnas.cli._supernets import SUPERNET_CONDITION, SupernetFile, identity, seen_as
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.evaluation import Measurement
from mathnas.grouped import GroupedSpace
from mathnas.metrics import Direction, Metric, metric_named
from mathnas.space import Network, SearchSpace, network_text
from mathnas.table import BlockTable

if TYPE_CHECKING:
    from mathnas.nets.cards import CardMeasurement, CardPrediction
    from mathnas.nets.export import ExportedFile
    from mathnas.nets.extracted import ExtractedNetwork

_MEASURES = ("accuracy", "loss", "latency_ms")
_LARGEST_ANSWER = 2**26


def register(app: typer.Typer) -> None:
    app.command(
        "extract",
        help="Cut a network out of its supernet and write it as .onnx, .pt2 or .safetensors: "
        "compared with the supernet, batch norms recalibrated, fine-tuned if asked for, the file "
        "checked, measured, and described in a model card beside it.",
        epilog="Examples:\n\n"
        "mathnas extract my.study --answer answer.json --output network.onnx\n\n"
        "mathnas extract my.study --network 3,0,2,1 --supernet out/supernet.safetensors "
        "--data cifar10 --output network.pt2 --finetune-epochs 5 --distill 1\n\n"
        "mathnas extract --supernet supernet.safetensors --network 3,0,2,1 --data folder:images "
        "--output network.safetensors --measure accuracy",
    )(extract)


def extract(
    study_path: Annotated[
        Path | None,
        typer.Argument(
            metavar="[STUDY]",
            help="A study or a table of it, for predictions, and for the supernet that it was "
            "measured with.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="NAME.onnx, .pt2 or .safetensors."),
    ] = None,
    network: Annotated[
        str | None, typer.Option("--network", help="The network, as 3,0,2 or block names.")
    ] = None,
    answer: Annotated[
        Path | None,
        typer.Option(
            "--answer", metavar="FILE.json", help="Instead: what `mathnas search --json` printed."
        ),
    ] = None,
    supernet: Annotated[
        Path | None,
        typer.Option(
            "--supernet",
            metavar="FILE",
            help="The trained supernet; by default the one that the study was measured with, "
            "beside the study or here.",
        ),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option("--space", help="Which space the supernet must be of; by default its own."),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            "--table", metavar="FILE", help="Predict from this table; by default fit the study."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="NAME",
            help="Images: cifar10, folder:PATH, parquet:PATH or digits; by default what the "
            "supernet was trained on.",
        ),
    ] = None,
    calibration: Annotated[
        int, typer.Option(help="Training images for the batch-norm statistics.")
    ] = CALIBRATION,
    keep_statistics: Annotated[
        bool,
        typer.Option(
            "--keep-statistics", help="Take the supernet's batch-norm statistics as they are."
        ),
    ] = False,
    count: Annotated[
        int | None, typer.Option("--count", help="Images to measure accuracy on; all by default.")
    ] = None,
    test: Annotated[
        bool,
        typer.Option(
            "--test",
            help="Measure on test images, even where the supernet's training held out others.",
        ),
    ] = False,
    finetune_epochs: Annotated[
        int, typer.Option("--finetune-epochs", help="Epochs of training before it is exported.")
    ] = 0,
    distill: Annotated[
        float,
        typer.Option(
            "--distill", help="Weight of the largest network's outputs in the fine-tuning."
        ),
    ] = 0.0,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", help="Highest rate of the fine-tuning.")
    ] = 0.005,
    optimizer: Annotated[str, typer.Option("--optimizer", help="sgd or adamw.")] = "sgd",
    images_a_step: Annotated[
        int, typer.Option("--batch-size", help="Images a step of the fine-tuning.")
    ] = 64,
    device: Annotated[str, typer.Option("--device", help="Where to fine-tune.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of the fine-tuning.")] = 0,
    batch: Annotated[int, typer.Option("--batch", help="Inputs in one run of the file.")] = 1,
    any_batch: Annotated[
        bool, typer.Option("--any-batch", help="Leave the number of inputs open in the file.")
    ] = False,
    resolution: Annotated[
        int | None, typer.Option("--resolution", metavar="R", help="Side of the inputs, pixels.")
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option(
            "--measure",
            metavar="NAMES",
            help="Of accuracy,loss,latency_ms, or none; by default latency_ms, and accuracy where "
            "there are images.",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(help="Of the engine that latency is measured on.")] = 1,
    as_json: AsJson = False,
) -> None:
    if output is None:
        raise InvalidInputError("--output FILE says where the network goes, and in which format.")
    with needing("extracting networks", "train"):
        from mathnas.nets.cards import ModelCard
        from mathnas.nets.export import check_suffix, export_network
        from mathnas.nets.extracted import extract_network, recalibrated
        from mathnas.nets.inputs import example_inputs, space_at
    check_suffix(output)
    wanted = _measures(measure)
    found = _read_answer(answer) if answer is not None else {}
    file = _supernet(supernet, study_path)
    effects, missing = _table(study_path, table)
    searched = file.supernet.space
    for other in (
        None if space is None else _space(space),
        _study_space(study_path),
        None if effects is None else effects.space,
    ):
        searched = seen_as(file.supernet, other).space
    chosen = _network(searched, network, found)
    # a network of groups is one of their nodes
    fine = searched.expand(chosen) if isinstance(searched, GroupedSpace) else chosen

    choice = _images_choice(
        data or file.data, calibration, count, test, resolution, keep_statistics
    )
    if choice is None and (finetune_epochs or {"accuracy", "loss"} & set(wanted or ())):
        raise InvalidInputError(
            "fine-tuning and accuracy need images, but none are named: add --data NAME."
        )
    if wanted is None:
        wanted = (*(("accuracy",) if choice is not None else ()), "latency_ms")
    needs_labels = bool({"accuracy", "loss"} & set(wanted))
    images = None if choice is None else choose_images(choice, file.notes, accuracy=needs_labels)

    example = example_inputs(file.supernet, batch, resolution or _trained_at(file.notes))
    notes = {k: v for k, v in file.notes.items() if k in ("data", "preprocessing")}
    if images is not None and images.preprocessing is not None:
        notes["preprocessing"] = images.preprocessing
    extracted = extract_network(file.supernet, fine, example, notes=notes)
    extracted = replace(extracted, space=space_at(extracted.space, example.shape[-1]))
    if images is not None and not keep_statistics:
        extracted = recalibrated(extracted, images.calibration)
    if finetune_epochs and choice is not None and images is not None:
        settings = _Finetuning(
            finetune_epochs, distill, learning_rate, optimizer, images_a_step, device, seed
        )
        extracted = _finetuned(extracted, file, choice, images, settings, as_json)
    exported = export_network(extracted, output, example, any_batch=any_batch)
    card = ModelCard(
        extracted,
        exported,
        _predictions(effects, chosen, found),
        _measured(extracted, exported, wanted, choice, images, batch, threads),
        found.get("limits") or (),
        str(found.get("guarantee") or ""),
        {
            "supernet": file.path.name,
            "supernet_sha256": file.sha256,
            "study": None if study_path is None else study_path.name,
            "chosen_as": list(searched.block_names(chosen)) if chosen != fine else None,
            "no_predictions": missing,
            "command": _command(
                study_path, answer, chosen, output, choice, finetune_epochs, distill, seed
            ),
            "mathnas": __version__,
            "torch": _torch_version(),
        },
    )
    text, record = card.save()
    if as_json:
        print_json({**card.to_dict(), "card": str(text), "record": str(record)})
        return
    typer.echo(f"{network_text(chosen)}")
    for measured in card.measurements:
        guess = next((p for p in card.predictions if p.metric == measured.metric), None)
        predicted = "" if guess is None else f" (predicted {guess.metric.format(guess.value)})"
        value = measured.metric.format(measured.measurement.value)
        typer.echo(f"  {measured.metric.name}: {value}{predicted}")
    typer.echo(f"  outputs differ by {exported.difference:.2g} of the largest one")
    if missing:
        typer.echo(f"  no predictions: {missing}")
    typer.echo(f"written: {output}, {text}, {record}")


# ---- what is asked for --------------------------------------------------------------------------


def _measures(text: str | None) -> tuple[str, ...] | None:
    """The names behind ``--measure``; None where it is not given."""
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if names == ("none",):
        return ()
    for name in names:
        if name not in _MEASURES:
            raise InvalidInputError(
                f"--measure takes some of {', '.join(_MEASURES)}, or none, but got {name!r}."
            )
    return names


def _read_answer(path: Path) -> Mapping[str, Any]:
    """The answer of `mathnas search --json`; of several, the best.

    Raises:
        FileFormatError: the file is none.
        InvalidInputError: the search found no network.
    """
    try:
        if path.stat().st_size > _LARGEST_ANSWER:
            raise FileFormatError(f"{path} is larger than {_LARGEST_ANSWER} bytes, so not read.")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} is not JSON ({error}).") from error
    if isinstance(value, dict) and value.get("answers"):
        value = value["answers"][0] if isinstance(value["answers"], list) else value
    if isinstance(value, dict) and value.get("status") == "infeasible":
        raise InvalidInputError(
            f"{path} says that no network meets the limits: there is nothing to extract."
        )
    if not isinstance(value, dict) or not isinstance(value.get("network"), list):
        raise FileFormatError(
            f"{path} is not an answer: it has no network. Write `mathnas search --json` to a file."
        )
    limits = value.get("limits") or []
    if not isinstance(limits, list) or not all(isinstance(limit, dict) for limit in limits):
        raise FileFormatError(f"{path}: expected limits as a list of objects.")
    return value


def _network(space: SearchSpace, text: str | None, answer: Mapping[str, Any]) -> Network:
    if (text is None) == (not answer):
        raise InvalidInputError(
            "one network is extracted: give either --network or --answer FILE.json."
        )
    return space.parse(text) if text is not None else space.check(answer["network"])


def _space(text: str) -> SearchSpace:
    from mathnas.nets.families import space_named

    return space_named(text)


def _study_space(path: Path | None) -> SearchSpace | None:
    if path is None or not is_study(path):
        return None
    with read_study(path) as study:
        return study.space


def _supernet(path: Path | None, study_path: Path | None) -> SupernetFile:
    """The supernet that is named, or that the study was measured with.

    Raises:
        InvalidInputError: none is named, or it is another one than the study's.
        FileFormatError: it is not where it should be, or is damaged.
    """
    known: set[str] = set()
    if study_path is not None and is_study(study_path):
        with read_study(study_path) as study:
            known = {
                conditions[SUPERNET_CONDITION]
                for metric in study.metrics
                for conditions in study.conditions(metric)
                if SUPERNET_CONDITION in conditions
            }
    if path is not None:
        file = SupernetFile.read(path)
        if known and file.sha256[:12] not in {one.split()[-1] for one in known}:
            typer.echo(
                f"warning: the study was measured with {' and '.join(sorted(known))}, but "
                f"{file.identity} is extracted from: predictions may not hold.",
                err=True,
            )
        return file
    if len(known) != 1 or study_path is None:
        raise InvalidInputError(
            f"a network is extracted from one supernet, but "
            f"{'the study was measured with ' + ' and '.join(sorted(known)) if known else 'none'}"
            f"{' is known' * (not known)}: add --supernet FILE."
        )
    (wanted,) = known
    name = wanted.rpartition(" ")[0]
    places = [study_path.parent / name, Path(name)]
    for place in places:
        if place.is_file():
            file = SupernetFile.read(place)
            if identity(place, file.sha256) != wanted:
                raise InvalidInputError(
                    f"the study was measured with {wanted}, but {place} is {file.identity}: name "
                    "the right one with --supernet FILE."
                )
            return file
    raise FileFormatError(
        f"the study was measured with {wanted}, which is neither beside it nor here: add "
        "--supernet FILE."
    )


def _images_choice(
    data: str | None,
    calibration: int,
    count: int | None,
    test: bool,
    resolution: int | None,
    keep_statistics: bool,
) -> ImageChoice | None:
    if calibration < 1:
        raise InvalidInputError(f"--calibration is at least 1 image, but got {calibration}.")
    if data is not None:
        return ImageChoice(data, calibration, count, test, resolution)
    if keep_statistics:
        return None
    raise InvalidInputError(
        "batch norms are recalibrated with training images, but the supernet's file does not say "
        "what it was trained on: add --data NAME, or --keep-statistics."
    )


def _trained_at(notes: Mapping[str, object]) -> int | None:
    """The resolution of a supernet's training, where its notes tell it."""
    record = notes.get("preprocessing")
    value = record.get("resolution") if isinstance(record, Mapping) else None
    return value if isinstance(value, int) else None


# ---- what is done -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Finetuning:
    epochs: int
    distill: float
    learning_rate: float
    optimizer: str
    batch_size: int
    device: str
    seed: int


def _finetuned(
    extracted: ExtractedNetwork,
    file: SupernetFile,
    choice: ImageChoice,
    images: ChosenImages,
    settings: _Finetuning,
    as_json: bool,
) -> ExtractedNetwork:
    with needing("fine-tuning", "train"):
        from mathnas.training.config import TrainingConfig
        from mathnas.training.finetuning import finetune, largest_network
    config = TrainingConfig.from_fields(
        {
            "recipe": "uniform",
            "epochs": settings.epochs,
            "batch_size": settings.batch_size,
            "optimizer": settings.optimizer,
            "learning_rate": settings.learning_rate,
            "seed": settings.seed,
        },
        "the fine-tuning",
    )
    data = training_images(choice, file.notes, images, config)
    guide = largest_network(file.supernet, data) if settings.distill > 0 else None
    tuned, _ = finetune(
        extracted,
        data,
        config,
        guide=guide,
        distill=settings.distill,
        device=settings.device,
        progress=progress_of(as_json),
    )
    return tuned


def _table(study_path: Path | None, table: Path | None) -> tuple[BlockTable | None, str | None]:
    """The table that predicts, or why there is none."""
    if table is not None:
        return read_table(table), None
    if study_path is None:
        return None, "no study and no table were given"
    try:
        return read_table(study_path), None
    except InvalidInputError as error:
        if not is_study(study_path):
            raise
        # a network can be extracted whatever the study holds so far
        return None, str(error)


def _predictions(
    table: BlockTable | None, network: Network, answer: Mapping[str, Any]
) -> list[CardPrediction]:
    from mathnas.nets.cards import CardPrediction, predictions_of

    if table is not None:
        return predictions_of(table, network)
    predictions = answer.get("predictions")
    if not isinstance(predictions, dict):
        return []
    found = []
    for name, record in predictions.items():
        if isinstance(record, dict) and isinstance(record.get("value"), (int, float)):
            # for its name and unit alone
            metric = Metric(
                str(name), str(record.get("unit") or ""), Direction.MINIMIZE, additive=False
            )
            found.append(CardPrediction(metric, float(record["value"]), None, None, {}))
    return found


def _measured(
    extracted: ExtractedNetwork,
    exported: ExportedFile,
    wanted: Sequence[str],
    choice: ImageChoice | None,
    images: ChosenImages | None,
    batch: int,
    threads: int,
) -> list[CardMeasurement]:
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


def _command(
    study_path: Path | None,
    answer: Path | None,
    network: Network,
    output: Path,
    choice: ImageChoice | None,
    epochs: int,
    distill: float,
    seed: int,
) -> str:
    """What was asked for, without the folders of this machine."""
    parts = ["mathnas extract"]
    if study_path is not None:
        parts.append(study_path.name)
    chosen = f"--network {network_text(network)}" if answer is None else f"--answer {answer.name}"
    parts += [chosen, f"--output {output.name}"]
    if choice is not None:
        parts.append(f"--calibration {choice.calibration}")
    if epochs:
        parts.append(f"--finetune-epochs {epochs} --distill {distill:g} --seed {seed}")
    return " ".join(parts)


def _torch_version() -> str:
    import torch

    return str(torch.__version__)
