"""Reading pickles of plain data, without letting them run anything.

Public benchmarks come as pickles, and a pickle is a program: loading one with Python's own loader
runs whatever its author wrote. This reader resolves only the few names that plain data with numpy
values needs, and to stand-ins of its own: no numpy code sees what the file says before it is
checked. What it does not guard against is a file made to exhaust memory beyond its size limit.
"""

from __future__ import annotations

import bz2
import io
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np

from mathnas.errors import FileFormatError
from mathnas.space import Floats

_ERRORS = (
    *(pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError, IndexError),
    *(KeyError, ImportError, OverflowError, RecursionError, MemoryError),
)


class PickledArray:
    """A numpy array as a pickle describes it; `as_floats` turns it into one."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state: object = None

    def __setstate__(self, state: object) -> None:
        self._state = state

    def read(self) -> Floats:
        """The numbers, flat; raises `ValueError` or `TypeError` where it is no array of them."""
        if not (isinstance(self._state, tuple) and len(self._state) == 5):
            raise ValueError("an array without content")
        _, shape, dtype, _, content = self._state
        if not isinstance(dtype, _DType) or not isinstance(content, bytes):
            raise ValueError("an array of something else than numbers")
        if not (isinstance(shape, tuple) and len(shape) == 1):
            raise ValueError("an array that is not flat")
        values = np.frombuffer(content, dtype=dtype.read())
        if len(values) != shape[0]:
            raise ValueError(f"an array of {shape[0]} numbers with {len(values)}")
        return values.astype(np.float64)


class _DType:
    """A numpy type as a pickle describes it."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: object) -> None:
        self._code, self._order = code, "<"

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] == ">":
            self._order = ">"

    def read(self) -> np.dtype[np.generic]:
        if not (isinstance(self._code, str) and self._code in _NUMBER_CODES):
            raise ValueError(f"the numpy type {self._code!r}, which is no plain number")
        return np.dtype(self._order + self._code)


_NUMBER_CODES = frozenset(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)) | {
    *("f2", "f4", "f8", "b1"),
}
_NDARRAY = object()  # what stands for the class numpy.ndarray, which is never called


class _Numpy:
    """What the pickles of numpy values call. Bound methods: a pickle cannot change them."""

    __slots__ = ()

    def dtype(self, code: object, *_: object) -> _DType:
        return _DType(code)

    def reconstruct(self, kind: object, shape: object, code: object) -> PickledArray:
        if kind is not _NDARRAY:
            raise ValueError("a numpy array of a class of its own")
        return PickledArray()

    def scalar(self, dtype: object, content: object) -> float | int | bool:
        if not isinstance(dtype, _DType) or not isinstance(content, bytes):
            raise ValueError("a numpy scalar that is no plain number")
        (value,) = np.frombuffer(content, dtype=dtype.read()).tolist()
        if not isinstance(value, (float, int, bool)):
            raise ValueError("a numpy scalar that is no plain number")
        return value

    def encode(self, text: object, encoding: object) -> bytes:
        # how pickles of old protocols write bytes
        if not (isinstance(text, str) and encoding == "latin1"):
            raise ValueError("text in another encoding than latin1")
        return text.encode("latin1")


_numpy = _Numpy()
_ALLOWED: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _numpy.dtype,
    ("_codecs", "encode"): _numpy.encode,
    **{
        (module, name): function
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name, function in (
            ("_reconstruct", _numpy.reconstruct),
            ("scalar", _numpy.scalar),
        )
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which plain data does not need; a pickle may run "
                "anything, so nothing else is allowed"
            ) from None


def read_pickle(path: Path, *, most_bytes: int) -> object:
    """What a pickle of plain data holds; a name that ends in ``.pbz2`` is decompressed.

    Containers, text, numbers and numpy numbers come as Python's own; one-dimensional numpy arrays
    come as `PickledArray`.

    Args:
        most_bytes: files that are larger, or become larger by decompression, are refused.

    Raises:
        FileFormatError: the file cannot be read, is too large, is no pickle, or asks for anything
            that plain data does not need.
    """
    try:
        with bz2.open(path, "rb") if path.suffix == ".pbz2" else path.open("rb") as file:
            content = file.read(most_bytes + 1)
    except (OSError, EOFError) as error:
        raise FileFormatError(f"{path} cannot be read: {error}.") from error
    if len(content) > most_bytes:
        raise FileFormatError(f"{path} holds more than {most_bytes} bytes, so it is not read.")
    try:
        return _Unpickler(io.BytesIO(content)).load()
    except _ERRORS as error:
        raise FileFormatError(
            f"{path} is not a pickle of plain data: {error or type(error).__name__}."
        ) from error


def as_floats(value: object, where: str) -> Floats:
    """A list, tuple or array of numbers, shape (n,).

    Raises:
        FileFormatError: it is something else.
    """
    try:
        if isinstance(value, PickledArray):
            return value.read()
        if isinstance(value, (list, tuple)):
            array = np.array(value)
            if array.ndim == 1 and array.dtype.kind in "fiu":
                return array.astype(np.float64)
    except (ValueError, TypeError) as error:
        raise FileFormatError(f"{where}: numbers are expected, but got {error}.") from error
    raise FileFormatError(f"{where}: numbers are expected, but got {type(value).__name__}.")
