"""A bare HTTP client for thousands of connections: a request at a time on each, kept alive, no library in between.

Rule: it costs as little as Python can, because it shares the machine with what it measures. It understands what our nodes answer
(Content-Length, JSON), and nothing else.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

CONNECT_AT_ONCE = 100


class Lost(Exception):
    """The connection ended before the answer."""


class Connection(asyncio.Protocol):
    """See the module."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._data = b""
        self._waiting: asyncio.Future[tuple[int, Any]] | None = None
        self._is_lost = False

    @classmethod
    async def open(cls, host: str, port: int) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(Lost())

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, rest = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        size = int(lower.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        if len(rest) < size or self._waiting is None:
            return
        self._data = rest[size:]
        if not self._waiting.done():
            self._waiting.set_result((int(head[9:12]), json.loads(rest[:size])))

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and body. Raises Lost."""
        if self._is_lost:
            raise Lost
        encoded = json.dumps(body).encode()
        self._waiting = self._loop.create_future()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(encoded)}\r\n\r\n"
        )
        self._transport.write(head.encode() + encoded)
        return await self._waiting

    def close(self) -> None:
        self._transport.abort()


async def open_many(addresses: list[tuple[str, int]], count: int) -> list[Connection]:
    """Spread evenly over the addresses."""
    opened: list[Connection] = []
    for first in range(0, count, CONNECT_AT_ONCE):
        some = range(first, min(first + CONNECT_AT_ONCE, count))
        opened += await asyncio.gather(
            *(Connection.open(*addresses[n % len(addresses)]) for n in some)
        )
    return opened
