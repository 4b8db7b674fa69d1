"""`python -m saccade.cli` is the command `saccade`."""

from saccade.cli import main

main()
