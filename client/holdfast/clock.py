"""The time port: the only place of the client that reads a clock.

Rule: durations are counted on a clock that also runs while the machine is suspended (CLOCK_BOOTTIME), because leases go on
ending while a laptop or a virtual machine sleeps; no wall clock decides anything. Where the system has no such clock, the
monotonic one is used. Tests bring a clock of their own.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

SLEEP_SLICE_SECONDS: Final = 1.0
"""The event loop sleeps on a clock that stands still in suspend. Sleeping in slices bounds how late a wake-up can be after
the machine resumes; one wake-up a second is too little to matter."""


class Clock(Protocol):
    """What the client needs of time. Instants are seconds on an arbitrary, never-decreasing scale."""

    def now(self) -> float:
        """The present instant."""
        ...

    async def sleep_until(self, instant: float) -> None:
        """Return at or after `instant`."""
        ...

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """A block that is cancelled, and raises `TimeoutError`, after `seconds` (infinity: never)."""
        ...


_CLOCK_ID: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

# Read ten times for each lock, so without a frame of Python around it.
_read: Final[Callable[[], float]] = partial(time.clock_gettime, _CLOCK_ID)


class BootClock:
    """The real clock."""

    now: staticmethod[[], float] = staticmethod(_read)
    """Seconds since boot, suspend included where the system can tell."""

    async def sleep_until(self, instant: float) -> None:
        """Sleep on this clock, not on the loop's."""
        while (left := instant - _read()) > 0:  # noqa: ASYNC110 - time is not an event
            await asyncio.sleep(min(left, SLEEP_SLICE_SECONDS))

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """A plain asyncio timeout: it only bounds one attempt, so the loop's own clock is good enough."""
        return asyncio.timeout(None if math.isinf(seconds) else max(seconds, 0.0))
