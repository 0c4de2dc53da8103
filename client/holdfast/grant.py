"""What somebody got: the lock, its token, and how long that is sure.

Rule: a grant believes only what its session's lease and its own bound allow, and forgets nothing worse than that: once
released, lost, or seen from a forked child, `remaining()` is 0.0 for ever. Reading a grant is safe from any thread.
It knows neither the session nor the network; whoever holds it is told through `Hooks`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from holdfast.errors import LockLost, LossCode, NotEnoughTime
from holdfast.lease import MARGIN_FRACTION, MARGIN_SECONDS, RENEW_FRACTION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from holdfast.clock import Clock
    from holdfast.closed import Checkpoint
    from holdfast.lease import Bound, Lease
    from holdfast.views import Previous

LEASE_RAN_OUT: Final = "the lease ran out before a renewal was acknowledged"


@dataclass(frozen=True, slots=True)
class Hooks:
    """Whom to tell. `on_at_risk` gets the grant and the seconds left before it is lost; `on_lost` the grant. One that returns an
    awaitable is awaited in the background."""

    on_at_risk: tuple[Callable[[Grant, float], object], ...] = ()
    on_lost: tuple[Callable[[Grant], object], ...] = ()

    def and_those(self, of: Hooks) -> Hooks:
        """These, and those of another level."""
        if of is NO_HOOKS:
            return self
        return Hooks(self.on_at_risk + of.on_at_risk, self.on_lost + of.on_lost)


NO_HOOKS: Final = Hooks()


class Grant:
    """A hold on one or several keys, made by the client (never by you)."""

    __slots__ = (
        "_bound",
        "_cancel_bodies",
        "_clock",
        "_entries",
        "_holder",
        "_hooks",
        "_lease",
        "_lost",
        "_notes",
        "_pid",
        "_state",
        "checkpoint_by_key",
        "fences",
        "keys",
        "limit",
        "mode",
        "previous_by_key",
        "previous_horizon",
        "token",
    )

    def __init__(
        self,
        *,
        token: int,
        fences: Mapping[str, int],
        keys: tuple[str, ...],
        mode: str,
        previous_by_key: Mapping[str, Previous | None],
        previous_horizon: int,
        checkpoint_by_key: Mapping[str, Checkpoint | None],
        limit: int | None,
        lease: Lease,
        bound: Bound | None,
        clock: Clock,
        holder: object,
        hooks: Hooks,
    ) -> None:
        self.token: int = token
        """The number of this grant: greater than that of every grant before it in the cluster."""
        self.fences: Mapping[str, int] = fences
        """What to hand to the resource for each key; empty for a semaphore of several permits."""
        self.keys: tuple[str, ...] = keys
        """The keys that are held, as the cluster names them."""
        self.mode: str = mode
        self.previous_by_key: Mapping[str, Previous | None] = previous_by_key
        """How the last hold of each key ended; None: no earlier one is remembered."""
        self.previous_horizon: int = previous_horizon
        """Holds up to this token may have been forgotten, so None speaks only about later ones."""
        self.checkpoint_by_key: Mapping[str, Checkpoint | None] = checkpoint_by_key
        """What earlier holders noted about the work of each key, as of this grant; None: nothing, or it was finished."""
        self.limit: int | None = limit
        """The permits of the semaphore; None for every other lock."""
        self._lease = lease
        self._bound = bound
        self._clock = clock
        self._holder = holder
        self._hooks = hooks
        self._state: Literal["held", "released", "lost"] = "held"
        self._lost: tuple[LossCode, str] | None = None
        self._cancel_bodies: list[Callable[[], object]] = []
        self._entries = 1  # blocks that are inside; more than one where a lock is re-entered
        self._pid = os.getpid()
        self._notes = 0  # checkpoints of this hold

    @property
    def fence(self) -> int | None:
        """What to hand to the resource, which refuses a lower one than it has seen: the token of an exclusive hold, the number
        of the shared phase of a shared one. None: a semaphore has none, and several shared keys have one each (`fences`)."""
        return one_fence(self.fences)

    @property
    def key(self) -> str:
        """The first of `keys`; the key, when there is one."""
        return self.keys[0]

    @property
    def previous(self) -> Previous | None:
        """The last hold before this one (of several keys: the newest). `ended` other than `released`: work may be half done."""
        known = [each for each in self.previous_by_key.values() if each is not None]
        return max(known, key=lambda each: each.token, default=None)

    def fence_for(self, key: str | None = None) -> int:
        """The fence of `key` (of the first one), for code that must have one. Raises `TypeError` if the hold has none, as that of a
        semaphore: no remembered-highest check can tell its holders apart. Raises `KeyError` for a key that is not held."""
        key = self.key if key is None else key
        if key not in self.keys:
            raise KeyError(key)
        if key not in self.fences:
            raise TypeError("a semaphore of several permits has no fence")
        return self.fences[key]

    def checkpoint_of(self, key: str) -> Checkpoint | None:
        """What an earlier holder of `key` noted last, and with which token; None: nothing, or its work was finished. Raises
        `KeyError` for a key that is not held."""
        return self.checkpoint_by_key[key]

    @property
    def previous_checkpoint(self) -> Checkpoint | None:
        """The same of the key; of several keys the newest."""
        known = [each for each in self.checkpoint_by_key.values() if each is not None]
        return max(known, key=lambda each: each.token, default=None)

    def remaining(self) -> float:
        """Seconds for which the lock is surely still held, on a clock that runs in suspend. 0.0: no longer sure, or over.

        Grows with every renewal, so it is a lower bound; never more than what is left of `max_hold` and `progress_within`.
        A forked child never holds its parent's lock.
        """
        if self._state != "held" or os.getpid() != self._pid:
            return 0.0
        now = self._clock.now()
        left = self._lease.remaining(now)
        return left if self._bound is None else max(0.0, min(left, self._bound.ends_at() - now))

    @property
    def renewals_failed(self) -> int:
        """Attempts to renew that have failed since the last one that was acknowledged; 0 while all is well."""
        return self._lease.renewals_failed

    def safe_for(self, seconds: float) -> bool:
        """Whether work that takes at most `seconds` surely ends within the hold, even if no renewal succeeds any more.

        Ask before a call that cannot be undone, with that call's time-out.
        """
        return self.remaining() > seconds

    def guard(self, seconds: float) -> Guard:
        """Refuse to start what could not surely end within the hold: `with grant.guard(5): provider.capture(timeout=5)`.

        `seconds`: the time-out of the outside call. Raises `NotEnoughTime` at once, so that the bare call is a check as well;
        leaving the block raises `LockLost` if the lock was lost meanwhile. While renewal works, a guard of up to 60 % of the
        TTL always passes (renewal is due after a third of it).
        """
        return Guard(self, seconds)

    def progress(self) -> None:
        """Say that the work goes on, for `progress_within`; from any thread. Raises `LockLost` if the lock is lost, so that a
        loop which reports its progress also learns when to stop."""
        if self._bound is not None and self.remaining() > 0.0:
            self._bound.progressed(self._clock.now())
        self._raise_if_lost()

    @property
    def is_lost(self) -> bool:
        """The hold ended, or may have ended, without having been released."""
        return self._loss() is not None

    @property
    def lost_reason(self) -> str | None:
        """Why, in words; None while it is held and after an orderly release."""
        loss = self._loss()
        return None if loss is None else loss[1]

    @property
    def lost_code(self) -> LossCode | None:
        """Why, for programs; None while it is held and after an orderly release."""
        loss = self._loss()
        return None if loss is None else loss[0]

    def __repr__(self) -> str:
        # Keys may be personal data: they are left out.
        state = "lost" if self.is_lost else self._state
        return f"<Grant token={self.token} keys={len(self.keys)} {state} remaining={self.remaining():.3f}s>"

    def _loss(self) -> tuple[LossCode, str] | None:
        if self._state != "held":
            return self._lost
        if os.getpid() != self._pid:
            return LossCode.FORKED, "this process was forked from the one that holds the lock"
        now = self._clock.now()
        if self._lease.remaining(now) <= 0.0:
            return LossCode.NOT_RENEWED, LEASE_RAN_OUT
        return loss_of(self._bound, now)

    def _lost_error(self) -> LockLost | None:
        loss = self._loss()
        if loss is None:
            return None
        code, reason = loss
        return LockLost(
            f"the lock was lost while its body ran: {reason}",
            keys=self.keys,
            token=self.token,
            reason=reason,
            code=code,
        )

    def _raise_if_lost(self) -> None:
        error = self._lost_error()
        if error is not None:
            raise error

    def _released(self) -> bool:
        """Held -> released. False: it was over already."""
        if self._state != "held":
            return False
        self._state = "released"
        return True

    def _lose(self, code: LossCode, reason: str) -> bool:
        """Held -> lost. False: it was over already."""
        if self._state != "held":
            return False
        self._lost = (code, reason)
        self._state = "lost"
        return True


def one_fence(fences: Mapping[str, int]) -> int | None:
    """The fence that all keys share; None if there is none."""
    found = iter(fences.values())
    first = next(found, None)
    return first if all(each == first for each in found) else None


class Guard:
    """A block that is entered only while `seconds` are surely left of a hold. Made by `Grant.guard`."""

    def __init__(self, grant: Grant, seconds: float) -> None:
        if not seconds >= 0:
            raise ValueError(f"a guard is for a number of seconds, 0 or more; not {seconds!r}")
        self._grant = grant
        self._seconds = seconds
        self._check()

    def __enter__(self) -> Grant:
        self._check()
        return self._grant

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            self._grant._raise_if_lost()

    def __repr__(self) -> str:
        return f"<Guard {self._seconds:g}s of {self._grant!r}>"

    def _check(self) -> None:
        grant = self._grant
        left = grant.remaining()
        if left > self._seconds:
            return
        told = (
            f"the lock is surely held for {left:.2f} s more, and the call may take "
            f"{self._seconds:g} s: it was not started"
        )
        if grant._state == "released":
            told = "the lock was released: the call was not started"
        elif self._seconds > usable_of(grant._lease.ttl):
            told += f" (for such calls take the lock with a ttl of {ttl_for(self._seconds):.0f} s)"
        raise NotEnoughTime(told, needed=self._seconds, remaining=left)


def usable_of(ttl: float) -> float:
    """What is left of a TTL just before its renewal is due: what a holder can count on at any moment while renewal works."""
    return ttl * (1 - MARGIN_FRACTION - RENEW_FRACTION) - MARGIN_SECONDS


def ttl_for(seconds: float) -> float:
    """A round TTL of which `seconds` are usable at any moment, a renewal being a second late."""
    return -(-(seconds + 1.0 + MARGIN_SECONDS) // (1 - MARGIN_FRACTION - RENEW_FRACTION))


def loss_of(bound: Bound | None, now: float) -> tuple[LossCode, str] | None:
    """Whether a bound has passed at `now`, and which."""
    if bound is None or now < bound.ends_at():
        return None
    if bound.is_out_of_time(now):
        return LossCode.MAX_HOLD, f"it was held for max_hold, {bound.max_hold:g} s"
    return LossCode.NO_PROGRESS, f"no progress was reported for {bound.progress_within:g} s"
