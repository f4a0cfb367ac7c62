"""Claims: one launcher at a time works on a run, on local disks and in stores, whoever is killed."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from errno import EIO, ENOLCK, EROFS
from pathlib import Path
from typing import Any

import pytest

from tests.fault_proxy import Fault, FaultyStore
from tests.runs import tree
from transforms import claims, moving, storage
from transforms.bakery import ListNames, Read, Write
from transforms.claims import RunClaim, TakenError
from transforms.errors import ConfigError
from transforms.layout import RunLayout
from transforms.owners import this_process

pytest_plugins = ["tests.s3_store", "tests.gcs_store", "tests.faulty_stores"]

ROOT = Path(__file__).parent.parent

HOLDER = """
import sys, time
from transforms.claims import RunClaim
from transforms.layout import RunLayout
with RunClaim(RunLayout(sys.argv[1], "night")) as claim:
    claim.take()
    print("taken", flush=True)
    time.sleep(600)
"""

# Takes, checks with a file of its own that nobody else has taken, and gives back; says how often it won.
RACER = """
import os, sys
from transforms.claims import RunClaim
from transforms.errors import ConfigError
from transforms.layout import RunLayout
won = 0
while won < 50:
    try:
        with RunClaim(RunLayout(sys.argv[1], "night")) as claim:
            claim.take()
            os.close(os.open(sys.argv[2], os.O_CREAT | os.O_EXCL))
            won += 1
            os.unlink(sys.argv[2])
    except ConfigError:
        pass
print(won)
"""


def holder(where: str) -> "subprocess.Popen[str]":
    """A process that has taken the run and keeps it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, where], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    if process.stdout.readline() != "taken\n":
        pytest.fail(process.communicate()[1])
    return process


@pytest.fixture(params=["local", "store", "local without locks"])
def where(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An output: on a disk, in a store, on a file system that knows no locks."""
    if request.param == "store":
        yield f"{request.getfixturevalue('bucket')}/out"
        return
    if request.param == "local without locks":

        def refuse(descriptor: int, operation: int) -> None:  # noqa: ARG001  the signature is the system's
            raise OSError(ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refuse)
    yield str(tmp_path / "out")


def files(where: str) -> list[str]:
    """Every file below an output."""
    return [file.path for file in storage.list_folder(where)] if storage.is_folder(where) else []


class TestRunClaim:
    def test_of_four_at_once_one_takes_the_run(self, where: str) -> None:
        """The others are told who has it, and leave nothing behind; afterwards the run is free again."""
        layout = RunLayout(where, "night")
        start, stop = threading.Barrier(4), threading.Event()
        ends: list[str] = []

        def launch() -> None:
            with RunClaim(layout) as claim:
                start.wait(60)
                try:
                    claim.take()
                except ConfigError as error:
                    ends.append(str(error))
                    return
                claim.take()  # once more is nothing more
                ends.append("taken")
                stop.wait(60)

        threads = [threading.Thread(target=launch) for _ in range(4)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        while len(ends) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        held = files(where)
        stop.set()
        for thread in threads:
            thread.join(60)
        assert ends.count("taken") == 1
        (refusal,) = {end.partition(" since ")[0] for end in ends if end != "taken"}
        assert refusal == f"run night is being worked on by process {os.getpid()} on host {socket.gethostname()}"
        assert len(held) == 1
        assert files(where) == []
        with RunClaim(layout) as claim:
            claim.take()

    def test_runs_of_other_names_do_not_meet(self, where: str) -> None:
        """A claim is of one run, not of the output."""
        with RunClaim(RunLayout(where, "one")) as one, RunClaim(RunLayout(where, "two")) as two:
            one.take()
            two.take()
            assert len(files(where)) == 2

    def test_what_was_not_taken_is_not_touched(self, where: str) -> None:
        """A run that is found published needs no claim, and no permission to write."""
        with RunClaim(RunLayout(where, "night")):
            pass
        assert files(where) == []
        assert not storage.is_folder(where)


@pytest.mark.parametrize("then", ["take", "tidy"])
@pytest.mark.parametrize("place", ["local", "store"])
def test_a_killed_owner_loses_its_run_at_once(
    place: str, then: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """While it lives the other is refused with its name; after kill -9 nobody waits for a heartbeat to grow old."""
    where = str(tmp_path / "out") if place == "local" else f"{request.getfixturevalue('bucket')}/out"
    layout = RunLayout(where, "night")
    process = holder(where)
    held = files(where)
    with pytest.raises(ConfigError) as caught, RunClaim(layout) as claim:
        claim.take()
    assert str(caught.value).startswith(
        f"run night is being worked on by process {process.pid} on host {socket.gethostname()} since 20"
    )
    assert str(caught.value).endswith(" s ago); wait for it, or use another --run-id")
    with RunClaim(layout) as claim:
        claim.tidy()
    assert files(where) == held
    process.kill()
    process.communicate()
    assert files(where) == held
    started = time.monotonic()
    with RunClaim(layout) as claim:
        getattr(claim, then)()
        assert time.monotonic() - started < 5
    assert files(where) == []


def test_processes_that_race_for_a_lock_never_hold_it_together(tmp_path: Path) -> None:
    """Four processes take and give back 50 times each: the file that comes and goes deceives none of them."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path / "out"), str(tmp_path / "in use")],
            cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(4)
    ]  # fmt: skip
    said = [racer.communicate(timeout=120) for racer in racers]
    assert [errors for _, errors in said] == [""] * 4
    assert [won.strip() for won, _ in said] == ["50"] * 4
    assert tree(tmp_path) == {}


