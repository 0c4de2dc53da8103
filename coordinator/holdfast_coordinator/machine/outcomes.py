"""What the machine answers. Plain values: no behaviour. Every operation gets exactly one final outcome, at its origin;
an acquire that waits gets `Queued` first and its final outcome when the wait ends."""

from __future__ import annotations

from typing import Final, Literal

from .values import Value

Ended = Literal["released", "completed", "expired", "forced"]
"""The first two by the holder's own will: a clean end. The others: work may be half done."""

UNCLEAN: Final[frozenset[Ended]] = frozenset({"expired", "forced"})

ClosedBy = Literal["delay", "in_doubt", "done"]


class Previous(Value, frozen=True, gc=False):
    """The last hold of a key before this one. `floor`: the token that its forced end took, for the resource to know.
    `resolved`: it ended uncleanly, and an operator has looked into it."""

    token: int
    ended: Ended
    floor: int | None = None
    resolved: bool = False


class Note(Value, frozen=True, gc=False):
    """The checkpoint of a key, the hold that wrote it, and which of its notes it was (0: it did not say)."""

    token: int
    value: str
    number: int = 0


class ClosedView(Value, frozen=True, gc=False):
    """Why a key that nobody holds is not granted. `remaining_ms` None: until it is resolved. `result`: of a completed hold."""

    key: str
    by: ClosedBy
    token: int
    ended: Ended
    remaining_ms: int | None
    result: str | None = None


class Blocked(Value, frozen=True, gc=False):
    """One step of a circle: `session` waits in `context` for `key`, which the next one holds under `token`; None: the next one
    stands before it in the queue of `key`."""

    session: str
    context: str | None
    owner: str | None
    key: str
    token: int | None


class Holder(Value, frozen=True, gc=False):
    """A hold as others may see it. `session` is a secret: the HTTP layer turns it into a `session_ref`."""

    token: int
    session: str
    owner: str | None
    mode: str
    remaining_ms: int
    limit: int | None = None
    context: str | None = None
    held_ms: int = 0
    """Since the grant, in cluster time."""


class WaiterView(Value, frozen=True, gc=False):
    session: str
    owner: str | None
    keys: tuple[str, ...]
    mode: str
    remaining_wait_ms: int
    limit: int | None = None
    context: str | None = None
    waited_ms: int = 0


class LockView(Value, frozen=True, gc=False):
    """`closed`, `checkpoint`, `previous`: None where there is none (remembered)."""

    key: str
    holders: tuple[Holder, ...]
    waiters: tuple[WaiterView, ...]
    closed: ClosedView | None = None
    checkpoint: Note | None = None
    previous: Previous | None = None


class Blocker(Value, frozen=True, gc=False):
    """A hold that must end before a waiter is granted, and the key on which it stands in the way."""

    key: str
    token: int
    session: str
    owner: str | None
    context: str | None


class Durations(Value, frozen=True, gc=False):
    """Over the grants of a key that the trail still has: the median (the lower one) and the longest, in milliseconds."""

    count: int
    median_ms: int
    longest_ms: int


class Explanation(Value, frozen=True, gc=False):
    """`blockers`: for each waiter of `lock`, in its order. `waited`, `held`: how long grants took to come, and lasted; counted
    from revision `since` of the trail."""

    lock: LockView
    blockers: tuple[tuple[Blocker, ...], ...]
    waited: Durations
    held: Durations
    since: int


class SessionOpened(Value, frozen=True, gc=False):
    session: str
    ttl_ms: int
    remaining_ms: int
    created: bool  # False: it was open already, under the same ttl


class Renewed(Value, frozen=True, gc=False):
    """`forced`: tokens of holds that an operator ended; told again until the client releases them."""

    remaining_ms: int
    forced: tuple[int, ...] = ()


class Closed(Value, frozen=True, gc=False):
    released: tuple[int, ...]


class Granted(Value, frozen=True, gc=False):
    """`previous`: per key in the order of `keys`; None where no earlier hold is remembered. Everything up to
    `previous_horizon` (a token) may have been forgotten. `fence`: of an exclusive hold its token; of a shared one the token that
    opened the shared phase of the key (of several keys: one for each, in order); None with a limit. `checkpoints`: per key;
    empty if no key has one."""

    token: int
    fence: int | tuple[int, ...] | None
    keys: tuple[str, ...]
    mode: str
    session: str
    remaining_ms: int
    previous: tuple[Previous | None, ...]
    previous_horizon: int
    checkpoints: tuple[Note | None, ...] = ()
    limit: int | None = None


class Queued(Value, frozen=True, gc=False):
    """Not final. `position` counts from 0, over the longest queue that it stands in."""

    position: int


class Released(Value, frozen=True, gc=False):
    token: int


class Completed(Value, frozen=True, gc=False):
    """`remaining_ms`: for how long the result is still remembered; 0: it has been forgotten since."""

    token: int
    remaining_ms: int


class Checkpointed(Value, frozen=True, gc=False):
    token: int


class ForceReleased(Value, frozen=True, gc=False):
    """`floor`: a fresh token, above every one that was ended and below every grant to come: what the resource must know."""

    tokens: tuple[int, ...]
    floor: int


class Resolved(Value, frozen=True, gc=False):
    """`resolved` False: nothing closed the key under that token (any more)."""

    resolved: bool


class Cancelled(Value, frozen=True, gc=False):
    """`released`: the token of a hold that the cancel ended, None if there was none."""

    released: int | None


class Withdrawn(Value, frozen=True, gc=False):
    """The outcome of a Withdraw, and also the final one of the waiter that it took away: its caller had gone, or its node was
    taken for dead."""

    removed: bool


class Passed(Value, frozen=True, gc=False):
    """The outcome of a Barrier."""


class Detached(Value, frozen=True, gc=False):
    """Final, for the older caller of an acquire that still waits: another caller took the wait over under the same request id.
    The older caller's outcome is unknown to it."""


class Refused(Value, frozen=True, gc=False):
    """Definite: took no effect and never will. `code` is a wire `Code` value."""

    code: str
    detail: str
    field: str | None = None
    limit: str | None = None
    ended: str | None = None
    holders: tuple[Holder, ...] = ()
    queue_length: int = 0
    closed: ClosedView | None = None
    cycle: tuple[Blocked, ...] = ()


Outcome = (
    SessionOpened
    | Renewed
    | Closed
    | Granted
    | Queued
    | Released
    | Completed
    | Checkpointed
    | ForceReleased
    | Resolved
    | Cancelled
    | Withdrawn
    | Passed
    | Detached
    | Refused
)
