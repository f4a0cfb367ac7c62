"""The state dict reader: exact on what torch.save wrote, and deaf to everything that is no plain tensor."""

import io
import os
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.demo.unpickle import load_state_dict
from transforms.errors import ModelError

MAGIC = 0x1950A86A20F9469CFC6C


class Global:
    """Something that pickles as the bare name `module.name`, which need not exist here."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Storage:
    """A storage as torch.save writes it: a persistent id in the pickle, raw numbers at the end of the file."""

    def __init__(self, key: str, numbers: np.ndarray, kind: str = "FloatStorage", length: int | None = None) -> None:
        self.key, self.numbers, self.kind = key, numbers, kind
        self.length = len(numbers) if length is None else length


class Call:
    """A call that the unpickler is asked to make."""

    def __init__(self, function: Global, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments


class TorchPickler(pickle._Pickler):  # type: ignore[name-defined]  # the Python one, which lets a name be written freely
    """Writes the stand-ins above as PyTorch would."""

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, Storage):
            return ("storage", Global("torch", obj.kind), obj.key, "cpu", obj.length, None)
        return None

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Global):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)


def tensor(storage: Storage, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> Call:
    """Say how a tensor lies in its storage."""
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), storage, offset, shape, strides, False, OrderedDict())


def torch_bytes(
    state: Any,
    storages: list[Storage],
    *,
    magic: Any = MAGIC,
    protocol: int = 1001,
    little_endian: bool = True,
) -> bytes:
    """Write the legacy format of torch.save."""
    file = io.BytesIO()
    keys = [storage.key for storage in storages]
    for part in (magic, protocol, {"protocol_version": 1001, "little_endian": little_endian}, state, keys):
        TorchPickler(file, protocol=2).dump(part)
    for storage in storages:
        file.write(struct.pack("<q", storage.length) + storage.numbers.tobytes())
    return file.getvalue()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    """A function that writes bytes to a file and returns its path."""

    def write_bytes(content: bytes) -> Path:
        path = tmp_path / "model.pth"
        path.write_bytes(content)
        return path

    return write_bytes


SIX = Storage("a", np.arange(6, dtype="<f4"))
STEPS = Storage("b", np.array([7], dtype="<i8"), kind="LongStorage")


def test_tensors_are_read_exactly_as_strides_and_offset_say(write: Callable[[bytes], Path]) -> None:
    """Names keep their order, dtypes are float32 and int64, and one storage may serve several tensors."""
    state = OrderedDict(
        rows=tensor(SIX, (2, 3), (3, 1)),
        columns=tensor(SIX, (3, 2), (1, 3)),  # the transpose: the same numbers, other strides
        tail=tensor(SIX, (2,), (1,), offset=4),
        steps=tensor(STEPS, (), ()),  # a scalar, as num_batches_tracked is
    )

    tensors = load_state_dict(write(torch_bytes(state, [SIX, STEPS])))

    assert list(tensors) == ["rows", "columns", "tail", "steps"]
    np.testing.assert_array_equal(tensors["rows"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(tensors["columns"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(tensors["tail"], [4, 5])
    assert tensors["steps"] == 7
    assert {name: array.dtype for name, array in tensors.items()} == {
        "rows": np.float32,
        "columns": np.float32,
        "tail": np.float32,
        "steps": np.int64,
    }
    assert all(array.flags.c_contiguous and not array.flags.writeable for array in tensors.values())


class RunsACommand:
    """What an attacker would put in a model file."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def test_a_pickle_that_calls_os_system_is_refused_before_the_call(
    write: Callable[[bytes], Path], tmp_path: Path
) -> None:
    """The command does not run, and the error names what the file asked for."""
    victim = tmp_path / "victim"
    path = write(pickle.dumps(RunsACommand(f"touch {victim}"), protocol=2))

    with pytest.raises(ModelError, match=rf"{path} asks for (posix|nt)\.system and was not loaded") as caught:
        load_state_dict(path)

    assert not victim.exists()
    assert "could run code" in str(caught.value)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("builtins", "getattr"),  # the usual first step out of a list of allowed names
        ("torch", "load"),  # the right package, another name
        ("torch", "HalfStorage"),  # harmless, but nothing here can read it
        ("collections", "OrderedDict.fromkeys"),  # an attribute of an allowed class
        ("pipeline.demo.unpickle", "os.system"),  # what our own module has imported
    ],
)
def test_any_other_name_is_refused(module: str, name: str, write: Callable[[bytes], Path]) -> None:
    """Only the four names that a state dict needs can be asked for, wherever they stand in the file."""
    state = OrderedDict(weight=Call(Global(module, name), "1"))

    with pytest.raises(ModelError) as caught:
        load_state_dict(write(torch_bytes(state, [])))

    assert f"asks for {module}.{name} and was not loaded" in str(caught.value)


