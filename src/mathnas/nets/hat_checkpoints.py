"""Public weights of HAT: SuperTransformers and SubTransformers for translation.

The files of a SubTransformer hold tensors of the supernet's shapes, of which only its own parts are
trained; nothing but tensors is taken from a file, and nothing in it is run.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.nets.checkpoints import read_state
from mathnas.nets.files import load_tensors
from mathnas.nets.supertransformer import SuperTransformerNet
from mathnas.spaces.supertransformer import FFN, SuperTransformer

MOST_BYTES = 2**31  # 92 million weights, and two moments of each
_TABLE, _COPY = "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"
# no weights: versions, and markers of a device
_IGNORED = re.compile(r"(encoder|decoder)\.(version|embed_positions\._float_tensor)")
_NORMS = {
    "encoder": ("self_attn_layer_norm", "final_layer_norm"),
    "decoder": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
}
_OLD_NORM = re.compile(r"(encoder|decoder)(\.layers\.\d+\.)layer_norms\.(\d)\.(weight|bias)")


def load_hat(
    path: str | Path,
    space: SuperTransformer | None = None,
    *,
    most_bytes: int = MOST_BYTES,
) -> SuperTransformerNet:
    """The supernet of a HAT file such as ``HAT_wmt14ende_super_space0.pt``, in evaluation mode.

    Args:
        path: the weights, bare or under ``model``, as float32 or float16.
        space: whose networks run on them: widths up to the file's, of which the first channels are
            taken, and the file's table of positions. By default that of the WMT files at their full
            width, whose largest feed-forward network has 3,072 channels.
        most_bytes: larger files are refused.

    Raises:
        FileFormatError: the file is missing, too large, no such file, or its tensors are not those
            of this supernet; says which.
        InvalidInputError: the space is needed, or is wider than the file.
    """
    found = _renamed(
        read_state(path, most_bytes=most_bytes, entry="model", harmless=[argparse.Namespace]), path
    )
    if _TABLE not in found or found[_TABLE].ndim != 2:
        raise FileFormatError(
            f"{path} holds no SuperTransformer: there is no matrix {_TABLE}, but "
            f"{', '.join(list(found)[:4])}."
        )
    words, widest = found[_TABLE].shape
    copy = found.pop(_COPY, found[_TABLE])
    if copy.shape != found[_TABLE].shape or not torch.equal(copy, found[_TABLE]):
        raise FileFormatError(
            f"{path}: encoder and decoder share their embedding in this supernet, but {_COPY} "
            f"differs from {_TABLE}."
        )
    space = space or _usual(found, path)
    if (space.vocabulary, space.positions) != (words, widest):
        raise InvalidInputError(
            f"{path} has {words} tokens and positions of width {widest}, but the space has "
            f"{space.vocabulary} and {space.positions}: make it with vocabulary={words}, "
            f"positions={widest}."
        )
    supernet = SuperTransformerNet(space)
    load_tensors(supernet, _first(found, supernet, path), str(path))
    return supernet.eval()


def _usual(tensors: Mapping[str, Tensor], path: str | Path) -> SuperTransformer:
    words, widest = tensors[_TABLE].shape
    first = tensors.get("encoder.layers.0.fc1.weight")
    if first is None or len(first) != max(FFN):
        raise InvalidInputError(
            f"{path} is not of the WMT spaces, whose feed-forward networks have up to {max(FFN)} "
            "channels: give its space."
        )
    return SuperTransformer(widest, widest, vocabulary=words)


def _renamed(tensors: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """By their names in a supernet; those of older files have others."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if _IGNORED.fullmatch(name):
            continue
        old = _OLD_NORM.fullmatch(name)
        if old is not None:
            part, layer, number, kind = old.groups()
            norms = _NORMS[part]
            if int(number) >= len(norms):
                raise FileFormatError(
                    f"{path}: layers of the {part} have {len(norms)} norms, but there is {name}."
                )
            name = f"{part}{layer}{norms[int(number)]}.{kind}"
        if name in found:
            raise FileFormatError(f"{path}: {name} is there twice, under two names.")
        found[name] = tensor.float() if tensor.is_floating_point() else tensor
    return found


def _first(
    tensors: Mapping[str, Tensor], supernet: SuperTransformerNet, path: str | Path
) -> dict[str, Tensor]:
    """The first channels of every tensor that is larger than the supernet's of its name."""
    found = {}
    own = supernet.state_dict()
    for name, tensor in _by_projection(tensors, own).items():
        if name in own and tensor.ndim == own[name].ndim:
            shape = own[name].shape
            joint = "in_proj" in name and len(tensor) != shape[0]  # its first rows are no part
            if joint or any(more < less for more, less in zip(tensor.shape, shape, strict=True)):
                raise InvalidInputError(
                    f"{path}: {name} has the shape {tuple(tensor.shape)}, and the space needs "
                    f"{tuple(shape)}: give one with the file's projection that "
                    "is no wider otherwise."
                )
            tensor = tensor[tuple(slice(size) for size in shape)]
        found[name] = tensor
    return found


def _by_projection(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """With a matrix each for queries, keys and values where widths of the space differ."""
    found = {}
    for name, tensor in tensors.items():
        start = name.removesuffix("in_proj_weight")
        if name in own or f"{start}q_proj_weight" not in own:
            found[name] = tensor
            continue
        names = (f"{start}{letter}_proj_weight" for letter in "qkv")
        found |= zip(names, tensor.chunk(3), strict=True)
    return found
