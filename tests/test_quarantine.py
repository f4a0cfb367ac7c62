"""The quarantine: what ends, hangs or swells a decoder costs its own image; what comes back is what threads make."""

import io
import json
import logging
import os
import pickle
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from transforms import quarantine as quarantine_module
from transforms import quarantine_worker
from transforms.errors import ExitCode, FailureCode, ImageError, InterruptedRunError, RunError, Stage
from transforms.images import Decoded
from transforms.load_plan import LoadPlan
from transforms.loading import load_one, prepare
from transforms.quarantine import Quarantine
from transforms.records import ImageRef
from transforms.settings import DecodeSettings, LoadSettings, PreprocessSettings

POISON = "tests.poison:prepare"
MIB = 1024**2
REPLACED = (
    "on this image, and its worker process was replaced: take the file for hostile, make it anew from its source or "
    "leave it out"
)


def plan(encoded: bool = False, **decode: Any) -> LoadPlan:
    """Return a plan for small square inputs."""
    return LoadPlan(
        decode=DecodeSettings(**{"quarantine": True, "timeout_seconds": 30, **decode}),
        preprocess=PreprocessSettings(value_range="0_255", crop_pct=0.875),
        height=7,
        width=9,
        load=LoadSettings(),
        batch_size=4,
        encoded=encoded,
    )


def image(kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (40, 30), seed: int = 0) -> bytes:
    """Return an encoded image of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise, "RGBA").convert(mode).save(buffer, kind)
    return buffer.getvalue()


def marked(marker: str | bytes) -> bytes:
    """Return an image that tests.poison treats in a special way, and everything else as any image."""
    return image() + b"MARK:" + (marker.encode() if isinstance(marker, str) else marker)


def outcome(preparing: Callable[[bytes, LoadPlan], Any], data: bytes, plan: LoadPlan) -> tuple[Any, ...]:
    """Return what came of an image, to be compared."""
    try:
        made, info = preparing(data, plan)
    except ImageError as error:
        return error.code, error.message
    return (made if isinstance(made, bytes) else (made.shape, made.dtype, made.tobytes())), info


def refusal(quarantine: Quarantine, marker: str | bytes, plan: LoadPlan) -> tuple[str, str]:
    """Return code and message of a marked image."""
    with pytest.raises(ImageError) as raised:
        quarantine.prepare(marked(marker), plan)
    return raised.value.code, raised.value.message


def report(quarantine: Quarantine, plan: LoadPlan) -> dict[str, Any]:
    """Ask this thread's worker about itself."""
    found: dict[str, Any] = json.loads(refusal(quarantine, "report", plan)[1])
    return found


def is_alive(pid: int) -> bool:
    """Tell whether a process is there and has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Wait for something that happens in another process."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture(scope="module")
def poisoned() -> Iterator[tuple[Quarantine, LoadPlan]]:
    """A quarantine whose workers heed markers, and its plan."""
    small = plan(max_decode_bytes=16 * MIB)
    with Quarantine(small, POISON) as quarantine:
        yield quarantine, small


class Starts:
    """A module of workers that does something when it is imported, and counts how often it was."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def module(self, at_import: str) -> str:
        """Write it; return the target of a quarantine."""
        (self._folder / "starting.py").write_text(
            "import os, signal, time\n"
            "from transforms.loading import prepare\n"
            f"log = os.open({str(self._folder / 'log')!r}, os.O_CREAT | os.O_APPEND | os.O_WRONLY)\n"
            "os.write(log, b'.')\n"
            "count = os.fstat(log).st_size\n"
            f"{at_import}\n"
        )
        return "starting:prepare"

    def count(self) -> int:
        """Return how many workers have begun to start."""
        log = self._folder / "log"
        return log.stat().st_size if log.exists() else 0


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Starts:
    """Workers that do something while they start."""
    monkeypatch.syspath_prepend(tmp_path)
    return Starts(tmp_path)


ORDINARY = (
    ("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "L"), ("PNG", "P"), ("WEBP", "RGB"),
    ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "RGB"),
)  # fmt: skip


