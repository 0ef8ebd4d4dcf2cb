"""Training and test images in a place: which folder or which files are which.

What starts with ``train`` is for training, what starts with ``test`` for testing, or else what
starts with ``val``. A place without such parts is one set: test images if its own name starts so,
otherwise training images. So nobody tests on training images without noticing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from mathnas._progress import Show
from mathnas.errors import InvalidInputError
from mathnas.images.folders import FolderImages, class_folders
from mathnas.images.parquet import count_classes, read_parquet
from mathnas.images.sources import ImageSource

Split: TypeAlias = Literal["train", "test"]

_STARTS: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val")}


def open_folder(path: str | Path, split: Split) -> FolderImages:
    """Images in ``path/split/class name/``, or in ``path/class name/``.

    Where there are training images, their classes are those of the test images too.

    Raises:
        InvalidInputError: there are no images of this split.
        FileFormatError: a folder cannot be read.
    """
    path = Path(path)
    parts = class_folders(path)
    chosen = {kind: _starting(parts, kind) for kind in _STARTS}
    if not any(chosen.values()):
        _check_name(path, split)
        return FolderImages(path)
    if len(chosen[split]) != 1:
        raise InvalidInputError(
            f"{path} has one folder of {split} images, which starts with "
            f"{' or '.join(_STARTS[split])}, but got {', '.join(chosen[split]) or 'none'} among "
            f"{', '.join(parts)}."
        )
    training = chosen["train"]
    names = class_folders(path / training[0]) if split == "test" and training else None
    return FolderImages(path / chosen[split][0], names)


def open_parquet(path: str | Path, split: Split, show: Show = None) -> ImageSource:
    """Images in a parquet file, or in those of a folder; see `read_parquet`.

    Raises:
        InvalidInputError: there are no images of this split.
        FileFormatError: a file is damaged.
        MissingExtraError: pyarrow or pillow is not installed.
    """
    path = Path(path)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else []
    names = [file.name for file in files]
    chosen = {kind: _starting(names, kind) for kind in _STARTS}
    if not any(chosen.values()):
        _check_name(path, split)
        return read_parquet(path, show=show)
    if not chosen[split]:
        raise InvalidInputError(
            f"{path} has files of {split} images, which start with "
            f"{' or '.join(_STARTS[split])}, but got {', '.join(names)}."
        )
    # a split need not have images of the last class
    classes = count_classes([path / name for kind in chosen.values() for name in kind])
    return read_parquet([path / name for name in chosen[split]], classes=classes, show=show)


def _starting(names: Sequence[str], split: Split) -> list[str]:
    """The names of a split's parts: those with the first of its beginnings that there is."""
    for start in _STARTS[split]:
        found = [name for name in names if name.lower().startswith(start)]
        if found:
            return found
    return []


def _check_name(path: Path, split: Split) -> None:
    named: Split = "test" if _starting([path.resolve().name], "test") else "train"
    if named != split:
        raise InvalidInputError(
            f"{path} is one set of {named} images, but got split {split!r}: name a folder with "
            f"both, parts of which start with {', '.join(_STARTS['train'] + _STARTS['test'])}, or "
            "hold some of the training images out."
        )
