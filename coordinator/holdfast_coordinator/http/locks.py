"""The calls about locks: what a worker does with one (acquire to release), what an operator does, and looking.

Rule: see `calls`. The calls about a hold name a session and no key: it was granted to the identity whose session it is, which may
end it whatever its rights have become since. A quota's rate is asked before the machine is, and only for an acquire that the
machine has not seen: a repeat, and the continuation of a wait, were let in before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from msgspec.structs import replace

from holdfast_coordinator.http import bodies, queries, requests, views
from holdfast_coordinator.http.audit import operator_of
from holdfast_coordinator.http.callers import audit_of, identity_of
from holdfast_coordinator.http.calls import Calls, answer, body_of, decoded, post, query
from holdfast_coordinator.http.ownership import owned
from holdfast_coordinator.http.problems import Problem
from holdfast_coordinator.http.rates import ask_rates
from holdfast_coordinator.http.rights import authorize, readable
from holdfast_coordinator.http.visible import lock_shown, page_within
from holdfast_coordinator.machine.outcomes import (
    Cancelled,
    Checkpointed,
    Completed,
    ForceReleased,
    Granted,
    Released,
    Resolved,
)

if TYPE_CHECKING:
    from holdfast_coordinator.http.rates import Rates
    from holdfast_coordinator.http.visible import Page
    from holdfast_coordinator.machine.outcomes import ClosedView, LockView


class LockCalls:
    def __init__(self, calls: Calls, rates: Rates) -> None:
        self._calls = calls
        self._rates = rates

    def routes(self) -> list[web.RouteDef]:
        return [
            post("/v1/locks/acquire", self.acquire),
            post("/v1/locks/release", self.release),
            post("/v1/locks/complete", self.complete),
            post("/v1/locks/checkpoint", self.checkpoint),
            post("/v1/locks/cancel", self.cancel),
            post("/v1/locks/force-release", self.force_release),
            post("/v1/locks/resolve", self.resolve),
            post("/v1/locks/read", self.read),
            web.get("/v1/locks", self.list),
            web.get("/v1/locks/check", self.check),
            web.get("/v1/closed", self.list_closed),
            post("/v1/closed/read", self.read_closed),
        ]

    # -- a worker ----------------------------------------------------------------------------------------------------------

    async def acquire(self, request: web.Request) -> web.Response:
        calls = self._calls
        body = await body_of(request, bodies.decode_acquire)
        operation = requests.acquire(body, calls.new_session, calls.machine_limits)
        identity = identity_of(request)
        authorize(identity, "POST /v1/locks/acquire", operation.keys)
        metrics = calls.metrics
        started = metrics.now()
        outcome = "cancelled"  # what remains if the caller goes away
        try:
            ask_rates(self._rates, calls.node.machine, owned(identity, operation))
            granted = await calls.submit(identity, operation, Granted)
            outcome = "granted"
        except Problem as problem:
            outcome = problem.code.value
            raise
        finally:
            metrics.observe_acquire(outcome, metrics.now() - started)
        return answer(request, views.grant_view(granted))

    async def release(self, request: web.Request) -> web.Response:
        body = await body_of(request, bodies.decode_release)
        await self._calls.submit(identity_of(request), requests.release(body), Released)
        return answer(request, views.ReleasedView(released=True))

    async def complete(self, request: web.Request) -> web.Response:
        body = await body_of(request, bodies.decode_complete)
        operation = requests.complete(body)
        completed = await self._calls.submit(identity_of(request), operation, Completed)
        return answer(request, views.CompletedView(True, completed.remaining_ms))

    async def checkpoint(self, request: web.Request) -> web.Response:
        body = await body_of(request, bodies.decode_checkpoint)
        operation = requests.checkpoint(body)
        await self._calls.submit(identity_of(request), operation, Checkpointed)
        return answer(request, views.CheckpointWritten(written=True))

    async def cancel(self, request: web.Request) -> web.Response:
        body = await body_of(request, bodies.decode_cancel)
        operation = requests.cancel(body)
        cancelled = await self._calls.submit(identity_of(request), operation, Cancelled)
        return answer(request, views.CancelledView(cancelled.released))

    # -- an operator -------------------------------------------------------------------------------------------------------

    async def force_release(self, request: web.Request) -> web.Response:
        identity, told = identity_of(request), audit_of(request)
        operation = requests.force_release(await body_of(request, bodies.decode_force_release))
        told.update(operator=operation.operator, reason=operation.reason)
        authorize(identity, "POST /v1/locks/force-release", (operation.key,))
        operation = replace(operation, operator=operator_of(identity, operation.operator))
        forced = await self._calls.submit(identity, operation, ForceReleased)
        told.update(tokens=list(forced.tokens), floor=forced.floor)
        return answer(request, views.ForceReleasedView(list(forced.tokens), forced.floor))

    async def resolve(self, request: web.Request) -> web.Response:
        identity, told = identity_of(request), audit_of(request)
        operation = requests.resolve(await body_of(request, bodies.decode_resolve))
        told.update(operator=operation.operator, reason=operation.reason, tokens=[operation.token])
        authorize(identity, "POST /v1/locks/resolve", (operation.key,))
        operation = replace(operation, operator=operator_of(identity, operation.operator))
        resolved = await self._calls.submit(identity, operation, Resolved)
        told.update(resolved=resolved.resolved)
        return answer(request, views.ResolvedView(resolved.resolved))

    # -- looking -----------------------------------------------------------------------------------------------------------

    async def list(self, request: web.Request) -> web.Response:
        values = query(request, queries.LOCKS)
        consistency = queries.consistency(values)
        return await self._read(request, queries.locks(values), consistency)

    async def read(self, request: web.Request) -> web.Response:
        consistency = queries.consistency(query(request, queries.CONSISTENCY))
        return await self._read(request, await decoded(request, bodies.decode_read), consistency)

    async def _read(
        self, request: web.Request, wanted: bodies.ReadBody, consistency: queries.Consistency
    ) -> web.Response:
        calls = self._calls
        node, shown_max = calls.node, calls.limits.waiters_shown_max
        read = requests.read(wanted, calls.limits.list_limit_max)
        identity = identity_of(request)

        def state(lock: LockView) -> views.LockState:
            return lock_shown(identity, views.lock_state(lock, node.session_ref, shown_max))

        if isinstance(read, requests.ReadOne):
            key = read.key
            authorize(identity, "GET /v1/locks", (key,))
            return await calls.read(request, consistency, lambda: state(node.machine.lock(key)))
        prefixes, after, limit = readable(identity, read.prefix), read.after, read.limit

        def page() -> views.LockPage:
            look = node.machine.locks
            locks, following = page_within(prefixes, after, limit, look, lambda lock: lock.key)
            return views.LockPage([state(lock) for lock in locks], following)

        return await calls.read(request, consistency, page)

    async def check(self, request: web.Request) -> web.Response:
        values = query(request, queries.CHECK)
        consistency = queries.consistency(values)
        key, token = queries.check(values)
        authorize(identity_of(request), "GET /v1/locks/check", (key,))
        node = self._calls.node
        return await self._calls.read(
            request, consistency, lambda: views.Check(node.machine.is_current(key, token))
        )

    async def list_closed(self, request: web.Request) -> web.Response:
        values = query(request, queries.CLOSED)
        consistency = queries.consistency(values)
        return await self._read_closed(request, queries.closed(values), consistency)

    async def read_closed(self, request: web.Request) -> web.Response:
        consistency = queries.consistency(query(request, queries.CONSISTENCY))
        wanted = await decoded(request, bodies.decode_closed)
        return await self._read_closed(request, wanted, consistency)

    async def _read_closed(
        self, request: web.Request, wanted: bodies.ClosedReadBody, consistency: queries.Consistency
    ) -> web.Response:
        calls = self._calls
        read = requests.read_closed(wanted, calls.limits.list_limit_max)
        prefixes = readable(identity_of(request), read.prefix)

        def look(prefix: str, after: str | None, limit: int) -> Page[ClosedView]:
            return calls.node.machine.closures(prefix, read.by, after, limit)

        def page() -> views.ClosedPage:
            closures, following = page_within(
                prefixes, read.after, read.limit, look, lambda closed: closed.key
            )
            return views.ClosedPage([views.closure_view(each) for each in closures], following)

        return await calls.read(request, consistency, page)