class TestWhatComesBack:
    @pytest.mark.parametrize("encoded", [False, True])
    def test_images_are_bit_for_bit_those_of_threads_and_so_are_refusals(self, encoded: bool) -> None:
        """Pixels, bytes for a model that decodes, info, codes and messages, over formats and damages."""
        one = plan(encoded, max_decode_bytes=16 * MIB)
        images = [image(kind, mode) for kind, mode in ORDINARY]
        images += [b"", b"no image at all", image()[:200], image("JPEG")[:300], image(mode="L", size=(2000, 1500))]
        with Quarantine(one) as quarantine:
            found = [outcome(quarantine.prepare, data, one) for data in images]
            assert quarantine.take_restarts() == 0
        assert found == [outcome(prepare, data, one) for data in images]
        failed = [isinstance(result[0], FailureCode) for result in found]
        # What is wrong inside of a PNG that goes to the model as it is, only the model finds.
        assert failed == [False] * 10 + [True, True, not encoded, True, True]

    def test_timeouts_that_others_give_to_all_sockets_change_nothing(self) -> None:
        """Beam does so where it looks for Google's credentials."""
        one = plan()
        socket.setdefaulttimeout(60)
        try:
            with Quarantine(one) as quarantine:
                for _ in range(2):
                    assert outcome(quarantine.prepare, image(), one) == outcome(prepare, image(), one)
                    time.sleep(0.2)  # the worker waits for the next image
                assert quarantine.take_restarts() == 0
        finally:
            socket.setdefaulttimeout(None)

    def test_photos_are_bit_for_bit_those_of_threads(self, image_data_dir: Path) -> None:
        """Real ones, at a real size, with a large one that is scaled down while it is decoded."""
        preprocess = PreprocessSettings(value_range="0_255", crop_pct=0.875)
        one = LoadPlan(DecodeSettings(quarantine=True), preprocess, 224, 224, LoadSettings(), 16)
        photos = [path.read_bytes() for path in sorted((image_data_dir / "photos").iterdir())[:12]]
        photos.append(image("JPEG", size=(1600, 1500)))
        with Quarantine(one) as quarantine:
            for data in photos:
                assert outcome(quarantine.prepare, data, one) == outcome(prepare, data, one)

    def test_unexpected_exception_is_logged_and_told_as_by_threads(
        self, poisoned: tuple[Quarantine, LoadPlan], caplog: pytest.LogCaptureFixture
    ) -> None:
        """The same sentence, in one line of the log; the traceback of the worker is a detail."""
        quarantine, one = poisoned
        with caplog.at_level(logging.DEBUG, logger="transforms.quarantine_worker"):
            assert refusal(quarantine, "unexpected", one) == (
                "corrupt_image", "loading failed unexpectedly: ZeroDivisionError: no such",
            )  # fmt: skip
        warning, detail = caplog.records
        assert (warning.levelno, warning.getMessage()) == (
            logging.WARNING,
            "a worker process failed in a way that the decoders do not announce: loading failed unexpectedly: "
            "ZeroDivisionError: no such",
        )
        assert detail.levelno == logging.DEBUG
        assert "tests/poison.py" in detail.getMessage()
        assert "ZeroDivisionError" in detail.getMessage()


