"""What the model remembers: one record a session, a request, a closed key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from holdfast_coordinator.machine import PLAIN, Note, Origin, Previous, Refused, Terms


@dataclass(eq=False)
class ModelSession:
    name: str
    ttl: int
    implicit: bool
    deadline: int | None
    owner: str | None = None
    settled: int = -1
    forced: list[int] = field(default_factory=list)


@dataclass(eq=False)
class ModelRequest:
    """One acquire, whatever became of it: waiting, granted, ended, refused or withdrawn."""

    session: str
    name: int | str | None
    body: Any
    keys: tuple[str, ...]
    status: str
    terms: Terms = PLAIN
    owner: str | None = None
    context: str | None = None
    origin: Origin | None = None
    since: int = 0
    wait_until: int = 0
    token: int = 0
    granted_at: int = 0
    fences: tuple[int, ...] = ()
    ended: str | None = None
    floor: int | None = None
    refused: Refused | None = None
    previous: tuple[Previous | None, ...] = ()
    horizon: int = 0
    notes: tuple[Note | None, ...] = ()
    forgotten: bool = False


@dataclass(eq=False)
class ModelClosure:
    key: str
    by: str
    token: int
    ended: str
    deadline: int | None
    result: str | None = None


def refused(code: str, ended: str | None = None, **more: Any) -> Refused:
    return Refused(code, "", ended=ended, **more)
