"""``python -m mathnas``."""

import sys

from mathnas.cli import main

if __name__ == "__main__":
    sys.exit(main())
