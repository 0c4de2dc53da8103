"""The calls about locks: what a worker does with one (acquire to release), what an operator does, and looking.

Rule: see `calls`. A quota's rate is asked before the machine is, and only for an acquire that the machine has not seen: a repeat,
and the continuation of a wait, were let in before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from holdfast_coordinator.http import bodies, queries, requests, views
from holdfast_coordinator.http.calls import Calls, answer, body_of, decoded, post, query
from holdfast_coordinator.http.problems import Problem
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
    from holdfast_coordinator.machine.operations import Acquire


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
        metrics = calls.metrics
        started = metrics.now()
        outcome = "cancelled"  # what remains if the caller goes away
        try:
            self._ask_rates(operation)
            granted = await calls.submit(operation, Granted)
            outcome = "granted"
        except Problem as problem:
            outcome = problem.code.value
            raise
        finally:
            metrics.observe_acquire(outcome, metrics.now() - started)
        return answer(request, views.grant_view(granted))

    def _ask_rates(self, operation: Acquire) -> None:
        if not self._rates:
            return
        machine = self._calls.node.machine
        request_id = operation.request_id
        if request_id is not None and machine.knows_request(operation.session, request_id):
            return
        owner = operation.owner
        if owner is None:
            owner = machine.session_owner(operation.session)
        self._rates.ask(operation.keys, owner)

    async def release(self, request: web.Request) -> web.Response:
        body = await body_of(request, bodies.decode_release)
        await self._calls.submit(requests.release(body), Released)
        return answer(request, views.ReleasedView(released=True))

    async def complete(self, request: web.Request) -> web.Response:
        body = await body_of(request, bodies.decode_complete)
        completed = await self._calls.submit(requests.complete(body), Completed)
        return answer(request, views.CompletedView(True, completed.remaining_ms))

    async def checkpoint(self, request: web.Request) -> web.Response:
        body = await body_of(request, bodies.decode_checkpoint)
        await self._calls.submit(requests.checkpoint(body), Checkpointed)
        return answer(request, views.CheckpointWritten(written=True))

    async def cancel(self, request: web.Request) -> web.Response:
        body = await body_of(request, bodies.decode_cancel)
        cancelled = await self._calls.submit(requests.cancel(body), Cancelled)
        return answer(request, views.CancelledView(cancelled.released))

    # -- an operator -------------------------------------------------------------------------------------------------------

    async def force_release(self, request: web.Request) -> web.Response:
        body = await body_of(request, bodies.decode_force_release)
        forced = await self._calls.submit(requests.force_release(body), ForceReleased)
        return answer(request, views.ForceReleasedView(list(forced.tokens), forced.floor))

    async def resolve(self, request: web.Request) -> web.Response:
        body = await body_of(request, bodies.decode_resolve)
        resolved = await self._calls.submit(requests.resolve(body), Resolved)
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

        def one(key: str) -> views.LockState:
            return views.lock_state(node.machine.lock(key), node.session_ref, shown_max)

        def page(read: requests.ReadPage) -> views.LockPage:
            locks, after = node.machine.locks(read.prefix, read.after, read.limit)
            states = [views.lock_state(lock, node.session_ref, shown_max) for lock in locks]
            return views.LockPage(states, after)

        if isinstance(read, requests.ReadOne):
            return await calls.read(request, consistency, lambda: one(read.key))
        return await calls.read(request, consistency, lambda: page(read))

    async def check(self, request: web.Request) -> web.Response:
        values = query(request, queries.CHECK)
        consistency = queries.consistency(values)
        key, token = queries.check(values)
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

        def page() -> views.ClosedPage:
            machine = calls.node.machine
            closures, after = machine.closures(read.prefix, read.by, read.after, read.limit)
            return views.ClosedPage([views.closure_view(each) for each in closures], after)

        return await calls.read(request, consistency, page)
