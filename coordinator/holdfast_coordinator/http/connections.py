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
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import web

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from holdfast_coordinator.server_certificates import ServerCertificate

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
    _timer: asyncio.Handle | None = None
    _stuck: asyncio.TimerHandle | None = None
    _is_between_requests = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
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


class Gate(asyncio.Protocol):
    """What a connection meets first. `make` gives the protocol that goes on with it."""

    def __init__(
        self,
        doors: Doors,
        make: Callable[[], Connection],
        certificate: ServerCertificate | None,
        shaking: set[asyncio.Task[None]],
    ) -> None:
        """`shaking`: where the handshakes under way are kept, for whoever has to end them."""
        self._doors = doors
        self._make = make
        self._certificate = certificate
        self._shaking = shaking
        self._peer = ""
        self._early = bytearray()
        self._is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # those of uvloop are none to isinstance
        self._peer = peer_of(transport.get_extra_info("peername"))
        if not self._doors.enter(self._peer):
            transport.abort()
        elif self._certificate is None:
            self._hand_over(transport)
        else:
            # What comes now is for TLS, which takes it over in the next turn of the loop.
            transport.pause_reading()
            context = self._certificate.contexts()
            task = asyncio.get_running_loop().create_task(self._shake_hands(transport, context))
            self._shaking.add(task)
            task.add_done_callback(self._shaking.discard)

    def data_received(self, data: bytes) -> None:
        """Between the end of the handshake and the handing over: at most one reading of the socket."""
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True

    async def _shake_hands(self, raw: asyncio.Transport, context: ssl.SSLContext) -> None:
        secured = None
        try:
            secured = await asyncio.get_running_loop().start_tls(
                raw, self, context, server_side=True, ssl_handshake_timeout=TLS_SECONDS_MAX
            )
        except OSError:  # TLS, a lost connection, or too slow: all of them are the caller's
            self._doors.ended(TLS_FAILED)
        finally:
            if secured is None or self._is_lost:
                raw.abort()
                self._doors.leave(self._peer)
        if secured is not None and not self._is_lost:
            self._hand_over(secured)

    def _hand_over(self, transport: asyncio.Transport) -> None:
        connection = self._make()
        connection.doors = self._doors
        connection.left = lambda: self._doors.leave(self._peer)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        if self._early:
            connection.data_received(bytes(self._early))
            self._early.clear()
