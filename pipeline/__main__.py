"""`python -m pipeline` is `score-images`."""

from pipeline.cli import entry_point

entry_point()
