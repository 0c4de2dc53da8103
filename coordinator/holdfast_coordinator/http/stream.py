"""The stream: one WebSocket that carries a client's operations, many to a frame, and everything that the node has to say to it.

    frame -> decode -> [check each entry] -> node.submit_all -> ... apply ... -> answers of one apply -> frame

Rule: nothing here is done for each operation that can be done for a frame. There is no task, no future and no timer for an
operation; an entry is checked in one place (`_Connection._submission_of`), and answers are gathered for the turn of the loop in
which they come. Both directions are bounded: a client by its window (`stream_wire`), a node by what it lets stand in the buffer of
a connection, behind which it reads no more, and cuts it off if nothing is taken.

A connection that ends means nothing for what was asked on it: each operation has a name of its own (a request id, a token, a
session), its outcome is unknown to the client until it asks again under that name, here or at another node. A waiter keeps its
place for `RESUME_SECONDS`, so that a client whose connection broke stands where it stood; if nobody has come for it by then, its
client is taken for dead, as a plain call's is at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, NamedTuple

from aiohttp import WSMsgType, hdrs, web

from holdfast import stream_wire
from holdfast.wire import Code
from holdfast_coordinator.http import fields
from holdfast_coordinator.http import stream_frames as frames
from holdfast_coordinator.http.callers import identity_of
from holdfast_coordinator.http.ownership import owned, session_in_table
from holdfast_coordinator.http.problems import Problem, bad_request
from holdfast_coordinator.http.rates import ask_rates
from holdfast_coordinator.http.rights import authorize, readable
from holdfast_coordinator.http.stream_watch import Watch
from holdfast_coordinator.machine.operations import Acquire
from holdfast_coordinator.machine.outcomes import Outcome
from holdfast_coordinator.submissions import Submission

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from holdfast_coordinator.http.calls import Calls
    from holdfast_coordinator.http.rates import Rates
    from holdfast_coordinator.http.watchers import Watchers
    from holdfast_coordinator.machine.operations import Operation
    from holdfast_coordinator.node_types import Unknown

RESUME_SECONDS: Final = 2.0
"""Longer than a client takes to connect to another node and ask again, shorter than anybody's lease is likely to be."""

UNSENT_HIGH_BYTES: Final = 256 * 1024
"""Answers that a client has not taken; above it no more is read from it."""

UNSENT_MAX_BYTES: Final = 4 * 1024 * 1024
"""Above it the connection is cut off: the answers to a whole window of ordinary operations are a quarter of this."""

SILENCE_SECONDS: Final = 30.0
"""A connection without a word for so long is pinged, and given up after half as long again."""

GOODBYE_SECONDS: Final = 1.0
"""What a client gets to answer the end of its connection. A node that stops does not wait for the dead."""

SESSIONS_TOLD_MAX: Final = 1_024
"""Sessions of one connection whose end is told on it. A client has one, and one for each bounded hold."""

TELL_SECONDS: Final = 0.05
"""From a lost lease to the telling: what ends meanwhile is told together."""


