"""Files and sources that the tests of this folder share."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from mathnas.images.sources import TensorImages

# these tensors are too small to gain from more
torch.set_num_threads(1)


def pixels(
    height: int = 8, width: int = 8, seed: int = 0
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(
    height: int = 8, width: int = 8, seed: int = 0, form: str = "PNG", mode: str = "RGB"
) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(height, width, seed)).convert(mode).save(file, form)
    return file.getvalue()


def write_parquet(
    path: Path,
    files: Sequence[bytes | None],
    labels: Sequence[int | None],
    *,
    image: str = "image",
    label: str = "label",
    struct: bool = True,
    group: int | None = None,
    names: Sequence[str] | None = None,
) -> Path:
    """A file in the layout of Hugging Face's data sets, `group` rows a row group."""
    if struct:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        column = pa.array([{"bytes": data, "path": "x.png"} for data in files], kind)
    else:
        column = pa.array(files, pa.binary())
    table = pa.table({image: column, label: pa.array(labels, pa.int64())})
    if names is not None:
        features = {label: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return path


def random_source(count: int = 60, side: int = 8, classes: int = 3) -> TensorImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    return TensorImages(images, torch.arange(count) % classes, classes)
