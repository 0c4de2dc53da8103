"""What somebody got: the lock, its token, and how long that is sure.

Rule: a grant believes only what its session's lease allows, and forgets nothing worse than that: once released, lost, or
seen from a forked child, `remaining()` is 0.0 for ever. Reading a grant is safe from any thread.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from holdfast.clock import Clock
    from holdfast.lease import Lease
    from holdfast.views import Previous


@dataclass(frozen=True, slots=True)
class Hooks:
    """Whom to tell. Each is called with the grant; one that returns an awaitable is awaited in the background."""

    on_at_risk: tuple[Callable[[Grant], object], ...] = ()
    on_lost: tuple[Callable[[Grant], object], ...] = ()


class Grant:
    """A hold on one or several keys, made by the client (never by you)."""

    __slots__ = (
        "_cancel_body",
        "_clock",
        "_holder",
        "_hooks",
        "_lease",
        "_lost_reason",
        "_pid",
        "_state",
        "fence",
        "keys",
        "mode",
        "previous_by_key",
        "previous_horizon",
        "token",
    )

    def __init__(
        self,
        *,
        token: int,
        fence: int,
        keys: tuple[str, ...],
        mode: str,
        previous_by_key: Mapping[str, Previous | None],
        previous_horizon: int,
        lease: Lease,
        clock: Clock,
        holder: object,
        hooks: Hooks,
    ) -> None:
        self.token = token
        """The number of this grant: greater than that of every grant before it in the cluster."""
        self.fence = fence
        """What to hand to the resource, which refuses a lower one than it has seen."""
        self.keys = keys
        """The keys that are held, as the cluster names them."""
        self.mode = mode
        self.previous_by_key = previous_by_key
        """How the last hold of each key ended; None: no earlier one is remembered."""
        self.previous_horizon = previous_horizon
        """Holds up to this token may have been forgotten, so None speaks only about later ones."""
        self._lease = lease
        self._clock = clock
        self._holder = holder
        self._hooks = hooks
        self._state: Literal["held", "released", "lost"] = "held"
        self._lost_reason: str | None = None
        self._cancel_body: Callable[[], object] | None = None
        self._pid = os.getpid()

    @property
    def key(self) -> str:
        """The first of `keys`; the key, when there is one."""
        return self.keys[0]

    @property
    def previous(self) -> Previous | None:
        """The last hold before this one (of several keys: the newest). `ended` other than `released`: work may be half done."""
        known = [each for each in self.previous_by_key.values() if each is not None]
        return max(known, key=lambda each: each.token, default=None)

    def remaining(self) -> float:
        """Seconds for which the lock is surely still held, on a clock that runs in suspend. 0.0: no longer sure, or over.

        Grows with every renewal, so it is a lower bound. A forked child never holds its parent's lock.
        """
        if self._state != "held" or os.getpid() != self._pid:
            return 0.0
        return self._lease.remaining(self._clock.now())

    def safe_for(self, seconds: float) -> bool:
        """Whether work that takes at most `seconds` surely ends within the hold, even if no renewal succeeds any more.

        Ask before a call that cannot be undone, with that call's time-out.
        """
        return self.remaining() > seconds

    @property
    def is_lost(self) -> bool:
        """The hold ended, or may have ended, without having been released."""
        return self._state == "lost" or (self._state == "held" and self.remaining() <= 0.0)

    @property
    def lost_reason(self) -> str | None:
        """Why, in words; None while it is held and after an orderly release."""
        if self._state == "held" and os.getpid() != self._pid:
            return "this process was forked from the one that holds the lock"
        if self._state == "held" and self.is_lost:
            return "the lease ran out before a renewal was acknowledged"
        return self._lost_reason

    def __repr__(self) -> str:
        # Keys may be personal data: they are left out.
        return f"<Grant token={self.token} {self._state} remaining={self.remaining():.3f}s>"

    def _released(self) -> bool:
        """Held -> released. False: it was over already."""
        if self._state != "held":
            return False
        self._state = "released"
        return True

    def _lose(self, reason: str) -> bool:
        """Held -> lost. False: it was over already."""
        if self._state != "held":
            return False
        self._state = "lost"
        self._lost_reason = reason
        return True
