"""Encoded images to pixels, with bounds: files come from anywhere."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mathnas.errors import FileFormatError, MissingExtraError

# what data sets of photographs use; every further decoder is one more that damaged files can reach
_FORMATS: Sequence[str] = ("JPEG", "PNG", "WEBP", "BMP", "PPM")
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
# the largest photographs of public data sets have 61 million
_MAX_PIXELS = 2**26
_MAX_BYTES = 2**28


def decode(data: bytes | Path, where: str) -> Tensor:
    """The pixels of an encoded image as RGB, uint8, shape (3, height, width).

    Args:
        data: the bytes of a JPEG, PNG, WebP, BMP or PPM file, or its path.
        where: what an error calls it.

    Raises:
        FileFormatError: it cannot be read, is not such an image, is cut off, or is too large.
        MissingExtraError: pillow is not installed.
    """
    return torch.from_numpy(decode_array(data, where)).permute(2, 0, 1)


def decode_array(data: bytes | Path, where: str) -> npt.NDArray[np.uint8]:
    """As `decode`, with shape (height, width, 3)."""
    pillow = _pillow()
    try:
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        if size > _MAX_BYTES:
            raise FileFormatError(f"{where} has {size} bytes, but at most {_MAX_BYTES} are read.")
        file = data if isinstance(data, Path) else io.BytesIO(data)
        with pillow.open(file, formats=_FORMATS) as image:
            width, height = image.size
            if not 0 < width * height <= _MAX_PIXELS:
                raise FileFormatError(
                    f"{where} is an image of {width} x {height} pixels, but at most "
                    f"{_MAX_PIXELS} are read: make it smaller."
                )
            if image.mode not in _MODES:
                raise FileFormatError(
                    f"{where} is an image of the kind {image.mode!r}, but 8-bit colours or greys "
                    "are read: convert it."
                )
            return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except pillow.UnidentifiedImageError as error:
        raise FileFormatError(
            f"{where} is not an image that is read here ({', '.join(_FORMATS)})."
        ) from error
    except OSError as error:
        raise FileFormatError(f"{where} cannot be read: {error.strerror or error}.") from error
    except (
        *(SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError),
        *(struct.error, zlib.error, pillow.DecompressionBombError),
    ) as error:  # what decoders raise on damaged bytes
        raise FileFormatError(f"{where} is a damaged image: {error}.") from error


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(
            "encoded images need pillow: pip install 'mathnas[images]'."
        ) from error
    # else pillow's first failing open looks for plugins of all formats
    Image.preinit()
    return Image