def test_a_file_cut_at_any_byte_is_a_clear_error(write: Callable[[bytes], Path]) -> None:
    """No prefix of a valid file loads, and each fails with the same kind of error that names the file."""
    whole = torch_bytes(OrderedDict(weight=tensor(SIX, (2, 3), (3, 1)), steps=tensor(STEPS, (), ())), [SIX, STEPS])

    for length in range(len(whole)):
        path = write(whole[:length])
        with pytest.raises(ModelError) as caught:
            load_state_dict(path)
        assert str(caught.value).startswith(f"{path} is damaged or cut short (")
        assert str(caught.value).endswith("); install the package again")


LIES = Storage("a", np.arange(6, dtype="<f4"), length=2**60)

BAD_FILES = {
    # a storage that says it holds 2**60 numbers: refused before memory is asked for
    "storage a needs 4611686018427387904 bytes, 24 are left": torch_bytes({"w": tensor(LIES, (6,), (1,))}, [LIES]),
    # one row too many
    "w reaches outside its storage of 6 numbers": torch_bytes({"w": tensor(SIX, (3, 3), (3, 1))}, [SIX]),
    # the last number lies one behind the end
    "v reaches outside its storage of 6 numbers": torch_bytes({"v": tensor(SIX, (6,), (1,), offset=1)}, [SIX]),
    # a negative stride would read what lies in memory before the storage
    "u reaches outside its storage of 6 numbers": torch_bytes({"u": tensor(SIX, (2,), (-1,))}, [SIX]),
    # a stride of 0 would make a terabyte of one number
    "t reaches outside its storage of 6 numbers": torch_bytes({"t": tensor(SIX, (2**38,), (0,))}, [SIX]),
    "s has 2 dimensions and 1 strides": torch_bytes({"s": tensor(SIX, (2, 3), (1,))}, [SIX]),
    "1 storages are named and 0 follow": torch_bytes({"w": tensor(SIX, (6,), (1,))}, []),
    "it starts with '42' in place of the magic number 0x1950a86a20f9469cfc6c": torch_bytes({}, [], magic=42),
    "protocol 1002 is not known, 1001 is": torch_bytes({}, [], protocol=1002),
    "it was written on a big-endian machine": torch_bytes({}, [], little_endian=False),
    "it holds a list in place of a state dict": torch_bytes([1], []),
    "'w' is no tensor": torch_bytes({"w": 1}, []),
}


@pytest.mark.parametrize("reason", BAD_FILES)
def test_a_file_that_contradicts_itself_is_refused_with_the_reason(reason: str, write: Callable[[bytes], Path]) -> None:
    """What the pickle claims is checked against what the file holds."""
    path = write(BAD_FILES[reason])

    with pytest.raises(ModelError) as caught:
        load_state_dict(path)

    assert str(caught.value) == f"{path} is damaged or cut short ({reason}); install the package again"


def test_a_zip_checkpoint_is_refused(write: Callable[[bytes], Path]) -> None:
    """Files of torch.save since PyTorch 1.6 are zip archives: another format."""
    with pytest.raises(ModelError, match="is damaged or cut short"):
        load_state_dict(write(b"PK\x03\x04" + bytes(100)))


def test_a_missing_file_is_a_model_error(tmp_path: Path) -> None:
    """The operating system's reason is passed on."""
    with pytest.raises(ModelError, match=r"absent\.pth cannot be read: No such file or directory"):
        load_state_dict(tmp_path / "absent.pth")
