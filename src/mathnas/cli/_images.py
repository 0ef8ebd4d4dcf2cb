"""Images that a command line names, as a supernet takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mathnas.cli._extras import needing
from mathnas.errors import InvalidInputError

if TYPE_CHECKING:
    from torch import Tensor

    from mathnas.images.preprocessing import Preprocessing
    from mathnas.images.sources import ImageSource
    from mathnas.nets.evaluators import LabelledImages
    from mathnas.training.config import TrainingConfig
    from mathnas.training.data import TrainingData

DIGITS = "digits"
CALIBRATION = 2000


@dataclass(frozen=True)
class ImageChoice:
    """What is chosen of the images.

    Attributes:
        data: as `mathnas.images.known.open_images` takes it, or ``digits``.
        calibration: training images for batch-norm statistics.
        count: images on which accuracy is measured, the same share of every class; None: all.
        held_out: measure on this many images that were held out of the training images, and were
            not trained on; None: on the test images.
        resolution: height and width of inputs; None: as the supernet was trained.
    """

    data: str
    calibration: int = CALIBRATION
    count: int | None = None
    held_out: int | None = None
    resolution: int | None = None


@dataclass(frozen=True)
class ChosenImages:
    """Inputs for an evaluation.

    Attributes:
        calibration: one tensor a batch.
        held_out: what accuracy is measured on; None where that was not asked for.
        preprocessing: how inputs were made, as JSON values; None where it has no such record.
    """

    calibration: tuple[Tensor, ...]
    held_out: LabelledImages | None
    preprocessing: Mapping[str, object] | None


def choose_images(
    choice: ImageChoice, notes: Mapping[str, object], *, accuracy: bool = True
) -> ChosenImages:
    """Read images.

    Args:
        notes: of the supernet, which may tell its preprocessing.
        accuracy: whether there are to be images to measure accuracy on.

    Raises:
        InvalidInputError: there are no such images, or not as many.
        MissingDataError, FileFormatError: they are not here, or damaged.
        MissingExtraError: what reads them is not installed.
    """
    if choice.data == DIGITS:
        return _digits(choice, accuracy)
    with needing("reading images", "images"):
        from mathnas.images.known import open_images
        from mathnas.images.loader import calibration_batches, evaluation_tensors
        from mathnas.nets.evaluators import LabelledImages
    preprocessing = _preprocessing(choice, notes)
    training, kept = _training_images(choice)
    batches = calibration_batches(training, preprocessing, min(choice.calibration, len(training)))
    held_out = None
    if accuracy:
        source = open_images(choice.data, "test") if kept is None else kept
        held_out = LabelledImages(*evaluation_tensors(source, preprocessing, choice.count))
    return ChosenImages(batches, held_out, preprocessing.to_dict())


def data_to_train_on(
    choice: ImageChoice,
    notes: Mapping[str, object],
    chosen: ChosenImages,
    config: TrainingConfig,
) -> TrainingData:
    """The training images of a choice, augmented, with the calibration batches of `chosen`."""
    from mathnas.training.data import TrainingData

    if choice.data == DIGITS:
        from mathnas.demo.images import distort, load_images
        from mathnas.training.batches import TensorBatches

        images = load_images().training
        small = TensorBatches(
            images.images, images.labels, config.batch_size, seed=config.seed, augment=distort
        )
        return TrainingData(DIGITS, small, 10, chosen.calibration)
    from mathnas.images.loader import ImageBatches

    source, _ = _training_images(choice)
    preprocessing = _preprocessing(choice, notes)
    batches = ImageBatches(source, config.batch_size, preprocessing, seed=config.seed)
    return TrainingData(choice.data, batches, source.classes, chosen.calibration)


def _digits(choice: ImageChoice, accuracy: bool) -> ChosenImages:
    for name, given in (("resolution", choice.resolution), ("held_out", choice.held_out)):
        if given is not None:
            raise InvalidInputError(f"the digits have one size and one split: leave {name} out.")
    with needing("reading the digits", "demo"):
        from mathnas.demo.images import load_images
        from mathnas.nets.evaluators import LabelledImages
    images = load_images()
    held_out = None
    if accuracy:
        count = len(images.held_out) if choice.count is None else choice.count
        held_out = LabelledImages(images.held_out.images[:count], images.held_out.labels[:count])
    return ChosenImages(images.calibration, held_out, None)


def _training_images(choice: ImageChoice) -> tuple[ImageSource, ImageSource | None]:
    """What may be trained on, and what was held out of it."""
    from mathnas.images.known import open_images
    from mathnas.images.sources import holdout

    source = open_images(choice.data, "train")
    return (source, None) if choice.held_out is None else holdout(source, choice.held_out)


def _preprocessing(choice: ImageChoice, notes: Mapping[str, object]) -> Preprocessing:
    from mathnas.images.known import preprocessing_named
    from mathnas.images.preprocessing import Preprocessing

    record = notes.get("preprocessing")
    if record is not None:
        made = Preprocessing.from_dict(record, "the supernet's preprocessing")
    else:
        try:
            made = preprocessing_named(choice.data)
        except InvalidInputError as error:
            raise InvalidInputError(
                f"inputs are made as for training, but the supernet's file does not tell how, and "
                f"nothing is known for {choice.data!r}: save it with notes={{'preprocessing': "
                "Preprocessing(...).to_dict()}}."
            ) from error
    return made if choice.resolution is None else made.at(choice.resolution)
