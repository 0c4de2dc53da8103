"""A TCP proxy on loopback that breaks a connection at a chosen moment, for what happens when a reply is lost.

Rule: bytes are passed on as they come. `lose_reply_to(pattern)`: the next piece from the client that contains `pattern` is passed
on, and of the server's answer nothing: the connection is cut when the answer comes. So the server has acted, and nobody knows.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

PIECE_BYTES = 65536


class Proxy:
    """`async with Proxy(port) as proxy:` listens on `proxy.port` and passes on to `port`, both of loopback."""

    def __init__(self, upstream_port: int) -> None:
        self.port = 0
        self.lost = 0
        """Replies that were lost."""
        self._upstream_port = upstream_port
        self._pattern: bytes | None = None
        self._then_dead = False
        self._is_dead = False
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)  # what is cut ends by itself
        await self._server.wait_closed()

    def lose_reply_to(self, pattern: bytes, *, then_dead: bool = False) -> None:
        """Arm it, once. `then_dead`: afterwards nobody gets through any more, until `revive`."""
        self._pattern = pattern
        self._then_dead = then_dead

    def die(self) -> None:
        """Cut what is open and let nobody through."""
        self._is_dead = True
        self.cut()

    def stop_listening(self) -> None:
        """Connections are refused from now on."""
        assert self._server is not None
        self._server.close()

    def revive(self) -> None:
        """Let them through again."""
        self._is_dead = False

    def cut(self) -> None:
        """Cut every open connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            if not self._is_dead:
                await self._pass_on(reader, writer)
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_server = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        swallow = asyncio.Event()

        async def requests() -> None:
            while piece := await reader.read(PIECE_BYTES):
                if self._pattern is not None and self._pattern in piece:
                    self._pattern = None
                    swallow.set()
                to_server.write(piece)
                await to_server.drain()

        async def answers() -> None:
            while piece := await upstream.read(PIECE_BYTES):
                if swallow.is_set():
                    self.lost += 1
                    if self._then_dead:
                        self.die()
                    return
                writer.write(piece)
                await writer.drain()

        both = [asyncio.ensure_future(requests()), asyncio.ensure_future(answers())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in both:
                each.cancel()
            with contextlib.suppress(ConnectionError):
                await asyncio.gather(*both, return_exceptions=True)
            to_server.transport.abort()
