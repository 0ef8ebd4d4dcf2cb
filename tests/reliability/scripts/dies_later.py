"""A module that workers can import until one of them has died."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from reliability_cases import Sums

from mathnas import Measurement, Network


class DiesLater(Sums):
    def __init__(self, mark: Path, network: Network) -> None:
        super().__init__()
        self.mark = mark
        self.network = network

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        if self.mark.exists():
            os._exit(3)

    def evaluate(self, network: Network, seed: int) -> Mapping[str, Measurement | float]:
        if network == self.network:
            self.mark.touch()
            os._exit(3)
        return super().evaluate(network, seed)
