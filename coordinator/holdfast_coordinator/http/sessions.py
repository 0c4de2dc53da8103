"""The calls about sessions: open, renew, close."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast_coordinator.http import bodies, requests, views
from holdfast_coordinator.http.callers import identity_of
from holdfast_coordinator.http.calls import Calls, answer, body_of, post
from holdfast_coordinator.machine.outcomes import Closed, Renewed, SessionOpened

if TYPE_CHECKING:
    from aiohttp import web


class SessionCalls:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def routes(self) -> list[web.RouteDef]:
        return [
            post("/v1/sessions", self.open),
            post("/v1/sessions/renew", self.renew),
            post("/v1/sessions/close", self.close),
        ]

    async def open(self, request: web.Request) -> web.Response:
        calls = self._calls
        body = await body_of(request, bodies.decode_open)
        operation = requests.open_session(body, calls.new_session, calls.machine_limits)
        opened = await calls.submit(identity_of(request), operation, SessionOpened)
        return answer(
            request, views.SessionView(opened.session, opened.ttl_ms, opened.remaining_ms), 201
        )

    async def renew(self, request: web.Request) -> web.Response:
        body = await body_of(request, bodies.decode_session)
        operation = requests.renew_session(body)
        renewed = await self._calls.submit(identity_of(request), operation, Renewed)
        return answer(request, views.RenewedView(renewed.remaining_ms, list(renewed.forced)))

    async def close(self, request: web.Request) -> web.Response:
        body = await body_of(request, bodies.decode_session)
        operation = requests.close_session(body)
        closed = await self._calls.submit(identity_of(request), operation, Closed)
        return answer(request, views.SessionClosedView(list(closed.released)))
