"""What an answer looks like: one struct for each body that the API sends, and how the machine's values become it.

Rule: pure. A session's id is in no view but those that its creator asked for; everybody else sees `session_ref`. `openapi.yaml`
describes these structs, and the tests hold the two together. `history_views` has those of the trail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast_coordinator.machine.outcomes import (
        Blocked,
        ClosedView,
        Granted,
        Holder,
        LockView,
        Note,
        Previous,
        WaiterView,
    )
    from holdfast_coordinator.node_types import ClusterStatus

T = TypeVar("T")


class HolderView(msgspec.Struct, frozen=True):
    token: int
    session_ref: str
    owner: str | None
    context: str | None
    mode: str
    limit: int | None
    held_ms: int
    remaining_ms: int


class QueuedView(msgspec.Struct, frozen=True):
    session_ref: str
    owner: str | None
    context: str | None
    keys: list[str]
    mode: str
    limit: int | None
    waited_ms: int
    remaining_wait_ms: int


class PreviousView(msgspec.Struct, omit_defaults=True, frozen=True):
    """`floor` only of a forced end; `resolved` only if an operator has looked into an unclean one."""

    token: int
    ended: str
    floor: int | None = None
    resolved: bool = False


class CheckpointView(msgspec.Struct, frozen=True):
    token: int
    value: str


class ClosureView(msgspec.Struct, frozen=True):
    """A key that nobody holds and that is not granted. `remaining_ms` null: until it is resolved."""

    key: str
    by: str
    token: int
    ended: str
    remaining_ms: int | None
    result: str | None


class BlockedView(msgspec.Struct, frozen=True):
    """One step of a circle: this task waits for `key`, which the next one holds under `token` (null: for which it waits ahead)."""

    session_ref: str
    context: str | None
    owner: str | None
    key: str
    token: int | None


class LockState(msgspec.Struct, frozen=True):
    """`waiters` is the head of the queue in the order of the grants to come; `queue_length` counts all of it."""

    key: str
    holders: list[HolderView]
    waiters: list[QueuedView]
    queue_length: int
    closed: ClosureView | None
    checkpoint: CheckpointView | None
    previous: PreviousView | None
    consistency: str | msgspec.UnsetType = msgspec.UNSET
    age_ms: int | msgspec.UnsetType | None = msgspec.UNSET


class LockPage(msgspec.Struct, frozen=True):
    locks: list[LockState]
    next: str | None
    consistency: str | msgspec.UnsetType = msgspec.UNSET
    age_ms: int | msgspec.UnsetType | None = msgspec.UNSET


class ClosedPage(msgspec.Struct, frozen=True):
    closed: list[ClosureView]
    next: str | None
    consistency: str | msgspec.UnsetType = msgspec.UNSET
    age_ms: int | msgspec.UnsetType | None = msgspec.UNSET


class Check(msgspec.Struct, frozen=True):
    current: bool
    consistency: str | msgspec.UnsetType = msgspec.UNSET
    age_ms: int | msgspec.UnsetType | None = msgspec.UNSET


class SessionView(msgspec.Struct, frozen=True):
    session: str
    ttl_ms: int
    remaining_ms: int


class RenewedView(msgspec.Struct, frozen=True):
    """`forced`: tokens of holds that an operator ended; told until the client releases them."""

    remaining_ms: int
    forced: list[int]


class SessionClosedView(msgspec.Struct, frozen=True):
    released: list[int]


class GrantView(msgspec.Struct, frozen=True):
    """`previous` and `checkpoint`: of one key, that of it or null; of several, a mapping from each key to that."""

    token: int
    fence: int | dict[str, int] | None
    keys: list[str]
    mode: str
    session: str
    remaining_ms: int
    previous: PreviousView | dict[str, PreviousView | None] | None
    previous_horizon: int
    checkpoint: CheckpointView | dict[str, CheckpointView | None] | None
    limit: int | msgspec.UnsetType = msgspec.UNSET


class ReleasedView(msgspec.Struct, frozen=True):
    released: bool


class CompletedView(msgspec.Struct, frozen=True):
    completed: bool
    remaining_ms: int


class CheckpointWritten(msgspec.Struct, frozen=True):
    written: bool


class ForceReleasedView(msgspec.Struct, frozen=True):
    released: list[int]
    floor: int


class ResolvedView(msgspec.Struct, frozen=True):
    resolved: bool


class CancelledView(msgspec.Struct, frozen=True):
    released: int | None


class MemberView(msgspec.Struct, frozen=True):
    name: str
    http: str
    raft: str
    state: str
    match_index: int | None


class ClusterView(msgspec.Struct, frozen=True):
    cluster: str
    node: str
    leader: str | None
    term: int
    nodes: list[MemberView]
    commit_index: int
    applied_index: int
    cluster_time_ms: int
    epoch: int
    state_hash: str | msgspec.UnsetType = msgspec.UNSET


class Alive(msgspec.Struct, frozen=True):
    alive: bool


class Ready(msgspec.Struct, frozen=True):
    ready: bool


class SteppedDown(msgspec.Struct, frozen=True):
    leader: str


class Reloaded(msgspec.Struct, frozen=True):
    epoch: int


class NodeReplaced(msgspec.Struct, frozen=True):
    node: str


def holder_view(holder: Holder, session_ref: Callable[[str], str]) -> HolderView:
    return HolderView(
        holder.token,
        session_ref(holder.session),
        holder.owner,
        holder.context,
        holder.mode,
        holder.limit,
        holder.held_ms,
        holder.remaining_ms,
    )


def queued_view(waiter: WaiterView, session_ref: Callable[[str], str]) -> QueuedView:
    return QueuedView(
        session_ref(waiter.session),
        waiter.owner,
        waiter.context,
        list(waiter.keys),
        waiter.mode,
        waiter.limit,
        waiter.waited_ms,
        waiter.remaining_wait_ms,
    )


def previous_view(previous: Previous | None) -> PreviousView | None:
    if previous is None:
        return None
    return PreviousView(previous.token, previous.ended, previous.floor, previous.resolved)


def checkpoint_view(note: Note | None) -> CheckpointView | None:
    return None if note is None else CheckpointView(note.token, note.value)


def closure_view(closed: ClosedView) -> ClosureView:
    return ClosureView(
        closed.key, closed.by, closed.token, closed.ended, closed.remaining_ms, closed.result
    )


def blocked_view(blocked: Blocked, session_ref: Callable[[str], str]) -> BlockedView:
    return BlockedView(
        session_ref(blocked.session), blocked.context, blocked.owner, blocked.key, blocked.token
    )


def lock_state(
    lock: LockView, session_ref: Callable[[str], str], waiters_shown_max: int
) -> LockState:
    return LockState(
        lock.key,
        [holder_view(h, session_ref) for h in lock.holders],
        [queued_view(w, session_ref) for w in lock.waiters[:waiters_shown_max]],
        len(lock.waiters),
        None if lock.closed is None else closure_view(lock.closed),
        checkpoint_view(lock.checkpoint),
        previous_view(lock.previous),
    )


def grant_view(granted: Granted) -> GrantView:
    keys = granted.keys
    fence = granted.fence
    # The machine says nothing where no key has a checkpoint: that is nearly always.
    checkpoints = granted.checkpoints or (None,) * len(keys)
    return GrantView(
        granted.token,
        dict(zip(keys, fence, strict=True)) if isinstance(fence, tuple) else fence,
        list(keys),
        granted.mode,
        granted.session,
        granted.remaining_ms,
        _by_key(keys, [previous_view(each) for each in granted.previous]),
        granted.previous_horizon,
        _by_key(keys, [checkpoint_view(each) for each in checkpoints]),
        msgspec.UNSET if granted.limit is None else granted.limit,
    )


def _by_key(keys: tuple[str, ...], values: Sequence[T]) -> T | dict[str, T]:
    return values[0] if len(keys) == 1 else dict(zip(keys, values, strict=True))


def cluster_view(status: ClusterStatus, state_hash: bytes | None = None) -> ClusterView:
    members = [MemberView(n.name, n.http, n.raft, n.state, n.match_index) for n in status.nodes]
    return ClusterView(
        status.cluster,
        status.node,
        status.leader,
        status.term,
        members,
        status.commit_index,
        status.applied_index,
        status.cluster_time_ms,
        status.epoch,
        msgspec.UNSET if state_hash is None else state_hash.hex(),
    )


S = TypeVar("S", bound=msgspec.Struct)


def aged(body: S, age_ms: int | None) -> S:
    """The same answer as one node's own view: milliseconds since the node last knew that it had applied everything committed, None
    if it never has."""
    return msgspec.structs.replace(body, consistency="local", age_ms=age_ms)