def test_a_winner_in_a_store_gives_signs_of_life(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its claim is written again and again, so that the store's time of it moves."""
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.2)
    layout = RunLayout(f"{bucket}/out", "night")
    with RunClaim(layout) as claim:
        claim.take()
        (first,) = storage.list_folder(layout.claims)
        deadline = time.monotonic() + 20
        while next(iter(storage.list_folder(layout.claims))).version == first.version:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.parametrize("fault", [Fault.BAD_GATEWAY, Fault.GATEWAY_TIMEOUT])
def test_a_listing_of_claims_that_fails_in_passing_is_repeated(faulty: FaultyStore, fault: Fault) -> None:
    """One answer of a gateway ends no run: it is taken, also where a killed launcher's claim lies, and given back."""
    layout = RunLayout(f"{faulty.url}/out", "night")
    faulty.proxy.inject(fault, "^GET .*prefix=.*_claims", times=1)
    with RunClaim(layout) as claim:
        claim.take()
        assert faulty.proxy.injected == {fault: 1}
        assert len(files(f"{faulty.url}/out")) == 1
    faulty.proxy.inject(fault, "^GET .*prefix=.*_claims", times=1)
    with RunClaim(layout) as claim:
        claim.tidy()
    assert faulty.proxy.injected == {fault: 2}
    assert files(f"{faulty.url}/out") == []


def test_who_was_taken_over_says_so(
    bucket: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A machine that slept for more than a minute finds its claim gone, and does not write it again."""
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.1)
    layout = RunLayout(f"{bucket}/out", "night")
    with RunClaim(layout) as claim:
        claim.take()
        (mine,) = storage.list_folder(layout.claims)
        moving.delete_file(mine.path)
        deadline = time.monotonic() + 20
        while "run night was taken over: this process gave no sign of life for a minute" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert files(f"{bucket}/out") == []


def test_a_store_out_of_reach_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One lost sign of life is a warning; the next one is given."""
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.05)
    objects = claims._Objects(RunLayout(str(tmp_path), "night"), this_process())
    objects.carry_out(Write(1))
    real, fails = storage.write_bytes, [True]
    written = threading.Event()

    def write(path: str, data: bytes) -> None:
        if fails:
            fails.clear()
            raise OSError(EIO, "Input/output error")
        real(path, data)
        written.set()

    monkeypatch.setattr(storage, "write_bytes", write)
    heartbeat = claims._Heartbeat(objects)
    assert written.wait(20)
    heartbeat.release()
    assert "the claim on run night cannot be renewed, which is tried again: [Errno 5] Input/output error" in caplog.text
    assert tree(tmp_path) == {}


def test_who_is_too_slow_does_not_win(tmp_path: Path) -> None:
    """After half a minute between two writes others may take it for dead: it stops instead of trusting what it read."""
    now = [0.0]
    objects = claims._Objects(RunLayout(str(tmp_path), "night"), this_process(), clock=lambda: now[0])
    objects.carry_out(Write(None))
    now[0] = 30.0
    assert objects.carry_out(ListNames()).keys() == {objects.name}
    now[0] = 31.0
    with pytest.raises(TimeoutError, match="the storage took more than 30 s to answer"):
        objects.carry_out(Write(1))


