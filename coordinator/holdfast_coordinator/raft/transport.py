"""Connections between the nodes of one cluster: TCP, framed, authenticated before anything else.

Rules:
* One connection for each pair of nodes. The node with the lower name dials, so the two never race.
* The newest connection wins: the older one is closed, and delivers nothing from that moment (D4).
* With certificates every connection is TLS, and either end checks that the other's certificate names the node
  that it is taken for, or says that it is. There is no way back to plain text.
* Until both sides have proved that they know the cluster secret, nothing is parsed but a hello of
  fixed form. Nothing is ever unpickled.
* Every frame carries a code over its place in the stream and its content, under a key of this
  connection alone: a replayed, dropped, reordered or altered frame closes the connection.
* Everything is bounded: frames, buffers, half-open connections, the time for a handshake.

Not known here: what a message means. The content of a frame is a list of messages, decoded by the
closed schema of `messages`, or a list of byte strings of the application.

Handshake (all numbers little-endian; H is HMAC-SHA256 under the cluster secret):

    dialer   -> acceptor   hello     magic, cluster, own name, other's name, introduction, 32 random bytes
    acceptor -> dialer     hello     the same, its own random bytes, then H("acceptor", both hellos)
    dialer   -> acceptor   proof     H("dialer", both hellos)
    each     -> other      verdict   the first frame: whether it accepts the other's data directory (peers)

The names and the cluster are under the proof, so that it is good for this pair, this direction and
this connection only. Without TLS the content can be read on the way, but not changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

import msgpack

from holdfast_coordinator.raft.frames import (
    HELLO_BYTES_MAX,
    KIND_APPLICATION,
    KIND_RAFT,
    KIND_VERDICT,
    LENGTH,
    NONCE_BYTES,
    PROOF_BYTES,
    VERDICT_SEQUENCE,
    Rejected,
    decode_body,
    decode_verdict,
    hello,
    open_frame,
    pack_body,
    pack_frame,
    parse_hello,
    proof,
)
from holdfast_coordinator.raft.messages import Message, encode
from holdfast_coordinator.raft.peers import ACCEPTED, Introduction, Verdict
from holdfast_coordinator.raft.rejections import BROKEN_OFF, Rejections
from holdfast_coordinator.raft.tls import (
    ANOTHER_NODES_CERTIFICATE,
    UNEXPECTED_TLS,
    TlsError,
    TlsPipe,
    looks_like_tls,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping, Sequence

    from holdfast_coordinator.certificates import Certificates

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 2.0
"""A peer on the same network needs milliseconds; a stranger gets no longer than this."""
STRANGERS_MAX = 64
"""Connections to us that have not proved anything yet. A peer needs milliseconds for it, so beyond this number the one that has
been here longest goes: whoever fills the door with silence keeps nobody out."""
DIAL_SECONDS = 2.0
REDIAL_SECONDS = (0.05, 0.25)
"""Between attempts, random, so that nodes that start together do not dial in step."""
REFUSED_REDIAL_SECONDS = (0.5, 1.0)
"""After a refusal, which only an operator can change."""
PING_SECONDS = 0.5
"""An empty frame is sent when a connection has been silent for this long."""
SILENCE_SECONDS = 3.0
"""A peer that sends nothing for this long, not even pings, is taken for gone."""
FRAME_TARGET_BYTES = 512 * 1024
"""Messages are packed together up to about this size, and then into the next frame."""
SEND_BUFFER_HIGH_BYTES = 8 * 2**20
"""From here on nothing is replicated to the peer, and no application message is accepted for it."""
SEND_BUFFER_MAX_BYTES = 64 * 2**20
"""A peer that lets this much pile up is cut off; it starts again with an empty buffer."""


@dataclass(slots=True)
class TransportStats:
    """Counters since the start."""

    rejected: Counter[str] = field(default_factory=Counter)
    """Connections closed because of what the peer sent, by reason."""
    connections: int = 0
    frames_in: int = 0
    frames_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class Receiver(Protocol):
    """Who gets what peers send. Called from the event loop; must not raise."""

    def on_connected(self, peer: str) -> None: ...
    def on_disconnected(self, peer: str) -> None: ...
    def on_messages(self, peer: str, messages: Sequence[Message]) -> None: ...
    def on_payloads(self, peer: str, payloads: Sequence[bytes]) -> None: ...
    def on_full(self, peer: str) -> None: ...
    def on_room(self, peer: str) -> None: ...


class Gate(Protocol):
    """Who decides whether a peer that knows the secret is the one that the cluster knows. Must not raise."""

    def introduce(self) -> Introduction: ...
    def judge(self, peer: str, theirs: Introduction) -> Verdict: ...
    def met(self, peer: str, theirs: Introduction, verdict: Verdict) -> bool:
        """Both accept each other, and nothing has been said yet. False: close the connection."""

    def refused_by(self, peer: str, code: str) -> None: ...


class OpenGate:
    """Accepts everybody who knows the secret."""

    def introduce(self) -> Introduction:
        return Introduction()

    def judge(self, peer: str, theirs: Introduction) -> Verdict:
        return Verdict()

    def met(self, peer: str, theirs: Introduction, verdict: Verdict) -> bool:
        return True

    def refused_by(self, peer: str, code: str) -> None: ...


@dataclass(frozen=True, slots=True)
class TransportConfig:
    """Who this node is, where everybody listens, and what they share."""

    cluster: str
    node: str
    secret: bytes
    members: Mapping[str, tuple[str, int]]
    entry_bytes_max: int

    @property
    def frame_bytes_max(self) -> int:
        """An append holds less than three entries' worth (see `library`), and a frame is closed
        once it has reached its target."""
        return FRAME_TARGET_BYTES + 4 * self.entry_bytes_max + 2**20


class Connection(asyncio.Protocol):
    """One TCP connection, from the hello to its end."""

    def __init__(self, network: Network, dialed: str | None) -> None:
        self.peer = dialed
        self.ready = False
        """Both sides have proved the secret, and accept each other."""
        self.was_refused = False
        self.closed = asyncio.Event()
        self.ended = ""
        """Why, once it has: for the log."""
        self._network = network
        self.dialed = dialed is not None
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._tls: TlsPipe | None = None
        self._is_leaving = False
        self._own_hello = b""
        self._hellos = (b"", b"")
        self._keys = (b"", b"")
        self._keyed = False
        self._theirs = Introduction()
        self._sequences = [0, 0]
        self._timer: asyncio.TimerHandle | None = None
        self._spoke_at = self._heard_at = self._checked_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's are not of that class
        self._transport = transport
        transport.set_write_buffer_limits(high=SEND_BUFFER_HIGH_BYTES)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(HANDSHAKE_SECONDS, self._take_too_long)
        if not self._network.admit(self):
            return
        certificates = self._network.certificates
        if certificates is not None:
            self._tls = TlsPipe(certificates.contexts(), dials=self.dialed)
            if self.dialed:
                self._tls.begin()
                transport.write(self._tls.take())
        elif self.dialed:
            self._greet()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.dialed and self._tls is not None and not self._tls.is_open and not self._is_over:
            self.was_refused = True
            self._count(BROKEN_OFF)
        self.ended = self.ended or str(exc or "the other end closed it")
        self.close()
        self._network.lost(self)
        self.closed.set()

    def pause_writing(self) -> None:
        if self.ready:
            self._network.receiver.on_full(self.peer or "")

    def resume_writing(self) -> None:
        if self.ready:
            self._network.receiver.on_room(self.peer or "")

    def close(self) -> None:
        """From now on it neither delivers nor sends."""
        self.ended = self.ended or "this node closed it"
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None and not self._transport.is_closing():
            self._transport.abort()
        self._transport = None
        self._buffer.clear()

    def reject(self, reason: str) -> None:
        """Close, and count why."""
        self.ended = reason
        self._count(reason)
        self.close()

    def _count(self, reason: str, detail: str = "") -> None:
        address = None if self._transport is None else self._transport.get_extra_info("peername")
        self._network.note_rejected(reason, self.peer, address, detail)

    def _take_too_long(self) -> None:
        if self._is_leaving:
            self.close()
        else:
            self.reject("handshake timeout")

    def _leave(self) -> None:
        """Close, after the other side has read why. It closes then; if not, the time for the handshake ends it."""
        self._is_leaving = True
        self.was_refused = True
        self._buffer.clear()
        if self._transport is not None:
            # Not aborted, nor closed at once: what the other side still sends would turn it into a reset, and eat the reason.
            with contextlib.suppress(OSError):  # it is gone already
                self._transport.write_eof()

    @property
    def _is_over(self) -> bool:
        """Closed by this side: nothing is delivered any more, and nothing sent."""
        return self._transport is None or self._is_leaving

    @property
    def unsent_bytes(self) -> int:
        """What waits in the send buffer."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def send_body(self, body: bytes) -> None:
        """One frame. A peer that does not read is cut off before its buffer grows for ever."""
        if self._is_over:
            return
        if self.unsent_bytes > SEND_BUFFER_MAX_BYTES:
            return self.reject("send buffer overflow")
        frame = pack_frame(self._keys[0], self._sequences[0], body)
        self._sequences[0] += 1
        self._spoke_at = asyncio.get_running_loop().time()
        self._network.stats.frames_out += 1
        self._network.stats.bytes_out += len(frame)
        self._write(frame)

    def _write(self, data: bytes) -> None:
        if self._is_over or self._transport is None:
            return
        if self._tls is not None:
            self._tls.write(data)
            data = self._tls.take()
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return  # what the loop had read already is not kept
        self._heard_at = asyncio.get_running_loop().time()
        try:
            if self._tls is None:
                self._take_in(data)
            else:
                self._decrypt(self._tls, data)
        except Rejected as rejected:
            self.reject(rejected.args[0])
        except TlsError as error:
            self._count(error.reason, error.detail)
            self._flush_tls()
            if self.ready:
                self.close()
            else:
                self._leave()

    def _decrypt(self, tls: TlsPipe, data: bytes) -> None:
        if tls.feed(data) and self.dialed:
            if (self.peer or "").lower() not in tls.names:
                self.was_refused = True
                raise Rejected(ANOTHER_NODES_CERTIFICATE)
            self._greet()
        if tls.is_open:
            for piece in tls.read():
                self._take_in(piece)
                if self._is_over:
                    return
        self._flush_tls()

    def _flush_tls(self) -> None:
        """What TLS itself has to say: its handshake, its alerts, its new keys."""
        waiting = b"" if self._tls is None else self._tls.take()
        if not waiting or self._transport is None:
            return
        if self.unsent_bytes > SEND_BUFFER_MAX_BYTES:
            return self.reject("send buffer overflow")
        self._transport.write(waiting)

    def _take_in(self, data: bytes) -> None:
        """Cut into frames. Raises `Rejected`."""
        self._buffer += data
        position = 0
        while not self._is_over and len(self._buffer) - position >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._buffer, position)
            limit = self._network.config.frame_bytes_max if self.ready else HELLO_BYTES_MAX
            if length > limit:
                is_tls = not self._keyed and looks_like_tls(
                    bytes(self._buffer[position : position + LENGTH.size])
                )
                raise Rejected(UNEXPECTED_TLS if is_tls else "frame too large")
            end = position + LENGTH.size + length
            if len(self._buffer) < end:
                break
            frame = bytes(self._buffer[position + LENGTH.size : end])
            position = end
            if self._keyed:
                self._on_frame(frame)
            else:
                self._on_handshake(frame)
        if not self._is_over:
            del self._buffer[:position]

    def _on_frame(self, frame: bytes) -> None:
        if not self.ready:
            body = open_frame(self._keys[1], VERDICT_SEQUENCE, frame)
            return self._on_verdict(decode_verdict(body))
        body = open_frame(self._keys[1], self._sequences[1], frame)
        self._sequences[1] += 1
        network = self._network
        network.stats.frames_in += 1
        network.stats.bytes_in += len(frame)
        if not body:
            return  # a ping
        kind, items = decode_body(body, network.config.entry_bytes_max)
        if kind == KIND_RAFT:
            network.receiver.on_messages(self.peer or "", items)
        else:
            network.receiver.on_payloads(self.peer or "", items)

    def _on_handshake(self, frame: bytes) -> None:
        if self.dialed:
            self._finish_as_dialer(frame)
        elif self.peer is None:
            self._answer_hello(frame)
        else:
            expected = proof(self._network.config.secret, b"dialer", *self._hellos)
            if not hmac.compare_digest(frame, expected):
                raise Rejected("wrong secret")
            self._become_ready()

    def _answer_hello(self, frame: bytes) -> None:
        sender, self._theirs = self._network.check_hello(frame)
        if self._tls is not None and sender.lower() not in self._tls.names:
            self.peer = sender
            raise Rejected(ANOTHER_NODES_CERTIFICATE)
        own = self._network.hello_to(sender)
        self.peer = sender
        self._hellos = (frame, own)
        answer = own + proof(self._network.config.secret, b"acceptor", *self._hellos)
        self._write_handshake(answer)

    def _finish_as_dialer(self, frame: bytes) -> None:
        answer, given = frame[:-PROOF_BYTES], frame[-PROOF_BYTES:]
        self._hellos = (self._own_hello, answer)
        # The proof first: what does not come from a holder of the secret is not even parsed.
        expected = proof(self._network.config.secret, b"acceptor", *self._hellos)
        if not hmac.compare_digest(given, expected):
            raise Rejected("wrong secret")
        sender, self._theirs = self._network.check_hello(answer)
        if sender != self.peer:
            raise Rejected("another node")
        mine = proof(self._network.config.secret, b"dialer", *self._hellos)
        self._write_handshake(mine)
        self._become_ready()

    def _greet(self) -> None:
        """A dialer's first word."""
        self._own_hello = self._network.hello_to(self.peer or "")
        self._write_handshake(self._own_hello)

    def _write_handshake(self, data: bytes) -> None:
        self._write(LENGTH.pack(len(data)) + data)

    def _become_ready(self) -> None:
        secret = self._network.config.secret
        out, back = (b"dialer key", b"acceptor key")
        if not self.dialed:
            out, back = back, out
        self._keys = (proof(secret, out, *self._hellos), proof(secret, back, *self._hellos))
        self._keyed = True
        verdict = self._network.gate.judge(self.peer or "", self._theirs)
        body = msgpack.packb([KIND_VERDICT, verdict.code, verdict.admission])
        self._write(pack_frame(self._keys[0], VERDICT_SEQUENCE, body))
        if verdict.code != ACCEPTED:
            self._count(verdict.code)
            self._leave()

    def _on_verdict(self, verdict: Verdict) -> None:
        peer, gate = self.peer or "", self._network.gate
        if verdict.code != ACCEPTED:
            self.was_refused = True
            gate.refused_by(peer, verdict.code)
            raise Rejected(f"refused by peer: {verdict.code}")
        if not gate.met(peer, self._theirs, verdict):
            return self.close()
        self.ready = True
        if self._timer is not None:
            self._timer.cancel()
        self._spoke_at = self._heard_at = self._checked_at = asyncio.get_running_loop().time()
        self._timer = asyncio.get_running_loop().call_later(PING_SECONDS, self._keep_alive)
        self._network.established(self)

    def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now - self._checked_at > 2 * PING_SECONDS:
            # This process was stopped for a while; what the peer sent meanwhile is still unread.
            self._heard_at = now
        self._checked_at = now
        if now - self._heard_at > SILENCE_SECONDS:
            return self.reject("silent peer")
        self._timer = loop.call_later(PING_SECONDS, self._keep_alive)
        if now - self._spoke_at >= PING_SECONDS:
            self.send_body(b"")


