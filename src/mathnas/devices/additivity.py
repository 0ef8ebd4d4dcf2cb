"""Do blocks add up? What networks that were not fitted tell, and what to do where they do not.

What a table misses of fresh networks has three sources: the noise of their measurement (known from
their repeats), the uncertainty of the effects (known from the fit), and what no sum over blocks can
hold. The first two are taken off; the rest is tested against them, and judged by its size.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mathnas.metrics import IDENTITY, Floats
from mathnas.regression import Regression, regress
from mathnas.scales import scales_for
from mathnas.space import AS_WRITTEN, Network, SearchSpace
from mathnas.study import Measurements
from mathnas.table import PairEffects
from mathnas.validation import MetricValidation

TOLERATED = 0.05
"""Share of the variance between networks that may be unexplained: R^2 of 0.95."""

_QUANTILE = 2.326  # of the normal distribution, 99 %
_GAIN = 3.0  # of log evidence: 20 to 1
_MOST_SHOWN = 3


@dataclass(frozen=True)
class Alternative:
    """A model with something that a sum over blocks lacks, against the sum.

    Attributes:
        kind: ``interactions``, ``response scale`` or ``alive blocks``.
        evidence: how much more log evidence it has.
        error, additive_error: mean absolute error of networks left out of the fit, its own and
            that of the sum, in the metric's unit.
        advice: what to do.
    """

    kind: str
    evidence: float
    error: float
    additive_error: float
    advice: str

    @property
    def helps(self) -> bool:
        """Whether there is clear evidence for it, and it predicts no worse."""
        return self.evidence > _GAIN and self.error <= self.additive_error

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "kind": self.kind,
            "evidence": self.evidence,
            "error": self.error,
            "additive_error": self.additive_error,
            "helps": self.helps,
            "advice": self.advice,
        }


@dataclass(frozen=True)
class Additivity:
    """The test.

    Attributes:
        networks: how many fresh networks were compared.
        residual: standard deviation of predicted - measured, relative to the mean measured value.
        noise: of the measured values, likewise; None where they were measured once.
        uncertainty: of the predictions because of the effects, likewise; None where unknown.
        unexplained: what is left, likewise; 0 where the others explain all.
        share: variance of what is left over that of the networks' values.
        significant: whether chance would leave so much in less than 1 of 100 tests.
        alternatives: what was tried, the most evidence first; only where the test fails.
    """

    networks: int
    residual: float
    noise: float | None
    uncertainty: float | None
    unexplained: float
    share: float
    significant: bool
    alternatives: tuple[Alternative, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether blocks add up, as far as these networks tell."""
        return not (self.significant and self.share > TOLERATED)

    @property
    def advice(self) -> list[str]:
        """What to do where the test fails."""
        if self.holds:
            return []
        found = [item.advice for item in self.alternatives if item.helps]
        return found or [
            "None of interactions, response scales and alive blocks has clear evidence in these "
            "measurements: measure more networks, or choose blocks that are larger (groups of "
            "layers), so that what interacts is inside a block."
        ]

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "holds": self.holds,
            "networks": self.networks,
            "residual": self.residual,
            "noise": self.noise,
            "uncertainty": self.uncertainty,
            "unexplained": self.unexplained,
            "share": self.share,
            "significant": self.significant,
            "alternatives": [item.to_dict() for item in self.alternatives],
            "advice": self.advice,
        }

    def __str__(self) -> str:
        def percent(value: float | None) -> str:
            return "unknown" if value is None else f"{value:.2%}"

        verdict = "blocks add up" if self.holds else "blocks do NOT add up"
        lines = [
            f"{verdict}: residuals {self.residual:.2%} of the value; noise "
            f"{percent(self.noise)}, uncertainty of effects {percent(self.uncertainty)}, "
            f"unexplained {self.unexplained:.2%} ({self.share:.1%} of the variance of networks"
            f"{', significant' if self.significant else ''})"
        ]
        lines += [f"  advice: {text}" for text in self.advice]
        return "\n".join(lines)


