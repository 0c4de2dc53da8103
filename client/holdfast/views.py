"""What the coordinator tells about locks and nodes, as plain frozen values.

Rule: parsing only, and tolerant: a field that a newer node adds is kept in `raw` and disturbs nothing. Durations are
seconds here (the wire has milliseconds). This module knows neither HTTP nor sessions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast import wire
from holdfast.closed import checkpoint_of, closure_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.closed import Checkpoint, Closure

MS_PER_SECOND = wire.MS_PER_SECOND


@dataclass(frozen=True, slots=True)
class Previous:
    """The last hold of a key before this one. `ended`: `released` or `completed`, or `expired` / `forced`, in which case the work
    of that holder may be half done. `floor`: the token that a forced end took, which the resource ought to know. `resolved`: an
    operator has looked into an unclean end."""

    token: int
    ended: str
    floor: int | None = None
    resolved: bool = False


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody's hold, as others may see it. `session_ref` names the session without giving it away, `context` the task in it.
    `limit`: of a semaphore."""

    token: int
    session_ref: str | None
    owner: str | None
    mode: str
    remaining: float
    limit: int | None = None
    context: str | None = None
    held: float = 0.0


@dataclass(frozen=True, slots=True)
class Waiter:
    """Somebody in the queue of a key, in the order of the queue."""

    session_ref: str | None
    owner: str | None
    keys: tuple[str, ...]
    mode: str
    remaining_wait: float
    limit: int | None = None
    context: str | None = None
    waited: float = 0.0


@dataclass(frozen=True, slots=True)
class LockInfo:
    """One key: who holds it and who waits. Both empty and `closed` None: the key is free. `waiters` may be only the head of a long
    queue; `queue_length` counts all of it. `closed`: nobody holds it, and nobody gets it. `checkpoint`: what a holder noted.
    `previous`: the last hold that ended."""

    key: str
    holders: tuple[Holder, ...]
    waiters: tuple[Waiter, ...]
    queue_length: int
    raw: Mapping[str, Any] = field(repr=False, compare=False)
    closed: Closure | None = None
    checkpoint: Checkpoint | None = None
    previous: Previous | None = None


@dataclass(frozen=True, slots=True)
class LockPage:
    """A piece of the list of locks. `next`: pass it as `after` for the following piece; None: this was the last."""

    locks: tuple[LockInfo, ...]
    next: str | None
    raw: Mapping[str, Any] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """One node of the cluster as the answering node sees it."""

    name: str
    http: str | None
    raft: str | None
    state: str
    match_index: int | None


@dataclass(frozen=True, slots=True)
class ClusterInfo:
    """The cluster as one node (`node`) sees it. `leader` None: that node knows no leader at this moment."""

    node: str
    leader: str | None
    term: int
    nodes: tuple[NodeInfo, ...]
    commit_index: int
    applied_index: int
    cluster_time: float
    raw: Mapping[str, Any] = field(repr=False, compare=False)


def previous_of(raw: object) -> Previous | None:
    """One `{"token", "ended"}` or null."""
    if not isinstance(raw, dict):
        return None
    return Previous(
        int(raw["token"]),
        str(raw["ended"]),
        raw.get("floor"),
        bool(raw.get("resolved", False)),
    )


def previous_by_key(keys: tuple[str, ...], raw: object) -> dict[str, Previous | None]:
    """`previous` of an acquire: one value for one key; a list in the order of the keys, or a mapping, for several."""
    if isinstance(raw, list):
        return {key: previous_of(each) for key, each in zip(keys, raw, strict=False)}
    if isinstance(raw, dict) and "token" not in raw:
        return {key: previous_of(raw.get(key)) for key in keys}
    return {key: previous_of(raw) for key in keys}


def holders_of(raw: object) -> tuple[Holder, ...]:
    """`holders` of a lock or of a refusal."""
    return tuple(
        Holder(
            token=int(each["token"]),
            session_ref=each.get("session_ref"),
            owner=each.get("owner"),
            mode=str(each.get("mode", "exclusive")),
            remaining=int(each.get("remaining_ms", 0)) / MS_PER_SECOND,
            limit=each.get("limit"),
            context=each.get("context"),
            held=int(each.get("held_ms", 0)) / MS_PER_SECOND,
        )
        for each in _dicts(raw)
    )


def waiters_of(raw: object) -> tuple[Waiter, ...]:
    """`waiters` of a lock."""
    return tuple(
        Waiter(
            session_ref=each.get("session_ref"),
            owner=each.get("owner"),
            keys=tuple(each.get("keys", ())),
            mode=str(each.get("mode", "exclusive")),
            remaining_wait=int(each.get("remaining_wait_ms", 0)) / MS_PER_SECOND,
            limit=each.get("limit"),
            context=each.get("context"),
            waited=int(each.get("waited_ms", 0)) / MS_PER_SECOND,
        )
        for each in _dicts(raw)
    )


def lock_of(raw: Mapping[str, Any]) -> LockInfo:
    """The answer of a read of one key."""
    waiters = waiters_of(raw.get("waiters"))
    return LockInfo(
        key=str(raw["key"]),
        holders=holders_of(raw.get("holders")),
        waiters=waiters,
        queue_length=int(raw.get("queue_length", len(waiters))),
        raw=raw,
        closed=closure_of(raw.get("closed")),
        checkpoint=checkpoint_of(raw.get("checkpoint")),
        previous=previous_of(raw.get("previous")),
    )


def page_of(raw: Mapping[str, Any]) -> LockPage:
    """The answer of a list of locks."""
    return LockPage(
        locks=tuple(lock_of(each) for each in _dicts(raw.get("locks"))),
        next=raw.get("next"),
        raw=raw,
    )


def cluster_of(raw: Mapping[str, Any]) -> ClusterInfo:
    """The answer of `GET /v1/cluster`."""
    nodes = tuple(
        NodeInfo(
            name=str(each["name"]),
            http=each.get("http"),
            raft=each.get("raft"),
            state=str(each.get("state", "unknown")),
            match_index=each.get("match_index"),
        )
        for each in _dicts(raw.get("nodes"))
    )
    return ClusterInfo(
        node=str(raw["node"]),
        leader=raw.get("leader"),
        term=int(raw.get("term", 0)),
        nodes=nodes,
        commit_index=int(raw.get("commit_index", 0)),
        applied_index=int(raw.get("applied_index", 0)),
        cluster_time=int(raw.get("cluster_time_ms", 0)) / MS_PER_SECOND,
        raw=raw,
    )


def _dicts(raw: object) -> list[dict[str, Any]]:
    return [each for each in raw if isinstance(each, dict)] if isinstance(raw, list) else []
