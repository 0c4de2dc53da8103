"""Nodes on loopback, every connection between two of them through a proxy in this process: for who is not root.

Rules: the bytes of one direction of a connection arrive in order, late, or not at all; a cut direction holds them back, and new
connections over it are accepted by nobody who answers, as behind a firewall that drops. Clients have proxies too, of the node
that they ask. What waits in a proxy is bounded: it reads no further than what it can pass on.

It cannot lose single packets, since it sees none.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Self

from holdfast_coordinator.local_cluster import free_ports
from holdfast_jepsen.live.network import CLIENTS, Link, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

PIECE_BYTES = 65536
LOST_SECONDS = 1.0
"""What has not arrived after so long is held back: longer than the longest delay."""


class _Sink:
    """Where a probe arrives."""

    def __init__(self) -> None:
        self.got = b""

    def write(self, piece: bytes) -> None:
        self.got += piece

    async def drain(self) -> None:
        """There is always room."""


class Proxies:
    """See the module."""

    kind = "proxies"

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        ports = free_ports(2 * len(names))
        self._http = {name: ports.pop() for name in names}
        self._raft = {name: ports.pop() for name in names}
        self._doors: dict[Link, int] = {}
        """(who connects, to whom): the port of loopback that stands for it."""
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._cut: set[Link] = set()
        self._mended = asyncio.Event()
        """Of the next `mend`: whoever waits looks again."""
        self._late: dict[str, float] = {}
        self._delayed: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        for sender in (*self._names, CLIENTS):
            for receiver in self._names:
                if sender != receiver:
                    await self._open(sender, receiver)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _open(self, sender: str, receiver: str) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await self._join(sender, receiver, reader, writer)
            finally:
                writer.transport.abort()
                self._tasks.discard(task)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self._servers.append(server)
        self._doors[sender, receiver] = server.sockets[0].getsockname()[1]

    async def _join(
        self,
        sender: str,
        receiver: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        port = (self._http if sender == CLIENTS else self._raft)[receiver]
        await self._until_open((sender, receiver))
        try:
            upstream, up = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return  # nobody listens: the caller's connection ends, as if refused
        both = [
            asyncio.ensure_future(self._pass_on((sender, receiver), reader, up)),
            asyncio.ensure_future(self._pass_on((receiver, sender), upstream, writer)),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in both:
                each.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            up.transport.abort()

    async def _pass_on(
        self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter | _Sink
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(PIECE_BYTES):
                if late := self._late.get(link[0], 0.0):
                    self._delayed[link[0]] += 1
                    await asyncio.sleep(late)
                await self._until_open(link)
                writer.write(piece)
                await writer.drain()

    async def _until_open(self, link: Link) -> None:
        while link in self._cut:
            await self._mended.wait()

    # What the run asks.

    def addresses(self, reader: str) -> Mapping[str, tuple[str, str]]:
        """Its own are where it listens; the others' are its doors to them."""
        return {
            name: (
                f"127.0.0.1:{self._http[name]}",
                f"127.0.0.1:{self._raft[name] if name == reader else self._doors[reader, name]}",
            )
            for name in self._names
        }

    def http(self, node: str) -> str:
        return f"127.0.0.1:{self._doors[CLIENTS, node]}"

    def inside(self, node: str) -> Sequence[str]:
        del node
        return ()

    def check(self, kinds: Iterable[str]) -> None:
        if "loss" in kinds:
            raise Unavailable("loss of packets needs network namespaces: a proxy sees no packets")

    async def cut(self, links: Sequence[Link]) -> None:
        self._cut.update(links)

    async def mend(self, links: Sequence[Link]) -> None:
        self._cut.difference_update(links)
        mended, self._mended = self._mended, asyncio.Event()
        mended.set()

    async def slow(self, node: str, milliseconds: int) -> str:
        self._delayed[node] = 0
        self._late[node] = milliseconds / 1000
        return f"sent {milliseconds} ms late"

    async def lose(self, node: str, percent: int) -> str:
        raise Unavailable("a proxy sees no packets")

    async def passes(self, link: Link) -> bool:
        """A probe goes the way of every piece of this direction, whether or not anybody speaks over it at the moment."""
        probe, sink = asyncio.StreamReader(), _Sink()
        probe.feed_data(b"probe")
        probe.feed_eof()
        try:
            async with asyncio.timeout(LOST_SECONDS):
                await self._pass_on(link, probe, sink)
        except TimeoutError:
            return False
        return sink.got == b"probe"

    async def disturbed(self, node: str) -> int:
        return self._delayed[node]
