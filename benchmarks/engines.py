"""One network on every engine that is installed: what the engine does to its latency.

    python benchmarks/engines.py [--engine NAME ...] [--attempts N] [--accept-noise]

The reference network of the supernet on CIFAR-10 (32 pixels, a batch of 1, one thread, fp32) is
prepared by each engine, and all are timed in turns, so that the machine is the same for them. Each
ratio is the median over rounds of an engine's time to onnxruntime's in the same round. Beside it
stands the ratio of processor times, which what else runs on the machine hardly touches. A run that
the rule of noise flags is repeated, up to N times, and at last refused, or kept with its flags
where noise is accepted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from _machine import header
from mathnas.devices.engines import ENGINES, Form, engine_family, engine_named
from mathnas.devices.noise import NoiseRule
from mathnas.devices.state import Usage
from mathnas.devices.timing import Timing, TimingSettings, time_in_turns
from mathnas.devices.torch import ModuleModel, TorchEngine
from mathnas.errors import MissingExtraError
from mathnas.nets.files import read_supernet
from mathnas.nets.inputs import example_inputs
from mathnas.nets.onnx_export import export_onnx

SUPERNET = Path(__file__).parent / "supernets" / "cifar10_mobilenetv3.safetensors"
SETTINGS = TimingSettings(rounds=60)
BASE = "onnxruntime"
NAMES = [name for name in ENGINES if name != "torch-cuda"]  # which needs another machine


def prepared(names: Sequence[str]) -> tuple[dict[str, Callable[[], object]], list[str]]:
    """A run of the network by engine and version, and lines about those that are not here."""
    torch.set_num_threads(1)
    supernet, _ = read_supernet(SUPERNET)
    supernet.eval()
    example = example_inputs(supernet, 1)

    def module() -> ModuleModel:
        return ModuleModel(supernet.extract(supernet.space.reference), example)

    graph = export_onnx(module().module, example).SerializeToString()
    calls: dict[str, Callable[[], object]] = {}
    missing = []
    for name in names:
        try:
            engine = engine_named(name)
        except MissingExtraError as error:
            missing.append(f"not run: {error}")
            continue
        label = f"{name} {engine.version.partition('-')[0]}"
        reads_graphs = engine_family(name).form is Form.ONNX
        calls[label] = engine.prepare(graph if reads_graphs else module())
        if name == "torch":
            calls[f"{label} contiguous"] = TorchEngine(channels_last=False).prepare(module())
    return calls, missing


def timed(
    calls: Sequence[Callable[[], object]], attempts: int, accept: bool
) -> tuple[list[Timing], list[str]]:
    """The times, and the rules that they break."""
    rule = NoiseRule(attempts=attempts, pause_s=15.0)
    for attempt in range(rule.attempts):
        if attempt:
            time.sleep(rule.pause_s)
        before = Usage.now()
        timings = time_in_turns(calls, SETTINGS)
        flags = rule.machine_flags(Usage.now().since(before), threads=1)
        if not flags:
            break
    if flags and not accept:
        raise SystemExit(f"noisy in {attempts} attempts ({'; '.join(map(str, flags))})")
    return timings, [str(flag) for flag in flags]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accept-noise", action="store_true")
    parser.add_argument("--attempts", type=int, default=20)
    parser.add_argument("--engine", nargs="*", choices=NAMES, default=NAMES)
    options = parser.parse_args()
    names = [BASE, *(name for name in options.engine if name != BASE)]
    calls, missing = prepared(names)
    timings, flags = timed(list(calls.values()), options.attempts, options.accept_noise)
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
