"""Deadlocks: no circle is missed, none is invented, and nothing is searched for that cannot be.

What is true is not asked of a graph here but of the table itself: everybody who does not wait lets go of what he holds, again and
again; whoever still waits at the end is deadlocked. (Every step of the circles that are told is checked in the walks against the
model.)
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest

from holdfast_coordinator.machine import (
    Acquire,
    Entry,
    Machine,
    OpenSession,
    Operation,
    Origin,
    Outcome,
    Queued,
    Refused,
    Release,
    Terms,
    blocking,
    check_invariants,
)

KEYS = ("a", "b", "c", "d", "e")
EXCLUSIVE, SHARED, ONE_PERMIT = Terms(), Terms("shared"), Terms("shared", 1)


def ask(machine: Machine, operation: Operation) -> Outcome:
    origin = Origin("n1", 1, machine.last_sequence("n1", 1) + 1)
    outcomes = machine.apply(Entry(1, 0, ((origin, operation),)))
    return next(outcome for to, outcome in outcomes if to == origin)


def who_is_stuck(machine: Machine) -> set[str]:
    """The sessions that still wait when all others have let go of everything, as often as that helps anybody."""
    state = machine.state
    while True:
        waiting = {waiter.session for waiter in state.waiters.values()}
        free = [hold for hold in state.holds.values() if hold.session not in waiting]
        if not free:
            return waiting
        for hold in free:
            ask(machine, Release(hold.session, hold.token))


def copy_of(machine: Machine) -> Machine:
    return Machine.restore(machine.snapshot())


def wander(seed: int) -> tuple[int, int]:
    """Tasks that ask, wait and let go; each waits for one thing at a time. Returns how many circles there were, and the longest."""
    rng = random.Random(seed)  # noqa: S311 -- a reproducible walk
    machine = Machine()
    tasks = [f"task-{n}" for n in range(6)]
    for task in tasks:
        ask(machine, OpenSession(task, 60_000))
    circles, longest = 0, 0
    for _ in range(50):
        task = rng.choice(tasks)
        session = machine.state.sessions[task]
        if session.waiters:
            continue
        if session.holds and rng.random() < 0.25:
            ask(machine, Release(task, rng.choice(list(session.holds))))
            continue
        keys = tuple(rng.sample(KEYS, rng.choice((1, 1, 1, 2, 3))))
        terms = rng.choice((EXCLUSIVE, EXCLUSIVE, SHARED, SHARED, ONE_PERMIT))
        before = copy_of(machine)
        answer = ask(machine, Acquire(keys, task, wait_ms=9_000, context="t", terms=terms))
        if isinstance(answer, Refused) and answer.code == "deadlock":
            circles, longest = circles + 1, max(longest, len(answer.cycle))
            unnamed = Acquire(keys, task, wait_ms=9_000, terms=terms)
            assert isinstance(ask(before, unnamed), Queued)
            assert task in who_is_stuck(before), "a circle was told that there is not"
        elif isinstance(answer, Queued):
            assert who_is_stuck(copy_of(machine)) == set(), "a circle was missed"
    check_invariants(machine)
    return circles, longest


@pytest.mark.parametrize("chunk", range(3))
def test_a_circle_is_told_exactly_when_there_is_one(chunk: int) -> None:
    """Random tasks over few keys, exclusive, shared and with one permit, one key or several: short circles and long ones."""
    walks = [wander(1_000 * chunk + seed) for seed in range(20)]
    assert sum(circles for circles, _ in walks) > 40
    assert max(longest for _, longest in walks) >= 3


@pytest.mark.parametrize(("limit", "told"), [(1, True), (2, False)])
def test_permits_of_several_take_no_part(limit: int, told: bool) -> None:
    """Any one of several permits may go, so whoever waits for one is not taken for deadlocked, and `wait_ms` ends the wait; the
    only permit is as good as an exclusive hold."""
    machine = Machine()
    permit = Terms("shared", limit)
    for task in ("p", "q"):
        ask(machine, OpenSession(task, 60_000))
    for _ in range(limit):
        ask(machine, Acquire(("k",), "p", context="t", terms=permit))
    ask(machine, Acquire(("j",), "q", context="t"))
    assert isinstance(ask(machine, Acquire(("j",), "p", wait_ms=9_000, context="t")), Queued)
    answer = ask(machine, Acquire(("k",), "q", wait_ms=9_000, context="t", terms=permit))
    assert isinstance(answer, Refused if told else Queued)


def test_nothing_is_searched_unless_a_task_that_holds_something_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No context, nothing held in this context, a grant at once, no wait: none of them begins a search. The last one does."""

    class NoSearch:
        def __init__(self, _state: object) -> None:
            raise AssertionError("searched")

    machine = Machine()
    for session in ("p", "q"):
        ask(machine, OpenSession(session, 60_000))
    ask(machine, Acquire(("k",), "p", context="t"))
    ask(machine, Acquire(("j",), "q", context="t"))
    monkeypatch.setattr(blocking, "_Search", NoSearch)
    assert isinstance(ask(machine, Acquire(("k",), "q", wait_ms=9_000)), Queued)
    assert isinstance(ask(machine, Acquire(("k",), "q", wait_ms=9_000, context="other")), Queued)
    assert isinstance(
        ask(machine, Acquire(("k",), "i", ttl_ms=9_000, wait_ms=9, context="t")), Queued
    )
    assert not isinstance(ask(machine, Acquire(("m",), "q", wait_ms=9_000, context="t")), Refused)
    refusal = ask(machine, Acquire(("k",), "q", context="t"))
    assert isinstance(refusal, Refused)
    assert refusal.code == "held"
    with pytest.raises(AssertionError, match="searched"):
        ask(machine, Acquire(("k",), "q", wait_ms=9_000, context="t"))


