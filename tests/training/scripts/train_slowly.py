"""Trains into ``out`` and says every step that is done; the parent kills it."""

from __future__ import annotations

import sys

from training_cases import ALONE, small_net, square_data

from mathnas.training.config import TrainingConfig
from mathnas.training.trainer import train


def main() -> None:
    config = TrainingConfig.load(sys.argv[1])
    train(
        small_net(),
        square_data(),
        config,
        "out",
        processes=ALONE,
        told=lambda progress: print(progress.step, flush=True),
    )


if __name__ == "__main__":
    main()
