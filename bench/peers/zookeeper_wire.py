"""ZooKeeper through its bare protocol: what its servers can do when the client costs little.

A worker's own key: create an ephemeral node and delete it. A contended key: the usual recipe (an ephemeral sequential node, look
who is before, watch that one). One session for all workers, connected to the leader: with a session for each worker, at the leader
or spread over the nodes, fewer cycles were done here. For idle sessions one connection each, over all nodes: that is what a session
is.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from typing import cast

from measuring import Tape

from peers.loops import Pair, loops, renew_evenly

CREATE, DELETE, EXISTS, CHILDREN, PING, CLOSE = 1, 2, 3, 8, 11, -11
EPHEMERAL, SEQUENCE = 1, 2
PING_ID, WATCH_ID = -2, -1
NO_NODE = -101
NODE_EXISTS = -110
TIMEOUT_MS = 10_000
OPENED_AT_ONCE = 100


def _string(value: bytes) -> bytes:
    return struct.pack(">i", len(value)) + value


ANYONE = struct.pack(">ii", 1, 31) + _string(b"world") + _string(b"anyone")


class ZooKeeperError(Exception):
    """A refusal, by its number, or a lost connection (0)."""

    def __init__(self, code: int) -> None:
        super().__init__(f"ZooKeeper error {code}")
        self.code = code


class Session(asyncio.Protocol):
    """One session on one connection. `lost` is done when the connection has ended."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._data = bytearray()
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._watches: dict[bytes, asyncio.Future[None]] = {}
        self._number = 0
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._is_open = False
        self.lost: asyncio.Future[None] = self._loop.create_future()

    @classmethod
    async def connect(cls, port: int, timeout_ms: int = TIMEOUT_MS) -> Session:
        loop = asyncio.get_running_loop()
        _, session = await loop.create_connection(cls, "127.0.0.1", port)
        hello = struct.pack(">iqiq", 0, 0, timeout_ms, 0) + _string(bytes(16)) + b"\0"
        session._transport.write(_string(hello))
        await session._ready
        return session

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        for future in (self._ready, *self._calls.values(), *self._watches.values()):
            if not future.done():
                future.set_exception(ZooKeeperError(0))
                future.exception()  # it may be that nobody waits
        if not self.lost.done():
            self.lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._data += data
        taken, available = 0, len(self._data)
        while available - taken >= 4:
            size = int.from_bytes(self._data[taken : taken + 4], "big")
            if available - taken - 4 < size:
                break
            self._packet(bytes(self._data[taken + 4 : taken + 4 + size]))
            taken += 4 + size
        del self._data[:taken]

    def _packet(self, packet: bytes) -> None:
        if not self._is_open:
            self._is_open = True
            self._ready.set_result(None)
            return
        number, _, error = struct.unpack_from(">iqi", packet)
        if number == WATCH_ID:
            size = int.from_bytes(packet[24:28], "big")
            watch = self._watches.pop(packet[28 : 28 + size], None)
            if watch is not None and not watch.done():
                watch.set_result(None)
        elif number != PING_ID:
            call = self._calls.pop(number)
            if call.done():
                return
            if error:
                call.set_exception(ZooKeeperError(error))
            else:
                call.set_result(packet[16:])

    def ping(self) -> None:
        self._transport.write(struct.pack(">iii", 8, PING_ID, PING))

    def _call(self, operation: int, body: bytes) -> asyncio.Future[bytes]:
        self._number += 1
        future = self._calls[self._number] = self._loop.create_future()
        self._transport.write(struct.pack(">iii", 8 + len(body), self._number, operation) + body)
        return future

    async def create(self, path: bytes, flags: int = 0) -> bytes:
        """The path of the node, which is longer than asked for with SEQUENCE."""
        body = _string(path) + _string(b"owner") + ANYONE + struct.pack(">i", flags)
        return (await self._call(CREATE, body))[4:]

    async def delete(self, path: bytes) -> None:
        await self._call(DELETE, _string(path) + struct.pack(">i", -1))

    async def children(self, path: bytes) -> list[bytes]:
        answer = await self._call(CHILDREN, _string(path) + b"\0")
        names, place = [], 4
        for _ in range(int.from_bytes(answer[:4], "big")):
            size = int.from_bytes(answer[place : place + 4], "big")
            names.append(answer[place + 4 : place + 4 + size])
            place += 4 + size
        return names

    async def gone(self, path: bytes) -> None:
        """Wait until there is no such node."""
        watch = self._watches.get(path)
        if watch is None:
            watch = self._watches[path] = self._loop.create_future()
        try:
            await self._call(EXISTS, _string(path) + b"\1")
        except ZooKeeperError as error:
            if error.code != NO_NODE:
                raise
            self._watches.pop(path, None)
        else:
            await watch

    async def close(self) -> None:
        with contextlib.suppress(ZooKeeperError):
            await self._call(CLOSE, b"")
        self._transport.close()


