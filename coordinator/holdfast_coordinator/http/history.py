"""The calls about what happened: the history of one key, the whole trail as a file, and an explanation of how a key stands now."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import TYPE_CHECKING, Final

from aiohttp import web

from holdfast.wire import Code
from holdfast_coordinator.http import bodies, queries, requests
from holdfast_coordinator.http.callers import identity_of
from holdfast_coordinator.http.calls import Calls, answer, decoded, post, query
from holdfast_coordinator.http.export import export
from holdfast_coordinator.http.history_views import (
    ExplanationView,
    HistoryPage,
    explanation_view,
    record_view,
)
from holdfast_coordinator.http.problems import Problem
from holdfast_coordinator.http.rights import authorize
from holdfast_coordinator.http.streams import SlowReader, Stream
from holdfast_coordinator.http.views import aged
from holdfast_coordinator.http.visible import explanation_shown, keys_shown

if TYPE_CHECKING:
    from holdfast_coordinator.machine.trail import Record

MEDIA_JSON_LINES: Final = "application/jsonl"

STEP_MAX: Final = 1_000
"""Records of one key that are looked at in one step of the loop: about 10 ms, a tenth of a heartbeat."""

_EXPORT_HEADERS: Final = {
    "Content-Type": MEDIA_JSON_LINES,
    "Cache-Control": "no-store",
    "Content-Disposition": 'attachment; filename="holdfast-history.jsonl"',
}


class HistoryCalls:
    def __init__(self, calls: Calls, slow_reader_seconds: float) -> None:
        self._calls = calls
        self._slow_reader_seconds = slow_reader_seconds

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/locks/explain", self.explain),
            post("/v1/locks/explain", self.read_explain),
            web.get("/v1/history", self.history),
            post("/v1/history/read", self.read_history),
            web.get("/v1/history/export", self.export, allow_head=False),
        ]

    async def explain(self, request: web.Request) -> web.Response:
        values = query(request, queries.EXPLAIN)
        consistency = queries.consistency(values)
        wanted = bodies.ExplainBody(queries.required(values, "key"))
        return await self._explain(request, wanted, consistency)

    async def read_explain(self, request: web.Request) -> web.Response:
        consistency = queries.consistency(query(request, queries.CONSISTENCY))
        wanted = await decoded(request, bodies.decode_explain)
        return await self._explain(request, wanted, consistency)

    async def _explain(
        self, request: web.Request, wanted: bodies.ExplainBody, consistency: queries.Consistency
    ) -> web.Response:
        calls = self._calls
        node, shown_max = calls.node, calls.limits.waiters_shown_max
        key = requests.explain(wanted)
        identity = identity_of(request)
        authorize(identity, "GET /v1/locks/explain", (key,))

        def explanation() -> ExplanationView:
            found = explanation_view(node.machine.explain(key), node.session_ref, shown_max)
            return explanation_shown(identity, found)

        return await calls.read(request, consistency, explanation)

    async def history(self, request: web.Request) -> web.Response:
        values = query(request, queries.HISTORY)
        consistency = queries.consistency(values)
        return await self._history(request, queries.history(values), consistency)

    async def read_history(self, request: web.Request) -> web.Response:
        consistency = queries.consistency(query(request, queries.CONSISTENCY))
        wanted = await decoded(request, bodies.decode_history)
        return await self._history(request, wanted, consistency)

    async def _history(
        self, request: web.Request, wanted: bodies.HistoryBody, consistency: queries.Consistency
    ) -> web.Response:
        calls, node = self._calls, self._calls.node
        read = requests.read_history(wanted, calls.limits.list_limit_max)
        identity = identity_of(request)
        authorize(identity, "GET /v1/history", (read.key,))
        if consistency == "linearizable":
            await calls.barrier()
        found, following = await self._search(read)
        trail = node.machine.trail
        first, last = trail.first_revision, trail.last_revision
        records = [record_view(each, keys_shown(identity, each.keys)) for each in found]
        page = HistoryPage(read.key, records, following, first, last)
        return answer(request, aged(page, node.lag_ms) if consistency == "local" else page)

    async def _search(self, read: requests.ReadHistory) -> tuple[list[Record], int | None]:
        """The first records that are asked for, and after which revision to go on. In steps, with the loop in between: a key that
        everybody wants may fill the whole trail, and to look through that takes longer than an election. Records do not change, so
        that it makes no difference but for those that are dropped meanwhile: `first_revision` tells."""
        found: list[Record] = []
        after = read.after
        while True:
            step = list(islice(self._calls.node.machine.trail.of_key(read.key, after), STEP_MAX))
            for record in step:
                if not _within(record, read):
                    continue
                if len(found) == read.limit:
                    return found, found[-1].revision
                found.append(record)
            if len(step) < STEP_MAX:
                return found, None
            after = step[-1].revision
            await asyncio.sleep(0)

    async def export(self, request: web.Request) -> web.StreamResponse:
        """One state of the trail: its blocks never change, so that what is dropped meanwhile is sent all the same. With the loop in
        between the blocks: to make a full trail into lines takes about as long as an election, and a fast reader pauses nothing."""
        after = queries.revision(query(request, queries.EXPORT)) or 0
        await self._calls.barrier()
        trail = self._calls.node.machine.trail
        if after + 1 < trail.first_revision and after > 0:
            detail = f"the oldest record that is kept is {trail.first_revision}"
            raise Problem(Code.NO_LONGER_KEPT, detail, first_revision=trail.first_revision)
        stream = Stream(request, _EXPORT_HEADERS, self._slow_reader_seconds)
        pieces = export(trail, self._calls.node.status().cluster, after)
        await stream.begin()
        try:
            for piece in pieces:
                await stream.send(piece)
                await asyncio.sleep(0)
            await stream.end(b"")
        except SlowReader:
            stream.cut_off()
        return stream.response


def _within(record: Record, read: requests.ReadHistory) -> bool:
    if read.from_ms is not None and record.wall_ms < read.from_ms:
        return False
    return read.to_ms is None or record.wall_ms <= read.to_ms
