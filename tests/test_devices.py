"""Which devices a model works on: chosen by name, refused where they are not there, several fed by one process."""

import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.model_zoo import expected_logits, photos, pooled_model, table_model
from transforms.devices import CPU, PROCESS_ORDINAL, Devices, DeviceSlots, check_origin, claim_devices, prepare_devices
from transforms.errors import ModelError
from transforms.models import load_model
from transforms.settings import ModelSettings, PreprocessSettings

PLAIN = PreprocessSettings(value_range="0_255")


class Machine:
    """Stands for TensorFlow's list of GPUs: what is visible is fixed once it has started, as there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
        import tensorflow as tf

        self.gpus = [f"gpu {number}" for number in range(gpus)]
        self.visible = self.gpus
        self.growing: list[str] = []
        self.started = False
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: self.gpus if kind == "GPU" else ["cpu"])
        monkeypatch.setattr(tf.config, "get_visible_devices", lambda _: self.visible)
        monkeypatch.setattr(tf.config, "set_visible_devices", self._set_visible)
        monkeypatch.setattr(tf.config.experimental, "set_memory_growth", self._grow)

    def _set_visible(self, devices: list[str], kind: str) -> None:
        assert kind == "GPU"
        if self.started and devices != self.visible:
            raise RuntimeError("Visible devices cannot be modified after being initialized")
        self.visible = devices

    def _grow(self, gpu: str, enable: bool) -> None:
        if self.started and gpu not in self.growing:
            raise RuntimeError("Physical devices cannot be modified after being initialized")
        assert enable
        self.growing.append(gpu)


@pytest.mark.parametrize(
    ("asked", "gpus", "ordinal", "names", "visible", "reason"),
    [
        ("auto", 0, None, (CPU,), [], "the CPU: there is no GPU"),
        ("auto", 0, "1", (CPU,), [], "the CPU: there is no GPU"),
        ("auto", 2, None, ("/device:GPU:0", "/device:GPU:1"), [0, 1], "GPU 0, GPU 1, all there are"),
        ("gpu", 1, None, ("/device:GPU:0",), [0], "GPU 0, all there are"),
        # The only one that is left visible is number 0 to TensorFlow.
        ("gpu:1", 2, None, ("/device:GPU:0",), [1], "GPU 1, as declared"),
        ("gpu:1", 2, "0", ("/device:GPU:0",), [1], "GPU 1, as declared"),
        ("gpu", 4, "3", ("/device:GPU:0",), [3], f"GPU 3 of 4: {PROCESS_ORDINAL} is 3"),
        ("auto", 2, "5", ("/device:GPU:0",), [1], f"GPU 1 of 2: {PROCESS_ORDINAL} is 5"),
        ("cpu", 2, None, (CPU,), [], "the CPU, as declared"),
    ],
)
def test_devices_are_those_that_were_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    gpus: int,
    ordinal: str | None,
    names: tuple[str, ...],
    visible: list[int],
    reason: str,
) -> None:
    """Each setting, with and without the number of the process; memory grows on those taken, the others are hidden."""
    machine = Machine(monkeypatch, gpus)
    devices = claim_devices(asked, {} if ordinal is None else {PROCESS_ORDINAL: ordinal})
    assert devices == Devices(names, reason)
    assert machine.visible == machine.growing == [f"gpu {number}" for number in visible]


@pytest.mark.parametrize(
    ("asked", "gpus", "ordinal", "message"),
    [
        ("gpu", 0, None, r"model.device is gpu, but TensorFlow finds no GPU .* or use model.device: cpu \(auto takes"),
        ("gpu:0", 0, None, "model.device is gpu:0, but TensorFlow finds no GPU on this machine; install its driver"),
        ("gpu:2", 2, None, "model.device is gpu:2, but this machine has GPU 0, GPU 1 only; use one of them"),
        ("gpu", 2, "two", f"{PROCESS_ORDINAL} must be the number of this process .*, from 0, got 'two'"),
        ("auto", 2, "-1", f"{PROCESS_ORDINAL} must be the number of this process .*, from 0, got '-1'"),
    ],
)
def test_gpu_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, asked: str, gpus: int, ordinal: str | None, message: str
) -> None:
    """The CPU never stands in for a GPU that was asked for."""
    Machine(monkeypatch, gpus)
    with pytest.raises(ModelError, match=message):
        claim_devices(asked, {} if ordinal is None else {PROCESS_ORDINAL: ordinal})


def test_gpu_that_the_process_has_started_without_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second model of a process takes what the first has left visible, or says why it cannot."""
    machine = Machine(monkeypatch, 2)
    claim_devices("gpu:1", {})
    machine.started = True
    assert claim_devices("gpu:1", {}).names == ("/device:GPU:0",)
    assert claim_devices("cpu", {}).names == (CPU,)
    with pytest.raises(ModelError, match="gpu:0 needs GPU 0, but this process has started TensorFlow with GPU 1; "):
        claim_devices("gpu:0", {})
    with pytest.raises(ModelError, match="gpu needs GPU 0, but this process has started TensorFlow with GPU 1; "):
        claim_devices("gpu", {})


