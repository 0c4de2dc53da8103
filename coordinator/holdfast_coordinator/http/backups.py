"""The call by which an operator gets a backup: the whole state after one log entry, as a file that can be checked.

Rule: everything that was acknowledged before the call is in it. What is sent was made by another process, so that the node serves
meanwhile; one backup at a time is sent by a node. This module does not know what is in the file.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import web

from holdfast.wire import Code
from holdfast_coordinator.http import queries
from holdfast_coordinator.http.calls import Calls, post, query
from holdfast_coordinator.http.problems import Problem, of_admin_refusal
from holdfast_coordinator.http.streams import SlowReader, Stream
from holdfast_coordinator.node_types import AdminRefused

if TYPE_CHECKING:
    from holdfast_coordinator.node_types import PayloadReader

PIECE_BYTES: Final = 256 * 1024
"""Read from the disk in one step of the loop: a fraction of a millisecond, for it was written a moment ago."""

_HEADERS: Final = {
    "Content-Type": "application/octet-stream",
    "Cache-Control": "no-store",
    "Content-Disposition": 'attachment; filename="holdfast.backup"',
}


class BackupCalls:
    def __init__(self, calls: Calls, slow_reader_seconds: float) -> None:
        self._calls = calls
        self._slow_reader_seconds = slow_reader_seconds
        self._is_sending = False

    def routes(self) -> list[web.RouteDef]:
        return [post("/v1/cluster/backup", self.backup)]

    async def backup(self, request: web.Request) -> web.StreamResponse:
        query(request, queries.NONE)
        if self._is_sending:
            raise Problem(Code.OVERLOADED, "this node is sending a backup to somebody else")
        self._is_sending = True
        try:
            await self._calls.barrier()
            try:
                head, payload = await self._calls.node.open_backup()
            except AdminRefused as refused:
                raise of_admin_refusal(refused) from None
            try:
                return await self._send(request, head, payload)
            finally:
                payload.close()
        finally:
            self._is_sending = False

    async def _send(
        self, request: web.Request, head: bytes, payload: PayloadReader
    ) -> web.StreamResponse:
        stream = Stream(request, _HEADERS, self._slow_reader_seconds)
        await stream.begin()
        try:
            await stream.send(head)
            offset = 0
            while piece := payload.read(offset, PIECE_BYTES):
                await stream.send(piece)
                offset += len(piece)
                await asyncio.sleep(0)
            await stream.end(b"")
        except SlowReader:
            stream.cut_off()
        return stream.response
