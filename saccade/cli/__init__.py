"""The command line. Importing it loads neither Keras nor JAX: commands import what they need."""

from saccade.cli.app import app, main

__all__ = ["app", "main"]
