"""The controller: the best network that keeps the goal now."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mathnas.runtime.controller import Controller
from mathnas.runtime.goals import Goal
from mathnas.runtime.policy import Policy
from mathnas.testing import PolicyContract
from mathnas.testing.policies import policy_table, policy_times


class TestController(PolicyContract):
    @pytest.fixture
    def policy(self) -> Callable[[], Policy]:
        goal = Goal(deadline_ms=self.deadline_ms)
        return lambda: Controller(policy_table(), policy_times(), goal)
