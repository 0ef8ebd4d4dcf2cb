"""Images in parquet files, in the layout that Hugging Face's data sets have."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mathnas._progress import Show, progress_bar
from mathnas.errors import FileFormatError, InvalidInputError, MissingExtraError
from mathnas.images._decoding import decode, decode_array
from mathnas.images.sources import ImageSource, TensorImages

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "fine_label", "labels")
_PROGRESS_FROM = 5_000


@dataclass(frozen=True)
class _Group:
    """A row group: what is read at once.

    Attributes:
        path, number: the file, and which of its row groups.
        start, rows: positions of its images in the source.
        first: row of its first image in the file.
        bytes: in memory.
    """

    path: Path
    number: int
    start: int
    rows: int
    first: int
    bytes: int


class ParquetImages(ImageSource):
    """Encoded images in parquet files, decoded when they are asked for.

    The row groups that were used last stay in memory, encoded, up to `cache_bytes`.

    Args:
        paths: files with a column ``image`` or ``img`` (a struct with ``bytes``, or the bytes) and
            one of class indices, ``label``, ``fine_label`` or ``labels``.
        classes: how many classes; by default the names that the file's metadata lists, or one more
            than the largest label.
        class_names: by default from the file's metadata, where they are there.
        cache_bytes: encoded images that are kept.

    Raises:
        InvalidInputError: no file, or `classes` does not cover the labels.
        FileFormatError: a file is damaged, has no such columns, or lacks a label.
        MissingExtraError: pyarrow or pillow is not installed.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
        cache_bytes: int = 2**30,
    ) -> None:
        if not paths:
            raise InvalidInputError("images are read from at least one parquet file, but got none.")
        self._groups: list[_Group] = []
        self._columns: dict[Path, str] = {}
        labels: list[Tensor] = []
        for path in paths:
            labels.append(self._add(Path(path), sum(map(len, labels))))
            class_names = class_names or _names_in(_opened(path).schema_arrow.metadata, path)
        every = torch.cat(labels)
        if classes is None:
            classes = len(class_names) if class_names else int(every.max()) + 1 if len(every) else 1
        super().__init__(every, classes, class_names)
        self._starts = torch.tensor([group.start for group in self._groups])
        self._cache: OrderedDict[int, list[bytes | None]] = OrderedDict()
        self._lock = threading.Lock()
        self._kept = max(1, cache_bytes // max(1, *(group.bytes for group in self._groups)))
        if self._kept < len(self._groups):
            self.groups = [
                torch.arange(group.start, group.start + group.rows) for group in self._groups
            ]
            # what a batch needs while the next is begun
            self.groups_at_once = max(1, self._kept // 2)

    def image(self, index: int) -> Tensor:
        return decode(*self.encoded(index))

    def encoded(self, index: int) -> tuple[bytes, str]:
        """The bytes of an image file, and what an error calls it."""
        number = int(torch.searchsorted(self._starts, index, right=True)) - 1
        group = self._groups[number]
        with self._lock:
            rows = self._cache.get(number)
            if rows is None:
                rows = self._cache[number] = self._read(group)
                while len(self._cache) > self._kept:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(number)
        row = index - group.start
        where = f"{group.path}, row {group.first + row}"
        data = rows[row]
        if data is None:
            raise FileFormatError(f"{where} has no image.")
        return data, where

    def _add(self, path: Path, start: int) -> Tensor:
        """Note the row groups of a file; returns its labels."""
        file = _opened(path)
        schema = file.schema_arrow
        self._columns[path] = _image_column(schema, path)
        column = _named(schema, _LABEL_COLUMNS, "class indices", path)
        with _damage(path):
            labels = file.read(columns=[column])[column].combine_chunks()
            metadata = file.metadata
            first = 0
            for number in range(metadata.num_row_groups):
                group = metadata.row_group(number)
                size = sum(
                    group.column(i).total_uncompressed_size for i in range(group.num_columns)
                )
                if group.num_rows:
                    self._groups.append(
                        _Group(path, number, start + first, group.num_rows, first, size)
                    )
                first += group.num_rows
        if len(labels) != first:
            raise FileFormatError(
                f"{path} has {len(labels)} labels, but its row groups have {first} rows: it is "
                "damaged."
            )
        if labels.null_count:
            row = labels.is_null().to_pylist().index(True)
            raise FileFormatError(f"{path}, row {row} has no label in the column {column!r}.")
        try:
            return torch.tensor(
                labels.to_numpy(zero_copy_only=False).astype("int64", casting="safe")
            )
        except (TypeError, ValueError) as error:
            raise FileFormatError(
                f"{path}: the column {column!r} holds {labels.type}, but class indices "
                "are integers."
            ) from error

    def _read(self, group: _Group) -> list[bytes | None]:
        column = self._columns[group.path]
        file = _opened(group.path)
        with _damage(group.path):
            values = file.read_row_group(group.number, columns=[column]).column(0).combine_chunks()
            if "." in column:
                values = values.field("bytes")
            rows: list[bytes | None] = values.to_pylist()
        if len(rows) != group.rows:
            raise FileFormatError(
                f"{group.path} has {len(rows)} rows in its row group {group.number}, but "
                f"{group.rows} when it was opened: it has changed."
            )
        return rows


def read_parquet(
    path: str | Path | Sequence[Path],
    *,
    classes: int | None = None,
    class_names: Sequence[str] | None = None,
    memory_bytes: int = 2**30,
    show: Show = None,
) -> ImageSource:
    """The images of a parquet file, or of a folder of them.

    Images of one size that fit in memory are decoded at once (`TensorImages`), others when they
    are asked for (`ParquetImages`).

    Args:
        path: a file, several, or a folder of ``*.parquet``, taken in the order of their names.
        classes, class_names: as of `ParquetImages`.
        memory_bytes: decoded, or else encoded, images that are kept.
        show: whether progress is shown; None: where standard error is a terminal.

    Raises:
        InvalidInputError: there is no such file, or `classes` does not cover the labels.
        FileFormatError: a file, or a row of it, is damaged.
        MissingExtraError: pyarrow or pillow is not installed.
    """
    source = ParquetImages(
        _files(path), classes=classes, class_names=class_names, cache_bytes=memory_bytes
    )
    return _in_memory(source, memory_bytes, show) or source


def count_classes(paths: Sequence[Path]) -> int:
    """How many classes parquet files have together: named ones, or one more than the largest label.

    Raises:
        FileFormatError: a file is damaged, or lacks a label.
        MissingExtraError: pyarrow is not installed.
    """
    return ParquetImages(paths).classes


def _files(path: str | Path | Sequence[Path]) -> Sequence[Path]:
    if not isinstance(path, (str, Path)):
        return path
    place = Path(path)
    files = sorted(place.glob("*.parquet")) if place.is_dir() else [place][: place.is_file()]
    if not files:
        raise InvalidInputError(
            f"images are read from a parquet file or a folder of them, but {place} is none."
        )
    return files


def _in_memory(source: ParquetImages, memory_bytes: int, show: Show) -> TensorImages | None:
    """All images decoded; None where their sizes differ, or they need more memory."""
    count = len(source)
    shape = tuple(source.image(0).shape)
    if count * shape[0] * shape[1] * shape[2] > memory_bytes:
        return None
    images = torch.empty(count, shape[1], shape[2], 3, dtype=torch.uint8)
    pixels = images.numpy()
    title = "decoding images"
    with progress_bar(title, count, show if count >= _PROGRESS_FROM else False) as progress:
        for index in range(count):
            image = decode_array(*source.encoded(index))
            if image.shape != pixels.shape[1:]:
                return None
            pixels[index] = image
            if index % 500 == 499:
                progress.advance(500)
        progress.advance(count % 500)
    return TensorImages(
        images.permute(0, 3, 1, 2).contiguous(), source.labels, source.classes, source.class_names
    )


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turns what pyarrow raises on damaged files into an error that names the file."""
    arrow, _ = _pyarrow()
    try:
        yield
    # names that are no text are a plain ValueError
    except (arrow.ArrowException, OSError, ValueError, MemoryError) as error:
        raise FileFormatError(f"{path} cannot be read as parquet: {error}.") from error


def _opened(path: Path) -> Any:
    _, parquet = _pyarrow()
    with _damage(path):
        return parquet.ParquetFile(path)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(
            "images in parquet files need pyarrow: pip install 'mathnas[images]'."
        ) from error
    return pyarrow, pyarrow.parquet


def _image_column(schema: Any, path: Path) -> str:
    """The column of encoded images, or the field of a struct: ``image.bytes``."""
    name = _named(schema, _IMAGE_COLUMNS, "images", path)
    kind = schema.field(name).type
    types = _pyarrow()[0].types
    if types.is_struct(kind):
        if kind.get_field_index("bytes") < 0:
            raise FileFormatError(
                f"{path}: the column {name!r} is {kind}, but images are a struct with a field "
                "'bytes', or bytes."
            )
        return f"{name}.bytes"
    if types.is_binary(kind) or types.is_large_binary(kind):
        return name
    raise FileFormatError(
        f"{path}: the column {name!r} is {kind}, but images are a struct with a field 'bytes', or "
        "bytes."
    )


def _named(schema: Any, names: Sequence[str], what: str, path: Path) -> str:
    for name in names:
        if name in schema.names:
            return name
    raise FileFormatError(
        f"{path} has no column of {what}, {' or '.join(names)}; it has {', '.join(schema.names)}."
    )


def _names_in(metadata: dict[bytes, bytes] | None, path: Path) -> list[str] | None:
    """Names of classes in what the library ``datasets`` writes beside the schema."""
    text = (metadata or {}).get(b"huggingface")
    if text is None:
        return None
    try:
        features = json.loads(text)["info"]["features"]
    except (ValueError, LookupError, TypeError):
        return None  # another version's; labels serve without names
    for column in _LABEL_COLUMNS:
        feature = features.get(column) if isinstance(features, dict) else None
        names = feature.get("names") if isinstance(feature, dict) else None
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            return names
    return None
