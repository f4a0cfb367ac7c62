"""Flink clusters of real processes, for tests and for `make flink-up`."""
