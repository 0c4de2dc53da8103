"""When sessions, waits and closures end: one heap, exactly one current item for each of them.

Rule: a deadline only ever moves later, so a change does not touch the heap: the item that comes up early is put back at its
real deadline. An item is current when its instant equals the `scheduled_ms` of its record; others are left-overs of what has
ended, swept once they outnumber the living. Order among due items: deadline, sessions, waits, closures, then id.

This module does not know what an ending means.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

from .limits import DEADLINES_SLACK

if TYPE_CHECKING:
    from .state import Closure, Session, State, Waiter

SESSION: Final = 0
WAIT: Final = 1
CLOSURE: Final = 2


class Deadlines:
    __slots__ = ("heap",)

    def __init__(self) -> None:
        self.heap: list[tuple[int, int, str | int]] = []

    def add_session(self, session: Session) -> None:
        if session.deadline_ms is not None:
            session.scheduled_ms = session.deadline_ms
            heappush(self.heap, (session.deadline_ms, SESSION, session.id))

    def add_wait(self, waiter: Waiter) -> None:
        waiter.scheduled_ms = waiter.deadline_ms
        heappush(self.heap, (waiter.deadline_ms, WAIT, waiter.number))

    def add_closure(self, closure: Closure) -> None:
        if closure.deadline_ms is not None:
            closure.scheduled_ms = closure.deadline_ms
            heappush(self.heap, (closure.deadline_ms, CLOSURE, closure.key))

    def pop_due(self, state: State) -> Session | Waiter | Closure | None:
        """The next record whose deadline is at or before the cluster time; the caller ends it. None: nothing is due."""
        heap = self.heap
        now_ms = state.cluster_time_ms
        while heap and heap[0][0] <= now_ms:
            scheduled_ms, kind, name = heappop(heap)
            record: Session | Waiter | Closure | None
            if isinstance(name, int):
                record = state.waiters.get(name)
            elif kind == SESSION:
                record = state.sessions.get(name)
            else:
                record = state.closures.get(name)
            if record is None or record.scheduled_ms != scheduled_ms:
                continue
            if record.deadline_ms is not None and record.deadline_ms > scheduled_ms:
                record.scheduled_ms = record.deadline_ms
                heappush(heap, (record.deadline_ms, kind, name))
                continue
            return record
        return None

    def sweep(self, state: State) -> None:
        """Rebuild the heap when left-overs dominate it. Changes no order: items are totally ordered."""
        if len(self.heap) <= DEADLINES_SLACK:  # whatever lives; asked after every entry
            return
        sessions, waiters, closures = state.sessions, state.waiters, state.closures
        if len(self.heap) <= 2 * (len(sessions) + len(waiters) + len(closures)) + DEADLINES_SLACK:
            return
        self.heap = []
        for session in sessions.values():
            if session.deadline_ms is not None:
                session.scheduled_ms = session.deadline_ms
                self.heap.append((session.deadline_ms, SESSION, session.id))
        for waiter in waiters.values():
            waiter.scheduled_ms = waiter.deadline_ms
            self.heap.append((waiter.deadline_ms, WAIT, waiter.number))
        for closure in closures.values():
            if closure.deadline_ms is not None:
                closure.scheduled_ms = closure.deadline_ms
                self.heap.append((closure.deadline_ms, CLOSURE, closure.key))
        heapify(self.heap)
