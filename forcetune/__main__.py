"""The program that `python -m forcetune` runs, as a job calls it."""

from forcetune.cli import main

main()
