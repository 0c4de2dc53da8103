"""The loops of a load, for clients that are asynchronous."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from measuring import Tape

Pair = tuple[Callable[[], Awaitable[object]], Callable[[], Awaitable[object]]]
"""Acquire and release of one worker."""


async def loops(pairs: Sequence[Pair], tape: Tape) -> None:
    """Each pair in a closed loop, until the tape is stopping."""
    now = time.perf_counter

    async def worker(number: int, pair: Pair) -> None:
        acquire, release = pair
        while not tape.stopping:
            asked = now()
            await acquire()
            granted = now()
            await release()
            tape.note(number, asked, granted, now())

    async with asyncio.TaskGroup() as group:
        for number, pair in enumerate(pairs):
            group.create_task(worker(number, pair))


async def renew_evenly(
    count: int, period_seconds: float, renew: Callable[[int], Awaitable[object]]
) -> None:
    """Call `renew(number)` for each of `count` numbers once in a period, spread over it, until cancelled."""
    began, done = time.perf_counter(), 0
    while True:
        due = int((time.perf_counter() - began) / period_seconds * count)
        for number in range(done, due):
            await renew(number % count)
        done = max(done, due)
        await asyncio.sleep(0.01)
