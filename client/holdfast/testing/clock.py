"""Time that a test moves: one time for everybody, and a clock of it for each client, which can stand still.

Rule: nothing here looks at a real clock. An instant comes when somebody calls `move_to`, and whoever waits for it is told on his
own event loop, so clients may live on any number of loops and threads.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

START: Final = 1000.0
"""Where time begins: not at zero, so that nobody takes an instant for a duration and gets away with it."""


@dataclass(frozen=True, slots=True)
class _Alarm:
    instant: float
    clock: VirtualClock
    loop: asyncio.AbstractEventLoop
    ring: Callable[[], object]


class VirtualTime:
    """The time of one simulated cluster. Safe from any thread."""

    def __init__(self) -> None:
        self._now = START
        self._gate = threading.Lock()
        self._alarms: dict[int, _Alarm] = {}
        self._numbers = itertools.count()

    def now(self) -> float:
        """The present instant, in seconds."""
        return self._now

    def move_to(self, instant: float) -> None:
        """It is `instant` now; whoever waited for it, or for an earlier one, is woken."""
        with self._gate:
            self._now = max(self._now, instant)
        self._ring()

    def next_due(self, limit: float) -> float | None:
        """The first instant up to `limit` that somebody waits for, whose clock does not stand still."""
        with self._gate:
            waited_for = [each.instant for each in self._alarms.values() if not each.clock.is_still]
        first = min(waited_for, default=math.inf)
        return first if first <= limit else None

    def loops(self) -> set[asyncio.AbstractEventLoop]:
        """The event loops on which somebody waits for an instant."""
        with self._gate:
            return {each.loop for each in self._alarms.values()}

    def _set(self, alarm: _Alarm) -> int | None:
        """A number to unset it by; None: it is due already."""
        with self._gate:
            if alarm.instant <= self._now and not alarm.clock.is_still:
                return None
            number = next(self._numbers)
            self._alarms[number] = alarm
            return number

    def _unset(self, number: int) -> None:
        with self._gate:
            self._alarms.pop(number, None)

    def _ring(self) -> None:
        with self._gate:
            due = [
                (number, each)
                for number, each in self._alarms.items()
                if each.instant <= self._now and not each.clock.is_still
            ]
            for number, _ in due:
                del self._alarms[number]
        for _, each in sorted(due, key=lambda pair: pair[1].instant):
            if not each.loop.is_closed():
                each.loop.call_soon_threadsafe(each.ring)


class VirtualClock:
    """One client's clock (the port `holdfast.clock.Clock`). While it `is_still` nothing on it becomes due, though time passes:
    that is what a process which is stopped, or swapped out, knows of time."""

    def __init__(self, time: VirtualTime) -> None:
        self._time = time
        self.is_still: bool = False

    def now(self) -> float:
        """The present instant; it goes on also while nothing becomes due."""
        return self._time.now()

    def stop(self) -> None:
        """Nothing becomes due any more."""
        self.is_still = True

    def go_on(self) -> None:
        """All that has become due meanwhile is due now."""
        self.is_still = False
        self._time._ring()

    async def sleep_until(self, instant: float) -> None:
        """Return at or after `instant`."""
        loop = asyncio.get_running_loop()
        woken = loop.create_future()

        def ring() -> None:
            if not woken.done():
                woken.set_result(None)

        number = self._time._set(_Alarm(instant, self, loop, ring))
        if number is None:
            return
        try:
            await woken
        finally:
            self._time._unset(number)

    @asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[None]:
        """A block that is cancelled, and raises `TimeoutError`, after `seconds`."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as block:

            def ring() -> None:
                if not block.expired():
                    block.reschedule(loop.time())

            instant = self._time.now() + max(seconds, 0.0)
            number = self._time._set(_Alarm(instant, self, loop, ring))
            if number is None:
                ring()
            try:
                yield
            finally:
                if number is not None:
                    self._time._unset(number)
