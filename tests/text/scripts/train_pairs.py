"""Trains on sentence pairs among others under torchrun, and says what each process saw."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from bag_net import BagNet

from mathnas._records import write_json
from mathnas.training.config import TrainingConfig
from mathnas.training.processes import Processes
from mathnas.training.trainer import train
from mathnas.training.translation import translation_data


def main() -> None:
    config, processes = TrainingConfig.load(sys.argv[2]), Processes.join("cpu")
    data = translation_data(sys.argv[1], config, processes, folder=Path("out"), vocabulary_size=80)
    supernet = BagNet(80)
    train(supernet, data, config, processes=processes)
    digest = hashlib.sha256()
    for tensor in supernet.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    record = {
        "pairs": sum(len(inputs) for inputs, _ in data.batches.epoch(0)),
        "vocabulary": data.notes["vocabulary"],
        "weights": digest.hexdigest(),
    }
    write_json(Path(f"seen{processes.rank}.json"), record)


if __name__ == "__main__":
    main()