def test_a_claim_that_is_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stores break off then, five times at most; all claims are of one length, which a reader has asked for before."""
    layout = RunLayout(str(tmp_path), "night")
    objects = claims._Objects(layout, this_process())
    sizes = set()
    for number in (None, 1, 1000):
        objects.carry_out(Write(number))
        sizes |= {file.size_bytes for file in storage.list_folder(layout.claims)}
    assert len(sizes) == 1
    real, failures = storage.read_bytes, [OSError(EIO, "broken off")] * 5

    def read(path: str) -> bytes:
        if failures:
            raise failures.pop()
        return real(path)

    monkeypatch.setattr(storage, "read_bytes", read)
    claim = objects.carry_out(Read(objects.name, 0.0))
    assert (claim.name, claim.number) == (objects.name, 1000)
    failures += [OSError(EIO, "broken off")] * 6
    with pytest.raises(OSError, match="broken off"):
        objects.carry_out(Read(objects.name, 0.0))


def test_a_damaged_claim_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody guesses who it was; the own claim is taken back."""
    monkeypatch.setattr(claims, "_lock", lambda *_: None)
    layout = RunLayout(str(tmp_path), "night")
    foreign = Path(layout.claims) / "x.json"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("{}")
    with pytest.raises(ConfigError) as caught, RunClaim(layout) as claim:
        claim.take()
    assert str(caught.value) == (
        f"{foreign} is damaged: nobody can tell who works on run night; delete it when nobody does"
    )
    assert list(tree(tmp_path)) == ["runs/night/_claims/x.json"]


def test_the_lock_file_names_its_owner(tmp_path: Path) -> None:
    """For whoever looks into the folder, too."""
    layout = RunLayout(str(tmp_path), "night")
    with RunClaim(layout) as claim:
        claim.take()
        assert json.loads(Path(layout.lock).read_text())["pid"] == os.getpid()


def test_a_lock_file_that_was_deleted_by_hand_is_no_trouble(tmp_path: Path) -> None:
    """At the end nothing is deleted that somebody else has made in its place."""
    layout = RunLayout(str(tmp_path), "night")
    with RunClaim(layout) as one:
        one.take()
        Path(layout.lock).unlink()
        with RunClaim(layout) as two:
            two.take()
            one.__exit__()
            assert Path(layout.lock).exists()
    assert tree(tmp_path) == {}


def test_what_cannot_be_tidied_does_not_spoil_a_published_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that may only be read keeps the file of a killed launcher: a warning, and no error."""
    layout = RunLayout(str(tmp_path), "night")
    Path(layout.run_folder).mkdir(parents=True)
    Path(layout.lock).write_text("")

    def refuse(*_: Any) -> int:
        raise OSError(EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    with RunClaim(layout) as claim:
        claim.tidy()
    monkeypatch.undo()
    assert "what a killed launcher has left of run night cannot be deleted: [Errno 30] Read-only" in caplog.text
    assert list(tree(tmp_path)) == ["runs/night/_claim.lock"]


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[tuple[RunLayout, Path]]:
    """A run whose file is locked by somebody who has written nothing into it yet."""
    layout = RunLayout(str(tmp_path), "night")
    Path(layout.run_folder).mkdir(parents=True)
    with open(layout.lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield layout, Path(layout.lock)


@pytest.mark.parametrize(
    ("content", "waits"),
    [
        ("", 19),  # not described yet: asked again for ten seconds
        ("{", 0),
        ("[]", 0),
        ('{"pid": 1}', 0),
        (json.dumps(this_process()._replace(pid=2**22 + 1, born="1")._asdict()), 19),  # what a killed one has left
    ],
)
def test_a_lock_that_does_not_name_its_owner_is_one_nevertheless(
    locked: tuple[RunLayout, Path], content: str, waits: int
) -> None:
    """The kernel says that there is one; what the file says decides only what is told."""
    layout, file = locked
    file.write_text(content)
    waited: list[float] = []
    with pytest.raises(TakenError) as caught, RunClaim(layout, waited.append) as claim:
        claim.take()
    assert str(caught.value) == (
        f"run night is being worked on by a process that has locked {file} and does not say in it who it is; wait for "
        "it, or use another --run-id"
    )
    assert len(waited) == waits
    assert file.read_text() == content


def test_a_worker_is_named_and_a_killed_one_is_none(where: str) -> None:
    """Who asks leaves nothing behind, and takes nothing where nobody ever was."""
    layout = RunLayout(where, "night")
    with RunClaim(layout) as asking:
        assert asking.worker() is None
    assert not storage.is_folder(where)
    with RunClaim(layout) as claim:
        claim.take()
        held = files(where)
        with RunClaim(layout) as asking:
            who = asking.worker()
        assert who is not None
        assert who.startswith(f"process {os.getpid()} on host {socket.gethostname()} since 20")
        assert files(where) == held
    with RunClaim(layout) as asking:
        assert asking.worker() is None


def test_a_run_folder_that_goes_while_it_is_claimed_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who deletes what is left of a run takes its empty folder away."""
    layout = RunLayout(str(tmp_path), "night")
    real, taken_away = os.open, []

    def lose_folder_once(path: str, *args: Any) -> int:
        if not taken_away:
            taken_away.append(path)
            os.rmdir(layout.run_folder)
        return real(path, *args)

    monkeypatch.setattr(os, "open", lose_folder_once)
    with RunClaim(layout) as claim:
        claim.take()
        assert taken_away == [layout.lock]
        assert Path(layout.lock).exists()
