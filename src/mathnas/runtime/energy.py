"""What is left of an energy budget, and what a run may take of it."""

from __future__ import annotations

from mathnas.errors import InvalidInputError
from mathnas.metrics import Metric, convert
from mathnas.runtime.goals import EnergyBudget
from mathnas.space import Network
from mathnas.table import BlockTable

_RATE = 0.05  # of the mean time between two runs


class EnergyAccount:
    """Books the predicted energy of every run against a budget.

    Args:
        budget: to keep.
        table: predicts what a run of each network takes.

    Raises:
        InvalidInputError: the table does not have the budget's metric, or it is not in mJ.
    """

    def __init__(self, budget: EnergyBudget, table: BlockTable) -> None:
        self.metric: Metric = table.column(budget.metric).metric
        if convert(1.0, "mj", self.metric) != 1.0:
            raise InvalidInputError(
                f"the energy of a run is told in mJ, but {self.metric.name} is in "
                f"{self.metric.unit}: name a metric such as energy_mj."
            )
        self._table = table
        self.joules_left, self.seconds_left = budget.joules, budget.seconds
        self._interval_s: float | None = None
        self._known: dict[Network, float] = {}

    def of(self, network: Network) -> float:
        """What a run takes by the table, in mJ."""
        if network not in self._known:
            self._known[network] = self._table.exact(network, self.metric.name)
        return self._known[network]

    def spend(self, network: Network, seconds: float) -> None:
        """A run took place, so many seconds after the one before."""
        self.joules_left -= self.of(network) / 1000
        self.seconds_left -= seconds
        if seconds > 0:
            before = seconds if self._interval_s is None else self._interval_s
            self._interval_s = before + _RATE * (seconds - before)

    @property
    def allowance_mj(self) -> float | None:
        """What a run may take, so that the budget lasts: an equal share of what is left.

        None (no limit) where the time is over, or before two runs have told how often they come.
        """
        if self.seconds_left <= 0 or self._interval_s is None:
            return None
        return max(0.0, 1000 * self.joules_left * self._interval_s / self.seconds_left)
