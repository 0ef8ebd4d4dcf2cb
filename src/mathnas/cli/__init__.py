"""The command line; `main` is its entry point."""

from mathnas.cli.app import main

__all__ = ["main"]
