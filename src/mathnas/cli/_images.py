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
    from mathnas.nets.scores import LabelledImages
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
        test: measure on the test images, even where others were held out of the training images
            when the supernet was trained; choosing by test images makes them unfit to test with.
        resolution: height and width of inputs; None: as the supernet was trained.
    """

    data: str
    calibration: int = CALIBRATION
    count: int | None = None
    test: bool = False
    resolution: int | None = None


@dataclass(frozen=True)
class ChosenImages:
    """Inputs for an evaluation.

    Attributes:
        calibration: one tensor a batch.
        held_out: what accuracy is measured on; None where that was not asked for.
        split: where these come from, in words.
        preprocessing: how inputs were made, as JSON values; None where it has no such record.
    """

    calibration: tuple[Tensor, ...]
    held_out: LabelledImages | None
    split: str
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
        from mathnas.nets.scores import LabelledImages
    preprocessing = _preprocessing(choice, notes)
    training, kept = _training_images(choice, notes)
    batches = calibration_batches(training, preprocessing, min(choice.calibration, len(training)))
    held_out = None
    if accuracy:
        source = kept if kept is not None and not choice.test else open_images(choice.data, "test")
        held_out = LabelledImages(*evaluation_tensors(source, preprocessing, choice.count))
    split = "held out of the training images" if kept is not None and not choice.test else "test"
    return ChosenImages(batches, held_out, split, preprocessing.to_dict())


def read_test_images(choice: ImageChoice, notes: Mapping[str, object]) -> LabelledImages:
    """The test images of a choice, at most `count` of them; of ``digits`` those held out. No
    training image is read.

    Args:
        notes: of the supernet or the package, which may tell its preprocessing.

    Raises:
        InvalidInputError, MissingDataError, FileFormatError, MissingExtraError: as
            `choose_images`.
    """
    if choice.data == DIGITS:
        held_out = _digits(choice, True).held_out
        assert held_out is not None  # accuracy was asked for
        return held_out
    with needing("reading images", "images"):
        from mathnas.images.known import open_images
        from mathnas.images.loader import evaluation_tensors
        from mathnas.nets.scores import LabelledImages
    source = open_images(choice.data, "test")
    count = None if choice.count is None else min(choice.count, len(source))
    return LabelledImages(*evaluation_tensors(source, _preprocessing(choice, notes), count))


def data_to_train_on(
    choice: ImageChoice,
    notes: Mapping[str, object],
    chosen: ChosenImages,
    config: TrainingConfig,
) -> TrainingData:
    """The training images of a choice, augmented; what was held out of them stays out."""
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

    source, _ = _training_images(choice, notes)
    preprocessing = _preprocessing(choice, notes)
    batches = ImageBatches(source, config.batch_size, preprocessing, seed=config.seed)
    return TrainingData(choice.data, batches, source.classes, chosen.calibration)


def _digits(choice: ImageChoice, accuracy: bool) -> ChosenImages:
    for name, given in (("resolution", choice.resolution is not None), ("test", choice.test)):
        if given:
            raise InvalidInputError(f"the digits have one size and one split: leave {name} out.")
    with needing("reading the digits", "demo"):
        from mathnas.demo.images import load_images
        from mathnas.nets.scores import LabelledImages
    images = load_images()
    held_out = None
    if accuracy:
        count = len(images.held_out) if choice.count is None else choice.count
        held_out = LabelledImages(images.held_out.images[:count], images.held_out.labels[:count])
    return ChosenImages(images.calibration, held_out, "held out", None)


def _training_images(
    choice: ImageChoice, notes: Mapping[str, object]
) -> tuple[ImageSource, ImageSource | None]:
    """What was trained on, and what was held out of it, as the supernet's notes tell."""
    from mathnas.images.known import open_images
    from mathnas.images.sources import holdout

    source = open_images(choice.data, "train")
    count, seed = notes.get("held_out"), notes.get("held_out_seed")
    if notes.get("data") != choice.data or not isinstance(count, int) or count < 1:
        return source, None
    return holdout(source, count, seed if isinstance(seed, int) else 0)


def _preprocessing(choice: ImageChoice, notes: Mapping[str, object]) -> Preprocessing:
    from mathnas.images.known import preprocessing_for
    from mathnas.images.preprocessing import Preprocessing

    record = notes.get("preprocessing")
    made = (
        preprocessing_for(choice.data)
        if record is None
        else Preprocessing.from_dict(record, "the supernet's preprocessing")
    )
    return made if choice.resolution is None else made.at(choice.resolution)
