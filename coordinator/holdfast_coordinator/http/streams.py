"""An answer that is sent piece by piece, to a reader who may be slow.

Rule: what is on its way to one reader is bounded by a piece and the buffer of the connection (64 KiB). Nobody waits for a reader
longer than `patience_seconds`: it is told, given as long again to take what was sent, and cut off then. This module does not know
what is sent.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from socket import IPPROTO_TCP
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

TCP_USER_TIMEOUT: Final[int | None] = getattr(socket, "TCP_USER_TIMEOUT", None)
"""Linux: after how many milliseconds without an acknowledgement the kernel gives a connection up."""

ACKNOWLEDGED_WITHIN_PATIENCES: Final = 3
"""A reader whose machine was switched off acknowledges nothing, and says nothing. Without this it would count as a reader for a
quarter of an hour."""

PIECE_BYTES: Final = 32 * 1024
"""Written at once. Less than the 64 KiB after which aiohttp waits for the reader by itself, for as long as it takes."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a stream waits. Not in cluster.yml: nobody has a reason to change it but a test that has less time."""

    heartbeat_seconds: float = 10.0
    """After so long without an event comes a line that says nothing: proxies keep the connection, and a reader can tell a quiet
    cluster from a dead connection."""
    slow_reader_seconds: float = 10.0
    """What a reader gets to take what is on its way; then it is told, and gets as long again to read that."""


class SlowReader(Exception):
    """What was sent was not taken in time. Call `end` with the last words, or `cut_off`."""


class Stream:
    def __init__(
        self, request: web.Request, headers: Mapping[str, str], patience_seconds: float
    ) -> None:
        self._request = request
        self._patience_seconds = patience_seconds
        self._stuck: asyncio.Future[None] | None = None
        self.response = web.StreamResponse(headers=headers)

    async def begin(self) -> None:
        transport = self._request.transport
        connection = None if transport is None else transport.get_extra_info("socket")
        if connection is not None and TCP_USER_TIMEOUT is not None:
            timeout_ms = int(ACKNOWLEDGED_WITHIN_PATIENCES * self._patience_seconds * 1000)
            connection.setsockopt(IPPROTO_TCP, TCP_USER_TIMEOUT, timeout_ms)
        await self.response.prepare(self._request)

    async def send(self, data: bytes) -> None:
        """Raises `SlowReader`."""
        request = self._request
        for start in range(0, len(data), PIECE_BYTES):
            await self._write(data[start : start + PIECE_BYTES])
            if request.protocol.writing_paused and not await self._in_time(request.writer.drain()):
                raise SlowReader

    async def end(self, last: bytes) -> None:
        """Send `last` (short) behind what is on its way and end the answer, or cut the reader off if it does not take it."""
        if not await self._in_time(self._finish(last, self._stuck)):
            self.cut_off()

    def cut_off(self) -> None:
        """End the connection in the middle: the reader knows that this was not all, and what is buffered for it does not stay."""
        if self._stuck is not None:
            self._stuck.cancel()
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _write(self, piece: bytes) -> None:
        # aiohttp counts what was written, and would wait here, without a bound, whenever it is more than 64 KiB.
        self._request.writer.buffer_size = 0
        await self.response.write(piece)

    async def _finish(self, last: bytes, stuck: asyncio.Future[None] | None) -> None:
        await self._write(last)
        if stuck is not None:
            await stuck
        await self.response.write_eof()

    async def _in_time(self, waiting: Awaitable[None]) -> bool:
        # What waits for the connection is left alone, not cancelled: aiohttp keeps one waiter for each connection, and would take
        # a cancelled one for the cancellation of the next who waits.
        task = asyncio.ensure_future(waiting)
        try:
            done, _ = await asyncio.wait({task}, timeout=self._patience_seconds)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not done:
            self._stuck = task
            return False
        task.result()
        return True
