"""Records of the state as others may see them.

Rule: lookups only; nothing is changed, and no secret is hidden here (the API does that).
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from .blocking import holds_before
from .closed_views import closed_view
from .outcomes import Blocker, Durations, Explanation, LockView, WaiterView
from .state import State, Waiter
from .table import holders

WAITERS_EXPLAINED_MAX: Final = 100
"""The head of a queue explains it; everybody behind waits for the same."""
RECORDS_EXPLAINED_MAX: Final = 4_096
"""Of the trail, from its end: 20 ms of reading if the key is in every block of them."""
BLOCKERS_MAX: Final = 100
"""Of one waiter. A phase of a thousand readers is as plain with a hundred."""


def lock_view(state: State, key: str) -> LockView:
    closure = state.closures.get(key)
    return LockView(
        key,
        holders(state, (key,)),
        tuple([_waiter_view(state, waiter) for waiter in state.queues.get(key, {}).values()]),
        None if closure is None else closed_view(state, closure),
        state.checkpoints.get(key),
        state.history.previous.get(key),
    )


def _waiter_view(state: State, waiter: Waiter) -> WaiterView:
    now_ms = state.cluster_time_ms
    return WaiterView(
        waiter.session,
        waiter.owner,
        waiter.keys,
        waiter.terms.mode,
        max(0, waiter.deadline_ms - now_ms),
        waiter.terms.limit,
        waiter.context,
        now_ms - waiter.since_ms,
    )


def explanation(state: State, key: str) -> Explanation:
    waiters = islice(state.queues.get(key, {}).values(), WAITERS_EXPLAINED_MAX)
    waited, held = [], []
    since = max(state.trail.first_revision, state.trail.last_revision + 1 - RECORDS_EXPLAINED_MAX)
    for record in state.trail.of_key(key, since - 1):
        if record.kind == "granted":
            waited.append(record.waited_ms or 0)
        elif record.kind == "ended":
            held.append(record.held_ms or 0)
    return Explanation(
        lock_view(state, key),
        tuple([_blockers(state, waiter) for waiter in waiters]),
        _durations(waited),
        _durations(held),
        since,
    )


def _blockers(state: State, waiter: Waiter) -> tuple[Blocker, ...]:
    return tuple(
        [
            Blocker(key, hold.token, hold.session, hold.owner, hold.context)
            for key, hold in islice(holds_before(state, waiter), BLOCKERS_MAX)
        ]
    )


def _durations(values: list[int]) -> Durations:
    if not values:
        return Durations(0, 0, 0)
    values.sort()
    return Durations(len(values), values[(len(values) - 1) // 2], values[-1])
