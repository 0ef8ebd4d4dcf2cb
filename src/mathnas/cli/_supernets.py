"""Trained supernets on the command line: files, and the evaluators that are made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mathnas._files import file_sha256
from mathnas.cli._extras import needing
from mathnas.cli._images import CALIBRATION, ChosenImages, ImageChoice, choose_images
from mathnas.cli._options import is_study, read_study
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.evaluation import Evaluator
from mathnas.grouped import GroupedSpace
from mathnas.space import SearchSpace

if TYPE_CHECKING:
    from mathnas.nets.supernet import Supernet

# in the conditions of what was measured with a supernet: its file, for `mathnas extract`
SUPERNET_CONDITION = "supernet"

OptionKinds = Mapping[str, Callable[[str], object]]


def yes_or_no(text: str) -> bool:
    """Raises:
    KeyError: the text is neither true nor false.
    """
    return {"true": True, "false": False}[text]


_QUALITY: OptionKinds = {
    **dict.fromkeys(("calibration", "count", "resolution", "threads", "together", "memory"), int),
    **dict.fromkeys(("data", "vocabulary"), str),
    **dict.fromkeys(("loss", "test"), yes_or_no),
    "beam": int,
    "bleu": yes_or_no,
}
_OF_IMAGES = ("calibration", "resolution", "memory")
_OF_SENTENCES = ("beam", "bleu", "vocabulary")


@dataclass(frozen=True)
class SupernetFile:
    """A trained supernet that was read.

    Attributes:
        path: its file.
        supernet: in evaluation mode.
        notes: that stand in the file.
        sha256: of the file.
    """

    path: Path
    supernet: Supernet
    notes: Mapping[str, object]
    sha256: str

    @classmethod
    def read(cls, path: Path) -> SupernetFile:
        """Read a file that `mathnas train` or `save_supernet` wrote.

        Raises:
            FileFormatError: it is missing, damaged or foreign.
            MissingExtraError: torch or safetensors is not installed.
        """
        with needing("a trained supernet", "train"):
            from mathnas.nets.files import read_supernet
        return cls(path, *read_supernet(path), file_sha256(path))

    @property
    def identity(self) -> str:
        """Its name and what tells its content from others, for conditions."""
        return identity(self.path, self.sha256)

    @property
    def data(self) -> str | None:
        """What it was trained on, where its notes say that."""
        name = self.notes.get("data")
        return name if isinstance(name, str) else None

    def inputs(self, images: ChosenImages | None) -> dict[str, object]:
        """What its notes say of its inputs, for files that are made of it; the preprocessing is
        that of `images`, where they have one."""
        notes = {k: v for k, v in self.notes.items() if k in _OF_INPUTS}
        if images is not None and images.preprocessing is not None:
            notes["preprocessing"] = images.preprocessing
        return notes


# notes that say what a network's inputs are
_OF_INPUTS = ("data", "preprocessing", "vocabulary", "languages")


def identity(path: Path, sha256: str) -> str:
    """A file's name with the first digits of its digest."""
    return f"{path.name} {sha256[:12]}"


