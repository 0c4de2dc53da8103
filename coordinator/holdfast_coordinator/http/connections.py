"""Connections before they are requests: how many there may be, TLS, and how long one may take.

Rule: nobody keeps a connection by doing nothing, or by doing it slowly, and no number of those who try is in anybody else's way:

    accepted --(counted: in all, and from this address)--> [TLS, at most TLS_SECONDS_MAX] --> a head, at most `head_read_ms_max`
    --> a body, at most 10 s (`calls`) --> the handler --> the answer, taken within ANSWER_SECONDS_MAX --> idle, at most 75 s

A connection that is one too many is reset at once, which costs less than any answer; its caller tries another node. It is counted
from the moment at which it is accepted: what never gets through TLS counts as well. Certificates are looked at for each connection,
so that new files need no restart. Not known here: what is asked.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

import structlog
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_coordinator.server_certificates import ServerCertificate

log = structlog.get_logger("holdfast.http")

ACCEPTED_AT_ONCE_MAX: Final = 128
"""In one turn of the loop: a flood of connections does not keep it from what is inside."""

ACCEPT_AGAIN_SECONDS: Final = 0.1
"""No descriptor is left, or no memory: some of what is there will have ended."""

TLS_SECONDS_MAX: Final = 10.0
"""For the handshake: three packets. Five round trips around the world, with one lost, are below three seconds."""

ANSWER_SECONDS_MAX: Final = 30.0
"""For a caller to take what is on its way to it. A page of a thousand locks is taken in that time by a telephone in a train."""

GRACE_TURNS: Final = 16
"""Of the loop, for what is in the socket: it is read, becomes a request, and that a task, within six."""

IPV6_NETWORK_BITS: Final = 64
"""What one caller of IPv6 has to itself: its addresses count as one."""

END_OF_HEAD: Final = b"\r\n\r\n"

CONNECTIONS_MAX: Final = "connections_max"
PER_PEER_MAX: Final = "connections_per_peer_max"
TLS_FAILED: Final = "tls_failed"
HEAD_TOO_SLOW: Final = "head_read_ms_max"
ANSWER_NOT_TAKEN: Final = "answer_not_taken"


class Doors:
    """How many are inside, in all and by address. `ended` is told why a connection was ended that should not go on."""

    def __init__(
        self, total_max: int, per_peer_max: int, ended: Callable[[str], object] = lambda _: None
    ) -> None:
        self._total_max = total_max
        self._per_peer_max = per_peer_max
        self._by_peer: dict[str, int] = {}
        self.ended = ended
        self.count = 0

    def enter(self, peer: str) -> bool:
        """Whether there is room. False is told to `ended`."""
        inside = self._by_peer.get(peer, 0)
        if self.count >= self._total_max or inside >= self._per_peer_max:
            self.ended(CONNECTIONS_MAX if self.count >= self._total_max else PER_PEER_MAX)
            return False
        self._by_peer[peer] = inside + 1
        self.count += 1
        return True

    def leave(self, peer: str) -> None:
        """Once for each that entered."""
        self.count -= 1
        left = self._by_peer[peer] - 1
        if left:
            self._by_peer[peer] = left
        else:
            del self._by_peer[peer]


def peer_of(peername: Any) -> str:
    """What counts as one address, of what a socket says (`getpeername`)."""
    try:
        address = ipaddress.ip_address(str(peername[0]).partition("%")[0])
    except (ValueError, TypeError, IndexError):
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((address, IPV6_NETWORK_BITS), strict=False))
    return str(address)


class Connection(web.RequestHandler):
    """A connection that speaks HTTP. Whoever handles a request says when it begins and when it ends."""

    doors: Doors
    left: Callable[[], object]
    head_seconds_max: float
    was_made = False
    """`left` is told when it is over; of what never came through TLS nobody else tells."""
    _timer: asyncio.Handle | None = None
    _stuck: asyncio.TimerHandle | None = None
    _is_between_requests = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.was_made = True
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        # The usual head comes in one packet, and costs no timer.
        if self._is_between_requests and self._timer is None and END_OF_HEAD not in data:
            self._expect_head()
        super().data_received(data)

    def request_began(self) -> None:
        self._is_between_requests = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def request_ended(self) -> None:
        self._is_between_requests = True

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def force_close(self) -> None:
        transport = self.transport
        super().force_close()
        # A transport that is closed sends what it has first, for as long as it takes.
        if transport is not None and transport.get_write_buffer_size() > 0:
            self._await_reader()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)  # which closes it, and so may begin to wait for the reader
        for timer in (self._timer, self._stuck):
            if timer is not None:
                timer.cancel()
        self.left()

    def _expect_head(self) -> None:
        self._timer = self._loop.call_later(self.head_seconds_max, self._head_is_late, GRACE_TURNS)

    def _head_is_late(self, turns: int) -> None:
        """Time 0: the process is paused, or busy, for longer than a head may take. Time 1: the timer is called before the socket is
        read, in which the whole head has been for long."""
        if turns > 0:
            self._timer = self._loop.call_soon(self._head_is_late, turns - 1)
        else:
            self._cut_off(self.transport, HEAD_TOO_SLOW)

    def _await_reader(self) -> None:
        if self._stuck is None:
            self._stuck = self._loop.call_later(
                ANSWER_SECONDS_MAX, self._cut_off, self.transport, ANSWER_NOT_TAKEN
            )

    def _cut_off(self, transport: asyncio.Transport | None, why: str) -> None:
        if transport is not None:
            self.doors.ended(why)
            transport.abort()


class Listener:
    """The sockets of a node for its callers. `make` gives the protocol of a connection that is let in."""

    def __init__(
        self, doors: Doors, make: Callable[[], Connection], certificate: ServerCertificate | None
    ) -> None:
        self._doors = doors
        self._make = make
        self._certificate = certificate
        self._sockets: list[socket.socket] = []
        self._handshakes: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def port(self) -> int:
        port: int = self._sockets[0].getsockname()[1]
        return port

    async def open(self, host: str, port: int, backlog: int) -> None:
        """Raises OSError."""
        # For the addresses of a name, and for what is said of one that is in use. Accepting is done here: TLS that is begun on a
        # transport, after it was counted, can find that what its caller sent first was read already.
        server = await asyncio.get_running_loop().create_server(
            asyncio.Protocol, host, port, start_serving=False
        )
        self._sockets = [socket.socket(fileno=os.dup(each.fileno())) for each in server.sockets]
        server.close()
        for each in self._sockets:
            each.setblocking(False)
            each.listen(backlog)
            self._watch(each)

    def close(self) -> None:
        """No more connections; handshakes under way end. Connections go on. May be called again."""
        loop = asyncio.get_running_loop()
        self._is_closed = True
        while self._sockets:
            listening = self._sockets.pop()
            loop.remove_reader(listening)
            listening.close()
        for task in self._handshakes:
            loop.call_soon(task.cancel)  # after it has begun, or nobody would have its socket

    def _watch(self, listening: socket.socket) -> None:
        if not self._is_closed:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTED_AT_ONCE_MAX):
            try:
                raw, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return  # there is no more, or it went away while it waited
            except OSError as error:
                log.warning("cannot_accept", reason=error.strerror or str(error))
                loop.remove_reader(listening)
                loop.call_later(ACCEPT_AGAIN_SECONDS, self._watch, listening)
                return
            raw.setblocking(False)
            peer = peer_of(address)
            if not self._doors.enter(peer):
                loop.call_soon(_reset, raw)
                continue
            task = loop.create_task(self._let_in(raw, peer))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _let_in(self, raw: socket.socket, peer: str) -> None:
        connection = self._make()
        connection.doors = self._doors
        connection.left = lambda: self._doors.leave(peer)
        loop, certificate = asyncio.get_running_loop(), self._certificate
        try:
            if certificate is None:
                await loop.connect_accepted_socket(lambda: connection, raw)
            else:
                context = certificate.contexts()
                await loop.connect_accepted_socket(
                    lambda: connection, raw, ssl=context, ssl_handshake_timeout=TLS_SECONDS_MAX
                )
        except OSError:  # TLS, a lost connection, or too slow: all of them are the caller's
            self._doors.ended(TLS_FAILED)
        finally:
            if not connection.was_made:
                self._doors.leave(peer)


def _reset(raw: socket.socket) -> None:
    """End a connection without a word: closing it with nothing to linger for sends a reset."""
    with raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
