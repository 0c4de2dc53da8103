"""What the machine answers. Plain values: no behaviour. Every operation gets exactly one final outcome, at its origin;
an acquire that waits gets `Queued` first and its final outcome when the wait ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Ended = Literal["released", "expired", "forced"]


@dataclass(frozen=True, slots=True)
class Previous:
    """The last hold of a key before this one."""

    token: int
    ended: Ended


@dataclass(frozen=True, slots=True)
class Holder:
    """A hold as others may see it. `session` is a secret: the HTTP layer turns it into a `session_ref`."""

    token: int
    session: str
    owner: str | None
    mode: str
    remaining_ms: int


@dataclass(frozen=True, slots=True)
class WaiterView:
    session: str
    owner: str | None
    keys: tuple[str, ...]
    mode: str
    remaining_wait_ms: int


@dataclass(frozen=True, slots=True)
class LockView:
    key: str
    holders: tuple[Holder, ...]
    waiters: tuple[WaiterView, ...]


@dataclass(frozen=True, slots=True)
class SessionOpened:
    session: str
    ttl_ms: int
    remaining_ms: int
    created: bool  # False: it was open already, under the same ttl


@dataclass(frozen=True, slots=True)
class Renewed:
    remaining_ms: int


@dataclass(frozen=True, slots=True)
class Closed:
    released: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Granted:
    """`previous`: per key in the order of `keys`; None where no earlier hold is remembered. Everything up to
    `previous_horizon` (a token) may have been forgotten."""

    token: int
    fence: int
    keys: tuple[str, ...]
    mode: str
    session: str
    remaining_ms: int
    previous: tuple[Previous | None, ...]
    previous_horizon: int


@dataclass(frozen=True, slots=True)
class Queued:
    """Not final. `position` counts from 0, over the longest queue that it stands in."""

    position: int


@dataclass(frozen=True, slots=True)
class Released:
    token: int


@dataclass(frozen=True, slots=True)
class Cancelled:
    """`released`: the token of a hold that the cancel ended, None if there was none."""

    released: int | None


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The outcome of a Withdraw, and also the final one of the waiter that it took away: its caller had gone, or its node was
    taken for dead."""

    removed: bool


@dataclass(frozen=True, slots=True)
class Passed:
    """The outcome of a Barrier."""


@dataclass(frozen=True, slots=True)
class Detached:
    """Final, for the older caller of an acquire that still waits: another caller took the wait over under the same request id.
    The older caller's outcome is unknown to it."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Definite: took no effect and never will. `code` is a wire `Code` value."""

    code: str
    detail: str
    field: str | None = None
    limit: str | None = None
    ended: str | None = None
    holders: tuple[Holder, ...] = ()
    queue_length: int = 0


Outcome = (
    SessionOpened
    | Renewed
    | Closed
    | Granted
    | Queued
    | Released
    | Cancelled
    | Withdrawn
    | Passed
    | Detached
    | Refused
)
