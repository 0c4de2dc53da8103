"""Why a key is where it is: its holders, its waiters and what each of them waits for, and how long its grants have taken.

Rule: parsing only. Durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.views import LockInfo, Waiter, lock_of, waiters_of
from holdfast.wire import MS_PER_SECOND


@dataclass(frozen=True, slots=True)
class Blocker:
    """A hold that has to end before a waiter is granted, and the key on which it stands in the way."""

    key: str
    token: int
    session_ref: str | None
    owner: str | None
    context: str | None


@dataclass(frozen=True, slots=True)
class Durations:
    """The median (the lower one) and the longest."""

    median: float
    longest: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """`waits_for`: each waiter of `lock`, in its order, with the holds that are in its way, through the queue. `grants`: how
    many grants of the key the trail still has (since revision `since`), and how long they `waited` and were `held`; None: it has
    none."""

    lock: LockInfo
    waits_for: tuple[tuple[Waiter, tuple[Blocker, ...]], ...]
    grants: int
    waited: Durations | None
    held: Durations | None
    since: int
    raw: Mapping[str, Any] = field(repr=False, compare=False)


def explanation_of(raw: Mapping[str, Any]) -> Explanation:
    """The answer of explain."""
    waiters = raw.get("waiters") or ()
    blockers = [
        tuple(_blocker(each) for each in waiter.get("waits_for") or ()) for waiter in waiters
    ]
    figures = raw["grants"]
    return Explanation(
        lock=lock_of(raw),
        waits_for=tuple(zip(waiters_of(raw.get("waiters")), blockers, strict=True)),
        grants=int(figures["count"]),
        waited=_durations(figures.get("waited_ms")),
        held=_durations(figures.get("held_ms")),
        since=int(figures["since_revision"]),
        raw=raw,
    )


def _blocker(raw: Mapping[str, Any]) -> Blocker:
    return Blocker(
        key=str(raw["key"]),
        token=int(raw["token"]),
        session_ref=raw.get("session_ref"),
        owner=raw.get("owner"),
        context=raw.get("context"),
    )


def _durations(raw: Mapping[str, Any] | None) -> Durations | None:
    if raw is None:
        return None
    return Durations(int(raw["p50"]) / MS_PER_SECOND, int(raw["max"]) / MS_PER_SECOND)
