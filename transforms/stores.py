"""The clients of s3:// and gs://: whose credentials they use, how long they wait, which of their errors pass.

Endpoints and credentials come from the platforms' own places (environment, profiles, metadata servers).
"""

import atexit
import contextlib
import ctypes
import errno
import functools
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from transforms.retrying import Backoff, call_with_retries
from transforms.s3_files import SteadyS3FileSystem

SCHEMES = ("s3", "gs")

# A connection is given up after this: two lost packets are sent again after 1 and 3 seconds.
_CONNECT_SECONDS = 5.0
# An answer is given up when no byte has come for this long (whole seconds); AWS's own 3 s are short for a store under
# load. Google's client waits 120 s, which pyarrow cannot change: reading bounds that from outside.
_SILENT_SECONDS = 10.0
# More than a process can have: it has 1,024 descriptors on most systems.
_CONNECTIONS = 100_000
# A patient client goes on for about half a minute: 10 retries of the AWS client wait 0.05 * (2 + 4 + ... + 512) = 26 s.
_PATIENT_RETRIES = 10
_PATIENT_SECONDS = 30
# Google's client waits a second or two after the first attempt, and then finds its time over: one attempt.
_ONE_ATTEMPT_SECONDS = 1

# As the AWS client and Google's word them: Arrow gives an errno to few of them. Of curl's errors (NETWORK_CONNECTION)
# those pass that a network makes: names that do not resolve, refused, reset, silent and broken-off connections.
_PASSING = re.compile(
    r"AWS Error (?:SLOW_DOWN|THROTTLING|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT)\b"
    r"|AWS Error UNKNOWN \(HTTP status (?:408|429|500|502|503|504)\)"
    r"|AWS Error NETWORK_CONNECTION .*curlCode: (?:5|6|7|16|18|28|35|52|55|56|92),"
    r"|google::cloud::Status\((?:UNAVAILABLE|INTERNAL|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|ABORTED):"
)
_GOOGLE_BACKOFF = Backoff(deadline_seconds=6.0)
_GOOGLE_SECONDS = 3.0  # what Google's own libraries give a metadata server


def connect(scheme: str, *, patient: bool) -> fs.FileSystem:
    """Make a client of a store, one at a time in a process.

    Args:
        scheme: s3 or gs.
        patient: A patient client tries again by itself, for about half a minute: for streams, and for listings of many
            pages. One that is not tries once: its callers try again, and the time of an image is theirs to divide.

    Raises:
        PermissionError: There are no credentials for Google's store.
    """
    return _connect_s3(patient) if scheme == "s3" else _connect_google(patient)


def _connect_s3(patient: bool) -> fs.FileSystem:
    options = {
        "endpoint_override": os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        "region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        "connect_timeout": _CONNECT_SECONDS,
        "request_timeout": _SILENT_SECONDS,
        # Not AwsStandardS3RetryStrategy, pyarrow's default: it may retry 100 times in the life of a client, and then
        # never again, because Arrow does not tell it of requests that succeed.
        "retry_strategy": fs.AwsDefaultS3RetryStrategy(max_attempts=_PATIENT_RETRIES if patient else 0),
        "background_writes": False,
        # A file smaller than a part is put in one request, which can be repeated; a bucket that does not exist is
        # found out when the file is closed.
        "allow_delayed_open": True,
    }
    with _many_connections():
        return SteadyS3FileSystem(is_passing, **options) if patient else fs.S3FileSystem(**options)


@contextlib.contextmanager
def _many_connections() -> Iterator[None]:
    """Have the clients of S3 that are made meanwhile open as many connections as are needed at a time.

    A client has as many as Arrow has threads for reading and writing when it is made, or 25: whatever is beyond waits.
    A read that was left behind keeps its connection, and the others must not wait for it; nor is another client a way
    out, because Arrow makes none while a request is under way. This starts no thread, and opens no connection.
    """
    threads = pa.io_thread_count()
    pa.set_io_thread_count(_CONNECTIONS)
    try:
        yield
    finally:
        pa.set_io_thread_count(threads)


def _connect_google(patient: bool) -> fs.FileSystem:
    limit = timedelta(seconds=_PATIENT_SECONDS if patient else _ONE_ATTEMPT_SECONDS)
    endpoint = os.environ.get("STORAGE_EMULATOR_HOST")
    if endpoint:
        url = urllib.parse.urlparse(endpoint if "://" in endpoint else f"http://{endpoint}")
        return fs.GcsFileSystem(anonymous=True, scheme=url.scheme, endpoint_override=url.netloc, retry_time_limit=limit)
    _check_google_credentials()
    return fs.GcsFileSystem(retry_time_limit=limit)


def is_passing(error: Exception) -> bool:
    """Tell whether an error of a store may be gone at the next attempt."""
    if isinstance(error, (FileNotFoundError, PermissionError)):
        return False
    return isinstance(error, (ConnectionError, TimeoutError)) or _PASSING.search(str(error)) is not None


def list_all(filesystem: fs.FileSystem, selector: fs.FileSelector) -> list[fs.FileInfo]:
    """List a folder of a store.

    Raises:
        FileNotFoundError: There is nothing below it; of GCS, Arrow says so in text only.
    """
    try:
        return filesystem.get_file_info(selector)
    except OSError as error:
        if str(error).startswith(os.strerror(errno.ENOENT)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), selector.base_dir) from error
        raise


@functools.cache
def end_without_waiting() -> None:
    """Have this process end without its requests that were left behind; what it tells its parent stays.

    At its end, pyarrow waits with the GIL held until S3 has answered the last of them, which may take hours, and to
    leave that out alone ends in a crash: C++ takes down what they use. So the process ends when all of Python's own
    end is done, and before that of C++. Only glibc hands the exit status on; elsewhere pyarrow waits as it always does.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):
        atexit.unregister(fs.ensure_s3_finalized)
        libc.on_exit(libc._exit, None)


def _check_google_credentials() -> None:
    """Refuse to go on where Google's client would find no credentials.

    It asks a metadata server that does not exist for minutes, at every request, and takes one without a service
    account for a store without objects.
    """
    well_known = Path.home() / ".config" / "gcloud" / "application_default_credentials.json"
    if os.environ.get("GOOGLE_APPLICATION_CREDENTIALS") or well_known.exists():
        return
    host = os.environ.get("GCE_METADATA_HOST") or "metadata.google.internal"
    url = f"http://{host}/computeMetadata/v1/instance/service-accounts/default/email"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(seconds_left: float) -> None:
        try:
            opener.open(request, timeout=min(_GOOGLE_SECONDS, seconds_left)).close()
        except urllib.error.HTTPError as error:
            error.close()
            raise

    def is_busy(error: Exception) -> bool:
        if isinstance(error, urllib.error.HTTPError):
            return error.code == 429 or error.code >= 500
        # A name that does not resolve is the usual answer outside Google's cloud: no reason to wait.
        return isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError)

    try:
        call_with_retries(ask, is_busy, _GOOGLE_BACKOFF)
    except OSError as error:
        raise PermissionError(
            f"gs:// needs credentials, and there are none: the metadata server {host} gives no service account "
            f"({str(error).splitlines()[0]}); run gcloud auth application-default login, set "
            "GOOGLE_APPLICATION_CREDENTIALS to a key file, or STORAGE_EMULATOR_HOST for an emulator"
        ) from error
