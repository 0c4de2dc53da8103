"""What an answer looks like: one struct for each body that the API sends, and how the machine's values become it.

Rule: pure. A session's id is in no view but those that its creator asked for; everybody else sees `session_ref`. `openapi.yaml`
describes these structs, and the tests hold the two together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_coordinator.machine.outcomes import (
        Granted,
        Holder,
        LockView,
        Previous,
        WaiterView,
    )
    from holdfast_coordinator.node_types import ClusterStatus


class HolderView(msgspec.Struct, frozen=True):
    token: int
    session_ref: str
    owner: str | None
    mode: str
    remaining_ms: int


class QueuedView(msgspec.Struct, frozen=True):
    session_ref: str
    owner: str | None
    keys: list[str]
    mode: str
    remaining_wait_ms: int


class LockState(msgspec.Struct, frozen=True):
    """`waiters` is the head of the queue in the order of the grants to come; `queue_length` counts all of it."""

    key: str
    holders: list[HolderView]
    waiters: list[QueuedView]
    queue_length: int


class LockPage(msgspec.Struct, frozen=True):
    locks: list[LockState]
    next: str | None


class LocalLockPage(msgspec.Struct, frozen=True):
    locks: list[LockState]
    next: str | None
    consistency: str
    age_ms: int | None


# A node's own view says so, and how old it may be: milliseconds since the node last knew that it had applied everything committed,
# null if it never has.
class LocalLockState(msgspec.Struct, frozen=True):
    key: str
    holders: list[HolderView]
    waiters: list[QueuedView]
    queue_length: int
    consistency: str
    age_ms: int | None


class Check(msgspec.Struct, frozen=True):
    current: bool


class LocalCheck(msgspec.Struct, frozen=True):
    current: bool
    consistency: str
    age_ms: int | None


class SessionView(msgspec.Struct, frozen=True):
    session: str
    ttl_ms: int
    remaining_ms: int


class RenewedView(msgspec.Struct, frozen=True):
    remaining_ms: int


class ClosedView(msgspec.Struct, frozen=True):
    released: list[int]


class GrantView(msgspec.Struct, frozen=True):
    """`previous`: of one key, the last hold of it or null; of several, a mapping from each key to that."""

    token: int
    fence: int
    keys: list[str]
    mode: str
    session: str
    remaining_ms: int
    previous: Previous | dict[str, Previous | None] | None
    previous_horizon: int


class ReleasedView(msgspec.Struct, frozen=True):
    released: bool


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
    state_hash: str | msgspec.UnsetType = msgspec.UNSET


class Alive(msgspec.Struct, frozen=True):
    alive: bool


class Ready(msgspec.Struct, frozen=True):
    ready: bool


class SteppedDown(msgspec.Struct, frozen=True):
    leader: str


class NodeReplaced(msgspec.Struct, frozen=True):
    node: str


def holder_view(holder: Holder, session_ref: Callable[[str], str]) -> HolderView:
    return HolderView(
        holder.token,
        session_ref(holder.session),
        holder.owner,
        holder.mode,
        holder.remaining_ms,
    )


def queued_view(waiter: WaiterView, session_ref: Callable[[str], str]) -> QueuedView:
    return QueuedView(
        session_ref(waiter.session),
        waiter.owner,
        list(waiter.keys),
        waiter.mode,
        waiter.remaining_wait_ms,
    )


def lock_state(
    lock: LockView, session_ref: Callable[[str], str], waiters_shown_max: int
) -> LockState:
    return LockState(
        lock.key,
        [holder_view(h, session_ref) for h in lock.holders],
        [queued_view(w, session_ref) for w in lock.waiters[:waiters_shown_max]],
        len(lock.waiters),
    )


def grant_view(granted: Granted) -> GrantView:
    previous: Previous | dict[str, Previous | None] | None
    by_key = zip(granted.keys, granted.previous, strict=True)
    previous = granted.previous[0] if len(granted.keys) == 1 else dict(by_key)
    return GrantView(
        granted.token,
        granted.fence,
        list(granted.keys),
        granted.mode,
        granted.session,
        granted.remaining_ms,
        previous,
        granted.previous_horizon,
    )


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
        msgspec.UNSET if state_hash is None else state_hash.hex(),
    )


def aged(body: LockState | LockPage | Check, age_ms: int | None) -> msgspec.Struct:
    """The same answer as one node's own view, with how old it may be."""
    if isinstance(body, LockState):
        return LocalLockState(
            body.key, body.holders, body.waiters, body.queue_length, "local", age_ms
        )
    if isinstance(body, LockPage):
        return LocalLockPage(body.locks, body.next, "local", age_ms)
    return LocalCheck(body.current, "local", age_ms)
