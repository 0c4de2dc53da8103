"""Why a key that nobody holds is not granted, what a holder left behind, and who waits for whom: plain frozen values.

Rule: parsing only, tolerant of fields that a newer node adds. Durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from holdfast.wire import MS_PER_SECOND

ClosedBy: TypeAlias = Literal["delay", "in_doubt", "done"]


@dataclass(frozen=True, slots=True)
class Closure:
    """A key that nobody holds and nobody gets. `by`: `delay` (for a while after an unclean end), `in_doubt` (until somebody
    resolves it), `done` (its work is completed, with `result`). `token`, `ended`: of the hold that closed it. `remaining`: None
    until it is resolved."""

    key: str
    by: str
    token: int
    ended: str
    remaining: float | None
    result: str | None


@dataclass(frozen=True, slots=True)
class ClosedPage:
    """A piece of the list of closed keys. `next`: pass it as `after`; None: this was the last."""

    closed: tuple[Closure, ...]
    next: str | None
    raw: Mapping[str, Any] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a holder noted about its work, and with which token."""

    token: int
    value: str


@dataclass(frozen=True, slots=True)
class Forced:
    """What an operator ended. `floor`: a fresh token, above all of `tokens` and below every grant to come: what the resource
    must know."""

    tokens: tuple[int, ...]
    floor: int


@dataclass(frozen=True, slots=True)
class Blocked:
    """One step of a circle: this task waits for `key`, which the next one holds under `token` (None: waits for, ahead of it)."""

    session_ref: str | None
    context: str | None
    owner: str | None
    key: str
    token: int | None


def closure_of(raw: object) -> Closure | None:
    """`closed` of a lock or of a refusal."""
    if not isinstance(raw, Mapping):
        return None
    remaining_ms = raw.get("remaining_ms")
    return Closure(
        key=str(raw["key"]),
        by=str(raw["by"]),
        token=int(raw["token"]),
        ended=str(raw["ended"]),
        remaining=None if remaining_ms is None else int(remaining_ms) / MS_PER_SECOND,
        result=raw.get("result"),
    )


def closed_page_of(raw: Mapping[str, Any]) -> ClosedPage:
    """The answer of a list of closed keys."""
    found = (closure_of(each) for each in raw.get("closed") or ())
    return ClosedPage(tuple(each for each in found if each is not None), raw.get("next"), raw)


def checkpoint_of(raw: object) -> Checkpoint | None:
    """One `{"token", "value"}` or null."""
    if raw is None or not isinstance(raw, Mapping) or "value" not in raw:
        return None
    return Checkpoint(token=int(raw["token"]), value=str(raw["value"]))


def checkpoints_by_key(keys: tuple[str, ...], raw: object) -> dict[str, Checkpoint | None]:
    """`checkpoint` of an acquire: that of the one key, or a mapping for several."""
    if len(keys) == 1:
        return {keys[0]: checkpoint_of(raw)}
    found = raw if isinstance(raw, Mapping) else {}
    return {key: checkpoint_of(found.get(key)) for key in keys}


def fences_of(keys: tuple[str, ...], raw: object) -> dict[str, int]:
    """`fence` of an acquire, for each key; empty if it has none."""
    if type(raw) is int:
        return dict.fromkeys(keys, raw)
    if isinstance(raw, Mapping):
        return {key: int(raw[key]) for key in keys}
    return {} if raw is None else dict.fromkeys(keys, _integer(raw))


def cycle_of(raw: object) -> tuple[Blocked, ...]:
    """`cycle` of a refusal."""
    return tuple(
        Blocked(
            session_ref=each.get("session_ref"),
            context=each.get("context"),
            owner=each.get("owner"),
            key=str(each["key"]),
            token=each.get("token"),
        )
        for each in (raw if isinstance(raw, list) else ())
    )


def _integer(raw: object) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise TypeError(f"a fence is an integer, not {raw!r}")
    return raw
