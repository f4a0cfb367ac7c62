"""Measurements: ratios side by side in one run, never timed tests. `make bench` runs them all."""
