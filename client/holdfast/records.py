"""What happened, as the cluster's trail tells it: records of holds, the history of a key, the events of a watch.

Rule: parsing only, tolerant of what a newer node adds. Durations are seconds. `at` is what the leader's wall clock said: for
people; the order is that of `revision`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from holdfast.wire import MS_PER_SECOND


@dataclass(frozen=True, slots=True)
class Record:
    """One thing that happened to `keys`. `kind`: `granted`, `ended` (`ended` says how), `resolved` (an operator opened what was
    closed under this token), `forgotten` (a result is remembered no longer). What does not apply is None."""

    revision: int
    kind: str
    cluster_time: float
    at: datetime
    token: int
    keys: tuple[str, ...]
    owner: str | None
    context: str | None
    mode: str | None
    limit: int | None
    waited: float | None
    held: float | None
    ended: str | None
    operator: str | None
    reason: str | None
    raw: Mapping[str, Any] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Restarted:
    """A watch could not go on without a gap, and began anew after `revision`: read the present state now; what follows is complete
    from here."""

    revision: int


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """A piece of the history of a key, oldest first. `next`: pass it as `after`; None: this was the last. `first_revision`: the
    oldest record that is kept of any key; what was before it is not known any more."""

    key: str
    records: tuple[Record, ...]
    next: int | None
    first_revision: int
    last_revision: int
    raw: Mapping[str, Any] = field(repr=False, compare=False)


def record_of(raw: Mapping[str, Any]) -> Record:
    """One record, as history and events have it."""
    return Record(
        revision=int(raw["revision"]),
        kind=str(raw["kind"]),
        cluster_time=int(raw["cluster_ms"]) / MS_PER_SECOND,
        at=datetime.fromtimestamp(int(raw["wall_ms"]) / MS_PER_SECOND, UTC),
        token=int(raw["token"]),
        keys=tuple(str(each) for each in raw["keys"]),
        owner=raw.get("owner"),
        context=raw.get("context"),
        mode=raw.get("mode"),
        limit=raw.get("limit"),
        waited=_seconds(raw.get("waited_ms")),
        held=_seconds(raw.get("held_ms")),
        ended=raw.get("ended"),
        operator=raw.get("operator"),
        reason=raw.get("reason"),
        raw=raw,
    )


def history_page_of(raw: Mapping[str, Any]) -> HistoryPage:
    """The answer of a read of history."""
    return HistoryPage(
        key=str(raw["key"]),
        records=tuple(record_of(each) for each in raw.get("records") or ()),
        next=raw.get("next"),
        first_revision=int(raw["first_revision"]),
        last_revision=int(raw["last_revision"]),
        raw=raw,
    )


def wall_ms(moment: datetime | float | None) -> int | None:
    """Unix milliseconds of a time of day: an aware `datetime`, or Unix seconds. Raises `ValueError` for a naive one, which would
    mean something else on each machine."""
    if moment is None:
        return None
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise ValueError("a time needs its zone, for example datetime.now(UTC)")
        moment = moment.timestamp()
    if moment < 0:
        raise ValueError("a time before 1970 has no events")
    return round(moment * MS_PER_SECOND)


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / MS_PER_SECOND
