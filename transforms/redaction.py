"""What may be told in logs, messages and manifests: texts without secrets, and without characters that pose as others.

Secrets come in by three doors, and each has its function: URLs that carry a password or a signed query (`redact`),
flags and settings whose names say that they are secret (`redact_flags`, `redact_value`), and variables of the
environment (`redact_value` with their values). Nothing here is used where a value is worked with: fingerprints,
identities and the paths in the tables are made of what was given.

A name may hold any character. `printable` shows those that move a cursor, end a line or turn the direction of writing
as escapes, so that no file's name can write a line of the log.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

REMOVED = "***"
"""Stands where something was taken out."""

_USER = re.compile(r"://[^\s/?#\"<>]*@")
# Buckets know no query: ? and # belong to a key, as they do to the name of a local file.
_OF_KEYS = "(?:s3|s3a|s3n|gs|gcs|file)://"
_QUERY = re.compile(
    rf"(?P<url>(?<![A-Za-z0-9+.-])(?!{_OF_KEYS})[A-Za-z0-9+.-]+://(?:(?!://)[^\s?#\"<>])*[?#])"
    r"(?P<query>[^\s\"<>]*)",
    re.IGNORECASE,
)
_WHOLE_URL = re.compile(
    rf"(?P<scheme>(?P<of_keys>{_OF_KEYS})?(?(of_keys)|[A-Za-z0-9+.-]+://))(?P<user>[^/?#]*@)?"
    r"(?P<place>(?(of_keys).*|[^?#]*))(?:(?P<sign>[?#]).*)?",
    re.IGNORECASE | re.DOTALL,
)
# Belongs to the sentence around a URL, not to the URL.
_AFTER_URL = ".,;:!')]}"
_SENSITIVE = (
    "(?:secret|password|passwd|passphrase|token|credential|apikey|accesskey|secretkey|privatekey|(?<![A-Za-z])key)s?"
)
_SECRET_NAME = re.compile(f"{_SENSITIVE}(?![A-Za-z])", re.IGNORECASE)
_CAMEL_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# API_TOKEN=abc and "API_TOKEN": "abc", as flags hand environments to workers.
_ASSIGNMENT = re.compile(rf"(?P<name>{_SENSITIVE}(?![A-Za-z])[\w-]*[\"']?\s*[=:]\s*[\"']?)[^\s\"',;}}]+", re.IGNORECASE)
_JOINERS = "\u200c\u200d"  # part of words and of emoji


def redact(text: str) -> str:
    """Remove user names, passwords, queries and fragments from the URLs of a text.

    Keys of s3:// and gs:// stay letter for letter, unless they hold a URL; so does everything that is no URL.

    >>> redact("https://me:secret@host/cat.jpg?X-Amz-Signature=f00 cannot be read")
    'https://***@host/cat.jpg?*** cannot be read'
    """
    if "://" not in text:
        return text
    return _QUERY.sub(_without_query, _USER.sub(f"://{REMOVED}@", text))


def redact_url(whole: str) -> str:
    """Remove what `redact` does from a text that is one URL and no sentence: nothing but its end ends it.

    >>> redact_url("https://me:sec ret@host/a cat.jpg?X-Amz-Signature=f00")
    'https://***@host/a cat.jpg?***'
    """
    found = _WHOLE_URL.fullmatch(whole)
    if found is None:
        return redact(whole)
    user = f"{REMOVED}@" if found["user"] else ""
    query = f"{found['sign']}{REMOVED}" if found["sign"] else ""
    return redact(f"{found['scheme']}{user}{found['place']}{query}")


def _without_query(found: re.Match[str]) -> str:
    query = found["query"]
    return f"{found['url']}{REMOVED}{query[len(query.rstrip(_AFTER_URL)) :]}"


def says_secret(name: str) -> bool:
    """Tell whether a flag, key or variable is one for a secret: secret, password, token, key or credential is in it.

    >>> says_secret("--s3_secret_access_key"), says_secret("HUB_TOKEN"), says_secret("path_column")
    (True, True, False)
    """
    return bool(_SECRET_NAME.search(_CAMEL_CASE.sub("_", name)))


def redact_value(value: Any, secrets: Sequence[str] = ()) -> Any:
    """Return a copy of a JSON-like value without secrets.

    Args:
        value: Texts are redacted; what stands under a key that says secret is removed.
        secrets: Texts that are removed wherever they stand.
    """
    if isinstance(value, str):
        # The longest first: one may hold another.
        for secret in sorted(filter(None, secrets), key=len, reverse=True):
            value = value.replace(secret, REMOVED)
        return redact(value)
    if isinstance(value, dict):
        return {
            key: REMOVED if isinstance(inner, str) and says_secret(str(key)) else redact_value(inner, secrets)
            for key, inner in value.items()
        }
    return [redact_value(inner, secrets) for inner in value] if isinstance(value, list | tuple) else value


def redact_flags(flags: Sequence[str]) -> list[str]:
    """Return flags of a command line without secrets: `--name=value`, and `--name value` as two words.

    >>> redact_flags(["--s3_secret_access_key=abc", "--token", "def", "--runner=FlinkRunner"])
    ['--s3_secret_access_key=***', '--token', '***', '--runner=FlinkRunner']
    """
    told = []
    secret_follows = False
    for flag in flags:
        name, sign, value = flag.partition("=")
        if not flag.startswith("-"):
            told.append(REMOVED if secret_follows else _redact_assignments(flag))
            secret_follows = False
            continue
        secret_follows = not sign and says_secret(name)
        if sign:
            value = REMOVED if says_secret(name) else _redact_assignments(value)
        told.append(f"{name}{sign}{value}")
    return told


def _redact_assignments(text: str) -> str:
    return _ASSIGNMENT.sub(rf"\g<name>{REMOVED}", redact(text))


def printable(text: str) -> str:
    r"""Show characters that could forge a line or the text around it as escapes; every other one stays.

    Those are control characters (line ends, ESC), separators of lines, invisible ones such as those that turn the
    direction of writing, and what this Python does not know; not those that join letters and emoji.

    >>> printable("cat\n2026-11-26 ERROR \x1b[31m.jpg")
    'cat\\n2026-11-26 ERROR \\x1b[31m.jpg'
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(char: str) -> str:
    if unicodedata.category(char) in ("Cc", "Cf", "Cn", "Cs", "Zl", "Zp") and char not in _JOINERS:
        return char.encode("unicode_escape").decode()
    return char


def tell(text: str) -> str:
    """Make a message fit for a log or a terminal: without secrets, and with nothing that poses as another line.

    Line ends before two spaces stay: such a line continues the one above, and cannot pass for one of its own.
    """
    return "\n  ".join(map(printable, redact(text).split("\n  ")))