def crowd(size: int) -> tuple[Machine, Acquire]:
    """So many tasks read one key and wait in one queue for another; the request returned would wait for all of them."""
    machine = Machine()
    for session in ("first", "last", *map(str, range(size))):
        ask(machine, OpenSession(session, 60_000))
    ask(machine, Acquire(("k",), "first", context="t"))
    ask(machine, Acquire(("mine",), "last", context="t"))
    ask(machine, Acquire(("k", "j"), "first", wait_ms=9_000))
    for each in map(str, range(size)):
        ask(machine, Acquire(("p",), each, context="t", terms=SHARED))
        ask(machine, Acquire(("k",), each, wait_ms=9_000, context="t"))
    return machine, Acquire(("p",), "last", wait_ms=9_000, context="t")


class Counted(OrderedDict[int, Any]):
    """A queue that counts how many of its waiters are looked at."""

    looked_at = 0

    def values(self) -> Any:
        return self

    def __iter__(self) -> Iterator[Any]:
        for number in super().__iter__():
            type(self).looked_at += 1
            yield self[number]


def test_a_search_reads_a_queue_once() -> None:
    """Twice as many tasks behind one another are twice the work, not four times: a queue is not read anew for each waiter."""
    looked = []
    for size in (50, 100):
        machine, request = crowd(size)
        state = machine.state
        session = state.sessions[request.session]
        state.queues["k"] = Counted(state.queues["k"])
        Counted.looked_at = 0
        assert blocking.find_circle(state, session, request, None) == ()
        looked.append(Counted.looked_at)
    assert 0 < looked[1] <= 2 * looked[0] + 10


def test_a_search_ends_at_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A circle too far away to be found in so many steps is not found: the request waits, and `wait_ms` is what ends it."""
    machine, _ = crowd(20)
    ask(machine, Acquire(("mine",), "first", wait_ms=9_000, context="t"))
    request = Acquire(("p",), "last", wait_ms=9_000, context="t")
    near = copy_of(machine)
    refusal = ask(near, request)
    assert isinstance(refusal, Refused)
    assert refusal.code == "deadlock"
    monkeypatch.setattr(blocking, "DEADLOCK_STEPS_MAX", 10)
    assert isinstance(ask(machine, request), Queued)
