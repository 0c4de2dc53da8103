"""Everything that the client raises on purpose: one tree, under `HoldfastError`.

Rule: three kinds of outcome and never a mixture. Done raises nothing; a definite refusal (`NotAcquired`, `Refused`,
`Unreachable`, `SessionLost`) took no effect and never will; an `UnknownOutcome` is a type of its own. Each docstring says
what the caller should do.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.closed import Blocked, Closure
    from holdfast.views import Holder


class LossCode(StrEnum):
    """Why a lock was lost, for programs; `reason` says it in words."""

    NOT_RENEWED = "not_renewed"  # no renewal was acknowledged in time: no node could be reached, or this process stood still
    SESSION_ENDED = "session_ended"  # the cluster says that the session is over
    MAX_HOLD = "max_hold"  # the body took longer than `max_hold`
    NO_PROGRESS = "no_progress"  # `grant.progress()` was not called for `progress_within` seconds
    CLOSED = "closed"  # the client was closed while the body ran
    FORCED = "forced"  # an operator ended the hold
    FORKED = "forked"  # this process is a child of the one that holds the lock


class HoldfastError(Exception):
    """The root. Catch it where every failure of the lock service means the same: leave the message, it comes again."""


class NotAcquired(HoldfastError):
    """The lock was not granted, and this request never will be. Leave the work: `holders` are at it (or wait longer).

    `code`: `held` (did not wait), `wait_timeout` (waited in vain); what has an answer of its own has a class of its own:
    `AlreadyDone`, `InDoubt`, `KeyClosed`, `Deadlock`.
    """

    def __init__(
        self,
        message: str,
        *,
        keys: tuple[str, ...] = (),
        code: str = "held",
        holders: tuple[Holder, ...] = (),
        queue_length: int = 0,
    ) -> None:
        super().__init__(message)
        self.keys: tuple[str, ...] = keys
        self.code: str = code
        self.holders: tuple[Holder, ...] = holders
        self.queue_length: int = queue_length


class AlreadyDone(NotAcquired):
    """The work of this key was completed, with `result`: do not do it again, answer with the result. It is remembered for
    another `remaining` seconds."""

    def __init__(self, message: str, *, keys: tuple[str, ...] = (), closed: Closure) -> None:
        super().__init__(message, keys=keys, code="already_done")
        self.closed: Closure = closed
        self.result: str = closed.result or ""
        self.remaining: float = closed.remaining or 0.0


class InDoubt(NotAcquired):
    """The last hold ended uncleanly, and it (or this request, with `require_clean`) asked that nobody goes on before somebody has
    looked. Find out what that holder has done (`closed.token` names its hold), then `resolve` the key; or leave the message."""

    def __init__(
        self, message: str, *, keys: tuple[str, ...] = (), closed: Closure | None = None
    ) -> None:
        super().__init__(message, keys=keys, code="in_doubt")
        self.closed: Closure | None = closed


class KeyClosed(NotAcquired):
    """Nobody holds it, and it stays closed for another `remaining` seconds after an unclean end. Leave the message, or wait
    longer."""

    def __init__(self, message: str, *, keys: tuple[str, ...] = (), closed: Closure) -> None:
        super().__init__(message, keys=keys, code="closed")
        self.closed: Closure = closed
        self.remaining: float = closed.remaining or 0.0


class Deadlock(NotAcquired):
    """Waiting would have closed a circle of tasks that wait for each other: `cycle`, beginning with this one. Release what this
    task holds, and begin again; better, ask for all the keys in one call, or always in the same order."""

    def __init__(
        self, message: str, *, keys: tuple[str, ...] = (), cycle: tuple[Blocked, ...] = ()
    ) -> None:
        super().__init__(message, keys=keys, code="deadlock")
        self.cycle: tuple[Blocked, ...] = cycle


class LockLost(HoldfastError):
    """The lock ended while the body ran (it was cancelled; in the blocking face it ran on). Somebody else may hold the lock
    by now: stop, change nothing more, and let the fence decide about what is still on its way."""

    def __init__(
        self,
        message: str,
        *,
        keys: tuple[str, ...] = (),
        token: int = 0,
        reason: str = "",
        code: LossCode = LossCode.SESSION_ENDED,
    ) -> None:
        super().__init__(message)
        self.keys: tuple[str, ...] = keys
        self.token: int = token
        self.reason: str = reason
        self.code: LossCode = code


class NotEnoughTime(HoldfastError):
    """What was about to start could not surely end within the hold, so it was not started. Nothing happened: release the lock
    and leave the message, or take the lock with a longer `ttl`. `needed` and `remaining` are seconds."""

    def __init__(self, message: str, *, needed: float = 0.0, remaining: float = 0.0) -> None:
        super().__init__(message)
        self.needed: float = needed
        self.remaining: float = remaining


class SessionLost(HoldfastError):
    """The session ended while the call was under way, again and again. Nothing is held: ask again."""


class Unreachable(HoldfastError):
    """No node could take the request within the time allowed, and it took no effect. Try again later; look at the
    endpoints and at the cluster (`holdfast status`)."""


class UnknownOutcome(HoldfastError):
    """The request may have taken effect: it was sent, and no node could tell its outcome in time. Do not do the work. The
    client withdraws the request in the background, and whatever it may have got ends with the session at the latest."""


class Refused(HoldfastError):
    """A definite refusal that is not about who holds the lock; it took no effect. `code` says what to do (see
    `holdfast.wire.Code`)."""

    def __init__(self, message: str, *, code: str = "", detail: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.code: str = code
        self.detail: str = detail
        self.status: int = status


class BadRequest(Refused):
    """The request itself is wrong: mend `field`. Asking again unchanged is pointless."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "bad_request",
        detail: str = "",
        status: int = 400,
        field: str | None = None,
    ) -> None:
        super().__init__(message, code=code, detail=detail, status=status)
        self.field: str | None = field


class NotAllowed(Refused):
    """The credential is missing, unknown, or has no right to this: mend the credential or ask for the right."""


class LimitReached(Refused):
    """A named limit of the cluster is reached: do less at once, or try again later; of a rate, after `retry_after` seconds."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "limit_reached",
        detail: str = "",
        status: int = 429,
        limit: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code=code, detail=detail, status=status)
        self.limit: str | None = limit
        self.retry_after: float | None = retry_after


class NoLongerKept(Refused):
    """Events before the oldest that the cluster keeps (`first_revision`) were asked for: some that you have not seen are gone. Read
    the present state anew, and watch from now on."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "no_longer_kept",
        detail: str = "",
        status: int = 410,
        first_revision: int = 0,
    ) -> None:
        super().__init__(message, code=code, detail=detail, status=status)
        self.first_revision: int = first_revision


class ClientClosed(HoldfastError):
    """The client was closed: its session is over. Make a new client."""


class Unsuitable(HoldfastError):
    """The store of this address promises less than `require` asks for. Use another store (the message names those that
    would do), or require less."""
