"""Tests of whole processes against whole services."""
