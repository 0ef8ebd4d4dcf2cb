"""Policies to compare with: fixed networks, ladders of whole networks, and the paper's rule."""

from mathnas.runtime.policies.fixed import FixedPolicy, largest_network, smallest_network
from mathnas.runtime.policies.ladder import LadderPolicy
from mathnas.runtime.policies.light_heavy import LightHeavyPolicy
from mathnas.runtime.policies.networks import front_networks, slimmed_networks, width_networks
from mathnas.runtime.policies.offline import Offline

__all__ = [
    "FixedPolicy",
    "LadderPolicy",
    "LightHeavyPolicy",
    "Offline",
    "front_networks",
    "largest_network",
    "slimmed_networks",
    "smallest_network",
    "width_networks",
]
