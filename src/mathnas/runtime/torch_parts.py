"""Resident parts that PyTorch runs, as eager modules on the processor."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mathnas._threads import set_torch_threads
from mathnas.errors import InvalidInputError
from mathnas.grouped import GroupedSpace
from mathnas.nets.families import supernet_for
from mathnas.nets.files import load_tensors
from mathnas.nets.grouped import GroupedSupernet
from mathnas.nets.inputs import input_shape
from mathnas.nets.supernet import ChainSupernet
from mathnas.runtime.package import HEAD, STEM, Package, block_key
from mathnas.runtime.resident import Images, LoadedParts, check_engine
from mathnas.space import SearchSpace


class TorchParts(LoadedParts):
    """Static modules, in the memory format in which depthwise convolutions are fastest.

    Args:
        space: whose blocks they are.
        modules: in evaluation mode, by `STEM`, `HEAD` and `block_key`. They may have modules or
            tensors in common; they are this object's from now on.
        input_shape: of one image: (channels, height, width).
        threads: of torch in this whole process; None leaves them as they are.
    """

    def __init__(
        self,
        space: SearchSpace,
        modules: Mapping[str, nn.Module],
        input_shape: tuple[int, int, int],
        *,
        threads: int | None = None,
    ) -> None:
        if threads is not None:
            set_torch_threads(threads)
        for module in modules.values():
            # changes what modules have in common once: afterwards it is in this format
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._sizes = {
            tensor.data_ptr(): tensor.nbytes
            for module in modules.values()
            for tensor in [*module.parameters(), *module.buffers()]
        }
        parts = {name: _Part(module) for name, module in modules.items()}
        super().__init__(space, f"torch {torch.__version__}", parts, input_shape)

    @classmethod
    def read(cls, package: Package, *, threads: int | None = None) -> TorchParts:
        """The parts of a package for ``torch``; tensors that parts have in common stay common.

        Raises:
            InvalidInputError: the package is for another engine, or no supernet is known for its
                space.
            FileFormatError: a part's tensors are not those of its block.
        """
        check_engine(package, "torch")
        modules = _built(package)
        shared = {name: _tensor(array) for name, array in package.tensors.items()}
        for key, part in package.parts.items():
            state = {name: shared[tensor] for name, tensor in part.tensors.items()}
            load_tensors(modules[key], state, f"the package's {key}", share=True)
        return cls(package.space, modules, package.input_shape, threads=threads)

    @classmethod
    def of(
        cls,
        supernet: ChainSupernet,
        *,
        resolution: int | None = None,
        threads: int | None = None,
    ) -> TorchParts:
        """The parts of a supernet, with its statistics; no memory is shared with it.

        A layer that several candidates of a group have in common is extracted once.

        Args:
            resolution: height and width of images; by default those that its space counts MACs at.

        Raises:
            InvalidInputError: the supernet does not say how large its images are.
        """
        return cls(
            supernet.space,
            extracted_parts(supernet),
            input_shape(supernet, resolution),
            threads=threads,
        )

    def load(self, images: Images) -> Tensor:
        return torch.from_numpy(self.checked(images)).to(memory_format=torch.channels_last)

    def unload(self, value: Tensor) -> npt.NDArray[np.float32]:
        return cast("npt.NDArray[np.float32]", value.numpy())

    @property
    def bytes(self) -> int:
        return sum(self._sizes.values())


def extracted_parts(supernet: ChainSupernet) -> dict[str, nn.Module]:
    """Stem, head and every block that computes something, by their names in a package."""
    extract = supernet.extract_block
    if isinstance(supernet, GroupedSupernet):  # candidates have layers in common
        extract = partial(supernet.joined, extract=cache(supernet.fine.extract_block))
    found: dict[str, nn.Module] = {STEM: supernet.extract_stem(), HEAD: supernet.extract_head()}
    for node, size in enumerate(supernet.space.sizes):
        for block in range(size):
            module = extract(node, block)
            if not isinstance(module, nn.Identity):
                found[block_key(node, block)] = module.eval()
    return found


def _built(package: Package) -> dict[str, nn.Module]:
    """Modules for a package's parts, with weights that do not matter."""
    space = package.space
    supernet = supernet_for(space.fine if isinstance(space, GroupedSpace) else space)
    if not isinstance(supernet, ChainSupernet):
        raise InvalidInputError(
            f"resident blocks run one after another, but those of {space.name} do not: deploy a "
            "network of a chain."
        )
    if isinstance(space, GroupedSpace):
        supernet = GroupedSupernet(supernet, space)
    blocks = {
        block_key(node, block, before): supernet.extract_block(node, block)
        for node, block, before in package.places()
    }
    return {STEM: supernet.extract_stem(), HEAD: supernet.extract_head(), **blocks}


def _tensor(array: npt.NDArray[np.generic]) -> Tensor:
    """An array as a tensor, in the layout that `TorchParts` wants: parts can then share it."""
    tensor = torch.from_numpy(array)
    return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


class _Part:
    """A module without what only training needs."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __call__(self, value: Tensor) -> Tensor:
        with torch.inference_mode():  # belongs to the calling thread
            return cast(Tensor, self._module(value))
