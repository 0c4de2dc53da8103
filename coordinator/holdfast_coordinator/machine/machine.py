"""The replicated lock table: `apply(entry)` in, outcomes out. Every replica that applies the same log is in the same state.

Rule: pure and total. No clock, no randomness, no I/O; nothing raises; time is what the entries say. Order within one entry:

0. **Level.** An entry of a higher format level raises the state to it (`levels.py`).
1. **Time.** `elapsed_ms`, at most 500, counts only if the entry before had the same term.
2. **Origins.** One scan in order decides which operations are live (`origins.py`). What is not live takes no further part.
3. **Renewals**, in order: every live renewal whose session exists now, that is, had not ended before this entry. Time may have
   passed its deadline in step 1; the renewal saves it. A renewal of a session that does not exist (yet) stays in its place.
4. **Newer boots.** Nameless waiters of a node's older boots are withdrawn, before an expiry could grant to one.
5. **Expiries** of sessions, waits and closures, by deadline, then id. After step 3, whatever is past its deadline ends in this
   entry. A closure that an expiry of this step made counts from now, so it outlives the entry.
6. **Everything else**, in order.

A renewal therefore acts before operations that stand ahead of it in the entry, also from its own node. That is safe: entries
hold only operations whose answers nobody has seen, so nobody can have relied on their order among themselves. Sequencing is
untouched by it, because the scan has admitted or skipped each operation by its place before any of them acts.

The machine does not know what an entry cost, who leads, or which outcomes have a listener.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from heapq import nsmallest
from itertools import islice
from typing import Any, Final

from . import holder_rules, levels, operator_rules, rules, snapshot, views
from .closed_views import closed_view
from .limits import ELAPSED_MS_MAX, Limits
from .operations import (
    Acquire,
    Barrier,
    Cancel,
    Checkpoint,
    CloseSession,
    Complete,
    Entry,
    ForceRelease,
    Malformed,
    OpenSession,
    Operation,
    Origin,
    Release,
    RenewSession,
    Resolve,
    Withdraw,
)
from .outcomes import ClosedBy, ClosedView, Explanation, LockView, Outcome
from .state import Closure, Out, State
from .table import holds_on
from .trail import Trail

HANDLERS: Final[dict[type, Callable[[State, Origin, Any, Out], None]]] = {
    OpenSession: rules.open_session,
    RenewSession: rules.renew_session,
    CloseSession: rules.close_session,
    Acquire: rules.acquire,
    Release: rules.release,
    Complete: holder_rules.complete,
    Checkpoint: holder_rules.checkpoint,
    ForceRelease: operator_rules.force_release,
    Resolve: operator_rules.resolve,
    Cancel: rules.cancel,
    Withdraw: rules.withdraw,
    Barrier: rules.barrier,
    Malformed: rules.malformed,
}


@dataclass(frozen=True, slots=True)
class Counts:
    """How much there is now, and how much there has been since the cluster began (`*_total`)."""

    sessions: int
    holds: int
    keys: int
    """Keys that are held."""
    waiters: int
    delayed: int
    in_doubt: int
    done: int
    """Closed keys, by what closes them."""
    checkpoints: int
    previous: int
    ended_sessions: int
    last_token: int
    cluster_time_ms: int
    grants_total: int
    releases_total: int
    expired_total: int
    """Holds that ended because their session expired."""
    sessions_expired_total: int
    wait_timeouts_total: int
    forced_total: int
    deadlocks_total: int
    revision: int
    """Of the last record of the trail."""


class Machine:
    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008 -- frozen
        self.state = State(limits)

    def apply(self, entry: Entry) -> list[tuple[Origin, Outcome]]:
        """Advance by one log entry. Outcomes are in the order in which they came about; each names whom it is for."""
        state = self.state
        out: Out = []
        if entry.level > state.level:
            state.level = entry.level
        self._advance_time(entry)
        rest = self._admit_and_renew(entry, out)
        deadlines = state.deadlines
        while (record := deadlines.pop_due(state)) is not None:
            rules.expire(state, record, out)
        for origin, operation in rest:
            if levels.NEEDED and levels.needed(operation) > state.level:
                # As a version would that does not know it.
                rules.malformed(state, origin, Malformed("unknown operation"), out)
                continue
            HANDLERS[type(operation)](state, origin, operation, out)
        deadlines.sweep(state)
        return out

    def _advance_time(self, entry: Entry) -> None:
        """Two leaders may both have measured the same stretch of time, so a new leader's first stamp is not counted."""
        state = self.state
        elapsed_ms = entry.elapsed_ms
        if entry.term != state.last_term:
            state.last_term = entry.term
        elif elapsed_ms > 0:
            state.cluster_time_ms += min(ELAPSED_MS_MAX, elapsed_ms)
        state.wall_ms = entry.wall_ms

    def _admit_and_renew(self, entry: Entry, out: Out) -> list[tuple[Origin, Operation]]:
        """Steps 2 to 4 of the order; returns the operations of step 6."""
        state = self.state
        admit = state.origins.admit
        rest: list[tuple[Origin, Operation]] = []
        newer_boots: list[Origin] = []
        for addressed in entry.operations:
            origin, operation = addressed
            admitted = admit(origin)
            if admitted is not True:
                if admitted is False:
                    continue
                newer_boots.append(origin)
            if type(operation) is RenewSession and operation.session in state.sessions:
                rules.renew_session(state, origin, operation, out)
            else:
                rest.append(addressed)
        if newer_boots and state.waiters:
            rules.withdraw_older_boots(state, newer_boots, out)
        return rest

    # --- reads --------------------------------------------------------------------------------------------------------

    @property
    def cluster_time_ms(self) -> int:
        return self.state.cluster_time_ms

    @property
    def level(self) -> int:
        """The format level of the log so far."""
        return self.state.level

    @property
    def last_token(self) -> int:
        return self.state.last_token

    @property
    def has_deadlines(self) -> bool:
        """Whether time must go on: every session has a lease, or a waiter with a deadline; some closures have one."""
        closed = self.state.tally.closed
        return bool(self.state.sessions) or closed["delay"] > 0 or closed["done"] > 0

    @property
    def trail(self) -> Trail:
        return self.state.trail

    def lock(self, key: str) -> LockView:
        """One key as others may see it; without holders and waiters when it is not in use."""
        return views.lock_view(self.state, key)

    def locks(
        self, prefix: str, after: str | None, limit: int
    ) -> tuple[list[LockView], str | None]:
        """A page of keys in use, sorted by their bytes. The second value continues the list (`after`), None at its end.

        Looks at every key in use: this is for people and dashboards, not for the path of a payment.
        """
        state = self.state
        in_use = [
            key
            for key, stands in state.standing.items()
            if key.startswith(prefix) and not isinstance(stands, Closure)
        ]
        in_use += [
            key
            for key in state.queues
            if key.startswith(prefix) and isinstance(state.standing.get(key), Closure | None)
        ]
        page, following = _page(in_use, after, limit)
        return [self.lock(key) for key in page], following

    def closures(
        self, prefix: str, by: ClosedBy | None, after: str | None, limit: int
    ) -> tuple[list[ClosedView], str | None]:
        """A page of closed keys (`by` None: whatever closes them), as `locks`."""
        closures = self.state.closures
        found = [
            key
            for key, closure in closures.items()
            if key.startswith(prefix) and by in (None, closure.by)
        ]
        page, following = _page(found, after, limit)
        return [closed_view(self.state, closures[key]) for key in page], following

    def explain(self, key: str) -> Explanation:
        """One key, who waits for whom, and how long its latest grants have taken. Reads a part of the trail: for people."""
        return views.explanation(self.state, key)

    def is_current(self, key: str, token: int) -> bool:
        return any(hold.token == token for hold in holds_on(self.state, key))

    def last_sequence(self, node: str, boot: int) -> int:
        """The last operation of this boot of the node that took part; 0: none."""
        last = self.state.origins.last.get(node)
        return last[1] if last is not None and last[0] == boot else 0

    def is_waiting(self, origin: Origin) -> bool:
        """Whether a waiter is attached to this operation: its outcome is still to come."""
        return origin in self.state.attachments

    def nameless_attachments(self, nodes: frozenset[str], limit: int) -> list[Origin]:
        """The first waiters at these nodes that nobody could ask for again."""
        found = (
            waiter.attachment
            for waiter in self.state.waiters.values()
            if waiter.request_id is None and waiter.attachment.node in nodes
        )
        return list(islice(found, limit))

    @property
    def losses(self) -> int:
        """How many sessions and holds ended against their holders' will: whoever may have to tell one sees that it has grown."""
        totals = self.state.totals
        return totals.expired_sessions + totals.forced_holds

    def has_ended(self, session: str) -> bool:
        """Whether it was open and is over. False also of one that is not known (yet), and of one that is forgotten."""
        return session in self.state.history.ended_sessions

    def forced_of(self, session: str) -> tuple[int, ...]:
        """Tokens of its holds that an operator ended, and that it has not let go of."""
        record = self.state.sessions.get(session)
        return () if record is None or record.forced is None else tuple(record.forced)

    def knows_request(self, session: str, request_id: int | str) -> bool:
        """Whether an acquire of this name has come before: what asks again is let through where new requests are not."""
        record = self.state.sessions.get(session)
        return (
            record is not None
            and record.requests is not None
            and request_id in record.requests.by_id
        )

    def session_owner(self, session: str) -> str | None:
        """Of an open session, for those who count by owner."""
        record = self.state.sessions.get(session)
        return None if record is None else record.owner

    def implicit_hold(self, session: str, keys: tuple[str, ...]) -> int | None:
        """The token by which an implicit session holds exactly these keys."""
        record = self.state.sessions.get(session)
        if record is None or not record.implicit:
            return None
        return next((hold.token for hold in record.holds.values() if hold.keys == keys), None)

    def counts(self) -> Counts:
        state = self.state
        totals = state.totals
        return Counts(
            sessions=len(state.sessions),
            holds=len(state.holds),
            keys=len(state.standing) - len(state.closures),
            waiters=len(state.waiters),
            delayed=state.tally.closed["delay"],
            in_doubt=state.tally.closed["in_doubt"],
            done=state.tally.closed["done"],
            checkpoints=len(state.checkpoints),
            previous=len(state.history.previous),
            ended_sessions=len(state.history.ended_sessions),
            last_token=state.last_token,
            cluster_time_ms=state.cluster_time_ms,
            grants_total=totals.grants,
            releases_total=totals.releases,
            expired_total=totals.expired_holds,
            sessions_expired_total=totals.expired_sessions,
            wait_timeouts_total=totals.wait_timeouts,
            forced_total=totals.forced_holds,
            deadlocks_total=totals.deadlocks,
            revision=state.trail.last_revision,
        )

    # --- the whole state ----------------------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        return snapshot.encode_state(self.state)

    def state_hash(self) -> bytes:
        """Equal on replicas that applied the same log, however they came by it (replay or snapshot)."""
        return hashlib.blake2b(self.snapshot(), digest_size=32).digest()

    @classmethod
    def restore(cls, data: bytes, limits: Limits = Limits()) -> Machine:  # noqa: B008 -- frozen
        """The machine that wrote this snapshot. Raises `SnapshotUnreadable` if these bytes are none."""
        steps = cls.restoring(data, limits)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                machine: Machine = end.value
                return machine

    @classmethod
    def restoring(cls, data: bytes, limits: Limits) -> Generator[None, None, Machine]:
        """The same in steps of a few milliseconds; the machine is the value of the generator's end."""
        machine = cls(limits)
        machine.state = yield from snapshot.decode_state(data, limits)
        return machine


def _page(keys: list[str], after: str | None, limit: int) -> tuple[list[str], str | None]:
    """The first `limit` keys past `after`, and where the list goes on. Code points sort as their UTF-8 bytes do."""
    limit = max(1, limit)
    if after is not None:
        keys = [key for key in keys if key > after]
    page = nsmallest(limit, keys)
    return page, page[-1] if len(keys) > limit else None