class Network:
    """All connections of one node."""

    def __init__(
        self,
        config: TransportConfig,
        receiver: Receiver,
        *,
        rng: random.Random,
        new_nonce: Callable[[int], bytes],
        gate: Gate | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        """`certificates`: every connection is TLS; without them, none is."""
        self.config = config
        self.certificates = certificates
        self.gate: Gate = gate if gate is not None else OpenGate()
        self.receiver = receiver
        self._rejections = Rejections(config.node)
        self.stats = TransportStats(rejected=self._rejections.counts)
        self._rng = rng
        self._new_nonce = new_nonce
        self._addresses = dict(config.members)
        self._live: dict[str, Connection] = {}
        self._strangers: dict[Connection, None] = {}
        """In the order in which they came."""
        self._server: asyncio.Server | None = None
        self._dialers: list[asyncio.Task[None]] = []
        self._stopped = False

    @property
    def connected(self) -> frozenset[str]:
        """The peers with a live connection."""
        return frozenset(self._live)

    async def start(self) -> None:
        """Listen and dial. Raises `OSError` if the address cannot be used."""
        loop = asyncio.get_running_loop()
        host, port = self.config.members[self.config.node]
        self._server = await loop.create_server(
            lambda: Connection(self, None), host, port, reuse_address=True
        )
        self._dialers = [
            loop.create_task(self._keep_dialing(peer), name=f"raft dials {peer}")
            for peer in sorted(self.config.members)
            if peer > self.config.node
        ]

    async def stop(self) -> None:
        """Close everything; no callback comes after this."""
        self._stopped = True
        if self._server is not None:
            self._server.close()
        for task in self._dialers:
            task.cancel()
        await asyncio.gather(*self._dialers, return_exceptions=True)
        connections = [*self._live.values(), *self._strangers]
        self._live.clear()
        self._strangers.clear()
        for connection in connections:
            connection.close()
        for connection in connections:
            await connection.closed.wait()
        if self._server is not None:
            await self._server.wait_closed()

    def move(self, peer: str, address: tuple[str, int]) -> None:
        """The peer is dialed at this address from now on. Who it is, is not a matter of where it is: it proves that anew."""
        self._addresses[peer] = address

    def silence(self) -> None:
        """Close every connection and accept none; `stop` still has to be called."""
        self._stopped = True
        for connection in [*self._live.values(), *self._strangers]:
            connection.close()

    def send_messages(self, peer: str, messages: Sequence[Message]) -> None:
        """Raft messages, in order. Without a connection they are dropped, as the network may."""
        connection = self._live.get(peer)
        if connection is None:
            return
        packed: list[bytes] = []
        size = 0
        for message in messages:
            packed.append(msgpack.packb(encode(message)))
            size += len(packed[-1])
            if size >= FRAME_TARGET_BYTES:
                connection.send_body(pack_body(KIND_RAFT, packed))
                packed, size = [], 0
        if packed:
            connection.send_body(pack_body(KIND_RAFT, packed))

    def send_payloads(self, peer: str, payloads: Sequence[bytes]) -> None:
        """Application messages, in order, in one frame."""
        connection = self._live.get(peer)
        if connection is not None and payloads:
            connection.send_body(msgpack.packb([KIND_APPLICATION, list(payloads)]))

    def unsent_bytes(self, peer: str) -> int:
        """What waits in the peer's send buffer."""
        connection = self._live.get(peer)
        return 0 if connection is None else connection.unsent_bytes

    # What connections tell.

    def hello_to(self, peer: str) -> bytes:
        """A fresh hello."""
        nonce = self._new_nonce(NONCE_BYTES)
        return hello(self.config.cluster, self.config.node, peer, nonce, self.gate.introduce())

    def check_hello(self, data: bytes) -> tuple[str, Introduction]:
        """The peer that a hello is from, if it is meant for us, and what it says of itself. Raises
        `Rejected`."""
        cluster, sender, receiver, introduction = parse_hello(data)
        if cluster != self.config.cluster:
            raise Rejected("another cluster")
        if receiver != self.config.node or sender == receiver or sender not in self.config.members:
            raise Rejected("another node")
        return sender, introduction

    def disconnect(self, peer: str) -> None:
        """Close the connection with a peer; it will have to introduce itself again."""
        connection = self._live.get(peer)
        if connection is not None:
            connection.close()

    def admit(self, connection: Connection) -> bool:
        """A new connection that has proved nothing yet. Those that this node dials are few, and do not count."""
        if self._stopped:
            connection.close()
            return False
        if not connection.dialed:
            at_the_door = [each for each in self._strangers if not each.dialed]
            if len(at_the_door) >= STRANGERS_MAX:
                del self._strangers[at_the_door[0]]
                at_the_door[0].reject("too many strangers")
        self._strangers[connection] = None
        return True

    def note_rejected(self, reason: str, peer: str | None, address: object, detail: str) -> None:
        """A connection is closed because of what its other end sent."""
        at = str(address[0]) if isinstance(address, tuple) else "an address unknown"
        now = asyncio.get_running_loop().time()
        self._rejections.add(reason, peer=peer, at=at, detail=detail, now=now)

    def established(self, connection: Connection) -> None:
        """Both sides have proved the secret: this is now the one connection with the peer."""
        peer = connection.peer or ""
        self._strangers.pop(connection, None)
        older = self._live.pop(peer, None)
        if older is not None:
            older.close()
            self.receiver.on_disconnected(peer)
        self._live[peer] = connection
        self.stats.connections += 1
        self._rejections.forget(peer)
        log.info("peer_connected", extra={"peer": peer})
        self.receiver.on_connected(peer)

    def lost(self, connection: Connection) -> None:
        """The socket is gone."""
        self._strangers.pop(connection, None)
        peer = connection.peer or ""
        if self._live.get(peer) is connection:
            del self._live[peer]
            log.info("peer_lost", extra={"peer": peer, "reason": connection.ended})
            self.receiver.on_disconnected(peer)

    async def _keep_dialing(self, peer: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            host, port = self._addresses[peer]
            try:
                async with asyncio.timeout(DIAL_SECONDS):
                    _, connection = await loop.create_connection(
                        lambda: Connection(self, peer), host, port
                    )
            except OSError:  # includes the timeout; the peer is simply not there yet
                connection = None
            pause = REDIAL_SECONDS
            if connection is not None:
                await connection.closed.wait()
                if connection.was_refused:
                    pause = REFUSED_REDIAL_SECONDS
            await asyncio.sleep(self._rng.uniform(*pause))
