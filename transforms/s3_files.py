"""Files of S3 whose every request can be repeated: Arrow's client alone repeats too few of them.

It repeats what is answered 500 or 503, but no write that is answered 429, 502 or 504, such a read only by chance, and
no read of fewer bytes than the text of the error has (pyarrow 25, run against a server). So a file is read in pieces,
each of them as often as it takes, and written to a temporary file first, which is then sent as often as it takes.
"""

import io
import shutil
import tempfile
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import fs

from transforms.retrying import Backoff, call_with_retries

T = TypeVar("T")

# A sequential reader asks for at least so much at a time: small requests cost more than their bytes.
_PIECE_BYTES = 1024**2
# A file up to this size needs no disk: what is smaller than a part of an upload.
_MEMORY_BYTES = 8 * 1024**2


class SteadyS3FileSystem(fs.S3FileSystem):
    """S3FileSystem with files that can be read and written in spite of passing troubles.

    Args:
        is_passing: Whether an error may be gone at the next attempt.
        options: Of S3FileSystem.
    """

    def __init__(self, is_passing: Callable[[Exception], bool], **options: Any) -> None:
        super().__init__(**options)
        self._is_passing = is_passing

    def open_input_file(self, path: str) -> pa.NativeFile:
        """Open a file to be read anywhere."""
        return pa.PythonFile(_Pieces(super().open_input_file(path), self._persist), mode="r")

    def open_input_stream(self, path: str, **options: Any) -> pa.NativeFile:
        """Open a file to be read from its start to its end."""
        size = max(_PIECE_BYTES, options.get("buffer_size") or 0)
        pieces = _Pieces(super().open_input_file(path), self._persist)
        return pa.PythonFile(io.BufferedReader(pieces, size), mode="r")

    def open_output_stream(self, path: str, **options: Any) -> "Upload":
        """Open a new file, which appears when it is closed."""
        send = super().open_output_stream
        return Upload(lambda: send(path, **options), self._persist)

    def _persist(self, operation: Callable[[], T]) -> T:
        return call_with_retries(lambda _: operation(), self._is_passing, Backoff())


class _Pieces(io.RawIOBase):
    """Reads a file by requests for ranges."""

    def __init__(self, file: pa.NativeFile, persist: Callable[[Callable[[], bytes]], bytes]) -> None:
        self._file = file
        self._persist = persist
        self._size = file.size()
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        data = self._persist(lambda: self._file.read_at(wanted, self._position))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class Upload:
    """A new file of a store. What is given up, or forgotten before it is closed, leaves nothing there."""

    def __init__(self, open_stream: Callable[[], pa.NativeFile], persist: Callable[[Callable[[], None]], None]) -> None:
        self._open_stream = open_stream
        self._persist = persist
        self._content = tempfile.SpooledTemporaryFile(_MEMORY_BYTES)  # noqa: SIM115  close sends and closes it

    def __enter__(self) -> "Upload":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._content.close()

    def __del__(self) -> None:
        self._content.close()

    def write(self, data: Any) -> int:
        """Add bytes to the end."""
        return self._content.write(data)

    def close(self) -> None:
        """Send the file; the second time, do nothing.

        Raises:
            OSError: The store does not take it.
        """
        if not self._content.closed:
            with self._content:
                self._persist(self._send)

    def _send(self) -> None:
        self._content.seek(0)
        with self._open_stream() as stream:
            shutil.copyfileobj(self._content, stream, _PIECE_BYTES)
