"""The bakery: in every order of steps, whoever is killed, no two win and one does."""

import functools
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from transforms.bakery import Claim, Delete, ListNames, Read, Step, Steps, Wait, Winner, Write, contend
from transforms.owners import Owner

ALIVE = Owner("h", None, 1, None, "then")
DEAD = Owner("h", None, 2, None, "then")


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

    def test_a_store_that_never_lists_what_was_written_is_given_up(self) -> None:
        """A store that keeps it under another name: an error, and no end of restarts."""
        steps = contend("a", lambda owner: owner is DEAD)
        step, writes = next(steps), 0
        with pytest.raises(OSError, match="the claim a was written 20 times, and the storage has never listed it"):
            while True:
                writes += step == Write(None)
                step = steps.send({} if isinstance(step, ListNames) else None)
        assert writes == 20
