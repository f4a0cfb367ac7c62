"""Whole runs against real servers on loopback."""