class TestPoison:
    @pytest.mark.parametrize(
        ("marker", "how"),
        [
            ("segfault", "SIGSEGV"),
            ("abort", "SIGABRT"),
            ("exit", "exit code 3"),
        ],
    )
    def test_crash_is_the_failure_of_its_image(
        self, poisoned: tuple[Quarantine, LoadPlan], marker: str, how: str
    ) -> None:
        """It crashes a fresh worker, too; the next image finds another one."""
        quarantine, one = poisoned
        quarantine.prepare(image(), one)
        quarantine.take_restarts()
        assert refusal(quarantine, marker, one) == ("corrupt_image", f"the decoder crashed ({how}) {REPLACED}")
        assert quarantine.take_restarts() == 2  # the used one, and the fresh one that was asked for proof
        assert refusal(quarantine, marker, one)[0] == "corrupt_image"
        assert quarantine.take_restarts() == 1
        assert isinstance(quarantine.prepare(image(), one), Decoded)

    def test_neighbour_of_an_image_that_damaged_the_worker_is_unharmed(
        self, poisoned: tuple[Quarantine, LoadPlan]
    ) -> None:
        """What ends a used worker is tried again in a fresh one before it is blamed."""
        quarantine, one = poisoned
        quarantine.prepare(marked("damage"), one)
        quarantine.take_restarts()
        assert outcome(quarantine.prepare, image(), one) == outcome(prepare, image(), one)
        assert quarantine.take_restarts() == 1

    def test_hang_in_native_code_is_ended_in_time(self) -> None:
        """Even where it keeps the interpreter's lock of its process; the neighbour is unharmed."""
        one = plan(timeout_seconds=0.5)
        with Quarantine(one, POISON) as quarantine:
            pid = report(quarantine, one)["pid"]
            started = time.monotonic()
            assert refusal(quarantine, "hang", one) == (
                "decode_timeout",
                "decoding and resizing did not end within the 0.5 s that decode.timeout_seconds allows: look at the "
                "image, or raise it",
            )
            assert time.monotonic() - started < 20
            assert not is_alive(pid)
            assert quarantine.take_restarts() == 1
            assert report(quarantine, one)["seen"] == 1

    @pytest.mark.parametrize(
        ("marker", "message"),
        [
            ("swell", "decoding needs more memory than the 16777216 bytes that decode.max_decode_bytes allows"),
            ("swell in a decoder", "9x9 pixels need more memory than there is"),
        ],
    )
    def test_memory_without_end_fails_its_image(
        self, poisoned: tuple[Quarantine, LoadPlan], marker: str, message: str
    ) -> None:
        """It gets what the plan allows and a spare, never the machine's memory."""
        quarantine, one = poisoned
        assert refusal(quarantine, marker, one) == ("too_many_pixels", message)
        assert isinstance(quarantine.prepare(image(), one), Decoded)

    def test_memory_that_earlier_images_have_taken_is_no_fault_of_this_one(
        self, poisoned: tuple[Quarantine, LoadPlan]
    ) -> None:
        """A used worker that is full is replaced, and the image tried again."""
        quarantine, one = poisoned
        quarantine.prepare(image(), one)
        assert isinstance(quarantine.prepare(marked("swell when used"), one), Decoded)

    @pytest.mark.parametrize(
        ("said", "found"),
        [
            (b"say:{", "its answer is not one: "),
            (b"say:[]", "its answer is not one: no object"),
            (b"say:\xff\xfe", "its answer is not one: "),
            (b"say:" + b"[" * 60_000, "its answer is not one: a header nested without end"),
            (b"bytes:" + (2**63).to_bytes(8, "big"), "its answer is not one: a header of 9223372036854775808 bytes"),
            (b'say:{"width": 1}', "its answer is not one: height is None"),
            (b'say:{"width": true, "height": 1}', "its answer is not one: width is True"),
            (b'say:{"width": 1, "height": 2147483648}', "its answer is not one: height is 2147483648"),
            (b'say:{"width": 1, "height": 1, "format": "exe"}', "its answer is not one: format is exe"),
            (
                b'say:{"width": 1, "height": 1, "format": "png", "decoder": "me"}',
                "its answer is not one: decoder is me",
            ),
            (
                b'say:{"width": 1, "height": 1, "format": "png", "decoder": "pillow", "bytes": 190}',
                "its answer is not one: bytes is 190",
            ),
            (
                b'say:{"width": 1, "height": 1, "format": "png", "decoder": "pillow", "bytes": 188}',
                "its answer is not one: 188 bytes of pixels, 189 are due",
            ),
            (b'say:{"code": "not_found", "message": "x"}', "its answer is not one: code is not_found"),
            (b"close", "it closed its connection"),
        ],
    )
    def test_worker_that_was_taken_over_can_say_nothing_that_matters(
        self, poisoned: tuple[Quarantine, LoadPlan], monkeypatch: pytest.MonkeyPatch, said: bytes, found: str
    ) -> None:
        """Sizes, values and codes are checked before memory is taken or a table written."""
        monkeypatch.setattr(quarantine_worker, "ORPHAN_SECONDS", 0.1)
        quarantine, one = poisoned
        code, message = refusal(quarantine, said, one)
        assert code == "corrupt_image"
        assert message.startswith(f"the decoder crashed ({found}")
        assert message.endswith(f") {REPLACED}")

    def test_text_that_no_table_could_hold_is_mended(self) -> None:
        """Half a surrogate pair would fail the whole failures table."""
        said = b'say:{"code": "corrupt_image", "message": "\\ud800 or not"}'
        with Quarantine(plan(), POISON) as quarantine:
            assert refusal(quarantine, said, plan()) == ("corrupt_image", "? or not")

    @pytest.mark.parametrize("said", [b"\0\0", (100).to_bytes(8, "big") + b"{"])
    def test_answer_that_stops_half_way_runs_into_the_deadline(self, said: bytes) -> None:
        """Neither a size nor a header is waited for without end."""
        one = plan(timeout_seconds=0.4)
        with Quarantine(one, POISON) as quarantine:
            assert refusal(quarantine, b"bytes:" + said, one)[0] == "decode_timeout"

    def test_bytes_that_a_models_decoder_must_not_see_are_refused(self) -> None:
        """A worker that was taken over cannot hand TensorFlow a format that the guard keeps from it."""
        one = plan(encoded=True)
        with Quarantine(one, POISON) as quarantine:
            gif = image("GIF", "P")
            header = {"width": 1, "height": 1, "format": "png", "decoder": "model", "bytes": len(gif)}
            text = json.dumps(header).encode()
            said = b"bytes:" + len(text).to_bytes(8, "big") + text + gif
            assert "an image that the model's decoder must not see" in refusal(quarantine, said, one)[1]


