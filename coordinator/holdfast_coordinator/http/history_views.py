"""What the trail looks like from outside: the answers of history and explain, the events of a stream.

Rule: pure. One shape for a record wherever it is shown; what does not apply to its kind is absent. `openapi.yaml` describes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from holdfast_coordinator.http.views import (
    CheckpointView,
    ClosureView,
    HolderView,
    PreviousView,
    QueuedView,
    lock_state,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from holdfast_coordinator.machine.outcomes import Blocker, Durations, Explanation
    from holdfast_coordinator.machine.trail import Record


class RecordView(msgspec.Struct, omit_defaults=True, frozen=True):
    revision: int
    kind: str
    cluster_ms: int
    wall_ms: int
    token: int
    keys: list[str]
    owner: str | None = None
    context: str | None = None
    mode: str | None = None
    limit: int | None = None
    waited_ms: int | None = None
    held_ms: int | None = None
    ended: str | None = None
    operator: str | None = None
    reason: str | None = None


class HistoryPage(msgspec.Struct, frozen=True):
    """`first_revision`: the oldest record that is kept of any key; what lies before it is not known here any more."""

    key: str
    records: list[RecordView]
    next: int | None
    first_revision: int
    last_revision: int
    consistency: str | msgspec.UnsetType = msgspec.UNSET
    age_ms: int | msgspec.UnsetType | None = msgspec.UNSET


class BlockerView(msgspec.Struct, frozen=True):
    """A hold that must end before a waiter is granted, and the key on which it stands in the way."""

    key: str
    token: int
    session_ref: str
    owner: str | None
    context: str | None


class ExplainedWaiter(QueuedView, frozen=True):
    waits_for: list[BlockerView]


class DurationsView(msgspec.Struct, frozen=True):
    """The median (the lower one) and the longest, in milliseconds."""

    p50: int
    max: int


class GrantFigures(msgspec.Struct, frozen=True):
    """Over what the trail still has of the key. Null: nothing of it."""

    count: int
    waited_ms: DurationsView | None
    held_ms: DurationsView | None
    since_revision: int


class ExplanationView(msgspec.Struct, frozen=True):
    """A lock as it is read anywhere, and why its waiters wait."""

    key: str
    holders: list[HolderView]
    waiters: list[ExplainedWaiter]
    queue_length: int
    closed: ClosureView | None
    checkpoint: CheckpointView | None
    previous: PreviousView | None
    grants: GrantFigures
    consistency: str | msgspec.UnsetType = msgspec.UNSET
    age_ms: int | msgspec.UnsetType | None = msgspec.UNSET


# -- a stream of events ----------------------------------------------------------------------------------------------------


class AtEvent(msgspec.Struct, frozen=True):
    """What a stream begins with: events after `revision` follow; `first_revision` is the oldest that could be asked for."""

    revision: int
    first_revision: int
    node: str


class GoneEvent(msgspec.Struct, frozen=True):
    """What a stream ends with, if this node ends it."""

    reason: str
    detail: str
    first_revision: int


def record_view(record: Record, keys: Sequence[str] | None = None) -> RecordView:
    """`keys`: those to show, if not all."""
    return RecordView(
        record.revision,
        record.kind,
        record.cluster_ms,
        record.wall_ms,
        record.token,
        list(record.keys if keys is None else keys),
        *record[6:],
    )


def explanation_view(
    explanation: Explanation, session_ref: Callable[[str], str], waiters_shown_max: int
) -> ExplanationView:
    lock = lock_state(explanation.lock, session_ref, waiters_shown_max)
    # The machine explains the head of the queue; its bound may be smaller than ours.
    explained = zip(lock.waiters, explanation.blockers, strict=False)
    figures = GrantFigures(
        explanation.waited.count,
        _durations(explanation.waited),
        _durations(explanation.held),
        explanation.since,
    )
    return ExplanationView(
        lock.key,
        lock.holders,
        [_explained(waiter, blockers, session_ref) for waiter, blockers in explained],
        lock.queue_length,
        lock.closed,
        lock.checkpoint,
        lock.previous,
        figures,
    )


def _explained(
    waiter: QueuedView, blockers: Iterable[Blocker], session_ref: Callable[[str], str]
) -> ExplainedWaiter:
    waits_for = [
        BlockerView(each.key, each.token, session_ref(each.session), each.owner, each.context)
        for each in blockers
    ]
    return ExplainedWaiter(**msgspec.structs.asdict(waiter), waits_for=waits_for)


def _durations(durations: Durations) -> DurationsView | None:
    if durations.count == 0:
        return None
    return DurationsView(durations.median_ms, durations.longest_ms)
