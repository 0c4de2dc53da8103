"""Who stands in whose way, and whether a wait would close a circle.

Rule: a task is (session, context); only a request that names its context takes part, since two tasks of one session that do not
are indistinguishable. A waiter waits for the exclusive hold of a key; for every hold of a shared phase, if it or somebody
ahead of it wants the key alone; and for whoever stands ahead of it with several keys, which can be blocked by another
key. (Those ahead with one key are blocked by this key alone, whose holds are looked at anyway.) All of that must go before it is
granted, so one circle through any of it is a deadlock. A semaphore of several permits is different: any one of its holds may
go, so it takes no part here, and `wait_ms` ends such a wait.

Nothing is remembered: the circle is looked for when a task that holds something is about to wait, and only then.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile

from .limits import DEADLOCK_STEPS_MAX
from .operations import Acquire, Origin, Terms
from .outcomes import Blocked
from .state import Hold, Phase, Session, State, Waiter

_NOWHERE = Origin("", 0, 0)


def find_circle(
    state: State, session: Session, operation: Acquire, owner: str | None
) -> tuple[Blocked, ...]:
    """The circle that this request would close by waiting; empty if none. Depth first over tasks, each looked at once.

    Time 0: task A holds k, task B holds j. Time 1: A waits for j. Time 2: B asks for k: B would wait for A, which waits for B.
    """
    context = operation.context
    if context is None or not session.tasks or context not in session.tasks:
        return ()  # a task that holds nothing stands in nobody's way
    target = (session.id, context)
    asked = Waiter(
        state.next_waiter,
        session.id,
        operation.keys,
        owner,
        operation.terms,
        context,
        None,
        _NOWHERE,
        0,
        0,
    )
    stack: list[tuple[Waiter, tuple[Blocked, ...]]] = [(asked, ())]
    seen: set[tuple[str, str]] = set()
    seen_waiters: set[int] = set()
    steps = 0
    while stack and steps < DEADLOCK_STEPS_MAX:
        waiter, path = stack.pop()
        for key, hold in holds_before(state, waiter):
            steps += 1
            if hold.context is None:
                continue
            step = Blocked(waiter.session, waiter.context, waiter.owner, key, hold.token)
            task = (hold.session, hold.context)
            if task == target:
                return (*path, step)
            if task not in seen:
                seen.add(task)
                waits = _waits_of(state, *task)
                steps += len(state.sessions[hold.session].waiters or ())
                stack += [(each, (*path, step)) for each in waits]
        if state.tally.waiters_of_several:
            for key, ahead in _wide_waiters_before(state, waiter):
                steps += 1
                if ahead.number not in seen_waiters:
                    seen_waiters.add(ahead.number)
                    step = Blocked(waiter.session, waiter.context, waiter.owner, key, None)
                    stack.append((ahead, (*path, step)))
    return ()


def holds_before(state: State, waiter: Waiter) -> Iterator[tuple[str, Hold]]:
    """The holds that must end before this waiter is granted, each with the key on which it stands in the way."""
    for key in waiter.keys:
        stands = state.standing.get(key)
        if isinstance(stands, Hold):
            yield key, stands
        elif isinstance(stands, Phase) and _waits_for_all(state, waiter, key, stands):
            for hold in stands.holds.values():
                yield key, hold


def _waits_for_all(state: State, waiter: Waiter, key: str, phase: Phase) -> bool:
    """Whether the whole phase must end first: somebody in the queue up to this waiter wants the key alone."""
    if phase.limit is not None:
        return phase.limit == 1
    if _is_alone(waiter.terms):
        return True
    return any(_is_alone(ahead.terms) for ahead in _before(state, waiter, key))


def _is_alone(terms: Terms) -> bool:
    return terms.mode == "exclusive"


def _before(state: State, waiter: Waiter, key: str) -> Iterator[Waiter]:
    queue = state.queues.get(key)
    if queue is None:
        return iter(())
    return takewhile(lambda each: each.number < waiter.number, queue.values())


def _wide_waiters_before(state: State, waiter: Waiter) -> Iterator[tuple[str, Waiter]]:
    for key in waiter.keys:
        for ahead in _before(state, waiter, key):
            if len(ahead.keys) > 1:
                yield key, ahead


def _waits_of(state: State, session: str, context: str) -> list[Waiter]:
    waiters = state.sessions[session].waiters or {}
    return [waiter for waiter in waiters.values() if waiter.context == context]
