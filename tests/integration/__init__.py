"""Tests with whole parts of other hands: container images, schedulers."""
