"""Following what happens, without gaps: `async for event in client.watch("payments/")`.

Rules:
* Events come in the order of the log, each once. When a node fails, the next one is asked to go on after the last revision that was
  received; revisions are the same on all nodes.
* Where that is not possible because the cluster has dropped what follows, the watch says so: `NoLongerKept`, or a `Restarted` in
  the stream if that was asked for. The marker comes after the new stream has begun, so that a state read then misses nothing.
* Entering the block is the moment from which on nothing is missed. Nothing is kept but what one piece of the stream brought; a
  reader that is too slow is dropped by the node, and goes on where it was.
It knows nothing of locks: an event is a record.
"""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import quote

from holdfast import retry, wire
from holdfast.attempts import NoAnswer, NotSent
from holdfast.errors import BadRequest, HoldfastError, NoLongerKept, Refused, Unreachable
from holdfast.records import Record, Restarted, record_of
from holdfast.requests import ATTEMPT_SECONDS, refusal
from holdfast.retry import Failure
from holdfast.sse import Frame, Malformed, Parser
from holdfast.streams import Streaming
from holdfast.transport import Answer, Endpoints, decode

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from holdfast.clock import Clock
    from holdfast.streams import Stream
    from holdfast.transport import Transport

Event: TypeAlias = Record | Restarted

QUIET_SECONDS_MAX: Final = 25.0
"""A node gives a sign of life every 10 s: after two that did not come the connection is dead."""
PROBLEM_BYTES_MAX: Final = 64 * 1024


class Source:
    """How a watch reaches the cluster: what it needs of its client."""

    def __init__(
        self,
        transport: Transport,
        endpoints: Endpoints,
        clock: Clock,
        draw: Callable[[], float],
        patience: float,
    ) -> None:
        """`endpoints`: of its own, since where a watch is has nothing to do with where locks are asked for."""
        if not isinstance(transport, Streaming):
            raise Refused("this store keeps no events: a cluster does", code="not_found")
        self.transport: Streaming = transport
        self.endpoints = endpoints
        self.clock = clock
        self.patience = patience
        self._draw = draw
        self._policy = retry.Policy()

    async def pause(self, failure: Failure, attempts: int, give_up_at: float) -> bool:
        """Wait before the next attempt. False: it is time to give up."""
        now = self.clock.now()
        delay = retry.decide(
            self._policy,
            failure=failure,
            attempts=attempts,
            endpoints=len(self.endpoints),
            now=now,
            give_up_at=give_up_at,
            draw=self._draw(),
        )
        if delay:
            await self.clock.sleep_until(now + delay)
        return delay is not None


