"""One level of a prefix of gs://, asked of Google's own client: Arrow's tells no prefixes of GCS."""

import functools
import os
from contextlib import closing
from typing import Any, NamedTuple

from transforms import storage
from transforms.storage import FileStat

MOST_ENTRIES = 10_000
"""Ten pages. A level with more is listed by itself, with all below it, by whoever gets it: not by who plans."""
_FIELDS = "items(name,size,updated),prefixes,nextPageToken"
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"


class GoogleLevel(NamedTuple):
    """What lies in one prefix."""

    files: list[FileStat]
    """As storage.list_folder describes them."""
    folders: list[str]
    """Each prefix in it."""
    cut: bool
    """There is more: neither files nor folders are all."""


def list_google_level(folder: str, most: int = MOST_ENTRIES) -> GoogleLevel | None:
    """List a bucket or prefix without what lies below its prefixes.

    Args:
        folder: gs://bucket or gs://bucket/prefix.
        most: How many files and prefixes; with the page that goes beyond it the listing ends.

    Returns:
        None where Google's client is not installed, where there is nothing, or where keys have an empty part or one
        that a client may take for a step: nothing but a listing of all is sure there.

    Raises:
        FileNotFoundError: There is no such bucket.
        OSError: It cannot be listed.
    """
    try:
        from google.api_core.exceptions import GoogleAPIError, NotFound
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.storage import Client
    except ImportError:
        return None
    storage.filesystem(folder)  # says what is wrong with credentials that there are not
    bucket, _, key = folder.removeprefix("gs://").rstrip("/").partition("/")
    prefix = f"{key}/" if key else ""
    files, level = [], GoogleLevel([], [], cut=False)
    try:
        # Closed by hand: it is one of a circle of objects, which keeps its connection until Python looks for circles.
        with closing(Client(project=None, credentials=_credentials(), client_options=_endpoint())) as client:
            entries = client.list_blobs(bucket, prefix=prefix or None, delimiter="/", fields=_FIELDS)
            # By pages, for one may hold only prefixes: a level of a million folders has no entry to stop at.
            for page in entries.pages:
                files += page
                if len(files) + len(entries.prefixes) > most:
                    level = level._replace(cut=True)
                    break
    except NotFound as error:
        raise FileNotFoundError(f"{folder}: {_first_line(error)}") from error
    except (GoogleAPIError, GoogleAuthError) as error:
        raise OSError(f"{folder} cannot be listed: {_first_line(error)}") from error
    for entry in files:
        name = entry.name.removeprefix(prefix)
        if name in (".", ".."):
            return None
        if name:  # else the marker of the folder itself
            seconds = int(entry.updated.timestamp())
            version = storage.file_version(seconds * storage.SECOND, entry.size)
            level.files.append(FileStat(f"gs://{bucket}/{entry.name}", entry.size, version))
    for found in sorted(entries.prefixes):
        if found.removeprefix(prefix).rstrip("/") in ("", ".", ".."):
            return None
        level.folders.append(f"gs://{bucket}/{found.rstrip('/')}")
    # The marker of a folder that has nothing else in it is something.
    return level if files or level.folders else None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _endpoint() -> dict[str, str] | None:
    # As for Arrow's client, the scheme may be left out.
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    return {"api_endpoint": emulator if "://" in emulator else f"http://{emulator}"} if emulator else None


@functools.cache
def _credentials() -> Any:
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        from google.auth.credentials import AnonymousCredentials

        return AnonymousCredentials()
    from google.auth import default

    return default(scopes=[_SCOPE])[0]
