"""`python -m forcetune`, as a job calls it."""

from forcetune.cli import main

main()
