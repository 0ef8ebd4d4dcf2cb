"""The whole way on a trained supernet: SuperViT's small variant on CIFAR-10.

    MATHNAS_DATA=... python benchmarks/cifar10_supervit.py --folder work [--workers 2]
        --supernet fourth/supernet.safetensors [--accept-noise]

The supernet is trained by the commands that `benchmarks/supernets/README.md` tells: half of the
published widths, all 195 blocks. Images: the 5,000 training images that were held out estimate
blocks ("held out"); the 10,000 test images validate ("test"). Everything that is measured is kept
in studies in the folder, so the script goes on where it was stopped.

1. Single sampling over the nine nodes on the held-out images, in accuracy, loss and latency.
2. 100 random networks: predicted against measured, in accuracy and latency.
3. Searches at three limits on latency, against the best of 200 random feasible networks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from _cifar10 import QUICK, SEED, Bench, Sizes, extremes, prediction, searches
from _machine import header


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--supernet", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--accept-noise", action="store_true", help="times beside other work")
    parser.add_argument("--quick", action="store_true", help="few networks and images: a trial")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(header(SEED))
    print(f"torch {torch.__version__}, {options.workers} workers of one thread")
    sizes = QUICK if options.quick else Sizes()
    bench = Bench.open(
        options.supernet, options.folder, options.workers, sizes, options.accept_noise
    )
    extremes(bench)
    searches(bench, prediction(bench), ["latency_ms"])


if __name__ == "__main__":
    main()
