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

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

from .limits import DEADLOCK_STEPS_MAX
from .operations import Acquire, Origin, Terms
from .outcomes import Blocked
from .state import Hold, Phase, Session, State, Waiter
from .table import holds_on

_NOWHERE = Origin("", 0, 0)
NOBODY: Final = 2**63
"""Behind every waiter."""


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
    search = _Search(state)
    while stack and search.steps < DEADLOCK_STEPS_MAX:
        waiter, path = stack.pop()
        for key, hold in search.holds_before(waiter):
            if hold.context is None:
                continue
            step = Blocked(waiter.session, waiter.context, waiter.owner, key, hold.token)
            task = (hold.session, hold.context)
            if task == target:
                return (*path, step)
            stack += [(each, (*path, step)) for each in search.waits_of(task)]
        if state.tally.waiters_of_several:
            for key, ahead in search.wide_waiters_before(waiter):
                step = Blocked(waiter.session, waiter.context, waiter.owner, key, None)
                stack.append((ahead, (*path, step)))
    return ()


class _Search:
    """What one search has looked at already. Each task, hold and queue is looked at once, so that a search costs what there is and
    not its square, however many wait behind one another."""

    __slots__ = ("held", "lines", "state", "steps", "tasks", "wide")

    def __init__(self, state: State) -> None:
        self.state = state
        self.steps = 0
        self.tasks: set[tuple[str, str]] = set()
        self.held: set[str] = set()
        self.wide: set[int] = set()
        self.lines: dict[str, _Line] = {}

    def holds_before(self, waiter: Waiter) -> Iterator[tuple[str, Hold]]:
        """As the function of this name, without the keys whose holds were followed for another waiter."""
        for key in waiter.keys:
            if key in self.held:
                continue
            stands = self.state.standing.get(key)
            if type(stands) is Phase and not self._waits_for_all(waiter, key, stands):
                continue
            self.held.add(key)
            for hold in holds_on(self.state, key):
                self.steps += 1
                if self.steps >= DEADLOCK_STEPS_MAX:
                    return
                yield key, hold

    def _waits_for_all(self, waiter: Waiter, key: str, phase: Phase) -> bool:
        if phase.limit is not None:
            return phase.limit == 1
        return _is_alone(waiter.terms) or self._line(key).first_alone < waiter.number

    def waits_of(self, task: tuple[str, str]) -> list[Waiter]:
        """What a task waits for, the first time that it is asked."""
        if task in self.tasks:
            return []
        self.tasks.add(task)
        session, context = task
        waiters = self.state.sessions[session].waiters or {}
        self.steps += len(waiters)
        return [waiter for waiter in waiters.values() if waiter.context == context]

    def wide_waiters_before(self, waiter: Waiter) -> Iterator[tuple[str, Waiter]]:
        """Those ahead with several keys that were not followed yet."""
        for key in waiter.keys:
            line = self._line(key)
            while line.wide and line.wide[0].number < waiter.number:
                ahead = line.wide.popleft()
                self.steps += 1
                if ahead.number not in self.wide:
                    self.wide.add(ahead.number)
                    yield key, ahead

    def _line(self, key: str) -> _Line:
        line = self.lines.get(key)
        if line is None:
            queue = list(self.state.queues.get(key, OrderedDict()).values())
            first = next((each.number for each in queue if _is_alone(each.terms)), NOBODY)
            wide = deque([each for each in queue if len(each.keys) > 1])
            line = self.lines[key] = _Line(first, wide)
        return line


@dataclass(slots=True)
class _Line:
    """What matters of a queue: the number of the first who wants the key alone, and who stands in it for other keys as well."""

    first_alone: int
    wide: deque[Waiter]


def holds_before(state: State, waiter: Waiter) -> Iterator[tuple[str, Hold]]:
    """The holds that must end before this waiter is granted, each with the key on which it stands in the way."""
    for key in waiter.keys:
        stands = state.standing.get(key)
        if type(stands) is Hold:
            yield key, stands
        elif type(stands) is Phase and _waits_for_all(state, waiter, key, stands):
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
