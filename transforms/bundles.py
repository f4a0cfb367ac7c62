"""What the verbs share that keep something back until their bundle ends: one window, and the time of what is late."""

from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue


def check_windows(elements: beam.PCollection[Any], what: str) -> None:
    """Refuse elements that are not in the one global window.

    Args:
        elements: What goes in.
        what: Who needs them so, and why: the first half of the message.

    Raises:
        ValueError: They are in other windows.
    """
    if not elements.windowing.is_default():
        raise ValueError(f"{what}: apply beam.WindowInto(beam.window.GlobalWindows()) before it")


def at_end(value: Any) -> WindowedValue:
    """Give what comes out when a bundle ends its place in the global window: Beam knows of no element it belongs to."""
    window = GlobalWindow()
    return WindowedValue(value, window.max_timestamp(), (window,))
