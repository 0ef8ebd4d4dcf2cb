"""Sources and preprocessing that have names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mathnas import datasets
from mathnas._progress import Show
from mathnas.errors import InvalidInputError
from mathnas.images.parquet import read_parquet
from mathnas.images.places import Split, open_folder, open_parquet
from mathnas.images.preprocessing import Preprocessing
from mathnas.images.sources import ImageSource

_CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


def _of_255(*values: float) -> tuple[float, float, float]:
    first, second, third = (value / 255 for value in values)
    return first, second, third


# as NAS-Bench-201's networks were trained (Dong and Yang, ICLR 2020)
CIFAR10 = Preprocessing(
    mean=_of_255(125.3, 123.0, 113.9), std=_of_255(63.0, 62.1, 66.7), resolution=32, padding=4
)
CIFAR100 = dataclasses.replace(
    CIFAR10, mean=_of_255(129.3, 124.1, 112.4), std=_of_255(68.2, 65.4, 70.4)
)
# as Once-for-All's networks were trained (Cai et al., ICLR 2020)
IMAGENET = Preprocessing(
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    resolution=224,
    brightness=32 / 255,
    saturation=0.5,
    test_share=0.875,
)


def preprocessing_for(text: str) -> Preprocessing:
    """How images that `open_images` reads are usually prepared: `CIFAR10` for those, `IMAGENET` for
    all others."""
    return CIFAR10 if text == "cifar10" else IMAGENET


# kinds of sources that have training images, as `open_images` reads them
TRAINING_KINDS = ("cifar10", "folder", "parquet")
_NAMED = {"cifar10": CIFAR10, "cifar100": CIFAR100, "imagenet": IMAGENET}


def open_images(text: str, split: Split = "train", show: Show = None) -> ImageSource:
    """Images by name.

    Args:
        text: ``cifar10`` (Krizhevsky, 2009; JPEG in this copy); ``imagenet-sample``, one image of
            every ImageNet class, which has no training images; ``folder:PATH``, see `open_folder`;
            ``parquet:PATH``, see `open_parquet`.
        split: training or test images.
        show: whether progress is shown; None: where standard error is a terminal.

    Raises:
        InvalidInputError: there is no source of this name, or it has no such split.
        MissingDataError: a public file is not here and cannot be downloaded.
        FileFormatError: a file is damaged.
        MissingExtraError: pyarrow or pillow is not installed.
    """
    if split not in ("train", "test"):
        raise InvalidInputError(f"images have the splits train and test, but got {split!r}.")
    kind, _, path = text.partition(":")
    if text == "cifar10":
        file = datasets.fetch("cifar10", f"{split}.parquet")
        return read_parquet(file, class_names=_CIFAR10_CLASSES, show=show)
    if text == "imagenet-sample":
        if split == "train":
            raise InvalidInputError(
                "imagenet-sample has one image a class, for comparisons, but got split 'train': "
                "name a folder of training images, folder:PATH."
            )
        return read_parquet(datasets.fetch("imagenet_sample"), classes=1_000, show=show)
    if kind == "folder" and path:
        return open_folder(Path(path).expanduser(), split)
    if kind == "parquet" and path:
        return open_parquet(Path(path).expanduser(), split, show)
    raise InvalidInputError(
        "images are cifar10, imagenet-sample, folder:PATH or parquet:PATH, but got "
        f"{text!r}{' without a path' * (kind in ('folder', 'parquet') and not path)}."
    )


def preprocessing_named(name: str) -> Preprocessing:
    """`CIFAR10`, `CIFAR100` or `IMAGENET` by the lower-case name.

    Raises:
        InvalidInputError: there is no preprocessing of this name.
    """
    if name not in _NAMED:
        raise InvalidInputError(f"known preprocessings are {', '.join(_NAMED)}, but got {name!r}.")
    return _NAMED[name]
