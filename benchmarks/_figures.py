"""How figures are drawn and kept: without a screen, and in few colours, so that files are small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

_COLOURS = 128


def grid(rows: int, columns: int, height: float, **options: Any) -> tuple[Any, Any]:
    """A figure 1,200 pixels wide, and its axes; needs the extra ``mathnas[figures]``."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    made: tuple[Any, Any] = pyplot.subplots(
        rows, columns, figsize=(12, height), dpi=100, layout="constrained", **options
    )
    return made


def save(figure: Any, legend_of: Any, path: Path) -> None:
    """Write the figure as PNG, below it the legend of one of its axes."""
    from PIL import Image  # comes with matplotlib

    handles, labels = legend_of.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    image = Image.fromarray(np.ascontiguousarray(pixels)).quantize(
        _COLOURS, dither=Image.Dither.NONE
    )
    image.save(path, optimize=True)
