"""The transport of a cluster: a stream to each endpoint that is in use, and plain calls where there can be none.

Rule: as in `transport.py`, nothing is repeated here, and one attempt ends as an `Answer`, `NotSent` or `NoAnswer`. A stream that
breaks is nobody's loss: whoever asked has no answer, and asks again under the same request id, through another endpoint. Where a
stream does not come about although the node answers (an old node, a proxy in between), plain calls do everything, and a stream is
tried again later.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from holdfast import stream_wire
from holdfast.attempts import NoAnswer, NotSent
from holdfast.errors import ClientClosed
from holdfast.moves import Moves
from holdfast.stream_connection import StreamConnection
from holdfast.stream_frames import entry_of
from holdfast.transport import CONNECT_SECONDS_MAX, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from holdfast.clock import Clock
    from holdfast.stream_frames import Entry
    from holdfast.streams import Stream
    from holdfast.transport import Answer, Endpoints, HttpTransport, Request

log: logging.Logger = logging.getLogger("holdfast")

TRY_AGAIN_SECONDS: Final = 60.0
"""After a stream was refused as such. Nodes are upgraded and proxies changed in hours; an attempt costs one request."""
TRY_AGAIN_SOON_SECONDS: Final = 5.0
"""After one that just did not come about: the node may be starting, stopping, or busy."""


class StreamTransport:
    """Make it, use it and close it on one event loop."""

    def __init__(self, plain: HttpTransport, clock: Clock) -> None:
        self._plain = plain
        self._clock = clock
        self._open: dict[str, StreamConnection] = {}
        self._retired: set[StreamConnection] = set()
        """Those on which only answers are awaited."""
        self._ending: set[asyncio.Task[None]] = set()
        self._opening: dict[str, asyncio.Task[StreamConnection | float]] = {}
        self._refused_until: dict[str, float] = {}
        self._told: dict[str, Callable[[tuple[int, ...] | None], None]] = {}
        self._is_closed = False
        self._moves = Moves(clock, self._can_stream, self._leave)

    def attempt(
        self, endpoint: str, request: Request, *, seconds: float
    ) -> Coroutine[Any, Any, Answer]:
        """See `transport.Transport`. Where a connection is open, its own coroutine is handed out: one frame less to wait in."""
        entry = entry_of(request.path, request.body)
        if entry is None or request.body is None:
            return self._plain.attempt(endpoint, request, seconds=seconds)
        connection = self._open.get(endpoint)
        if connection is None:
            return self._attempt_anew(endpoint, request, entry, seconds)
        return connection.ask(entry, request.body, seconds)

    async def _attempt_anew(
        self, endpoint: str, request: Request, entry: Entry, seconds: float
    ) -> Answer:
        """The same where there is no connection yet."""
        give_up_at = self._clock.now() + seconds
        connection = await self._connection(endpoint, seconds)
        seconds = max(0.0, give_up_at - self._clock.now())
        if connection is None:
            return await self._plain.attempt(endpoint, request, seconds=seconds)
        return await connection.ask(entry, request.body or {}, seconds)

    async def open_stream(
        self, endpoint: str, path: str, headers: Mapping[str, str], *, seconds: float
    ) -> Stream:
        """See `streams.Streaming`."""
        return await self._plain.open_stream(endpoint, path, headers, seconds=seconds)

    def tell(self, session: str, told: Callable[[tuple[int, ...] | None], None]) -> None:
        """See `transport.Telling`."""
        self._told[session] = told

    def tell_no_more(self, session: str) -> None:
        """See `transport.Telling`."""
        self._told.pop(session, None)

    def steer(self, endpoints: Endpoints) -> None:
        """See `transport.Steering`."""
        self._moves.steer(endpoints)

    async def aclose(self) -> None:
        """Close every connection."""
        self._is_closed = True
        await self._moves.aclose()
        opening = list(self._opening.values())
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        connections = [*self._open.values(), *self._retired]
        await asyncio.gather(*(each.aclose() for each in connections), *self._ending)
        await self._plain.aclose()

    async def _connection(self, endpoint: str, seconds: float) -> StreamConnection | None:
        """The connection to an endpoint, opened once for however many ask. None: it has no stream. Raises `NotSent`."""
        if self._is_closed:
            raise ClientClosed("the client was closed")
        if self._clock.now() < self._refused_until.get(endpoint, 0.0):
            return None
        opening = self._opening.get(endpoint)
        if opening is None:
            opening = asyncio.get_running_loop().create_task(
                self._connect(endpoint), name="holdfast: stream"
            )
            self._opening[endpoint] = opening
            opening.add_done_callback(lambda task: self._opened(endpoint, task))
        # Whoever is cancelled, or has less time, leaves the opening to the others.
        await asyncio.wait({opening}, timeout=seconds)
        if not opening.done():
            raise NotSent(f"{endpoint} cannot be reached in {seconds:.3g} s")
        if opening.cancelled():
            raise ClientClosed("the client was closed")
        connection = opening.result()
        return None if isinstance(connection, float) else connection

    def _opened(self, endpoint: str, task: asyncio.Task[StreamConnection | float]) -> None:
        self._opening.pop(endpoint, None)
        if task.cancelled() or task.exception() is not None:
            return  # whoever waits for it is told
        connection = task.result()
        if isinstance(connection, float):
            self._refused_until[endpoint] = self._clock.now() + connection
        elif not connection.is_closed:
            self._open[endpoint] = connection
            connection.on_closed = lambda: self._closed(endpoint, connection)

    async def _can_stream(self, endpoint: str) -> bool:
        """Raises `NotSent`."""
        if endpoint not in self._open:
            await self._connection(endpoint, CONNECT_SECONDS_MAX)
        return endpoint in self._open

    def _leave(self, endpoint: str) -> None:
        connection = self._open.pop(endpoint, None)
        if connection is not None:
            self._retired.add(connection)
            connection.retire()

    def _closed(self, endpoint: str, connection: StreamConnection) -> None:
        self._retired.discard(connection)
        if self._open.get(endpoint) is connection:
            del self._open[endpoint]
        if not self._is_closed:
            ending = asyncio.get_running_loop().create_task(connection.aclose())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _connect(self, endpoint: str) -> StreamConnection | float:
        """The connection, or for how many seconds plain calls have to do. Raises `NotSent`."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                return await StreamConnection.open(
                    self._plain.stream_session(),
                    endpoint + stream_wire.STREAM_PATH,
                    endpoint=endpoint,
                    headers=self._plain.headers,
                    clock=self._clock,
                    pushed=self._pushed,
                    led_from=self._moves.heard,
                )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotSent(f"{endpoint} cannot be reached: {reason_of(error)}") from error
        except aiohttp.InvalidURL as error:
            raise NotSent(f"{endpoint} is not an address") from error
        except TimeoutError:
            # A machine that is switched off, or a proxy that keeps the upgrade to itself: a plain call tells them apart.
            log.info("no stream to %s in time; going on with plain calls", endpoint)
            return TRY_AGAIN_SECONDS
        except (aiohttp.ClientError, OSError, ValueError, NoAnswer) as error:
            log.info("no stream to %s (%s); going on with plain calls", endpoint, error)
            is_refused = isinstance(error, ValueError) or (
                isinstance(error, aiohttp.WSServerHandshakeError) and error.status < 500
            )
            return TRY_AGAIN_SECONDS if is_refused else TRY_AGAIN_SOON_SECONDS

    def _pushed(self, session: str, tokens: tuple[int, ...] | None) -> None:
        told = self._told.get(session)
        if told is not None:
            told(tokens)
