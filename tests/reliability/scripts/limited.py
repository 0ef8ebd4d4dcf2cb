"""Evaluate under a limit on the size of files, as a quota does."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from reliability_cases import Sums, all_of, space_of

from mathnas import FileFormatError, Study, evaluate

if __name__ == "__main__":
    with Study(sys.argv[1], space_of()) as study:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        try:
            evaluate(study, all_of(space_of(), 600), Sums())
        except FileFormatError as error:
            print(error)
