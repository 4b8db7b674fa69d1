"""`python -m saccade.cli` is the command `saccade`."""

from saccade.cli import main

if __name__ == "__main__":  # worker processes import this file too
    main()
