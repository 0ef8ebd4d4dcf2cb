"""A SuperTransformer that is small enough to run in milliseconds."""

from __future__ import annotations

from typing import Any

from mathnas.spaces import SuperTransformer

_TINY: dict[str, Any] = {
    "ffn": (8, 24),
    "heads": (2, 4),
    "encoder_layers": 3,
    "decoder_layers": 3,
    "projection": 16,
    "vocabulary": 30,
}


def tiny_space(encoder_embed: int = 16, decoder_embed: int = 16, **other: Any) -> SuperTransformer:
    """Embeddings of these widths; arguments of the space that are not given are tiny ones."""
    return SuperTransformer(encoder_embed, decoder_embed, **{**_TINY, **other})
