"""The lock table of one process: sessions, holds, queues, and what is remembered. Pure: every instant is passed in.

Rule: a request is granted when every key of it is free and it stands at the head of the queue of each; queues are in the order
of arrival, so requests for several keys cannot wait for each other in a circle, and nobody overtakes. Whoever ends a hold grants
to the next. Time passes in `advance`, which every call begins with. It knows no threads: its caller lets in one at a time.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from holdfast.stores.base import (
    OTHER_BODY,
    PREVIOUS_REMEMBERED,
    RELEASES_REMEMBERED,
    REQUESTS_REMEMBERED_MAX,
    SETTLED,
    WAITERS_SHOWN_MAX,
    Ask,
    Granted,
    HolderView,
    LockView,
    Refusal,
    WaiterView,
    held,
    not_held,
    request_conflict,
    session_gone,
    too_many_requests,
    waited_in_vain,
)
from holdfast.views import Previous
from holdfast.wire import Code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ENDED_SESSIONS_MAX: Final = 10_000
"""Ids of ended sessions; of one process there are few."""
WAITERS_MAX: Final = 100_000
"""Each is a task or thread of this process."""


@dataclass(slots=True, eq=False)
class Hold:
    token: int
    session: Session
    keys: tuple[str, ...]
    owner: str | None
    previous: tuple[Previous | None, ...]
    horizon: int
    ended: str | None = None


@dataclass(slots=True, eq=False)
class Waiter:
    """`wake` is called, from any thread, when `outcome` is there, or when a repeat has taken over."""

    number: int
    session: Session
    ask: Ask
    owner: str | None
    deadline: float
    wake: Callable[[], object]
    outcome: Hold | Refusal | None = None


@dataclass(slots=True, eq=False)
class Known:
    """A request that was seen. `fingerprint` None: cancelled before it came."""

    fingerprint: str | None
    outcome: Hold | Refusal | Waiter


@dataclass(slots=True, eq=False)
class Session:
    id: str
    ttl: float
    owner: str | None
    deadline: float
    settled: int = -1
    holds: dict[int, Hold] = field(default_factory=dict)
    waiters: dict[int, Waiter] = field(default_factory=dict)
    requests: dict[int, Known] = field(default_factory=dict)
    released: OrderedDict[int, None] = field(default_factory=OrderedDict)


class Table:
    """All of it. Seconds, on the scale of whoever calls."""

    def __init__(self, first_token: int = 1) -> None:
        self._next_token = first_token
        self._numbers = 0
        self._sessions: dict[str, Session] = {}
        self._ended: OrderedDict[str, str] = OrderedDict()
        self._holds: dict[str, Hold] = {}
        self._queues: dict[str, OrderedDict[int, Waiter]] = {}
        self._waiters = 0
        self._previous: OrderedDict[str, Previous] = OrderedDict()
        self._horizon = 0
        self._deadlines: list[tuple[float, int, Session | Waiter]] = []

    # -- sessions

    def open_session(self, now: float, session_id: str, ttl: float, owner: str | None) -> float:
        """Seconds left."""
        self.advance(now)
        session = self._sessions.get(session_id)
        if session is None:
            if session_id in self._ended:
                raise session_gone(self._ended[session_id])
            session = Session(session_id, ttl, owner, now + ttl)
            self._sessions[session_id] = session
            self._schedule(session)
        elif session.ttl != ttl:
            raise Refusal(
                Code.CONFLICT,
                f"this session is open with a ttl of {session.ttl:g} s",
                field="ttl_ms",
            )
        return session.deadline - now

    def renew(self, now: float, session_id: str) -> float:
        """Seconds left."""
        session = self._session(now, session_id)
        session.deadline = now + session.ttl
        return session.ttl

    def close(self, now: float, session_id: str) -> list[int]:
        """Tokens released."""
        self.advance(now)
        if self._ended.get(session_id) == "released":
            return []
        session = self._session(now, session_id)
        released = list(session.holds)
        self._end_session(session, "released")
        return released

    def expire(self, now: float, token: int) -> bool:
        """End the session that holds `token` as if its lease were over, whatever is left of it. False: nobody holds it."""
        self.advance(now)
        for hold in self._holds.values():
            if hold.token == token:
                self._end_session(hold.session, "expired")
                return True
        return False

    # -- locks

    def acquire(self, now: float, ask: Ask, wake: Callable[[], object]) -> Granted | Waiter:
        """Granted, or a waiter whose `outcome` comes. Raises `Refusal`."""
        session = self._session(now, ask.session)
        self._settle(session, ask.settled)
        known = session.requests.get(ask.request_id)
        if known is not None:
            return self._repeat(now, known, ask, wake)
        if ask.request_id <= session.settled:
            raise request_conflict(SETTLED)
        if len(session.requests) >= REQUESTS_REMEMBERED_MAX:
            raise too_many_requests()
        owner = ask.owner if ask.owner is not None else session.owner
        if not any(key in self._holds or key in self._queues for key in ask.keys):
            hold = self._grant(session, ask, owner)
            return self.granted(now, hold)
        if ask.wait_ms == 0:
            refusal = self._held(now, ask.keys)
            session.requests[ask.request_id] = Known(ask.fingerprint, refusal)
            raise refusal
        if self._waiters >= WAITERS_MAX:
            raise Refusal(
                Code.LIMIT_REACHED,
                f"the limit of {WAITERS_MAX} waiters is reached",
                limit="waiters_max",
            )
        self._numbers += 1
        waiter = Waiter(self._numbers, session, ask, owner, now + ask.wait_ms / 1000, wake)
        for key in ask.keys:
            self._queues.setdefault(key, OrderedDict())[waiter.number] = waiter
        session.waiters[waiter.number] = waiter
        self._waiters += 1
        session.requests[ask.request_id] = Known(ask.fingerprint, waiter)
        self._schedule(waiter)
        return waiter

    def granted(self, now: float, hold: Hold) -> Granted:
        """The answer for a hold, as of now. Raises `Refusal` if it has ended since."""
        if hold.ended is not None:
            raise not_held(hold.ended)
        remaining_ms = int((hold.session.deadline - now) * 1000)
        return Granted(hold.token, hold.keys, remaining_ms, hold.previous, hold.horizon)

    def release(self, now: float, session_id: str, token: int) -> None:
        """Idempotent."""
        session = self._session(now, session_id)
        hold = session.holds.get(token)
        if hold is not None:
            self._end_hold(hold, "released")
            self._promote(hold.keys)
        elif token not in session.released:
            raise not_held(None)

    def cancel(self, now: float, session_id: str, request_id: int) -> int | None:
        """The token of the hold that this released, if it was granted."""
        session = self._session(now, session_id)
        known = session.requests.get(request_id)
        if known is None:
            if request_id > session.settled:
                if len(session.requests) >= REQUESTS_REMEMBERED_MAX:
                    raise too_many_requests()
                refusal = waited_in_vain("cancelled by its client before it arrived")
                session.requests[request_id] = Known(None, refusal)
            return None
        outcome = known.outcome
        if isinstance(outcome, Waiter):
            self._finish(outcome, waited_in_vain("cancelled by its client"))
            self._promote(outcome.ask.keys)
        elif isinstance(outcome, Hold) and outcome.ended is None:
            self._end_hold(outcome, "released")
            self._promote(outcome.keys)
            return outcome.token
        return None

    # -- looking

    def view(self, now: float, key: str) -> LockView:
        """One key."""
        self.advance(now)
        queue = self._queues.get(key, OrderedDict())
        shown = [each for each, _ in zip(queue.values(), range(WAITERS_SHOWN_MAX), strict=False)]
        waiters = [
            WaiterView(
                each.session.id, each.owner, each.ask.keys, int((each.deadline - now) * 1000)
            )
            for each in shown
        ]
        hold = self._holds.get(key)
        return LockView(key, None if hold is None else _holder(now, hold), waiters, len(queue))

    def keys(self, now: float, prefix: str, after: str | None, limit: int) -> list[str]:
        """Keys that are held or waited for, in the order of their bytes."""
        self.advance(now)
        found = (
            key
            for key in {**self._holds, **self._queues}
            if key.startswith(prefix) and (after is None or key > after)
        )
        return heapq.nsmallest(limit, found)

    # -- time

    def advance(self, now: float) -> None:
        """End what is past its deadline. Renewed sessions are put back: their entry was made for an earlier deadline."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, record = heapq.heappop(self._deadlines)
            if self._is_over(record):
                continue
            if record.deadline > now:
                self._schedule(record)
            elif isinstance(record, Waiter):
                self._finish(record, waited_in_vain())
                self._promote(record.ask.keys)
            else:
                self._end_session(record, "expired")

    def next_due(self) -> float | None:
        """When `advance` may have something to do."""
        return self._deadlines[0][0] if self._deadlines else None

    def _is_over(self, record: Session | Waiter) -> bool:
        if isinstance(record, Waiter):
            return record.outcome is not None
        return self._sessions.get(record.id) is not record

    def _schedule(self, record: Session | Waiter) -> None:
        self._numbers += 1
        heapq.heappush(self._deadlines, (record.deadline, self._numbers, record))

    # -- inside

    def _session(self, now: float, session_id: str) -> Session:
        self.advance(now)
        session = self._sessions.get(session_id)
        if session is None:
            raise session_gone(self._ended.get(session_id))
        return session

    def _repeat(
        self, now: float, known: Known, ask: Ask, wake: Callable[[], object]
    ) -> Granted | Waiter:
        if known.fingerprint is not None and known.fingerprint != ask.fingerprint:
            raise request_conflict(OTHER_BODY)
        outcome = known.outcome
        if isinstance(outcome, Refusal):
            raise outcome.again()
        if isinstance(outcome, Hold):
            return self.granted(now, outcome)
        older, outcome.wake = outcome.wake, wake
        older()
        outcome.deadline = max(outcome.deadline, now + ask.wait_ms / 1000)
        return outcome

    def _settle(self, session: Session, settled: int) -> None:
        """Forget outcomes; one that still waits was given up by its client."""
        if settled <= session.settled:
            return
        session.settled = settled
        for request_id in [each for each in session.requests if each <= settled]:
            outcome = session.requests[request_id].outcome
            if isinstance(outcome, Waiter):
                self._finish(outcome, waited_in_vain("its client has settled this request id"))
                self._promote(outcome.ask.keys)
            del session.requests[request_id]

    def _grant(self, session: Session, ask: Ask, owner: str | None) -> Hold:
        token = self._next_token
        self._next_token += 1
        previous = tuple(self._previous.pop(key, None) for key in ask.keys)
        hold = Hold(token, session, ask.keys, owner, previous, self._horizon)
        session.holds[token] = hold
        for key in ask.keys:
            self._holds[key] = hold
        session.requests[ask.request_id] = Known(ask.fingerprint, hold)
        return hold

    def _end_hold(self, hold: Hold, ended: str) -> None:
        hold.ended = ended
        session = hold.session
        del session.holds[hold.token]
        session.released[hold.token] = None
        if len(session.released) > RELEASES_REMEMBERED:
            session.released.popitem(last=False)
        for key in hold.keys:
            del self._holds[key]
            self._previous[key] = Previous(hold.token, ended)
        while len(self._previous) > PREVIOUS_REMEMBERED:
            _, dropped = self._previous.popitem(last=False)
            self._horizon = max(self._horizon, dropped.token)

    def _end_session(self, session: Session, ended: str) -> None:
        """Its waiters go first, so that nothing it frees is granted to itself."""
        changed: dict[str, None] = {}
        for waiter in list(session.waiters.values()):
            self._finish(waiter, session_gone(ended))
            changed.update(dict.fromkeys(waiter.ask.keys))
        for hold in list(session.holds.values()):
            self._end_hold(hold, ended)
            changed.update(dict.fromkeys(hold.keys))
        del self._sessions[session.id]
        self._ended[session.id] = ended
        if len(self._ended) > ENDED_SESSIONS_MAX:
            self._ended.popitem(last=False)
        self._promote(changed)

    def _finish(self, waiter: Waiter, outcome: Hold | Refusal) -> None:
        """Out of the queues, with an outcome."""
        for key in waiter.ask.keys:
            queue = self._queues[key]
            del queue[waiter.number]
            if not queue:
                del self._queues[key]
        del waiter.session.waiters[waiter.number]
        self._waiters -= 1
        waiter.outcome = outcome
        known = waiter.session.requests.get(waiter.ask.request_id)
        if known is not None:
            known.outcome = outcome
        waiter.wake()

    def _promote(self, keys: Iterable[str]) -> None:
        """Grant what has become grantable on keys that were freed or whose queue lost a waiter, in the order of arrival."""
        heads = {
            head.number: head
            for key in keys
            if key in self._queues
            for head in [next(iter(self._queues[key].values()))]
        }
        for number in sorted(heads):
            waiter = heads[number]
            if all(
                key not in self._holds and next(iter(self._queues[key])) == number
                for key in waiter.ask.keys
            ):
                hold = self._grant(waiter.session, waiter.ask, waiter.owner)
                self._finish(waiter, hold)

    def _held(self, now: float, keys: tuple[str, ...]) -> Refusal:
        holds = {hold.token: hold for key in keys if (hold := self._holds.get(key)) is not None}
        queue_length = max(len(self._queues.get(key, ())) for key in keys)
        return held([_holder(now, each) for each in holds.values()], queue_length)


def _holder(now: float, hold: Hold) -> HolderView:
    return HolderView(
        hold.token, hold.session.id, hold.owner, int((hold.session.deadline - now) * 1000)
    )
