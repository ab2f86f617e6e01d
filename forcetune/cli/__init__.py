"""The command line: one function for each command, with the heavy imports inside the functions."""

from forcetune.cli import asking, cluster, deploying, files, methods, nights, studies, ui
from forcetune.cli.group import main

__all__ = ["asking", "cluster", "deploying", "files", "main", "methods", "nights", "studies", "ui"]
