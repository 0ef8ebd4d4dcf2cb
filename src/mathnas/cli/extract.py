"""``mathnas extract``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mathnas._version import __version__
from mathnas.cli._answers import SavedAnswer
from mathnas.cli._cards import measured_of, predictions_for, read_measures
from mathnas.cli._extras import needing
from mathnas.cli._finetuning import Finetuning
from mathnas.cli._images import CALIBRATION, ChosenImages, ImageChoice, choose_images
from mathnas.cli._options import (
    AsJson,
    DataName,
    Resolution,
    SupernetPath,
    at_least_one,
    is_study,
    print_json,
    progress_of,
    read_study,
    read_table,
)
from mathnas.cli._supernets import SupernetFile, seen_as, supernet_of_study
from mathnas.errors import InvalidInputError
from mathnas.grouped import GroupedSpace
from mathnas.space import Network, SearchSpace, network_text
from mathnas.table import BlockTable

if TYPE_CHECKING:
    from torch import Tensor

    from mathnas.nets.cards import ModelCard
    from mathnas.nets.extracted import ExtractedNetwork


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
    supernet: SupernetPath = None,
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
    data: DataName = None,
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
    resolution: Resolution = None,
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
        from mathnas.nets.inputs import example_inputs
    suffix = check_suffix(output)
    wanted = read_measures(measure)
    saved = None if answer is None else SavedAnswer.read(answer)
    file = supernet_of_study(supernet, study_path)
    effects, missing = _table(study_path, table)
    searched = _searched(
        file,
        None if space is None else _space(space),
        _study_space(study_path),
        None if effects is None else effects.space,
    )
    chosen = _network(searched, network, saved)
    # a network of groups is one of their nodes
    fine = searched.expand(chosen) if isinstance(searched, GroupedSpace) else chosen

    finetuning = Finetuning(
        finetune_epochs, distill, learning_rate, optimizer, images_a_step, device, seed
    )
    choice = None
    if file.supernet.vocabulary_size is not None:
        wanted = _of_no_images(wanted, suffix, data, finetuning)
    else:
        choice = _images_choice(
            data or file.data, calibration, count, test, resolution, keep_statistics
        )
    wanted = _possible(wanted, choice, finetuning)
    labels = bool({"accuracy", "loss"} & set(wanted))
    images = None if choice is None else choose_images(choice, file.notes, accuracy=labels)
    example = example_inputs(file.supernet, batch, resolution or _trained_at(file.notes))
    extracted = _cut_out(file, fine, example, images, keep_statistics)
    if finetuning.epochs and choice is not None and images is not None:
        extracted = finetuning.tuned(extracted, file, choice, images, progress_of(as_json))
    exported = export_network(extracted, output, example, any_batch=any_batch)
    card = ModelCard(
        extracted,
        exported,
        predictions_for(chosen, effects, saved),
        measured_of(extracted, exported, wanted, choice, images, batch, threads),
        () if saved is None else saved.limits,
        "" if saved is None else saved.guarantee,
        {
            "supernet": file.path.name,
            "supernet_sha256": file.sha256,
            "study": None if study_path is None else study_path.name,
            "chosen_as": list(searched.block_names(chosen)) if chosen != fine else None,
            "no_predictions": missing,
            "command": _command(study_path, answer, chosen, output, choice, finetuning),
            "mathnas": __version__,
            "torch": _torch_version(),
        },
    )
    places = card.save()
    if as_json:
        text, record = map(str, places)
        print_json({**card.to_dict(), "card": text, "record": record})
    else:
        typer.echo(_told(card, chosen, missing, [output, *places]))


# ---- what is asked for --------------------------------------------------------------------------


def _searched(file: SupernetFile, *others: SearchSpace | None) -> SearchSpace:
    """The space that networks are named in, which the supernet must have all of these blocks of."""
    searched = file.supernet.space
    for other in others:
        searched = seen_as(file.supernet, other).space
    return searched


def _network(space: SearchSpace, text: str | None, answer: SavedAnswer | None) -> Network:
    if (text is None) == (answer is None):
        raise InvalidInputError(
            "one network is extracted: give either --network or --answer FILE.json."
        )
    return space.check(answer.network) if answer is not None else space.parse(text or "")


def _space(text: str) -> SearchSpace:
    from mathnas.nets.families import space_named

    return space_named(text)


def _study_space(path: Path | None) -> SearchSpace | None:
    if path is None or not is_study(path):
        return None
    with read_study(path) as study:
        return study.space


def _images_choice(
    data: str | None,
    calibration: int,
    count: int | None,
    test: bool,
    resolution: int | None,
    keep_statistics: bool,
) -> ImageChoice | None:
    at_least_one("--calibration", calibration)
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


def _of_no_images(
    wanted: tuple[str, ...] | None, suffix: str, data: str | None, finetuning: Finetuning
) -> tuple[str, ...]:
    """What is measured of a network that reads no images: nothing here.

    Raises:
        InvalidInputError: something is asked for that images are needed for.
    """
    if suffix != ".safetensors":
        raise InvalidInputError(
            f"a translator runs in steps, which {suffix} files do not hold: name a .safetensors "
            "file, and export its graphs with mathnas.nets.translation_graphs."
        )
    if wanted or data is not None or finetuning.epochs:
        raise InvalidInputError(
            "networks for images are measured and fine-tuned here, but this one translates: leave "
            "--measure, --data and --finetune-epochs out, and score what is written with mathnas "
            "translate --references."
        )
    return ()


def _possible(
    wanted: tuple[str, ...] | None, choice: ImageChoice | None, finetuning: Finetuning
) -> tuple[str, ...]:
    """What is measured: what is asked for, or what can be.

    Raises:
        InvalidInputError: there are no images for what is asked for.
    """
    if choice is None and (finetuning.epochs or {"accuracy", "loss"} & set(wanted or ())):
        raise InvalidInputError(
            "fine-tuning and accuracy need images, but none are named: add --data NAME."
        )
    if wanted is not None:
        return wanted
    return ("latency_ms",) if choice is None else ("accuracy", "latency_ms")


# ---- what is done -------------------------------------------------------------------------------


def _cut_out(
    file: SupernetFile,
    network: Network,
    example: Tensor,
    images: ChosenImages | None,
    keep_statistics: bool,
) -> ExtractedNetwork:
    """The network by itself, its batch norms recalibrated unless they are to be kept."""
    from mathnas.nets.extracted import extract_network, recalibrated
    from mathnas.nets.inputs import space_at

    extracted = extract_network(file.supernet, network, example, notes=file.inputs(images))
    extracted = replace(extracted, space=space_at(extracted.space, example.shape[-1]))
    if images is None or keep_statistics:
        return extracted
    return recalibrated(extracted, images.calibration)


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


# ---- what is told -------------------------------------------------------------------------------


def _command(
    study_path: Path | None,
    answer: Path | None,
    network: Network,
    output: Path,
    choice: ImageChoice | None,
    finetuning: Finetuning,
) -> str:
    """What was asked for, without the folders of this machine."""
    parts = ["mathnas extract"]
    if study_path is not None:
        parts.append(study_path.name)
    chosen = f"--network {network_text(network)}" if answer is None else f"--answer {answer.name}"
    parts += [chosen, f"--output {output.name}"]
    if choice is not None:
        parts.append(f"--calibration {choice.calibration}")
    if finetuning.epochs:
        parts.append(
            f"--finetune-epochs {finetuning.epochs} --distill {finetuning.distill:g} "
            f"--seed {finetuning.seed}"
        )
    return " ".join(parts)


def _told(card: ModelCard, network: Network, missing: str | None, written: Sequence[Path]) -> str:
    """For people."""
    lines = [network_text(network)]
    for measured in card.measurements:
        guess = next((p for p in card.predictions if p.metric == measured.metric), None)
        predicted = "" if guess is None else f" (predicted {guess.metric.format(guess.value)})"
        value = measured.metric.format(measured.measurement.value)
        lines.append(f"  {measured.metric.name}: {value}{predicted}")
    lines.append(f"  outputs differ by {card.file.difference:.2g} of the largest one")
    if missing:
        lines.append(f"  no predictions: {missing}")
    return "\n".join([*lines, f"written: {', '.join(map(str, written))}"])


def _torch_version() -> str:
    import torch

    return str(torch.__version__)
