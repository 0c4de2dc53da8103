"""The stream of events: `GET /v1/events`, as server-sent events (WHATWG HTML, section 9.2).

    id: 1041                                     the revision: what `Last-Event-ID` resumes after
    event: granted                               the kind
    data: {"revision":1041,"kind":"granted",...}

Rule: in the order of the trail, without gaps; where a gap cannot be avoided the stream says `gone` and ends. Nothing is kept for a
watcher but a revision, and what is on its way to it is bounded by the connection's buffer: whoever does not take it is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import web

from holdfast.wire import Code
from holdfast_coordinator.http import fields, queries
from holdfast_coordinator.http.callers import identity_of
from holdfast_coordinator.http.calls import Calls, query
from holdfast_coordinator.http.history_views import AtEvent, GoneEvent, record_view
from holdfast_coordinator.http.problems import Problem, bad_request
from holdfast_coordinator.http.rights import readable
from holdfast_coordinator.http.streams import PIECE_BYTES, Patience, SlowReader, Stream
from holdfast_coordinator.machine.trail import NoLongerKept

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from holdfast_coordinator.http.watchers import Watchers
    from holdfast_coordinator.machine.trail import Record

MEDIA_EVENTS: Final = "text/event-stream"

_HEADERS: Final = {
    "Content-Type": MEDIA_EVENTS,
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # proxies of that kind would hold back events otherwise
}
_encode = msgspec.json.Encoder().encode


class EventCalls:
    def __init__(self, calls: Calls, watchers: Watchers, patience: Patience) -> None:
        self._calls = calls
        self._node = calls.node
        self._watchers = watchers
        self._patience = patience

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/v1/events", self.events, allow_head=False)]

    async def events(self, request: web.Request) -> web.StreamResponse:
        values = query(request, queries.EVENTS)
        prefixes = readable(identity_of(request), fields.prefix(values.get("prefix")))
        after = queries.revision(values)
        resumed = queries.last_event_id(request.headers.get(queries.LAST_EVENT_ID))
        # A reader that comes back sends both: the URL that it began with, and what it has seen since.
        after = await start_after(self._calls, after if resumed is None else resumed)
        watchers = self._watchers
        if watchers.count >= self._calls.limits.watchers_max:
            detail = "as many watchers as this node takes are here; try another node"
            raise Problem(Code.LIMIT_REACHED, detail, limit="watchers_max")
        watchers.enter()
        try:
            return await self._follow(request, prefixes, after)
        finally:
            watchers.leave()

    async def _follow(
        self, request: web.Request, prefixes: tuple[str, ...], after: int
    ) -> web.StreamResponse:
        stream = Stream(request, _HEADERS, self._patience.slow_reader_seconds)
        await stream.begin()
        trail = self._node.machine.trail
        at = AtEvent(after, trail.first_revision, self._node.status().node)
        try:
            await stream.send(event("at", at, after))
            gone = await self._send_what_comes(stream, prefixes, after)
        except SlowReader:
            gone = self._gone("slow_reader", "what was sent was not taken in time")
        await stream.end(event("gone", gone, None))
        return stream.response

    async def _send_what_comes(
        self, stream: Stream, prefixes: tuple[str, ...], after: int
    ) -> GoneEvent:
        """Until the stream has to end; the answer says why. Raises `SlowReader`."""
        watchers, loop = self._watchers, asyncio.get_running_loop()
        heartbeat_seconds = self._patience.heartbeat_seconds
        quiet_until = loop.time() + heartbeat_seconds
        while not watchers.stopping:
            try:
                records = await watchers.read(after)
            except NoLongerKept:
                detail = "events that this reader has not had were dropped: read the locks anew, and watch from now on"
                return self._gone("no_longer_kept", detail)
            if records:
                after = records[-1].revision
                for data in _pieces(records, prefixes):
                    await stream.send(data)
                    quiet_until = loop.time() + heartbeat_seconds
            if loop.time() >= quiet_until:
                # With an id, so that a reader resumes from here although nothing of its prefix happened.
                await stream.send(b": alive\nid: %d\n\n" % after)
                quiet_until = loop.time() + heartbeat_seconds
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(quiet_until):
                        await watchers.grown(after)
        return self._gone("stopping", "this node is stopping: go on with another")

    def _gone(self, reason: str, detail: str) -> GoneEvent:
        self._calls.metrics.count_watch_ended(reason)
        return GoneEvent(reason, detail, self._node.machine.trail.first_revision)


async def start_after(calls: Calls, after: int | None) -> int:
    """After which revision events begin. Raises `Problem`: what follows it is not kept, or it is not of this cluster."""
    trail = calls.node.machine.trail
    if after is None:
        return trail.last_revision
    if after > trail.last_revision:
        # Either this node is behind the one that the caller has seen, or the number is not from here.
        await calls.barrier()
        trail = calls.node.machine.trail
        if after > trail.last_revision:
            raise bad_request("after", f"is beyond the last revision, {trail.last_revision}")
    if after + 1 < trail.first_revision:
        raise dropped(trail.first_revision)
    return after


def dropped(first_revision: int) -> Problem:
    """Records that the reader has not had are not there any more."""
    detail = f"the oldest event that is kept is {first_revision}: read the locks anew, and watch from now on"
    return Problem(Code.NO_LONGER_KEPT, detail, first_revision=first_revision)


def event(kind: str, data: msgspec.Struct, revision: int | None) -> bytes:
    """One event in the format of the stream. JSON has no bare newline, so its data is one line."""
    head = b"" if revision is None else b"id: %d\n" % revision
    return b"%sevent: %s\ndata: %s\n\n" % (head, kind.encode(), _encode(data))


def _pieces(records: Iterable[Record], prefixes: tuple[str, ...]) -> Iterator[bytes]:
    """The events that concern the prefixes, each with the keys under them and no others, in pieces of a bounded size."""
    piece = bytearray()
    for record in records:
        keys = [key for key in record.keys if key.startswith(prefixes)]
        if not keys:
            continue
        piece += event(record.kind, record_view(record, keys), record.revision)
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)
