"""Claims: one launcher at a time works on a run, on local disks and in stores, whoever is killed."""

import fcntl
import functools
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from errno import EIO, ENOLCK, EROFS
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.fault_proxy import Fault, FaultyStore
from tests.runs import tree
from transforms import claims, storage
from transforms.claims import Claim, Delete, ListNames, Read, RunClaim, Step, Steps, Wait, Winner, Write, contend
from transforms.errors import ConfigError
from transforms.layout import RunLayout
from transforms.owners import Owner, this_process

pytest_plugins = ["tests.s3_store", "tests.gcs_store", "tests.faulty_stores"]

ROOT = Path(__file__).parent.parent
ALIVE = Owner("h", None, 1, None, "then")
DEAD = Owner("h", None, 2, None, "then")

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


class State(NamedTuple):
    """What a store holds, and what each claimant has been answered so far: it decides what each does next."""

    world: frozenset[tuple[str, int | None, bool]]
    """Name, number, and whether its owner lives."""
    answers: tuple[tuple[Any, ...], ...]
    """Of each claimant."""
    dead: frozenset[int] = frozenset()
    """Claimants that were killed."""
    left: frozenset[int] = frozenset()
    """Winners that have finished their run."""


Protocol = Callable[[str, Callable[[Owner], bool]], Steps]


def replay(protocol: Protocol, name: str, answers: tuple[Any, ...]) -> Step | tuple[Winner | None]:
    """What a claimant does after these answers: its next step, or how it has ended, as a tuple of one."""
    steps = protocol(name, lambda owner: owner is DEAD)
    try:
        step = next(steps)
        for answer in answers:
            step = steps.send(dict(answer) if isinstance(step, ListNames) else answer)
    except StopIteration as end:
        return (end.value,)
    return step


def answered(state: State, name: str, step: Step) -> tuple[frozenset[tuple[str, int | None, bool]], Any]:
    """The store after a step, and the answer."""
    held = {entry[0]: entry for entry in state.world}
    if isinstance(step, Write):
        return frozenset({**held, name: (name, step.number, True)}.values()), None
    if isinstance(step, Delete):
        return frozenset(entry for entry in state.world if entry[0] != step.name), None
    if isinstance(step, ListNames):
        return state.world, tuple((name, 0.0) for name in sorted(held))
    if isinstance(step, Read):
        entry = held.get(step.name)
        return state.world, entry and Claim(entry[0], entry[1], ALIVE if entry[2] else DEAD, 0.0)
    return state.world, None


def would_see_the_same(state: State, answers: tuple[Any, ...]) -> bool:
    """Whether one who waits would find what it has found already: then it is another one's turn."""
    listing = max(index for index, answer in enumerate(answers) if type(answer) is tuple)
    read = {(c.name, c.number, c.owner is ALIVE) for c in answers[listing:] if isinstance(c, Claim)}
    return {entry[0] for entry in state.world} == {name for name, _ in answers[listing]} and read <= state.world


def explore(
    protocol: Protocol, count: int, *, deaths: int = 0, leaving: bool = False, at_a_glance: bool = False
) -> tuple[int, set[str]]:
    """Go through every order in which claimants can take their steps.

    Args:
        protocol: Like `contend`.
        count: Of claimants.
        deaths: How many may be killed, each between any two of its steps.
        leaving: Whether winners finish and give back.
        at_a_glance: Read all that was listed before another takes a step: fewer orders.

    Returns:
        How many states there are, and which rules are broken in any of them.
    """
    names = "bac"[:count]  # not in the order of the turns
    start = State(frozenset(), ((),) * count)
    seen, stack, broken = set(), [start], set()
    next_step = functools.cache(functools.partial(replay, protocol))
    while stack:
        state = stack.pop()
        if state in seen:
            continue
        seen.add(state)
        steps = [next_step(name, answers) for name, answers in zip(names, state.answers, strict=True)]
        ended = {i: step[0] for i, step in enumerate(steps) if not isinstance(step, Step)}
        holding = [i for i, end in ended.items() if end is None and i not in state.dead | state.left]
        if len(holding) > 1:
            broken.add("two have won")
        following = []
        for i, (name, step) in enumerate(zip(names, steps, strict=True)):
            if i in state.dead:
                continue
            if len(state.dead) < deaths and (i not in ended or i in holding):
                died = frozenset((n, number, alive and n != name) for n, number, alive in state.world)
                following.append(state._replace(world=died, dead=state.dead | {i}))
            if i in holding and leaving:
                rest = frozenset(entry for entry in state.world if entry[0] != name)
                following.append(state._replace(world=rest, left=state.left | {i}))
            if i in ended or (isinstance(step, Wait) and would_see_the_same(state, state.answers[i])):
                continue
            world, answer = answered(state, name, step)
            mine = (*state.answers[i], answer)
            while at_a_glance and isinstance(step := next_step(name, mine), Read):
                mine = (*mine, answered(state, name, step)[1])
            answers = tuple(mine if j == i else a for j, a in enumerate(state.answers))
            following.append(state._replace(world=world, answers=answers))
        if not following:
            if len(ended) < count - len(state.dead):
                broken.add("one waits for ever")
            if not state.dead and len([end for end in ended.values() if end is None]) < 1:
                broken.add("nobody has won")
        stack += following
    return len(seen), broken