class TestWorkers:
    def test_worker_has_no_secrets_no_files_and_limits(
        self, monkeypatch: pytest.MonkeyPatch, poisoned: tuple[Quarantine, LoadPlan], tmp_path: Path
    ) -> None:
        """Its environment is what Python needs; the one descriptor beside the standard ones is its connection."""
        quarantine, one = poisoned
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        monkeypatch.setenv("PYTHON_INDEX_TOKEN", "x")
        with open(tmp_path / "open", "w") as file:
            os.set_inheritable(file.fileno(), True)
            assert refusal(quarantine, "abort", one)[0] == "corrupt_image"
            found = report(quarantine, one)
        assert found["descriptors"] == [0, 1, 2, found["connection"]]
        assert not [name for name in found["environment"] if "SECRET" in name or "TOKEN" in name]
        assert "PATH" in found["environment"]
        assert found["core"] == [0, 0]
        assert 16 * MIB < found["address_space"][0] < 2048 * MIB
        assert found["address_space"][1] == found["address_space"][0]

    def test_ctrl_c_is_for_the_parent(self, poisoned: tuple[Quarantine, LoadPlan]) -> None:
        """Neither the signal nor its process group reaches a worker."""
        quarantine, one = poisoned
        pid = report(quarantine, one)["pid"]
        assert os.getpgid(pid) != os.getpgid(0)
        os.kill(pid, signal.SIGINT)
        assert report(quarantine, one)["pid"] == pid

    def test_each_thread_has_its_own(self, poisoned: tuple[Quarantine, LoadPlan]) -> None:
        """And keeps it from image to image."""
        quarantine, one = poisoned
        pids: list[int] = []
        thread = threading.Thread(target=lambda: pids.extend(report(quarantine, one)["pid"] for _ in range(2)))
        thread.start()
        thread.join(60)
        assert pids[0] == pids[1] != report(quarantine, one)["pid"]

    def test_closing_ends_all_at_once(self) -> None:
        """One that is idle and one that hangs; whoever waits for it is told."""
        one = plan()
        raised: list[BaseException] = []

        busy: list[int] = []

        def hang() -> None:
            busy.append(report(quarantine, one)["pid"])
            try:
                quarantine.prepare(marked("hang"), one)
            except RunError as error:
                raised.append(error)

        with Quarantine(one, POISON) as quarantine:
            idle = report(quarantine, one)["pid"]
            thread = threading.Thread(target=hang)
            thread.start()
            assert wait_until(lambda: bool(busy))
            time.sleep(0.2)
        thread.join(30)
        assert not is_alive(idle)
        assert not is_alive(busy[0])
        assert [str(error) for error in raised] == ["the quarantine was closed while images were being decoded"]

    @pytest.mark.parametrize("marker", ["report", "hang"])
    def test_worker_ends_with_its_parent(self, marker: str, tmp_path: Path) -> None:
        """A parent that is killed leaves nothing behind: neither a worker that waits nor one that hangs."""
        (tmp_path / "image").write_bytes(marked(marker))
        script = (
            "import sys, threading, tests.test_quarantine as t\n"
            "quarantine = t.Quarantine(t.plan(), t.POISON)\n"
            "print(t.report(quarantine, t.plan())['pid'], flush=True)\n"
            "try:\n"
            "    quarantine.prepare(open(sys.argv[1], 'rb').read(), t.plan())\n"
            "except t.ImageError:\n"
            "    threading.Event().wait()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "image")],
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent,
        ) as parent:  # fmt: skip
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            assert is_alive(pid)
            time.sleep(0.2)
            parent.kill()
        assert wait_until(lambda: not is_alive(pid))

    @pytest.mark.parametrize(
        ("target", "reason"),
        [
            ("no_such_module:prepare", "ModuleNotFoundError: No module named 'no_such_module'"),
            ("tests.poison:missing", "AttributeError: module 'tests.poison' has no attribute 'missing'"),
            ("sleepy:prepare", "it was not ready within 2 s"),
        ],
    )
    def test_worker_that_does_not_start_stops_the_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, reason: str
    ) -> None:
        """Every image would find the same: no failure of one of them, but one line with the way out."""
        (tmp_path / "sleepy.py").write_text("import time\ntime.sleep(600)\n")
        (tmp_path / "x.png").write_bytes(image())
        monkeypatch.syspath_prepend(tmp_path)
        if target.startswith("sleepy"):
            for module in (quarantine_module, quarantine_worker):
                monkeypatch.setattr(module, "START_SECONDS", 2.0)
        one = plan()
        with Quarantine(one, target) as quarantine, pytest.raises(RunError) as raised:
            load_one(ImageRef(f"{tmp_path}/x.png", None, None), one, prepare_with=quarantine.prepare)
        assert raised.value.exit_code is ExitCode.WRONG_INPUT
        assert str(raised.value) == (
            f"a worker process of decode.quarantine does not start: {reason}; mend what {sys.executable} imports, or "
            "set decode.quarantine: false"
        )

    def test_start_that_failed_is_no_burden_for_later_images(self, starts: Starts) -> None:
        """Whoever goes on, or comes again, finds a worker that is started anew, and never blames an image."""
        target = starts.module("if count == 1: raise ImportError('not yet')")
        one = plan()
        with Quarantine(one, target) as quarantine:
            with pytest.raises(RunError, match="does not start: ImportError: not yet; mend what"):
                quarantine.prepare(image(), one)
            assert outcome(quarantine.prepare, image(), one) == outcome(prepare, image(), one)
        assert starts.count() == 2

    def test_worker_that_is_killed_while_it_starts_is_started_again(self, starts: Starts) -> None:
        """As when the machine is out of memory for a moment."""
        target = starts.module("if count < 3: os.kill(os.getpid(), signal.SIGKILL)")
        one = plan()
        with Quarantine(one, target) as quarantine:
            assert outcome(quarantine.prepare, image(), one) == outcome(prepare, image(), one)
        assert starts.count() == 3

    def test_workers_that_are_killed_at_every_start_interrupt_the_run(
        self, starts: Starts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The input is not to blame: the run may be continued, and the line says what to look for."""
        monkeypatch.setattr(quarantine_module, "START_SECONDS", 8.0)
        target = starts.module("os.kill(os.getpid(), signal.SIGKILL)")
        one = plan()
        with Quarantine(one, target) as quarantine, pytest.raises(InterruptedRunError) as raised:
            quarantine.prepare(image(), one)
        assert raised.value.exit_code is ExitCode.INTERRUPTED
        times = "once" if starts.count() == 1 else f"{starts.count()} times"
        assert re.sub(r"in \d\.\d s", "in ... s", str(raised.value)) == (
            f"worker processes of decode.quarantine are killed while they start (tried {times} in ... s, the last "
            "error: SIGKILL): look whether the machine is out of memory, give it more or lower load.threads"
        )

    def test_thread_that_is_abandoned_keeps_no_worker(self, poisoned: tuple[Quarantine, LoadPlan]) -> None:
        """It ends at once; a thread that comes back after all starts another, which is no restart."""
        quarantine, one = poisoned
        quarantine.take_restarts()
        pids: queue.SimpleQueue[int] = queue.SimpleQueue()
        may_go = threading.Event()

        def work() -> None:
            pids.put(report(quarantine, one)["pid"])
            assert may_go.wait(60)
            pids.put(report(quarantine, one)["pid"])

        thread = threading.Thread(target=work)
        thread.start()
        first = pids.get(timeout=60)
        assert quarantine.abandon(thread)
        assert not is_alive(first)
        assert not quarantine.abandon(thread)
        may_go.set()
        assert pids.get(timeout=60) != first
        thread.join(60)
        assert quarantine.take_restarts() == 0

    def test_image_whose_worker_was_abandoned_is_not_blamed(
        self, poisoned: tuple[Quarantine, LoadPlan], tmp_path: Path
    ) -> None:
        """Its thread had come back from the image that hung, and was at work again: a fresh worker tries once more."""
        quarantine, one = poisoned
        flag = tmp_path / "begun"
        made: list[Any] = []
        thread = threading.Thread(target=lambda: made.append(quarantine.prepare(marked(f"hang once:{flag}"), one)))
        thread.start()
        assert wait_until(flag.exists)
        assert quarantine.abandon(thread)
        thread.join(60)
        assert [type(one) for one in made] == [Decoded]

    def test_start_that_was_abandoned_is_begun_anew(self, starts: Starts) -> None:
        """By the thread that waits for it."""
        target = starts.module("if count == 1: time.sleep(600)")
        one = plan()
        made: list[Any] = []
        with Quarantine(one, target) as quarantine:
            thread = threading.Thread(target=lambda: made.append(quarantine.prepare(image(), one)))
            thread.start()
            assert wait_until(lambda: starts.count() == 1)
            assert quarantine.abandon(thread)
            thread.join(60)
        assert [type(one) for one in made] == [Decoded]

    def test_worker_of_a_thread_that_has_ended_is_cleared_away(self) -> None:
        """When the next one starts; until then it is a process that has ended, and costs no memory."""
        one = plan()
        pids: list[int] = []
        with Quarantine(one, POISON) as quarantine:
            thread = threading.Thread(target=lambda: pids.append(report(quarantine, one)["pid"]))
            thread.start()
            thread.join(60)
            assert wait_until(lambda: not is_alive(pids[0]))
            report(quarantine, one)
            assert not Path(f"/proc/{pids[0]}").exists()

    def test_python_that_cannot_be_started_stops_the_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The interpreter is where sys.executable says, or nowhere."""
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        with Quarantine(plan()) as quarantine, pytest.raises(RunError, match="No such file or directory: '/nowhere"):
            quarantine.prepare(image(), plan())


def test_interrupted_run_survives_the_way_from_a_worker() -> None:
    """Workers of a runner send their errors pickled."""
    again = pickle.loads(pickle.dumps(InterruptedRunError("text")))  # noqa: S301 - made in the line itself
    assert (type(again), again.exit_code, str(again)) == (InterruptedRunError, ExitCode.INTERRUPTED, "text")


def test_failures_of_the_quarantine_are_rows_like_any(tmp_path: Path, poisoned: tuple[Quarantine, LoadPlan]) -> None:
    """Stage, code, size and version, as of an image that a thread has decoded."""
    quarantine, one = poisoned
    (tmp_path / "x.png").write_bytes(marked("segfault"))
    loaded = load_one(ImageRef(f"{tmp_path}/x.png", None, None), one, prepare_with=quarantine.prepare)
    assert loaded.failure is not None
    assert loaded.failure[1:3] == (Stage.DECODE, FailureCode.CORRUPT_IMAGE)
    assert loaded.failure.ref.size_bytes == len(marked("segfault"))
    assert loaded.failure.ref.version is not None
