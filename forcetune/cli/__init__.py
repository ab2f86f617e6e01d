"""The command line: one function a command; heavy imports inside the functions."""

from forcetune.cli import cluster, methods, nights, studies
from forcetune.cli.group import main

__all__ = ["cluster", "main", "methods", "nights", "studies"]