class StreamCalls:
    """The route, and the connections of one node."""

    def __init__(
        self, calls: Calls, rates: Rates, watchers: Watchers, patience_seconds: float
    ) -> None:
        """`patience_seconds`: what a client gets to take what is on its way to it."""
        self.calls = calls
        self.rates = rates
        self.watchers = watchers
        self.patience_seconds = patience_seconds
        self._connections: set[_Connection] = set()
        self.answering: set[_Connection] = set()
        """Those that have something to say, which leaves with the end of this turn of the loop, or of this entry."""
        self._losses = calls.node.machine.losses
        self._leader = calls.node.leader
        self._telling: asyncio.TimerHandle | None = None
        self._unsubscribe = calls.node.on_applied(self._applied)

    def __len__(self) -> int:
        """How many are open."""
        return len(self._connections)

    def routes(self) -> list[web.RouteDef]:
        return [web.get(stream_wire.STREAM_PATH, self.stream)]

    async def stream(self, request: web.Request) -> web.StreamResponse:
        _check_handshake(request)
        socket = web.WebSocketResponse(
            max_msg_size=stream_wire.FRAME_BYTES_MAX + 1,  # what aiohttp takes is below it
            compress=False,  # frames are small and full of random ids
            heartbeat=SILENCE_SECONDS,
            timeout=GOODBYE_SECONDS,
        )
        await socket.prepare(request)
        connection = _Connection(self, socket, request)
        self._connections.add(connection)
        if self.calls.node.leader is None:
            self._leader = None  # it has been told of none, and is told of the next also if that is the last one
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            connection.end()
        return socket

    async def stop(self) -> None:
        """The node stops: every client is told to go on with another."""
        self._unsubscribe()
        if self._telling is not None:
            self._telling.cancel()
        await asyncio.gather(*(each.go_away() for each in self._connections))

    def _applied(self) -> None:
        """Called after every entry, of which the first is a new leader's own. Leaders and leases are lost seldom."""
        # The client goes on with the answers of this entry while the next one is applied.
        for connection in tuple(self.answering):
            connection.flush()
        if self.calls.node.leader not in (self._leader, None):
            self._leader = self.calls.node.leader
            for connection in self._connections:
                connection.tell_leader()
        losses = self.calls.node.machine.losses
        if losses != self._losses and self._telling is None:
            self._losses = losses
            loop = asyncio.get_running_loop()
            self._telling = loop.call_later(TELL_SECONDS, self._tell_losses)

    def _tell_losses(self) -> None:
        self._telling = None
        for connection in self._connections:
            connection.tell_losses()
        self._applied()  # what has happened since


def _check_handshake(request: web.Request) -> None:
    """Raises `Problem`."""
    if request.headers.get(hdrs.UPGRADE, "").lower() != "websocket":
        raise Problem(
            Code.UPGRADE_REQUIRED,
            "this path is a WebSocket; see docs/stream.md",
            headers={"Upgrade": "websocket", "Connection": "Upgrade"},
        )


class _Call(Submission):
    """One operation of a connection. It is the submission itself, so that there is one object for each operation and no future."""

    __slots__ = ("began", "connection", "number")

    def __init__(
        self, operation: Operation, connection: _Connection, number: int, began: float
    ) -> None:
        # What `Submission` does; a call of it for each operation would be as much as all of this.
        self.operation = operation
        self.admitted_ns = self.sequence = 0
        self.abandoned = self.was_answered = False
        self.connection = connection
        self.number = number
        self.began = began

    def answer(self, outcome: Outcome | Unknown) -> None:
        self.was_answered = True
        self.connection.answered(self, outcome)


class _Told(NamedTuple):
    """Of one session: what its caller calls it, and the forced holds of which the caller has been told."""

    name: str
    forced: frozenset[int] = frozenset()


