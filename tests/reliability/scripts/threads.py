"""Adds evaluations from several threads while its cost is recorded, to be killed; says which."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from reliability_cases import all_of, fact, space_of

from mathnas import Network, Study
from mathnas.space import network_text

THREADS = 4


def main() -> None:
    space = space_of()
    with (
        Study("threads.study", space) as study,
        study.recording("estimation") as recorder,
        ThreadPoolExecutor(THREADS) as threads,
    ):
        recorder.interval = 0.0  # every evaluation reports the cost too

        def add(network: Network) -> None:
            study.add([fact(network)])
            sys.stdout.write(f"{network_text(network)}\n")

        list(threads.map(add, all_of(space, int(sys.argv[1]))))


if __name__ == "__main__":
    main()