def supernet_of_study(path: Path | None, study_path: Path | None) -> SupernetFile:
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
                f"{file.identity} is named: predictions may not hold.",
                err=True,
            )
        return file
    if len(known) != 1 or study_path is None:
        raise InvalidInputError(
            f"networks are taken from one supernet, but "
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


def quality_evaluator(text: str, space: SearchSpace | None, metrics: Sequence[str]) -> Evaluator:
    """The evaluator of ``supernet:FILE[,data=...,...]``: accuracy, or loss and BLEU of translators.

    Args:
        metrics: that are asked for; all that the options say where empty.

    Raises:
        InvalidInputError: an option is unknown or wrong, or the supernet is of other blocks than
            `space`.
    """
    path, options = read_options(text, _QUALITY, "supernet:FILE.safetensors")
    if path is None:
        raise InvalidInputError(
            "accuracy is that of trained weights: write supernet:FILE.safetensors,data=..., with a "
            "file that `mathnas train` wrote."
        )
    file = SupernetFile.read(path)
    supernet = seen_as(file.supernet, space)
    data = options.get("data", file.data)
    if not isinstance(data, str):
        raise InvalidInputError(
            f"{path} does not say what it was trained on: add data=NAME, for example "
            f"supernet:{path},data=folder:PATH."
        )
    from mathnas.nets.evaluators import AccuracyEvaluator
    from mathnas.nets.supertransformer import SuperTransformerNet

    def number(name: str) -> int | None:
        value = options.get(name)
        return value if isinstance(value, int) else None

    if isinstance(file.supernet, SuperTransformerNet):
        refuse_options(options, _OF_IMAGES, "images", "this supernet translates")
        from mathnas.cli._translators import SentenceChoice, translation_evaluator

        vocabulary = options.get("vocabulary")
        sentences = SentenceChoice(
            data,
            Path(str(vocabulary)) if vocabulary else None,
            number("count"),
            bool(options.get("test", False)),
            bool(options.get("bleu", "bleu" in metrics)),
            number("beam") or SentenceChoice.beam,
            number("threads") or 1,
            number("together") or SentenceChoice.together,
        )
        translating = translation_evaluator(path, file.supernet, file.notes, sentences)
        translating.conditions = {**translating.conditions, SUPERNET_CONDITION: file.identity}
        return translating
    refuse_options(options, _OF_SENTENCES, "sentences", "this supernet takes images")
    choice = ImageChoice(
        data,
        number("calibration") or CALIBRATION,
        number("count"),
        bool(options.get("test", False)),
        number("resolution"),
    )
    images = choose_images(choice, file.notes)
    assert images.held_out is not None  # accuracy was asked for
    evaluator = AccuracyEvaluator(
        supernet,
        images.calibration,
        images.held_out,
        with_loss="loss" in metrics or bool(options.get("loss", False)),
        threads=number("threads") or 1,
        memory=number("memory") or 2**30,
        batch_size=number("together") or 32,
    )
    evaluator.conditions = {
        **evaluator.conditions,
        SUPERNET_CONDITION: file.identity,
        "data": f"{data}, {images.split}",
        "resolution": str(images.held_out.images.shape[-1]),
    }
    return evaluator


def new_supernet(space: SearchSpace) -> Supernet:
    """An untrained supernet of a space, for costs, which do not depend on weights.

    Raises:
        InvalidInputError: no supernet is known for the space.
        MissingExtraError: torch is not installed.
    """
    with needing("a supernet", "torch"):
        from mathnas.nets.families import supernet_for
    fine = space.fine if isinstance(space, GroupedSpace) else space
    return seen_as(supernet_for(fine).eval(), space)


def seen_as(supernet: Supernet, space: SearchSpace | None) -> Supernet:
    """The supernet as one of `space`: itself where the blocks are the same, or a view in groups.

    Raises:
        InvalidInputError: nodes or blocks have other names.
    """
    if space is None or _same_blocks(supernet.space, space):
        return supernet
    if isinstance(space, GroupedSpace) and _same_blocks(supernet.space, space.fine):
        from mathnas.nets.grouped import GroupedSupernet
        from mathnas.nets.supernet import ChainSupernet

        if isinstance(supernet, ChainSupernet) and supernet.space == space.fine:
            return GroupedSupernet(supernet, space)
    raise InvalidInputError(
        f"a supernet runs networks of its own blocks, but it is of the space "
        f"{supernet.space.name!r}, and the study of {space.name!r}: name the supernet that the "
        "study is about."
    )


def _same_blocks(first: SearchSpace, second: SearchSpace) -> bool:
    """Whether networks of one space are networks of the other; costs may differ."""
    one, two = (
        [(node.name, [block.name for block in node.blocks]) for node in space.nodes]
        for space in (first, second)
    )
    return one == two


def read_options(text: str, known: OptionKinds, form: str) -> tuple[Path | None, dict[str, object]]:
    """``FILE,name=value,...`` as a path (None where it is empty) and the options.

    Raises:
        InvalidInputError: an option is unknown, twice there, or has a wrong value.
    """
    first, *parts = _parts(text)
    options: dict[str, object] = {}
    for part in parts:
        name, equals, value = (word.strip() for word in part.partition("="))
        if name not in known or not equals or name in options:
            raise InvalidInputError(
                f"{form} takes {', '.join(f'{option}=' for option in known)} behind it, each once, "
                f"but got {part!r}."
            )
        try:
            options[name] = known[name](value)
        except (ValueError, KeyError) as error:
            kind = "true or false" if known[name] is yes_or_no else "a whole number"
            raise InvalidInputError(f"{name} is {kind}, but got {value!r}.") from error
        if known[name] is int and int(str(options[name])) < 1:
            raise InvalidInputError(f"{name} is at least 1, but got {value!r}.")
    return (Path(first) if first else None), options


def refuse_options(
    options: Mapping[str, object], names: Sequence[str], what: str, why: str
) -> None:
    """Raises `InvalidInputError` where an option is given that is about other inputs."""
    for name in names:
        if name in options:
            raise InvalidInputError(f"{name}= is for {what}, but {why}: leave it out.")


def _parts(text: str) -> list[str]:
    """What stands between commas; files of ``data=text:...`` stay together."""
    parts: list[str] = []
    for part in text.split(","):
        if parts and "=" not in part and parts[-1].strip().startswith("data=text:"):
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    return parts