async def four_letters(port: int, word: bytes) -> str:
    """The answer to one of ZooKeeper's four-letter words. Nothing if there is none yet."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(word)
        answer = await reader.read()
        writer.close()
    except OSError:
        return ""
    return answer.decode(errors="replace")


async def leader_port(ports: list[int]) -> int:
    for port in ports:
        if "Mode: leader" in await four_letters(port, b"srvr"):
            return port
    raise RuntimeError("ZooKeeper has no leader")


async def ensure(session: Session, path: bytes) -> None:
    try:
        await session.create(path)
    except ZooKeeperError as error:
        if error.code != NODE_EXISTS:
            raise


def own_key(session: Session, path: bytes) -> Pair:
    return (lambda: session.create(path, EPHEMERAL)), (lambda: session.delete(path))


def recipe(session: Session, base: bytes) -> Pair:
    mine = b""

    async def acquire() -> None:
        nonlocal mine
        mine = await session.create(base + b"/lock-", EPHEMERAL | SEQUENCE)
        name = mine.rpartition(b"/")[2]
        while before := [each for each in await session.children(base) if each < name]:
            await session.gone(base + b"/" + max(before))

    async def release() -> None:
        await session.delete(mine)

    return acquire, release


async def drive(address: list[int], tape: Tape, *, contended: bool) -> None:
    base = b"/contended-wire" if contended else b"/cycles-wire"
    async with sessions([await leader_port(address)], TIMEOUT_MS / 1000) as (session,):
        await ensure(session, base)
        paths = [b"%s/%d" % (base, number) for number in range(tape.workers)]
        await loops(
            [recipe(session, base) if contended else own_key(session, path) for path in paths], tape
        )


async def idle(
    address: list[int], count: int, ttl_seconds: float, ready: Callable[[], object]
) -> None:
    ports = [address[number % len(address)] for number in range(count)]
    async with sessions(ports, ttl_seconds) as opened:
        await ensure(opened[0], b"/idle")
        for first in range(0, count, OPENED_AT_ONCE):
            some = enumerate(opened[first : first + OPENED_AT_ONCE], first)
            await asyncio.gather(*(each.create(b"/idle/%d" % n, EPHEMERAL) for n, each in some))
        ready()
        await asyncio.wait([each.lost for each in opened], return_when=asyncio.FIRST_COMPLETED)
        raise RuntimeError("a session was lost")


@contextlib.asynccontextmanager
async def sessions(ports: Sequence[int], ttl_seconds: float) -> AsyncIterator[list[Session]]:
    """One for each of these ports, kept alive from the first on, and closed whatever happens."""
    opened: list[Session] = []
    pinging: asyncio.Future[None] | None = None
    try:
        for first in range(0, len(ports), OPENED_AT_ONCE):
            some = ports[first : first + OPENED_AT_ONCE]
            opened += await asyncio.gather(
                *(Session.connect(port, int(ttl_seconds * 1000)) for port in some)
            )
            if pinging is not None:
                pinging.cancel()
            pinging = asyncio.ensure_future(_ping(opened, ttl_seconds))
        yield opened
    finally:
        if pinging is not None:
            pinging.cancel()
        for first in range(0, len(opened), OPENED_AT_ONCE):
            await asyncio.gather(*(each.close() for each in opened[first : first + OPENED_AT_ONCE]))


async def _ping(opened: Sequence[Session], ttl_seconds: float) -> None:
    async def ping(number: int) -> None:
        opened[number].ping()

    await renew_evenly(len(opened), ttl_seconds / 3, ping)
