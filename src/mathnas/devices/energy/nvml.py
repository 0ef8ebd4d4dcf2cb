"""NVIDIA GPUs, through their management library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mathnas.devices.energy.meter import Channel, MeterKind
from mathnas.errors import (
    MeterAbsentError,
    MeterError,
    MeterPermissionError,
    MissingExtraError,
)


class NvmlMeter:
    """A GPU's counter of energy (from Volta on), or else its power.

    The driver renews both every 20 to 100 ms, depending on the GPU.

    Args:
        index: of the GPU, as ``nvidia-smi`` lists them.
        library: the module ``pynvml`` (for tests).

    Raises:
        MissingExtraError: ``nvidia-ml-py`` is not installed.
        MeterAbsentError: there is no driver or no such GPU, or it senses neither.
        MeterPermissionError: the driver does not allow it.
    """

    interval_s = 0.1
    resolution = 1e-3

    def __init__(self, index: int = 0, *, library: Any = None) -> None:
        self._library = nvml_library() if library is None else library
        self.name = f"nvml:{index}" if index else "nvml"
        self._ask(self._library.nvmlInit)
        self._handle = self._ask(lambda: self._library.nvmlDeviceGetHandleByIndex(index))
        name = self._ask(lambda: self._library.nvmlDeviceGetName(self._handle))
        self.covers = f"GPU {index} ({name.decode() if isinstance(name, bytes) else name})"
        self.channels = (Channel(f"GPU {index}"),)
        self.kind = MeterKind.COUNTER if self._counts() else MeterKind.POWER
        self.read()

    def read(self) -> tuple[float, ...]:
        ask = {
            MeterKind.COUNTER: self._library.nvmlDeviceGetTotalEnergyConsumption,
            MeterKind.POWER: self._library.nvmlDeviceGetPowerUsage,
        }[self.kind]
        value = self._ask(lambda: ask(self._handle))
        if not isinstance(value, int) or value < 0:
            raise MeterError(f"{self.name}: the driver counts in mJ and mW, but says {value!r}.")
        return (value / 1000,)

    def _counts(self) -> bool:
        """Whether the GPU counts energy; the answer of any other failure comes from `read`."""
        try:
            self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except self._library.NVMLError as error:
            return bool(error.value != self._library.NVML_ERROR_NOT_SUPPORTED)
        return True

    def _ask(self, question: Callable[[], Any]) -> Any:
        library = self._library
        try:
            return question()
        except library.NVMLError as error:
            words = f"{self.name}: the library libnvidia-ml.so.1 says {str(error)!r}"
            if getattr(error, "value", None) == library.NVML_ERROR_NO_PERMISSION:
                raise MeterPermissionError(
                    f"{words}: `sudo chmod a+rw /dev/nvidiactl /dev/nvidia[0-9]*` grants it."
                ) from error
            raise MeterAbsentError(
                f"{words}: `nvidia-smi` shows which GPUs and drivers there are."
            ) from error


def nvml_library() -> Any:
    """The module ``pynvml``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pynvml
    except ImportError as error:
        raise MissingExtraError(
            "the energy of NVIDIA GPUs needs nvidia-ml-py: pip install 'mathnas[nvml]'."
        ) from error
    return pynvml


def gpu_count(library: Any) -> int:
    """How many GPUs there are; none where there is no driver."""
    try:
        library.nvmlInit()
        return int(library.nvmlDeviceGetCount())
    except library.NVMLError:
        return 0