class TestContend:
    @pytest.mark.parametrize(
        ("count", "deaths", "leaving", "at_a_glance"),
        [
            (2, 0, False, False),  # two at once
            (2, 0, True, False),  # and the winner is finished before the other has looked
            (2, 2, True, False),  # each may be killed somewhere, as a winner too
            pytest.param(3, 0, True, True, marks=pytest.mark.heavy),  # 400,000 states
        ],
    )
    def test_in_no_order_do_two_win_or_all_lose(
        self, count: int, deaths: int, leaving: bool, at_a_glance: bool
    ) -> None:
        """Every interleaving of the single requests: one wins, and nobody waits for ever."""
        states, broken = explore(contend, count, deaths=deaths, leaving=leaving, at_a_glance=at_a_glance)
        assert broken == set()
        assert states > 500

    def test_three_at_random_give_one_winner(self) -> None:
        """Three claimants have too many orders to try all: 3,000 of them, the same ones every time."""
        chance = random.Random(7)  # noqa: S311  orders, not secrets
        for _ in range(3000):
            state, going = State(frozenset(), ()), dict.fromkeys("bac")
            claimants = {name: contend(name, lambda owner: owner is DEAD) for name in going}
            steps: dict[str, Any] = {name: next(claimant) for name, claimant in claimants.items()}
            weights = {name: chance.random() ** 3 for name in going}  # some are much slower than others
            ends: list[Winner | None] = []
            while going:
                (name,) = chance.choices(list(going), [weights[name] for name in going])
                world, answer = answered(state, name, steps[name])
                state = state._replace(world=world)
                try:
                    listed = isinstance(steps[name], ListNames)
                    steps[name] = claimants[name].send(dict(answer) if listed else answer)
                except StopIteration as end:
                    del going[name]
                    ends.append(end.value)
            assert ends.count(None) == 1

    def test_the_exploration_finds_planted_faults(self) -> None:
        """It can fail: without its first write, and without waiting, two win; who never gives way waits for ever."""

        def without_first_write(me: str, is_gone: Callable[[Owner], bool]) -> Steps:
            steps = contend(me, is_gone)
            next(steps)
            step: Any = steps.send(None)
            while True:
                try:
                    step = steps.send((yield step))
                except StopIteration as end:
                    return end.value

        def without_numbers(me: str, is_gone: Callable[[Owner], bool]) -> Steps:  # noqa: ARG001  the signature counts
            yield Write(1)
            names = yield ListNames()
            return None if min(names) == me else Winner(Claim(min(names), 1, ALIVE, 0.0), 0.0)

        def without_giving_way(me: str, is_gone: Callable[[Owner], bool]) -> Steps:  # noqa: ARG001
            yield Write(1)
            while len((yield ListNames())) > 1:
                yield Wait()
            return None

        assert "two have won" in explore(without_first_write, 2)[1]
        assert "two have won" in explore(without_numbers, 2)[1]
        assert "one waits for ever" in explore(without_giving_way, 2)[1]

    @pytest.mark.parametrize(
        ("silent", "wins"),
        [
            (0.0, False),
            (60.0, False),
            (61.0, True),  # dead: passed over, and its claim deleted
        ],
    )
    @pytest.mark.parametrize("number", [None, 1])
    @pytest.mark.parametrize("clock", [0.0, 1e9])  # of the store: where it stands does not matter
    def test_silence_is_reckoned_by_the_stores_clock(
        self, silent: float, wins: bool, number: int | None, clock: float
    ) -> None:
        """Only differences of times that the store has given count."""
        held = {"a": Claim("a", number, ALIVE, clock)}
        now = clock + silent
        steps = contend("b", lambda owner: owner is DEAD)
        step, waits, end = next(steps), 0, None
        while waits < 3:
            answer: Any = None
            if isinstance(step, Write):
                held["b"] = Claim("b", step.number, ALIVE, now)
            elif isinstance(step, Delete):
                held.pop(step.name)
            elif isinstance(step, ListNames):
                answer = {name: claim.written_at for name, claim in held.items()}
            elif isinstance(step, Read):
                answer = held[step.name]
            else:
                waits += 1
            try:
                step = steps.send(answer)
            except StopIteration as stop:
                end = stop.value
                break
        if wins:
            assert (waits, end) == (0, None)
            assert set(held) == {"b"}
        elif number is None:
            assert waits == 3  # it is choosing its number: nobody knows yet who is ahead
        else:
            assert end == Winner(Claim("a", 1, ALIVE, clock), silent)
            assert set(held) == {"a"}

    def test_whose_claim_was_deleted_by_hand_starts_again(self) -> None:
        """Its number is worth nothing when others may have looked without seeing it."""
        steps = contend("a", lambda owner: owner is DEAD)
        assert next(steps) == Write(None)
        assert steps.send(None) == ListNames()
        assert steps.send({}) == Write(1)
        assert steps.send(None) == ListNames()
        assert steps.send({}) == Write(None)


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
        storage.delete_file(mine.path)
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