class _Connection:
    def __init__(
        self, stream: StreamCalls, socket: web.WebSocketResponse, request: web.Request
    ) -> None:
        self._stream = stream
        self._socket = socket
        self._request = request
        transport = request.transport
        assert transport is not None  # noqa: S101 - `prepare` has written to it
        self._transport = transport
        self._has_rates = bool(stream.rates)
        self._open: set[_Call] = set()
        self._answers: list[Any] = []
        self._is_ended = False
        self._identity = identity_of(request)
        self._watches: dict[int, tuple[Watch, asyncio.Task[None]]] = {}
        self._draining: asyncio.Task[None] | None = None
        """Ends when the connection takes more, or is over. One for whoever waits for that; nobody cancels it."""
        self._sessions: dict[str, _Told] = {}
        """Sessions that were used here, by their ids in the lock table."""

    async def run(self) -> None:
        """Take frames until the connection ends."""
        self.say(frames.hello(self._stream.calls.node.status().node))
        self.tell_leader()
        self.flush()
        socket = self._socket
        while True:
            message = await socket.receive()
            if message.type is WSMsgType.BINARY:
                if not self._take(message.data):
                    return
            elif message.type is WSMsgType.TEXT:
                await socket.close(code=stream_wire.CLOSE_PROTOCOL, message=b"frames are binary")
                return
            else:
                return
            if not await self.taken():
                return

    async def taken(self) -> bool:
        """Whether the client took, in time, what is on its way to it; else it is cut off. Meanwhile nothing is read from it."""
        if not self._request.protocol.writing_paused or await self._drained():
            return True
        self._transport.abort()
        return False

    async def _drained(self) -> bool:
        if self._transport.get_write_buffer_size() < UNSENT_HIGH_BYTES:
            return True
        # Time 0: two watches wait for the connection; aiohttp has one waiter for both, and for `run`. Time 1: the client wants no
        # more of the first, whose task is cancelled. If that cancelled the waiter, the second and `run` would be cancelled with it.
        if self._draining is None or self._draining.done():
            loop = asyncio.get_running_loop()
            self._draining = loop.create_task(self._drain(), name="stream: drain")
        done, _ = await asyncio.wait({self._draining}, timeout=self._stream.patience_seconds)
        return bool(done)

    async def _drain(self) -> None:
        with contextlib.suppress(ConnectionError):  # it is over: `run` hears of that
            await self._request.writer.drain()

    def _take(self, data: bytes) -> bool:
        """One frame. False: it could not be read, and the connection is being closed."""
        try:
            entries = frames.decode_frame(data)
        except frames.Unreadable:
            self._close(stream_wire.CLOSE_PROTOCOL, b"a frame is a msgpack array of entries")
            return False
        if len(entries) > stream_wire.FRAME_OPERATIONS_MAX:
            self._close(stream_wire.CLOSE_TOO_BIG, b"too many operations in one frame")
            return False
        began = self._stream.calls.metrics.now()
        submissions: list[_Call] = []
        room = stream_wire.WINDOW - len(self._open)
        for entry in entries:
            if isinstance(entry, frames.Wrong):
                self._turn_down(entry.call, entry.problem)
                continue
            try:
                if isinstance(entry, frames.Watching):
                    self._watch(entry)
                elif len(submissions) < room:
                    submissions.append(self._submission_of(entry, began))
                else:
                    detail = "the window of this connection is used up"
                    self.refuse(entry.call, Problem(Code.OVERLOADED, detail))
            except Problem as problem:
                self._turn_down(entry.call, problem)
        self._open.update(submissions)
        self._stream.calls.node.submit_all(submissions)
        return True

    def _submission_of(self, entry: frames.AnyOperation, began: float) -> _Call:
        """Everything that has to be asked about an operation before the node is: here, and nowhere else. Raises `Problem`.

        Who asks is whoever opened the connection.
        """
        stream, identity = self._stream, self._identity
        authorize(identity, frames.call_of(entry), frames.keys_of(entry))
        operation = owned(identity, frames.operation_of(entry, stream.calls.machine_limits))
        if self._has_rates and type(operation) is Acquire:
            ask_rates(stream.rates, stream.calls.node.machine, operation)
        session = session_in_table(identity, entry.session)
        if session not in self._sessions and len(self._sessions) < SESSIONS_TOLD_MAX:
            self._sessions[session] = _Told(entry.session)
        if isinstance(entry, frames.CloseEntry):
            self._sessions.pop(session, None)
        return _Call(operation, self, entry.call, began)

    # -- answers -----------------------------------------------------------------------------------------------------------

    def answered(self, call: _Call, outcome: Outcome | Unknown) -> None:
        self._open.discard(call)
        answer = frames.answer_of(call.number, outcome)
        told = "granted"
        if answer is None:
            problem = self._stream.calls.problem_of(self._identity, outcome)
            told = problem.code.value
            self.refuse(call.number, problem)
        else:
            self.say(answer)
        if type(call.operation) is Acquire:
            metrics = self._stream.calls.metrics
            metrics.observe_acquire(told, metrics.now() - call.began)

    def _turn_down(self, call: int, problem: Problem) -> None:
        """An entry that is wrong. One with the number of a watch ends the watch: its client would take the refusal for that."""
        if (known := self._watches.get(call)) is not None:
            known[1].cancel()
        self.refuse(call, problem)

    def refuse(self, call: int, problem: Problem) -> None:
        self._stream.calls.metrics.count_rejected(problem.code.value, problem.limit)
        self.say(frames.refused(call, problem))

    def say(self, entry: Sequence[Any]) -> None:
        self._answers.append(entry)
        if self not in self._stream.answering:
            self._stream.answering.add(self)
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        self._stream.answering.discard(self)
        answers, self._answers = self._answers, []
        transport = self._transport
        if not answers or self._is_ended or transport.is_closing():
            return
        if transport.get_write_buffer_size() > UNSENT_MAX_BYTES:
            transport.abort()
            return
        # A frame of a server needs no mask and no compression, so it is its length and its bytes. aiohttp's `send_bytes` does the
        # same through a coroutine, for which every frame would need a task.
        payload = frames.encode_frame(answers)
        transport.write(_head(len(payload)) + payload)

    # -- watches -----------------------------------------------------------------------------------------------------------

    def _watch(self, entry: frames.AnyWatch) -> None:
        """Raises `Problem`. What the caller may not read is not told, as by the plain call."""
        known = self._watches.get(entry.call)
        if isinstance(entry, frames.WatchEntry):
            if known is not None:
                raise bad_request("call", "is that of another watch")
            if len(self._watches) >= stream_wire.WATCHES_MAX:
                detail = f"a connection has at most {stream_wire.WATCHES_MAX} watches"
                raise Problem(Code.LIMIT_REACHED, detail, limit="stream_watches")
            prefixes = readable(self._identity, fields.prefix(entry.prefix))
            watch = Watch(self._stream.calls, self._stream.watchers, self, entry, prefixes)
            task = asyncio.get_running_loop().create_task(watch.run(), name="stream: watch")
            self._watches[entry.call] = watch, task
            task.add_done_callback(lambda _: self._watches.pop(entry.call, None))
        elif isinstance(entry, frames.MoreEntry):
            if known is not None:  # else it is over, which its client is about to hear
                known[0].more(entry.count)
        else:
            if known is not None:
                known[1].cancel()
            self.say((stream_wire.UNWATCH, entry.call))

    # -- what nobody has asked for -----------------------------------------------------------------------------------------

    def tell_leader(self) -> None:
        """Which node leads, if it is another one: what is asked there goes one way less."""
        if (leader := frames.leader(self._stream.calls.node.status())) is not None:
            self.say(leader)

    def tell_losses(self) -> None:
        """Sessions of this connection that have ended, and holds of them that an operator ended."""
        machine = self._stream.calls.node.machine
        for session, told in list(self._sessions.items()):
            if machine.has_ended(session):
                del self._sessions[session]
                self.say(frames.ended(told.name))
                continue
            tokens = machine.forced_of(session)
            if not told.forced.issuperset(tokens):
                self.say(frames.forced(told.name, tuple(tokens)))
            self._sessions[session] = _Told(told.name, frozenset(tokens))

    # -- the end -----------------------------------------------------------------------------------------------------------

    async def go_away(self) -> None:
        """The node stops. What is answered until then has been sent."""
        self.flush()
        await self._socket.close(code=stream_wire.CLOSE_GOING_AWAY, message=b"the node is stopping")

    def _close(self, code: int, why: bytes) -> None:
        self.flush()
        payload = code.to_bytes(2, "big") + why
        self._transport.write(b"\x88" + bytes([len(payload)]) + payload)
        self._transport.close()

    def end(self) -> None:
        """The connection is gone. Its waiters may be asked for again, here or elsewhere, and keep their places until then."""
        self._is_ended = True
        self._answers.clear()
        for _, task in self._watches.values():
            task.cancel()
        if self._open:
            asyncio.get_running_loop().call_later(RESUME_SECONDS, self._abandon)

    def _abandon(self) -> None:
        # Whoever was asked for again is attached elsewhere, and was answered here as superseded.
        for call in list(self._open):
            self._stream.calls.node.abandon(call)
        self._open.clear()


def _head(length: int) -> bytes:
    """The head of one unmasked binary WebSocket frame (RFC 6455, 5.2)."""
    if length < 126:
        return bytes((0x82, length))
    if length < 65_536:
        return b"\x82\x7e" + length.to_bytes(2, "big")
    return b"\x82\x7f" + length.to_bytes(8, "big")
