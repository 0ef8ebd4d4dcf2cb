"""What a supernet is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from mathnas._progress import Show
from mathnas.errors import InvalidInputError, MissingExtraError
from mathnas.images import known
from mathnas.images.loader import ImageBatches, calibration_batches, evaluation_tensors
from mathnas.images.sources import holdout
from mathnas.nets.scores import LabelledImages
from mathnas.text import corpus
from mathnas.training.batches import Batches, TensorBatches
from mathnas.training.config import TrainingConfig
from mathnas.training.held_out import HeldOut, HeldOutImages
from mathnas.training.processes import Processes

_EVALUATED = 2_000  # held-out images of an evaluation on the way
_CALIBRATING = 2_000  # images for the batch-norm statistics of one


@dataclass(frozen=True)
class TrainingData:
    """Batches to train on, and data to evaluate with.

    Attributes:
        name: as the command line names it.
        batches: what is trained on; this process's share.
        classes: how many there are.
        calibration: batches of training inputs for the batch-norm statistics of a network that is
            fine-tuned.
        held_out: what networks are evaluated on; None evaluates nothing.
        notes: JSON values to keep with the trained weights, such as how inputs are normalised.
        samples: what there is a label for, in the plural: ``images``, ``tokens``.
    """

    name: str
    batches: Batches
    classes: int
    calibration: Sequence[Tensor] = ()
    held_out: HeldOut | None = None
    notes: Mapping[str, object] = field(default_factory=dict)
    samples: str = "images"


def training_data(
    text: str,
    config: TrainingConfig,
    processes: Processes,
    *,
    resolution: int | None = None,
    vocabulary_size: int | None = None,
    folder: Path | None = None,
    show: Show = None,
) -> TrainingData:
    """The data that a command line names.

    Args:
        text: ``digits``, or what `mathnas.images.known.open_images` or
            `mathnas.text.corpus.open_parallel` reads.
        resolution: side of the inputs; that of the data's preprocessing where it is None.
        vocabulary_size: tokens of sentences; see `mathnas.training.translation`.
        folder: of the training, for what is kept of the data.
        show: whether progress is shown.

    Raises:
        InvalidInputError: there is no such data, or it does not fit the configuration.
        MissingExtraError: what reads it is not installed.
    """
    if text == "digits":
        return _digits(text, config, processes)
    if corpus.is_parallel(text):
        # it makes what is defined here
        from mathnas.training.translation import translation_data

        return translation_data(
            text, config, processes, folder=folder, vocabulary_size=vocabulary_size
        )
    if text.partition(":")[0] not in known.TRAINING_KINDS:
        kinds = ", ".join((*known.TRAINING_KINDS, *corpus.KINDS))
        raise InvalidInputError(
            f"data to train on are digits, {kinds} (folder and parquet with :PATH, text with "
            f":TRAIN.src,TRAIN.tgt), but got {text!r}."
        )
    return _images(text, config, processes, resolution, show)


def _images(
    text: str, config: TrainingConfig, processes: Processes, resolution: int | None, show: Show
) -> TrainingData:
    source = known.open_images(text, "train", show=show)
    preprocessing = known.preprocessing_for(text)
    if resolution is not None:
        preprocessing = preprocessing.at(resolution)
    notes: dict[str, object] = {
        "preprocessing": preprocessing.to_dict(),
        "held_out": config.held_out,
        "held_out_seed": config.seed,
    }
    classes = source.classes
    calibration: Sequence[Tensor] = ()
    held_out: HeldOut | None = None
    if config.held_out:
        source, kept = holdout(source, config.held_out, config.seed)
        count = min(len(kept), _EVALUATED)
        images = LabelledImages(*evaluation_tensors(kept, preprocessing, count, config.seed))
        calibration = calibration_batches(
            source, preprocessing, min(len(source), _CALIBRATING), seed=config.seed
        )
        held_out = HeldOutImages(images, calibration)
    batches = ImageBatches(
        source,
        config.batch_size,
        preprocessing,
        seed=config.seed,
        rank=processes.rank,
        world=processes.world,
    )
    return TrainingData(text, batches, classes, calibration, held_out, notes)


def _digits(text: str, config: TrainingConfig, processes: Processes) -> TrainingData:
    try:
        from mathnas.demo.images import distort, load_images
    except ImportError as error:
        raise MissingExtraError(
            "the digits come with scikit-learn: pip install 'mathnas[demo]'."
        ) from error
    images = load_images()
    batches = TensorBatches(
        images.training.images,
        images.training.labels,
        config.batch_size,
        seed=config.seed,
        augment=distort,
        rank=processes.rank,
        world=processes.world,
    )
    held_out = HeldOutImages(images.held_out, images.calibration)
    return TrainingData(text, batches, 10, images.calibration, held_out)
