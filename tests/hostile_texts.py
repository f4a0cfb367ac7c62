"""Labels and names that want to be something else on a page."""

HOSTILE = "<script>alert(1)</script>"
"""Of anything."""
QUOTED = '"it\'s" <b>.png'
"""Of a file."""
LONG = "a-name-without-any-place-to-break-" * 6 + ".png"
"""Of a file."""
LABELS = (HOSTILE, "dog & cat", "x" * 90, "ラベル")
"""Of four classes."""
