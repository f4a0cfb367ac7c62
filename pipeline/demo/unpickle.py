"""Read a PyTorch state dict from the legacy (not zipped) format, without PyTorch and without running its code.

A pickle is a program: `pickle.load` runs what it says. The one here may name four things, `collections.OrderedDict`,
`torch._utils._rebuild_tensor_v2`, `torch.FloatStorage` and `torch.LongStorage`; the last three are stand-ins that
only take notes, and any other name is refused before anything is called.

The file is five pickles in a row and then the raw numbers:

    magic number · protocol · facts about the machine that wrote it · the state dict, whose tensors name their
    storage by a key · the keys, in the order of what follows · for each key int64 count, then its elements
"""

import collections
import hashlib
import math
import os
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transforms.errors import ModelError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001

# What broken or hostile bytes make the unpickler raise; the documentation of pickle promises no complete list.
_BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
)


class _Storage(NamedTuple):
    """A flat run of numbers that comes later in the file."""

    dtype: np.dtype[Any]
    key: str
    length: int


class _View(NamedTuple):
    """A tensor as the pickle describes it: a strided view of a storage. The arguments of _rebuild_tensor_v2."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    requires_grad: bool
    backward_hooks: Any


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _View,
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
}


class _RefusedError(Exception):
    """The pickle names something that no state dict needs."""


class _StateDictUnpickler(pickle.Unpickler):
    """An unpickler that knows the names above, and no others."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _RefusedError(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", np.dtype() as dtype, str(key), str(), int(length), None):
                return _Storage(dtype, key, length)
        raise pickle.UnpicklingError("a storage is named in a way that is not known")


def load_state_dict(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read the tensors of a legacy PyTorch checkpoint.

    Args:
        path: A file written by `torch.save(model.state_dict(), ..., _use_new_zipfile_serialization=False)`, or by
            any PyTorch before 1.6.

    Returns:
        The tensors by name, in the order of the file: float32 or int64, C-contiguous, read-only.

    Raises:
        ModelError: if the file cannot be read, is cut short or damaged, or names anything but plain tensors.
    """
    try:
        with path.open("rb") as file:
            views = _read_views(file)
            storages = _read_storages(file, views.values())
            return {name: _tensor(name, view, storages[view.storage.key]) for name, view in views.items()}
    except _RefusedError as error:
        raise ModelError(
            f"{path} asks for {error} and was not loaded: a state dict needs plain float32 and int64 tensors only, "
            "anything else could run code; install the package again if you did not put this file there"
        ) from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except _BROKEN as error:
        raise ModelError(
            f"{path} is damaged or cut short ({error or type(error).__name__}); install the package again"
        ) from error


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_views(file: IO[bytes]) -> dict[str, _View]:
    """Read the four pickles up to and with the state dict."""
    if (magic := _next_pickle(file)) != _MAGIC:
        raise pickle.UnpicklingError(f"it starts with {str(magic)[:40]!r} in place of the magic number {_MAGIC:#x}")
    if (protocol := _next_pickle(file)) != _PROTOCOL:
        raise pickle.UnpicklingError(f"protocol {protocol!r} is not known, {_PROTOCOL} is")
    machine = _next_pickle(file)
    if machine["little_endian"] is not True:
        raise pickle.UnpicklingError("it was written on a big-endian machine")
    views = _next_pickle(file)
    if not isinstance(views, dict):
        raise pickle.UnpicklingError(f"it holds a {type(views).__name__} in place of a state dict")
    for name, view in views.items():
        if not isinstance(name, str) or not isinstance(view, _View) or not isinstance(view.storage, _Storage):
            raise pickle.UnpicklingError(f"{name!r} is no tensor")
    return views


def _read_storages(file: IO[bytes], views: Iterable[_View]) -> dict[str, npt.NDArray[Any]]:
    """Read the keys, then the numbers of each storage, which must be as many as the tensors were promised."""
    expected = {view.storage.key: view.storage for view in views}
    keys = _next_pickle(file)
    if set(keys) != set(expected):
        raise pickle.UnpicklingError(f"{len(expected)} storages are named and {len(set(keys))} follow")
    return {key: _read_storage(file, expected[key]) for key in keys}


def _read_storage(file: IO[bytes], storage: _Storage) -> npt.NDArray[Any]:
    length = int.from_bytes(file.read(8), "little", signed=True)
    if length != storage.length:
        raise pickle.UnpicklingError(f"storage {storage.key} should hold {storage.length} numbers, it says {length}")
    size = length * storage.dtype.itemsize
    # Asked before the read, so that a length of 2**60 costs no memory.
    left = os.fstat(file.fileno()).st_size - file.tell()
    if not 0 <= size <= left:
        raise pickle.UnpicklingError(f"storage {storage.key} needs {size} bytes, {left} are left")
    return np.frombuffer(file.read(size), storage.dtype)


def _tensor(name: str, view: _View, storage: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Cut one tensor out of its storage, having checked that no element lies outside."""
    if len(view.shape) != len(view.strides):
        raise pickle.UnpicklingError(f"{name} has {len(view.shape)} dimensions and {len(view.strides)} strides")
    last = view.offset + sum((size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True))
    inside = all(number >= 0 for number in (view.offset, *view.shape, *view.strides)) and last < len(storage)
    # Strides of 0 could turn one number into any amount of memory.
    if not inside or math.prod(view.shape) > len(storage):
        raise pickle.UnpicklingError(f"{name} reaches outside its storage of {len(storage)} numbers")
    byte_strides = [stride * storage.itemsize for stride in view.strides]
    window = np.lib.stride_tricks.as_strided(storage[view.offset :], view.shape, byte_strides)
    tensor = np.array(window, order="C")
    tensor.flags.writeable = False
    return tensor


def _next_pickle(file: IO[bytes]) -> Any:
    return _StateDictUnpickler(file).load()
