"""The replicated lock table: `apply(entry)` in, outcomes out. Every replica that applies the same log is in the same state.

Rule: pure and total. No clock, no randomness, no I/O; nothing raises; time is what the entries say. Order within one entry:

1. **Time.** `elapsed_ms`, at most 500, counts only if the entry before had the same term.
2. **Origins.** One scan in order decides which operations are live (`origins.py`). What is not live takes no further part.
3. **Renewals**, in order: every live renewal whose session exists now, that is, had not ended before this entry. Time may have
   passed its deadline in step 1; the renewal saves it. A renewal of a session that does not exist (yet) stays in its place.
4. **Newer boots.** Nameless waiters of a node's older boots are withdrawn, before an expiry could grant to one.
5. **Expiries** of sessions and waits, by deadline, then id. After step 3, whoever is past the deadline ends in this entry.
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

from . import rules, snapshot
from .limits import ELAPSED_MS_MAX, Limits
from .operations import (
    Acquire,
    Barrier,
    Cancel,
    CloseSession,
    Entry,
    Malformed,
    OpenSession,
    Operation,
    Origin,
    Release,
    RenewSession,
    Withdraw,
)
from .outcomes import LockView, Outcome, WaiterView
from .state import Out, State
from .table import holders

HANDLERS: Final[dict[type, Callable[[State, Origin, Any, Out], None]]] = {
    OpenSession: rules.open_session,
    RenewSession: rules.renew_session,
    CloseSession: rules.close_session,
    Acquire: rules.acquire,
    Release: rules.release,
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


class Machine:
    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008 -- frozen
        self.state = State(limits)

    def apply(self, entry: Entry) -> list[tuple[Origin, Outcome]]:
        """Advance by one log entry. Outcomes are in the order in which they came about; each names whom it is for."""
        state = self.state
        out: Out = []
        self._advance_time(entry)
        rest = self._admit_and_renew(entry, out)
        deadlines = state.deadlines
        now_ms = state.cluster_time_ms
        while (record := deadlines.pop_due(now_ms, state.sessions, state.waiters)) is not None:
            rules.expire(state, record, out)
        for origin, operation in rest:
            HANDLERS[type(operation)](state, origin, operation, out)
        deadlines.sweep(state.sessions, state.waiters)
        return out

    def _advance_time(self, entry: Entry) -> None:
        """Two leaders may both have measured the same stretch of time, so a new leader's first stamp is not counted."""
        state = self.state
        if entry.term == state.last_term:
            state.cluster_time_ms += min(max(entry.elapsed_ms, 0), ELAPSED_MS_MAX)
        state.last_term = entry.term

    def _admit_and_renew(self, entry: Entry, out: Out) -> list[tuple[Origin, Operation]]:
        """Steps 2 to 4 of the order; returns the operations of step 6."""
        state = self.state
        rest: list[tuple[Origin, Operation]] = []
        newer_boots: list[Origin] = []
        for addressed in entry.operations:
            origin, operation = addressed
            admitted = state.origins.admit(origin)
            if admitted is False:
                continue
            if admitted is None:
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
    def last_token(self) -> int:
        return self.state.last_token

    @property
    def has_deadlines(self) -> bool:
        """Whether time must go on: every session has a lease, or a waiter with a deadline."""
        return bool(self.state.sessions)

    def lock(self, key: str) -> LockView:
        """One key as others may see it; without holders and waiters when it is not in use."""
        state = self.state
        now_ms = state.cluster_time_ms
        waiters = tuple(
            WaiterView(
                waiter.session,
                waiter.owner,
                waiter.keys,
                "exclusive",
                max(0, waiter.deadline_ms - now_ms),
            )
            for waiter in state.queues.get(key, {}).values()
        )
        return LockView(key, holders(state, (key,)), waiters)

    def locks(
        self, prefix: str, after: str | None, limit: int
    ) -> tuple[list[LockView], str | None]:
        """A page of keys in use, sorted by their bytes. The second value continues the list (`after`), None at its end.

        Looks at every key in use: this is for people and dashboards, not for the path of a payment.
        """
        state = self.state
        limit = max(1, limit)
        in_use = [key for key in state.holds_by_key if key.startswith(prefix)]
        in_use += [
            key for key in state.queues if key not in state.holds_by_key and key.startswith(prefix)
        ]
        if after is not None:
            in_use = [key for key in in_use if key > after]
        page = nsmallest(limit, in_use)  # code points sort as their UTF-8 bytes do
        following = page[-1] if len(in_use) > limit else None
        return [self.lock(key) for key in page], following

    def is_current(self, key: str, token: int) -> bool:
        hold = self.state.holds_by_key.get(key)
        return hold is not None and hold.token == token

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
            keys=len(state.holds_by_key),
            waiters=len(state.waiters),
            previous=len(state.history.previous),
            ended_sessions=len(state.history.ended_sessions),
            last_token=state.last_token,
            cluster_time_ms=state.cluster_time_ms,
            grants_total=totals.grants,
            releases_total=totals.releases,
            expired_total=totals.expired_holds,
            sessions_expired_total=totals.expired_sessions,
            wait_timeouts_total=totals.wait_timeouts,
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
