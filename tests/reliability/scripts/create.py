"""Create a study at the same moment as others, and add one evaluation of one's own."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from reliability_cases import all_of, fact, space_of, wait_for

from mathnas import Study

if __name__ == "__main__":
    number = int(sys.argv[2])
    Path(f"ready{number}").touch()
    wait_for(Path("go").exists)
    with Study(sys.argv[1], space_of()) as study:
        study.add([fact(all_of(space_of(), 6)[number])])