def check_additivity(
    space: SearchSpace,
    held: MetricValidation,
    data: Measurements,
    reference: Network,
    *,
    deviations: Floats | None = None,
    noise: Floats | None = None,
) -> Additivity:
    """Compare what a table misses of fresh networks with what it may miss.

    Args:
        held: predictions and measurements of k fresh networks.
        data: all measurements of the metric, from which alternatives are fitted.
        deviations: shape (k,); how far predictions may be off because of the effects.
        noise: shape (k,); how far measured values may be off, as one standard deviation.
    """
    count = len(held.measured)
    mean = float(np.abs(held.measured).mean()) or 1.0
    # a shift that all networks share says nothing of how blocks add up
    residual = float(np.var(held.predicted - held.measured, ddof=1))
    known_noise = 0.0 if noise is None else float(np.mean(noise**2))
    known_effects = 0.0 if deviations is None else float(np.mean(deviations**2))
    expected = known_noise + known_effects
    # both are variances, estimated from about as many networks: log F is about normal
    limit = math.exp(_QUANTILE * math.sqrt(4 / max(count - 1, 1)))
    left = max(0.0, residual - expected)
    whole = float(np.var(held.measured, ddof=1))
    rounding = (1e-9 * mean) ** 2
    found = Additivity(
        networks=count,
        residual=math.sqrt(residual) / mean,
        noise=None if noise is None else math.sqrt(known_noise) / mean,
        uncertainty=None if deviations is None else math.sqrt(known_effects) / mean,
        unexplained=math.sqrt(left) / mean,
        share=left / whole if whole > rounding else 0.0,
        significant=residual > limit * expected + rounding,
    )
    if found.holds:
        return found
    tried = _alternatives(space, data, reference)
    return replace(found, alternatives=tuple(sorted(tried, key=lambda item: -item.evidence)))


def _alternatives(space: SearchSpace, data: Measurements, reference: Network) -> list[Alternative]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of blocks in no network: said when the table was fitted
        plain = regress(_as_written(space), data, reference, pairs=False, scale=IDENTITY)
        found = []
        if space.num_nodes > 1:
            paired = regress(_as_written(space), data, reference, pairs=True, scale=IDENTITY)
            found.append(_against(plain, paired, "interactions", _pair_advice(space, paired)))
        curved = [
            regress(_as_written(space), data, reference, pairs=False, scale=scale)
            for scale in scales_for(data.values, crowds="both")
            if scale != IDENTITY
        ]
        if curved:
            best = max(curved, key=lambda model: model.evidence)
            text = (
                f"Fit on the response scale {best.scale}: declare the metric with it "
                "(Metric(..., additive=False) lets a regression choose)."
            )
            found.append(_against(plain, best, "response scale", text))
        if len(space.forms) > 1:
            formed = regress(space, data, reference, pairs=False, scale=IDENTITY)
            if formed.form != AS_WRITTEN:
                text = (
                    f"Blocks count in another form of a network, {formed.form!r}: fit by "
                    "regression, which uses it (--method regression)."
                )
                found.append(_against(plain, formed, "alive blocks", text))
    return found


def _as_written(space: SearchSpace) -> SearchSpace:
    """The space without other forms of its networks."""
    if len(space.forms) == 1:
        return space
    return SearchSpace(space.nodes, name=space.name, depth_rules=space.depth_rules)


def _against(plain: Regression, other: Regression, kind: str, advice: str) -> Alternative:
    return Alternative(
        kind,
        other.evidence - plain.evidence,
        other.left_out_error,
        plain.left_out_error,
        advice,
    )


def _pair_advice(space: SearchSpace, paired: Regression) -> str:
    largest = sorted(paired.pairs, key=_strength, reverse=True)[:_MOST_SHOWN]
    named = ", ".join(
        f"{space.nodes[pair.first].name} with {space.nodes[pair.second].name}"
        for pair in largest
        if _strength(pair) > 0
    )
    return (
        f"Blocks interact ({named or 'none clearly'}): fit by regression, which adds pairs where "
        "the evidence is for them (--method regression), or put these nodes into one group."
    )


def _strength(pair: PairEffects) -> float:
    """Variance of what two nodes add together beyond what each adds by itself."""
    entries = pair.effects
    rest = entries - entries.mean(axis=0) - entries.mean(axis=1, keepdims=True) + entries.mean()
    return float(np.mean(rest**2))


def noise_of_repeats(values: Sequence[Sequence[float]]) -> Floats | None:
    """How far means of repeated measurements may be off, pooled over networks: shape (networks,).

    Args:
        values: of each network, its measurements. None comes back where none was repeated.
    """
    repeated = [np.array(own) for own in values if len(own) > 1]
    if not repeated:
        return None
    freedom = sum(len(own) - 1 for own in repeated)
    variance = sum(float(np.var(own, ddof=1)) * (len(own) - 1) for own in repeated) / freedom
    found: Floats = np.sqrt(variance / np.array([len(own) for own in values], dtype=np.float64))
    return found
