"""The worker process by itself: what it receives, and that it ends with its parent, without a word."""

import pickle
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.test_quarantine import image, plan
from transforms.quarantined import SIZE, receive, seconds_left

ROOT = Path(__file__).parent.parent


def test_bytes_come_whole_however_they_are_cut() -> None:
    """One call of the system may return a part of them."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=lambda: [theirs.sendall(bytes([n])) for n in range(200)])
        sender.start()
        assert receive(ours, 200) == bytes(range(200))
        sender.join(10)
        assert receive(ours, 0) == b""


def test_sender_that_ends_half_way_is_an_error() -> None:
    """A part is never taken for the whole."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(b"abc")
        with pytest.raises(EOFError):
            receive(ours, 4)


def test_sender_that_is_slow_on_purpose_runs_into_the_deadline() -> None:
    """Each byte comes in time, and the whole does not."""
    ours, theirs = socket.socketpair()
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.01):
            theirs.sendall(b"x")

    sender = threading.Thread(target=drip)
    with ours, theirs:
        sender.start()
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            receive(ours, 1_000_000, started + 0.2)
        assert 0.2 <= time.monotonic() - started < 5
        stop.set()
        sender.join(10)


def test_time_that_has_passed_is_an_error() -> None:
    """And what is left is in seconds."""
    assert 9 < seconds_left(time.monotonic() + 10) <= 10
    with pytest.raises(TimeoutError):
        seconds_left(time.monotonic())


@pytest.mark.parametrize("after", ["nothing", "half a plan", "the plan", "half an image", "an image"])
def test_it_ends_quietly_when_its_parent_is_gone(after: str) -> None:
    """Whatever it waits for: exit code 0, and nothing printed."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            worker = subprocess.Popen(
                [sys.executable, "-m", "transforms.quarantined", str(theirs.fileno()), "transforms.loading:prepare"],
                pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, cwd=ROOT,
            )  # fmt: skip
        whole = [pickle.dumps(plan()), image()]
        messages = [SIZE.pack(len(message)) + message for message in whole]
        if after == "half a plan":
            ours.sendall(messages[0][:100])
        elif after != "nothing":
            ours.sendall(messages[0])
        if after == "half an image":
            ours.sendall(messages[1][:100])
        elif after == "an image":
            ours.sendall(messages[1])
    _, said = worker.communicate(timeout=60)
    assert (worker.returncode, said) == (0, b"")
