from collections.abc import Callable

from mathnas.metrics import Floats
from mathnas.space import Indices

class Program:
    def __init__(
        self,
        offsets: Indices,
        cost: Floats,
        macs: Floats,
        weights: Floats,
        twins: Indices,
        stages: list[list[int]],
        cost_step: float,
        fixed_macs: float,
        power: float,
    ) -> None: ...
    def solve(
        self,
        count: int,
        seconds: float,
        bounds: Floats,
        surely: Floats,
        multipliers: list[float],
        holds: Callable[[list[int]], bool],
    ) -> tuple[int, list[list[int]], float, list[float], int, int]: ...
