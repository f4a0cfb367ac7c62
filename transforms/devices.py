"""Which devices a model works on: chosen when it is loaded, named in the log, and never silently others.

TensorFlow runs a call for a GPU that is not there on the CPU, without a word. So what is asked for is looked up here
first, each call is placed by name, and where the answer came from is compared with where it was asked for.
"""

import contextlib
import logging
import os
import queue
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from transforms.errors import ModelError
from transforms.model_interface import first_line

_LOG = logging.getLogger(__name__)

CPU = "/device:CPU:0"
PROCESS_ORDINAL = "SCORE_IMAGES_PROCESS_ORDINAL"
"""Environment variable: which of the scoring processes of a machine this one is, from 0. Its GPU is that number, and
starts again at 0 where there are more processes than GPUs."""


class Devices(NamedTuple):
    """What a model works on."""

    names: tuple[str, ...]
    """TensorFlow's names in this process: /device:GPU:0. The CPU is one device, however many cores it has."""
    reason: str
    """Which they are on the machine, and why, for the log and the manifest."""

    @property
    def are_gpus(self) -> bool:
        """Whether they are accelerators: those want few shapes and large batches."""
        return self.names[0] != CPU


def claim_devices(asked: str, environment: Mapping[str, str] = os.environ) -> Devices:
    """Find the devices that are asked for and hide the other GPUs, so that this process takes no memory on them.

    Call it before TensorFlow starts its devices: afterwards nothing can be hidden any more, and memory growth stays
    as it is.

    Args:
        asked: auto, cpu, gpu or gpu:N, as model.device.
        environment: Where PROCESS_ORDINAL may stand; it chooses one GPU for auto and gpu.

    Raises:
        ModelError: There is no such GPU, or the process has started without it.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    numbers, reason = _choose(asked, len(gpus), environment.get(PROCESS_ORDINAL))
    chosen = [gpus[number] for number in numbers]
    # Where TensorFlow has started already, another model of this process or its host program has chosen before: the
    # lines below see whether that will do.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices(chosen, "GPU")
    visible = tf.config.get_visible_devices("GPU")
    hidden = [number for number in numbers if gpus[number] not in visible]
    if hidden:
        shown = [number for number, gpu in enumerate(gpus) if gpu in visible]
        raise ModelError(
            f"model.device {asked} needs {_spoken(hidden)}, but this process has started TensorFlow with "
            f"{_spoken(shown) if shown else 'the CPU alone'}; score with it in a process of its own"
        )
    prepare_devices()
    if not chosen:
        return Devices((CPU,), reason)
    return Devices(tuple(f"/device:GPU:{visible.index(gpu)}" for gpu in chosen), reason)


def _choose(asked: str, count: int, ordinal: str | None) -> tuple[Sequence[int], str]:
    """Return the numbers of the GPUs, and the reason."""
    kind, _, number = asked.partition(":")
    if kind == "cpu":
        return (), "the CPU, as declared"
    if not count:
        if kind == "gpu":
            raise ModelError(
                f"model.device is {asked}, but TensorFlow finds no GPU on this machine; install its driver and "
                "tensorflow[and-cuda], or use model.device: cpu (auto takes whatever there is)"
            )
        return (), "the CPU: there is no GPU"
    if number:
        if int(number) >= count:
            raise ModelError(
                f"model.device is {asked}, but this machine has {_spoken(range(count))} only; "
                "use one of them, or model.device: gpu for all"
            )
        return (int(number),), f"{_spoken([int(number)])}, as declared"
    if ordinal is not None:
        if not (ordinal.isascii() and ordinal.isdigit()):
            raise ModelError(
                f"{PROCESS_ORDINAL} must be the number of this process on its machine, from 0, got {ordinal!r}"
            )
        mine = int(ordinal) % count
        return (mine,), f"{_spoken([mine])} of {count}: {PROCESS_ORDINAL} is {ordinal}"
    return range(count), f"{_spoken(range(count))}, all there are"


def _spoken(numbers: Sequence[int]) -> str:
    return ", ".join(f"GPU {number}" for number in numbers)


def prepare_devices() -> str:
    """Let TensorFlow take GPU memory as it needs it, instead of all at once; call it before a device starts.

    Returns:
        What was done, in one sentence.
    """
    import tensorflow as tf

    gpus = tf.config.get_visible_devices("GPU")
    if not gpus:
        return "no GPU"
    try:
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError as error:
        # TensorFlow fixes this when its first op runs; a host program may have run one before us.
        note = f"GPU memory growth stays as it is, the devices have started already: {first_line(error)}"
        _LOG.info("%s", note)
        return note
    return f"memory growth on for {len(gpus)} GPU{'s' if len(gpus) > 1 else ''}"


def check_origin(answer: Any, asked: str) -> None:
    """Hold a tensor to the device that was asked to compute it.

    Args:
        answer: A tensor that a call on that device has returned.
        asked: TensorFlow's name of the device.

    Raises:
        ModelError: It comes from another one.
    """
    found = answer.backing_device
    if not found.endswith(asked):
        raise ModelError(
            f"the model was asked to work on {asked.removeprefix('/device:')}, but its answer comes from "
            f"{found.rpartition('/device:')[2]}: its last operations exist for that device only, or the model names "
            "it; use model.device: cpu, or export the model without devices"
        )


class DeviceSlots:
    """Lets so many calls at a time onto each device: more gain nothing on a busy one and take more of its memory.

    Args:
        devices: TensorFlow's names.
        calls_in_flight: Calls at a time on each.
    """

    def __init__(self, devices: Sequence[str], calls_in_flight: int) -> None:
        self.devices = tuple(devices)
        self.count = len(devices) * calls_in_flight
        self._free: queue.SimpleQueue[str] = queue.SimpleQueue()
        for _ in range(calls_in_flight):
            for device in devices:
                self._free.put(device)

    @contextlib.contextmanager
    def take(self) -> Iterator[str]:
        """Wait for a device that is free, the one that has been so for longest, and hold it for the block."""
        device = self._free.get()
        try:
            yield device
        finally:
            self._free.put(device)