def test_gpu_is_refused_after_a_model_on_the_cpu_has_hidden_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other order."""
    machine = Machine(monkeypatch, 1)
    claim_devices("cpu", {})
    machine.started = True
    with pytest.raises(ModelError, match="gpu needs GPU 0, but .* with the CPU alone; score with it in a process of"):
        claim_devices("gpu", {})


def test_devices_are_prepared_any_number_of_times(tmp_path: Path) -> None:
    """Preparing devices that have started already is recorded, not fatal."""
    load_model(ModelSettings(path=str(pooled_model(tmp_path / "m"))), PLAIN).predict(photos(1))
    assert prepare_devices() == prepare_devices()


def test_started_gpu_is_recorded(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where TensorFlow refuses to change memory growth, the reason is logged and the run goes on."""
    Machine(monkeypatch, 1).started = True
    with caplog.at_level("INFO", logger="transforms"):
        note = prepare_devices()
    assert note == (
        "GPU memory growth stays as it is, the devices have started already: "
        "Physical devices cannot be modified after being initialized"
    )
    assert caplog.messages == [note]


def test_answer_of_another_device_is_refused() -> None:
    """TensorFlow moves what it has no kernel for, without a word."""
    answer: Any = SimpleNamespace(backing_device="/job:localhost/replica:0/task:0/device:CPU:0")
    check_origin(answer, CPU)
    with pytest.raises(
        ModelError, match="asked to work on GPU:1, but its answer comes from CPU:0: .* export the model"
    ):
        check_origin(answer, "/device:GPU:1")


def test_device_is_one_line_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who looks for a slow night finds what it ran on."""
    with caplog.at_level("INFO", logger="transforms"):
        load_model(ModelSettings(path=str(pooled_model(tmp_path / "m")), device="cpu"), PLAIN)
    assert [line for line in caplog.messages if "works on" in line] == ["the model works on the CPU, as declared"]


def test_slots_keep_so_many_calls_on_each_device() -> None:
    """Two devices with two calls each: four at a time, two on each, and never a fifth."""
    slots = DeviceSlots(("a", "b"), 2)
    assert slots.count == 4
    running: list[str] = []
    seen: list[tuple[int, int]] = []
    all_in = threading.Barrier(4)

    def work() -> None:
        with slots.take() as device:
            running.append(device)
            seen.append((running.count("a"), running.count("b")))
            all_in.wait(30)
            running.remove(device)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(a for a, _ in seen) == max(b for _, b in seen) == 2


def test_slot_is_given_back_after_an_error() -> None:
    """Or one poisoned batch would stop the device for ever."""
    slots = DeviceSlots(("a",), 1)
    with pytest.raises(ValueError, match="poisoned"), slots.take():
        raise ValueError("poisoned")
    with slots.take() as device:
        assert device == "a"


_SEVERAL = """
import sys
import numpy as np
import tensorflow as tf

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 3)

from transforms import models
from transforms.devices import Devices
from transforms.model_calls import call_on
from transforms.settings import ModelSettings, PreprocessSettings

names = ("/device:CPU:1", "/device:CPU:2")
models.claim_devices = lambda asked: Devices(names, "two devices of a test")
model = models.load_model(ModelSettings(path=sys.argv[1]), PreprocessSettings(value_range="0_255"))
pixels = np.load(sys.argv[2])
for name in model.devices.names:
    print(call_on(model.compiled, pixels, name).backing_device.rpartition("/")[2])
    np.save(sys.argv[2] + name[-1], model.predict(pixels, name))
print(model.devices.reason)
"""


def several(model: Path, folder: Path) -> list[str]:
    """Load a model on two separate devices of a process that has three."""
    np.save(folder / "pixels.npy", photos(5))
    done = subprocess.run(
        [sys.executable, "-c", _SEVERAL, str(model), str(folder / "pixels.npy")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_one_process_feeds_several_devices(tmp_path: Path) -> None:
    """The frozen graph is on each of them, and each gives the same rows from where it was asked."""
    said = several(pooled_model(tmp_path / "m"), tmp_path)
    assert said == ["device:CPU:1", "device:CPU:2", "two devices of a test"]
    for number in (1, 2):
        np.testing.assert_allclose(
            np.load(tmp_path / f"pixels.npy{number}.npy"), expected_logits(photos(5)), rtol=1e-4, atol=1e-3
        )


def test_unfrozen_model_stays_on_one_device(tmp_path: Path) -> None:
    """Its variables lie there; why only one is used is said."""
    said = several(table_model(tmp_path / "m"), tmp_path)
    assert said == [
        "device:CPU:1",
        "the first of two devices of a test: the model runs unfrozen (it holds 1 lookup table or other resources)",
    ]


def test_devices_that_an_exported_model_names_are_not_those_of_this_machine(tmp_path: Path) -> None:
    """A model exported for the fourth GPU of its maker's machine goes where it is asked to go."""
    import tensorflow as tf

    def head(logits: Any) -> dict[str, Any]:
        with tf.device("/device:GPU:3"):
            return {"logits": logits + 1.0}

    model = load_model(ModelSettings(path=str(pooled_model(tmp_path / "m", head=head))), PLAIN)
    assert {op.device for op in model.compiled.frozen.flat.graph.get_operations()} == {""}
    np.testing.assert_allclose(model.predict(photos(3)), expected_logits(photos(3)) + 1, rtol=1e-4, atol=1e-3)
