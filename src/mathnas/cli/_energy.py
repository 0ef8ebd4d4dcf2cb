"""Energy on the command line: ``energy[:FILE][,meter=NAME,...]``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mathnas.cli._latency import latency_evaluator
from mathnas.errors import InvalidInputError
from mathnas.evaluation import Evaluator
from mathnas.space import SearchSpace

_FORM = "energy[:FILE.safetensors][,meter=NAME,window=SECONDS,rounds=N]"
_OWN: Mapping[str, tuple[Callable[[str], object], str]] = {
    "meter": (str, "a meter"),
    "window": (float, "seconds"),
    "rounds": (int, "a whole number"),
}
_OF_TIMES = ("statistics", "reference")  # options of latency that say how times are judged


def energy_evaluator(text: str, space: SearchSpace | None) -> Evaluator:
    """The evaluator of ``energy[:FILE][,meter=auto,window=1,rounds=5,...]``.

    What is not about energy is read as for ``latency``: the same networks run on the same engine.

    Raises:
        InvalidInputError: an option is unknown, wrong or about times alone, or as for ``latency``.
        MeterError: the meter is absent, may not be read, or does not count.
    """
    own, others = _split(text)
    from mathnas.devices.energy import StatedPower, meter_named

    # before any supernet is read: a meter that is not there should be said at once
    meter = meter_named(str(own.get("meter", "auto")))
    if isinstance(meter, StatedPower) and "window" in own:
        raise InvalidInputError(
            "window= is how long a meter is read, but a stated power is not measured: leave it out."
        )
    # an estimate is made of latencies, which a reference guards; a meter measures no time at all
    _refuse(others, ("statistics",) if isinstance(meter, StatedPower) else _OF_TIMES)
    if isinstance(meter, StatedPower) and "rounds" in own:
        others += f",rounds={own['rounds']}"
    try:
        latency = latency_evaluator(others, space)
    except InvalidInputError as error:
        raise InvalidInputError(f"energy runs networks as latency does, and {error}") from error
    from mathnas.devices.energy.evaluator import EnergyEvaluator, StatedEnergyEvaluator
    from mathnas.devices.energy.windows import EnergySettings

    if isinstance(meter, StatedPower):
        return StatedEnergyEvaluator(latency, meter)
    settings = EnergySettings(
        rounds=int(str(own.get("rounds", EnergySettings().rounds))),
        window_s=float(str(own.get("window", EnergySettings().window_s))),
    )
    evaluator = EnergyEvaluator(
        latency.models,
        latency.engine,
        meter,
        device=latency.device,
        settings=settings,
        batch_size=latency.batch_size,
        noise=latency.noise,
        accept_noise=latency.accept_noise,
    )
    # what says which networks ran: the same words as beside their latency
    shared = {name: latency.conditions.get(name) for name in ("resolution", "torch")}
    graphs = {name: value for name, value in shared.items() if value is not None}
    evaluator.conditions = {**evaluator.conditions, **graphs}
    return evaluator


def _split(text: str) -> tuple[dict[str, object], str]:
    """The options about energy, and the rest of the text."""
    own: dict[str, object] = {}
    first, *parts = text.split(",")
    others = [first]
    for part in parts:
        name, equals, value = (word.strip() for word in part.partition("="))
        if name not in _OWN or not equals:
            others.append(part)
            continue
        if name in own:
            raise InvalidInputError(f"{_FORM} takes each option once, but got {part!r} again.")
        read, kind = _OWN[name]
        try:
            own[name] = read(value)
        except ValueError as error:
            raise InvalidInputError(f"{name} is {kind}, but got {value!r}.") from error
    return own, ",".join(others)


def _refuse(text: str, names: Sequence[str]) -> None:
    """Refuse options of ``latency`` that would change nothing here."""
    for part in text.split(",")[1:]:
        name = part.partition("=")[0].strip()
        if name in names:
            raise InvalidInputError(
                f"{name}= is about measured times, of which this energy holds none, but got "
                f"{part!r}: leave it out, or evaluate latency,{part} as well."
            )
