"""Fill a template into one HTML file that needs nothing else: no network, no script, no second file.

Whatever a template prints is escaped twice: `tell` first, so that no label or path can turn or break the text around
it, then HTML. Only Markup passes as it is, which charts and templates alone make.
"""

import functools
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from transforms.redaction import tell

_TEMPLATES = Path(__file__).with_name("templates")
_UNITS = ("bytes", "KB", "MB", "GB", "TB", "PB")


def render_page(template: str, **context: Any) -> str:
    """Fill a template of `templates/`.

    Args:
        template: Its name: report.html.j2.
        **context: What it prints. A name that it uses and that is not given is an error.

    Returns:
        A whole HTML document.
    """
    return _environment().get_template(template).render(**context)


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_told,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        count=count_text, size=size_text, percent=percent_text, number=number_text, duration=duration_text,
        moment=moment_text,
    )  # fmt: skip
    return environment


def _told(value: Any) -> Any:
    return tell(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def count_text(count: int) -> str:
    """Write a whole number with separators.

    >>> count_text(1234567)
    '1,234,567'
    """
    return f"{count:,}"


def images_text(count: int) -> str:
    """Write how many images.

    >>> images_text(1), images_text(1234)
    ('1 image', '1,234 images')
    """
    return f"{count:,} image{'' if count == 1 else 's'}"


def size_text(size: float) -> str:
    """Write bytes in the unit that suits them, decimal as stores bill them.

    >>> size_text(512), size_text(2_500_000)
    ('512 bytes', '2.5 MB')
    """
    unit = 0
    while abs(size) >= 999.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.3g} {_UNITS[unit]}"


def percent_text(share: float) -> str:
    """Write a share as a percentage: enough digits to tell it from none and from all.

    >>> percent_text(0.5), percent_text(0.0003), percent_text(0.99996), percent_text(0.0)
    ('50%', '0.03%', '99.996%', '0%')
    """
    percent = 100 * share
    if percent in (0, 100):
        return f"{percent:.0f}%"
    for digits in range(6):
        text = f"{percent:.{digits}f}"
        enough = max(min(percent, 100 - percent), 0.0) * 10**digits >= (9.95 if 1 < percent < 99 else 0.95)
        if enough:
            return f"{text.rstrip('0').rstrip('.') if '.' in text else text}%"
    return "under 0.0001%" if percent < 50 else "over 99.9999%"


def number_text(value: float) -> str:
    """Write a number with three digits that count.

    >>> number_text(12345.6), number_text(3.14159), number_text(0.0)
    ('12,346', '3.14', '0')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def duration_text(seconds: float) -> str:
    """Write a duration.

    >>> duration_text(0.25), duration_text(75), duration_text(7260)
    ('0.25 s', '1 min 15 s', '2 h 01 min')
    """
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def moment_text(moment: datetime) -> str:
    """Write a moment of UTC to the second.

    >>> from datetime import UTC
    >>> moment_text(datetime(2026, 11, 22, 2, 30, tzinfo=UTC))
    '2026-11-22 02:30:00 UTC'
    """
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
