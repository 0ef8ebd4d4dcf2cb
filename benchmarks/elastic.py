"""What elastic layers cost: a configured supernet against its extracted static network.

    python benchmarks/elastic.py [--rounds 15]

For three configurations (smallest, middle, largest) and two settings (w1.0 with 1,000 classes at
128 pixels; the small-image variant w0.5 with 10 classes at 32 pixels), times a forward pass
(evaluation mode, no gradients) and a train step (forward, backward, one SGD update) of both, in
turns, on one thread. Ratios are medians over the rounds of the paired times. Both memory formats
are timed; the faster one of the static network counts. Switching to evaluation or training mode is
done once, not for every batch, and is not timed. The C library keeps its heap: by default it gives
memory back between two layers, and which of the two then pays for new pages is chance.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

import mathnas as mn
from _machine import header
from mathnas.nets.mobilenetv3 import MobileNetV3Net
from mathnas.spaces import MobileNetV3

SETTINGS = {
    "w1.0, 128 px, batch 16": (MobileNetV3(width=1.0, resolution=128), 16),
    "w0.5, 32 px, batch 64": (
        MobileNetV3(width=0.5, resolution=32, classes=10, stem_stride=1),
        64,
    ),
}
CONFIGURATIONS = {"smallest": (3, 3, 2), "middle": (5, 4, 3), "largest": (7, 6, 4)}
LIMIT = 1.15
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt, in glibc's malloc.h


def keep_heap() -> bool:
    """Let the C library's allocator keep what is freed; False where it is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        mallopt(option, size) == 1
        for option, size in ((TRIM_THRESHOLD, 2**31 - 1), (MMAP_THRESHOLD, 2**25))
    )


def forward_pass(run: Callable[[Tensor], Tensor], x: Tensor) -> None:
    with torch.inference_mode():
        run(x)


def train_step(
    module: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor, labels: Tensor
) -> None:
    module.zero_grad(set_to_none=True)
    torch.autograd.backward(functional.cross_entropy(run(x), labels))
    with torch.no_grad():
        used: list[Tensor] = [p for p in module.parameters() if p.grad is not None]
        torch._foreach_add_(used, [p.grad for p in used if p.grad is not None], alpha=-1e-6)


def paired(first: Callable[[], None], second: Callable[[], None], rounds: int) -> list[float]:
    """Median times of both, in milliseconds, and the median of their ratio round by round."""
    times: list[tuple[float, float]] = []
    for number in range(rounds + 2):
        spent = {}
        order = (first, second) if number % 2 else (second, first)
        for run in order:
            start = time.process_time()
            run()
            spent[run] = time.process_time() - start
        times.append((spent[first], spent[second]))
    kept = times[2:]  # the first rounds warm up
    ratio = statistics.median(one / other for one, other in kept)
    return [*(1e3 * statistics.median(column) for column in zip(*kept, strict=True)), ratio]


def measure(space: MobileNetV3, batch: int, network: mn.Network, rounds: int) -> dict[str, str]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, space.classes, (batch,), generator=generator)
    found: dict[str, dict[str, list[float]]] = {}
    for name, layout in (
        ("channels last", torch.channels_last),
        ("contiguous", torch.contiguous_format),
    ):
        side = space.resolution
        x = torch.randn(batch, 3, side, side, generator=generator).to(memory_format=layout)
        supernet = MobileNetV3Net(space)
        static = supernet.extract(network).to(memory_format=layout)  # type: ignore[call-overload]
        supernet = supernet.to(memory_format=layout)  # type: ignore[call-overload]

        def elastic(x: Tensor, supernet: MobileNetV3Net = supernet) -> Tensor:
            return supernet(x, network)  # type: ignore[no-any-return]

        found[name] = {}
        for module in (supernet, static):
            module.eval()
        found[name]["forward"] = paired(
            partial(forward_pass, elastic, x), partial(forward_pass, static, x), rounds
        )
        for module in (supernet, static):
            module.train()
        found[name]["train step"] = paired(
            partial(train_step, supernet, elastic, x, labels),
            partial(train_step, static, static, x, labels),
            rounds,
        )
    rows = {}
    for work in ("forward", "train step"):
        best = min(found, key=lambda name: found[name][work][1])
        elastic_ms, static_ms, ratio = found[best][work]
        rows[work] = (
            f"{elastic_ms:8.1f} {static_ms:8.1f} {ratio:6.3f}  {best:13}"
            f"  {'yes' if ratio <= LIMIT else 'NO'}"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(header(0))
    heap = "kept" if keep_heap() else "as the system does"
    print(f"torch {torch.__version__}, 1 thread, {rounds} rounds, processor time, heap {heap}\n")
    print(f"{'':44}{'elastic':>8} {'static':>8} {'ratio':>6}  {'faster format':13}  <= {LIMIT}")
    for setting, (space, batch) in SETTINGS.items():
        for name, (kernel, expansion, depth) in CONFIGURATIONS.items():
            network = space.from_config([kernel] * 20, [expansion] * 20, [depth] * 5)
            for work, row in measure(space, batch, network, rounds).items():
                print(f"{setting:23} {name:9} {work:10}{row}", flush=True)


if __name__ == "__main__":
    main()
