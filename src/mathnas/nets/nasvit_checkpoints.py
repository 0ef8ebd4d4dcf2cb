"""Public weights of NASViT (Gong et al., ICLR 2022) for the SuperViT supernet.

Their licence, CC BY-NC 4.0, forbids commercial use. Nothing of them is in this package.

The file is a training state: two models, an optimizer, a configuration. Nothing but tensors is
taken from it, and nothing in it is run: its configuration, an object of a library that need not be
there, is read as a bare dictionary and dropped.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from mathnas.errors import FileFormatError
from mathnas.nets.checkpoints import read_state
from mathnas.nets.files import load_tensors
from mathnas.nets.supervit import SuperViTNet
from mathnas.spaces.supervit import STRIDES, SuperViT

MOST_BYTES = 2**30  # 18 million weights in two models, and two moments of each
AVERAGED = "model_ema"
_CLASSIFIER = "classifier.linear.linear.weight"
_TABLE = "attn.relative_position_bias_table"
# what no network uses: second and third statistics beside every normalisation, a frozen scale of
# every inverted residual, and an index that follows from the window
_IGNORED = re.compile(
    r"(.*\.bn\.bn_tracking\.[01]\.(running_mean|running_var|num_batches_tracked))"
    r"|(blocks\.\d+\.mobile_inverted_conv\.rescale)"
    r"|(blocks\.\d+\.attn\.relative_position_index)"
)


# the configuration in a file is read as this: a kind of dictionary that torch fills without running
# anything
_CONFIGURATION = (OrderedDict, "yacs.config.CfgNode")


def load_nasvit(
    path: str | Path,
    *,
    resolution: int = 224,
    strides: Sequence[int] = STRIDES,
    entry: str = AVERAGED,
    most_bytes: int = MOST_BYTES,
) -> SuperViTNet:
    """The supernet of a NASViT checkpoint such as ``ckpt_360.pth``, in evaluation mode.

    Its statistics describe no network: recalibrate what is extracted. Biases of positions that were
    trained for another window are resized (bicubic), as the authors do.

    Args:
        path: the weights, bare or under `entry`.
        resolution, strides: of the space, which weights do not tell.
        entry: which model of the file; by default the one whose weights are averages over the
            training, which the authors evaluate. ``model`` is the other one; some files have
            ``state_dict``.
        most_bytes: larger files are refused.

    Raises:
        FileFormatError: the file is missing, too large, no such file, or its tensors are not those
            of this supernet; says which.
        InvalidInputError: an argument is out of range.
    """
    found = read_state(path, most_bytes=most_bytes, entry=entry, harmless=[_CONFIGURATION])
    classifier = found.get(_CLASSIFIER)
    if classifier is None or classifier.ndim != 2:
        raise FileFormatError(
            f"{path} holds no NASViT: there is no matrix {_CLASSIFIER}, but "
            f"{', '.join(list(found)[:4])}."
        )
    supernet = SuperViTNet(SuperViT(resolution, len(classifier), strides))
    own = supernet.state_dict()
    tensors = {
        name: _fitting(tensor, own, name, path)
        for name, tensor in found.items()
        if not _IGNORED.fullmatch(name)
    }
    load_tensors(supernet, tensors, str(path))
    return supernet.eval()


def _fitting(tensor: Tensor, own: Mapping[str, Tensor], name: str, path: str | Path) -> Tensor:
    """A tensor of the supernet's type, and of its window where it is a table of positions."""
    if tensor.is_floating_point():
        tensor = tensor.float()
    if not name.endswith(_TABLE) or name not in own or tensor.shape == own[name].shape:
        return tensor
    side, new = (math.isqrt(len(table)) for table in (tensor, own[name]))
    if tensor.ndim != 2 or side**2 != len(tensor) or side % 2 == 0:
        raise FileFormatError(
            f"{path}: a table of positions has a row for each offset in a window, (2 w - 1)^2 of "
            f"them, but {name} has the shape {tuple(tensor.shape)}."
        )
    with torch.no_grad():
        images = tensor.T.reshape(1, -1, side, side)
        resized = functional.interpolate(images, size=(new, new), mode="bicubic")
    return resized.reshape(-1, new**2).T.contiguous()
