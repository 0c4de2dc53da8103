"""How an acquire stands in a store's queue when the store cannot call back: it is woken by a message, or looks by itself.

Rules:
* Messages only save time. A waiter also looks when the holder's lease would end, when its own wait ends, and at growing, jittered
  intervals, so a message that is lost costs a delay and never a lock.
* Between asking and being ready for messages something may have happened; so it looks once more when it is ready.
* While it waits nothing is kept open in the store.
It knows no store; `look` is one short transaction, or one script.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from holdfast.stores.base import Ask, Granted, superseded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast.clock import Clock

POLL_FIRST_SECONDS: Final = 0.02
"""The first look of one that polls: short jobs hand over quickly."""
POLL_MAX_SECONDS: Final = 0.5
"""What a hand-over costs at most, without messages; 100 waiters make 200 looks a second of it."""
POLL_PUSHED_SECONDS: Final = 5.0
"""Between looks of one that is told: only for a message that was lost."""
AFTER_SECONDS: Final = 0.002
"""After a lease's end, so that the look falls behind it and not just before."""


@dataclass(frozen=True, slots=True)
class Queued:
    """It stands in the queue. `number`: its name in messages. `blocked_ms`: when the first of those before it would end by its
    lease, which nobody tells; None: nobody is before it whose end is known."""

    number: int
    wait_left_ms: int
    blocked_ms: int | None


@dataclass(slots=True)
class Wakes:
    """The waiters of one client: by number for messages, by request for repeats."""

    by_number: dict[int, asyncio.Event] = field(default_factory=dict)
    by_request: dict[tuple[str, int], asyncio.Event] = field(default_factory=dict)

    def wake(self, number: int) -> None:
        """It may be this one's turn. Unknown numbers are others' waiters."""
        event = self.by_number.get(number)
        if event is not None:
            event.set()

    def wake_all(self) -> None:
        """Messages may have been lost, or will not come any more."""
        for event in self.by_number.values():
            event.set()


async def decided(
    ask: Ask,
    look: Callable[[bool], Awaitable[Granted | Queued]],
    *,
    wakes: Wakes,
    ready: Callable[[], Awaitable[bool]],
    clock: Clock,
    draw: Callable[[], float],
) -> Granted:
    """The decision on `ask`. `look(first)` asks the store (`first`: it may enqueue, or extend the wait); `ready` returns when
    messages are being received, False if there are none. Raises what `look` raises; `Refusal` when a repeat has taken over."""
    outcome = await look(True)
    if isinstance(outcome, Granted):
        return outcome
    name = (ask.session, ask.request_id)
    older = wakes.by_request.get(name)
    event = wakes.by_request[name] = wakes.by_number[outcome.number] = asyncio.Event()
    if older is not None:
        older.set()
    try:
        is_pushed = await ready()
        if is_pushed:
            event.set()  # look once more: it may have happened before messages were received
        pause = POLL_FIRST_SECONDS
        while True:
            longest = POLL_PUSHED_SECONDS if is_pushed else pause
            due = min(longest * (0.5 + draw() / 2), outcome.wait_left_ms / 1000 + AFTER_SECONDS)
            if outcome.blocked_ms is not None:
                due = min(due, outcome.blocked_ms / 1000 + AFTER_SECONDS)
            await event_or_time(event, clock, clock.now() + due)
            event.clear()
            pause = min(pause * 2, POLL_MAX_SECONDS)
            if wakes.by_request.get(name) is not event:
                raise superseded()
            outcome = await look(False)
            if isinstance(outcome, Granted):
                return outcome
    finally:
        if wakes.by_request.get(name) is event:
            del wakes.by_request[name]
        for number in [each for each, known in wakes.by_number.items() if known is event]:
            del wakes.by_number[number]


async def event_or_time(event: asyncio.Event, clock: Clock, instant: float) -> None:
    """Return when the event is set, or at `instant`."""
    if event.is_set():
        return
    waiting = asyncio.ensure_future(event.wait())
    timer = asyncio.ensure_future(clock.sleep_until(instant))
    try:
        await asyncio.wait({waiting, timer}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        timer.cancel()
