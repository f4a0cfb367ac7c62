"""Whole runs and whole processes, against real servers on loopback."""
