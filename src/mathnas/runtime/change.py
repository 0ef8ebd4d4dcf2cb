"""When what is observed stays off what is expected: a cumulative-sum test."""

from __future__ import annotations

import math


class ChangeDetector:
    """Two-sided CUSUM on standardised errors.

    ``up = max(0, up + z - slack)`` and the same downwards; above `threshold` it is an alarm, and
    both sums begin anew. Without a change z has mean 0 and deviation 1; a shift of the mean by d
    deviations, d > slack, is found after about ``threshold / (d - slack)`` errors. For a slack of
    0.5 and a threshold of 8 a false alarm comes about once in 20,000 errors.

    Errors are in units of how large they were lately, where that is more than was expected: noise
    that is underestimated makes the test slower, but no flood of alarms.

    Args:
        slack: shifts of less than twice this are not looked for.
        threshold: of the sums.
    """

    def __init__(self, slack: float = 0.5, threshold: float = 8.0) -> None:
        self.slack, self.threshold = slack, threshold
        self.up = self.down = 0.0
        self.scale = 1.0
        self._square = 1.0

    def observe(self, error: float) -> int:
        """Take a standardised error in; +1 where it has become larger, -1 smaller, 0 otherwise."""
        self.up, self.down = self._sums(error)
        # clipped: a change is not noise
        self._square += 0.02 * (min(error**2, 9.0 * self._square) - self._square)
        self.scale = math.sqrt(max(1.0, self._square))
        if max(self.up, self.down) <= self.threshold:
            return 0
        direction = 1 if self.up > self.down else -1
        self.up = self.down = 0.0
        return direction

    def would_alarm(self, error: float) -> bool:
        """Whether an error would be an alarm, were it taken in."""
        return max(self._sums(error)) > self.threshold

    def _sums(self, error: float) -> tuple[float, float]:
        step = error / self.scale
        return max(0.0, self.up + step - self.slack), max(0.0, self.down - step - self.slack)
