"""One network on every engine that is installed: what the engine does to its latency.

    python benchmarks/engines.py [--accept-noise]

The reference network of the supernet on CIFAR-10 (32 pixels, a batch of 1, one thread, fp32) is
prepared by each engine, and all are timed in turns, so that the machine is the same for them. Each
ratio is the median over rounds of an engine's time to onnxruntime's in the same round. Beside it
stands the ratio of processor times, which what else runs on the machine hardly touches. A run that
the rule of noise flags is repeated, up to twenty times, and at last refused, or kept with its flags
where noise is accepted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from _machine import header
from mathnas.devices.engines import ENGINES, Form, engine_named, models_for
from mathnas.devices.noise import NoiseRule
from mathnas.devices.state import Usage
from mathnas.devices.timing import Timing, TimingSettings, time_in_turns
from mathnas.devices.torch import TorchEngine
from mathnas.errors import MissingExtraError
from mathnas.nets.files import read_supernet
from mathnas.nets.inputs import example_inputs

SUPERNET = Path(__file__).parent / "supernets" / "cifar10_mobilenetv3.safetensors"
SETTINGS = TimingSettings(rounds=60)
BASE = "onnxruntime"
RULE = NoiseRule(attempts=20, pause_s=15.0)


def prepared() -> tuple[dict[str, Callable[[], object]], list[str]]:
    """A run of the network by engine and version, and lines about those that are not here."""
    torch.set_num_threads(1)
    supernet, _ = read_supernet(SUPERNET)
    supernet.eval()
    example = example_inputs(supernet, 1)
    calls: dict[str, Callable[[], object]] = {}
    missing = []
    for name, family in ENGINES.items():
        if name == "torch-cuda":
            continue  # another machine: a graphics card
        try:
            engine = engine_named(name)
        except MissingExtraError as error:
            missing.append(f"not run: {error}")
            continue
        models = models_for(name, supernet, example)
        label = f"{name} {engine.version.partition('-')[0]}"
        calls[label] = engine.prepare(models(supernet.space.reference))
        if name == "torch":
            contiguous = TorchEngine(channels_last=False)
            model = models(supernet.space.reference)
            assert family.form is Form.MODULE
            assert not isinstance(model, bytes)
            calls[f"{label} contiguous"] = contiguous.prepare(model)
    return calls, missing


def timed(calls: list[Callable[[], object]], accept: bool) -> tuple[list[Timing], list[str]]:
    """The times, and the rules that they break."""
    for attempt in range(RULE.attempts):
        if attempt:
            time.sleep(RULE.pause_s)
        before = Usage.now()
        timings = time_in_turns(calls, SETTINGS)
        flags = RULE.machine_flags(Usage.now().since(before), threads=1)
        if not flags:
            break
    if flags and not accept:
        raise SystemExit(f"noisy in {RULE.attempts} attempts ({'; '.join(map(str, flags))})")
    return timings, [str(flag) for flag in flags]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accept-noise", action="store_true")
    accept = parser.parse_args().accept_noise
    calls, missing = prepared()
    timings, flags = timed(list(calls.values()), accept)
    print(header("none"))
    print(f"{SETTINGS}; 1 thread, batch 1, fp32, 32 px")
    print(f"noise: {'; '.join(flags) or 'none'}\n")
    base = next(t for name, t in zip(calls, timings, strict=True) if name.startswith(BASE))
    print(f"{'':34}{'ms':>8} {'median':>8} {'cpu ms':>8} {'ratio':>7} {'cpu ratio':>10}")
    for name, found in zip(calls, timings, strict=True):
        ratio = float(np.median(found.slices / base.slices))
        print(
            f"{name:34}{found.value:8.3f} {found.median:8.3f} {found.cpu_ms:8.3f} {ratio:7.2f} "
            f"{found.cpu_ms / base.cpu_ms:10.2f}"
        )
    for line in missing:
        print(line)


if __name__ == "__main__":
    main()
