"""Images in folders, one a class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.images._decoding import decode
from mathnas.images.sources import ImageSource

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm")


class FolderImages(ImageSource):
    """Image files below ``root/class name/``, decoded when they are asked for.

    Classes are the folders in the order of their names, and images of a class are in the order of
    theirs. Files that do not end like images, and names that start with a dot, are left out.

    Args:
        root: the folder.
        class_names: the classes and their order, where a test set must have those of the training
            set; by default every folder in `root`.

    Raises:
        InvalidInputError: there is no such folder, a folder is none of the classes, or there are
            no images: in all, or without `class_names` in one of the folders.
        FileFormatError: a folder cannot be read.
    """

    def __init__(self, root: str | Path, class_names: Sequence[str] | None = None) -> None:
        self.root = Path(root)
        found = class_folders(self.root)
        names = found if class_names is None else tuple(class_names)
        unknown = sorted(set(found) - set(names))
        if unknown:
            raise InvalidInputError(
                f"the folders in {self.root} are named after the {len(names)} classes, but "
                f"{unknown[0]!r} is none of them."
            )
        self._files: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(names):
            files = sorted(_image_files(self.root / name)) if name in found else []
            if not files and class_names is None:
                raise InvalidInputError(
                    f"every folder in {self.root} holds the images of a class "
                    f"({', '.join(_SUFFIXES)}), but {name!r} has none."
                )
            self._files += files
            labels += [label] * len(files)
        if not labels:
            raise InvalidInputError(
                f"{self.root} holds a folder of images for every class, but there are none."
            )
        super().__init__(torch.tensor(labels), len(names), names)

    def image(self, index: int) -> Tensor:
        path = Path(self._files[index])
        return decode(path, str(path))


def class_folders(root: Path) -> tuple[str, ...]:
    """The names of the folders in `root`, sorted.

    Raises:
        InvalidInputError: there is no such folder.
        FileFormatError: it cannot be read.
    """
    if not root.is_dir():
        raise InvalidInputError(f"images are read from a folder of folders, but {root} is none.")
    try:
        with os.scandir(root) as entries:
            return tuple(
                sorted(entry.name for entry in entries if entry.is_dir() and entry.name[0] != ".")
            )
    except OSError as error:
        raise FileFormatError(f"{root} cannot be read: {error.strerror or error}.") from error


def _image_files(folder: Path) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise FileFormatError(f"{error.filename} cannot be read: {error.strerror}.") from error

    for place, _, names in os.walk(folder, onerror=refuse):
        for name in names:
            if name.lower().endswith(_SUFFIXES) and name[0] != ".":
                yield os.path.join(place, name)
