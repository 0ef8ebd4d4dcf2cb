"""Under torchrun: one step, whose networks and averaged gradient every process writes.

Its argument names the combination.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from training_cases import small_net, square_data

from mathnas.nets.tensors import write_tensors
from mathnas.training.config import TrainingConfig
from mathnas.training.conflicts import resolved
from mathnas.training.processes import Processes
from mathnas.training.recipes import Pass, Passes, summed
from mathnas.training.trainer import train


def main() -> None:
    processes = Processes.join("cpu")
    assert processes.world == 2
    supernet = small_net()
    combine = {"sum": summed, "resolve": resolved}[sys.argv[1]]

    def keep(passes: Sequence[Pass], step: Passes) -> None:
        combine(passes, step)
        found = {
            name: own.grad for name, own in supernet.named_parameters() if own.grad is not None
        }
        record = {"format": "gradient", "version": 1, "networks": [p.network for p in passes]}
        write_tensors(Path(f"gradient{processes.rank}"), found, json.loads(json.dumps(record)))

    config = TrainingConfig(epochs=1, batch_size=60, random_networks=1)
    data = square_data(60, processes=processes)
    train(supernet, data, config, "out", processes=processes, combine=keep)


if __name__ == "__main__":
    main()
