"""A module that no worker can import."""

from __future__ import annotations

import multiprocessing
import os

from reliability_cases import Sums

if multiprocessing.current_process().name != "MainProcess":
    os._exit(3)


class DiesOnImport(Sums):
    pass