class Watch:
    """Made by `AsyncClient.watch`. For one task at a time."""

    def __init__(
        self, source: Source, prefix: str, *, after: int | None = None, restart: bool = False
    ) -> None:
        self._source = source
        self._path = f"{wire.API_PREFIX}/events?prefix={quote(prefix, safe='')}"
        self._restart = restart
        self._received = after
        self._yielded = after
        self._ready: deque[Event] = deque()
        self._stream: Stream | None = None
        self._parser = Parser()
        self._has_begun = self._is_closed = self._is_restarting = False
        self._failures = 0  # streams and attempts in a row that brought nothing

    @property
    def revision(self) -> int | None:
        """Everything up to it has been handed out (or did not concern the prefix): pass it as `after` to go on later, elsewhere.
        None: it has not begun."""
        return self._yielded if self._ready else self._received

    async def begin(self) -> None:
        """Return when the watch has begun. Raises as iterating does."""
        while not self._has_begun:
            await self._fill()

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> Event:
        """The next event, however long that takes. Raises `NoLongerKept`; `Unreachable` if no node could be reached for the
        client's `timeout` (iterate on: nothing is lost by that); `LimitReached`, `BadRequest` and the other refusals. Being
        cancelled loses no event."""
        while not self._ready:
            if self._is_closed:
                raise StopAsyncIteration
            await self._fill()
        event = self._ready.popleft()
        self._yielded = event.revision
        return event

    async def __aenter__(self) -> Watch:
        await self.begin()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it, and its connection. Whoever iterates on gets what had arrived, and then the end."""
        self._is_closed = True
        self._drop()

    # -- one piece

    async def _fill(self) -> None:
        """Take one piece of the stream, connecting first if there is none."""
        stream = self._stream
        if stream is None:
            await self._connect()
            return
        try:
            piece = await stream.read(QUIET_SECONDS_MAX)
            frames = self._parser.feed(piece) if piece else []
        except (NoAnswer, Malformed):
            self._failed()
            return
        if not piece:
            self._failed()
        for frame in frames:
            if self._stream is not stream:
                return  # the stream has said that it ends
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        if frame.data is None:
            self._move_to(frame)
            return
        data: Any = json.loads(frame.data)
        if frame.event == "at":
            self._begun(int(data["revision"]))
        elif frame.event == "gone":
            self._gone(data)
        else:
            record = record_of(data)
            # A node would have to break its promise for this to be an old one; handing it out twice would break ours.
            if self._received is None or record.revision > self._received:
                self._ready.append(record)
            self._move_to(frame)

    def _begun(self, revision: int) -> None:
        self._has_begun = True
        if self._received is None:
            self._received = self._yielded = revision
        if self._is_restarting:
            self._is_restarting = False
            self._ready.append(Restarted(revision))

    def _move_to(self, frame: Frame) -> None:
        self._failures = 0
        if frame.id is not None and frame.id.isdecimal():
            self._received = max(self._received or 0, int(frame.id))

    def _gone(self, data: dict[str, Any]) -> None:
        reason = str(data.get("reason"))
        if reason == wire.Code.NO_LONGER_KEPT:
            self._lost(str(data.get("detail", "")), int(data.get("first_revision") or 0))
        else:  # too slow, or the node stops: go on where we are
            self._failed()

    # -- connecting

    async def _connect(self) -> None:
        source = self._source
        give_up_at = source.clock.now() + source.patience
        while True:
            endpoint = source.endpoints.current
            problem = await self._attempt(endpoint)
            if problem is None:
                return
            source.endpoints.failed(endpoint)
            self._failures += 1
            if not await source.pause(Failure.UNKNOWN, self._failures, give_up_at):
                raise problem

    async def _attempt(self, endpoint: str) -> HoldfastError | None:
        """Begin a stream, or say why not here; raises what would be the same everywhere."""
        headers = {"Accept": "text/event-stream"}
        if self._received is not None:
            headers["Last-Event-ID"] = str(self._received)
        source = self._source
        try:
            stream = await source.transport.open_stream(
                endpoint, self._path, headers, seconds=ATTEMPT_SECONDS
            )
            if stream.status == 200:
                self._parser = Parser()
                self._stream = stream
                return None
            try:
                answer = await problem_of(stream, endpoint, source.clock.now())
            finally:
                stream.close()
        except (NotSent, NoAnswer) as failed:
            return Unreachable(str(failed))
        error = refusal(answer)
        if isinstance(error, NoLongerKept):
            self._lost(error.detail, error.first_revision)
            return None
        if self._has_begun and isinstance(error, BadRequest):
            self._lost("the numbers of this cluster begin anew", 0)  # it was restored from a backup
            return None
        if answer.status >= 429:
            return error
        raise error

    def _failed(self) -> None:
        """The stream is over, and it is nobody's fault but its node's."""
        self._drop()
        self._source.endpoints.failed(self._source.endpoints.current)
        self._failures += 1

    def _lost(self, detail: str, first_revision: int) -> None:
        self._drop()
        if not self._restart:
            raise NoLongerKept(
                f"events were dropped that this watch has not had: {detail}",
                detail=detail,
                first_revision=first_revision,
            )
        self._is_restarting = True
        self._received = None

    def _drop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()


async def problem_of(stream: Stream, endpoint: str, sent_at: float) -> Answer:
    """What a stream that did not begin says. Raises `NoAnswer`."""
    raw = b""
    while piece := await stream.read(ATTEMPT_SECONDS):
        raw += piece
        if len(raw) > PROBLEM_BYTES_MAX:
            raise NoAnswer("the answer has no end")
    try:
        return Answer(stream.status, decode(stream.content_type, raw), sent_at, endpoint)
    except ValueError as error:
        raise NoAnswer(str(error)) from error
