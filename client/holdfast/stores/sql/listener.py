"""LISTEN on PostgreSQL: a connection of the client's own, opened with its first waiter, on which releases by others are heard.

Rule: it only wakes. When it breaks, the waiters look by themselves, and it is opened again. It knows no tables.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

import psycopg

from holdfast.stores.sql.transactions import CHANNEL

if TYPE_CHECKING:
    from holdfast.clock import Clock
    from holdfast.stores.waiting import Wakes

log = logging.getLogger("holdfast")

CONNECT_SECONDS: Final = 2
AGAIN_SECONDS: Final = 1.0
"""Between attempts to open it; meanwhile the waiters poll."""


class Listener:
    """Made with the store, started by `ready`."""

    def __init__(self, conninfo: str, wakes: Wakes, clock: Clock) -> None:
        self._conninfo = conninfo
        self._wakes = wakes
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._is_listening = False

    async def ready(self) -> bool:
        """Returns when messages are being received (True), or cannot be just now (False)."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep_listening(), name="holdfast: listen")
        await self._tried.wait()
        return self._is_listening

    async def aclose(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _keep_listening(self) -> None:
        while True:
            try:
                await self._listen()
            except (psycopg.Error, OSError) as error:
                log.warning("waiters poll, because the database cannot tell them: %s", error)
            self._is_listening = False
            self._tried.set()
            self._wakes.wake_all()
            await self._clock.sleep_until(self._clock.now() + AGAIN_SECONDS)

    async def _listen(self) -> None:
        connection = await psycopg.AsyncConnection.connect(
            self._conninfo, autocommit=True, connect_timeout=CONNECT_SECONDS
        )
        async with connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            self._is_listening = True
            self._tried.set()
            self._wakes.wake_all()  # what was told before this is lost
            async for message in connection.notifies():
                if message.payload.isdecimal():
                    self._wakes.wake(int(message.payload))
