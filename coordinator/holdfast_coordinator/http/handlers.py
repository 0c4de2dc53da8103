"""The calls of the API: each reads a request, asks the node, and answers.

Rule: a handler has three lines of thought: decode (`requests`), ask (`node.submit` or `node.barrier`), show (`views`).
Whatever is not a success is raised as a `Problem`. If the caller goes away the handler is cancelled where it awaits the
node, and that is how the node learns of it: nothing here may catch that, or shield from it. This module knows no Raft,
and keeps nothing between requests.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from aiohttp import hdrs, web

from holdfast import wire
from holdfast.wire import Code
from holdfast_coordinator.http import requests, views
from holdfast_coordinator.http.problems import Problem, bad_request, of_admin_refusal, of_refusal
from holdfast_coordinator.machine.outcomes import (
    Cancelled,
    Closed,
    Detached,
    Granted,
    Outcome,
    Refused,
    Released,
    Renewed,
    SessionOpened,
    Withdrawn,
)
from holdfast_coordinator.node_types import AdminRefused, NodePort, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_coordinator.config import HttpLimits
    from holdfast_coordinator.http.metrics import Metrics
    from holdfast_coordinator.machine import Limits
    from holdfast_coordinator.machine.operations import Operation

BODY_READ_SECONDS_MAX: Final = 10.0
"""A body of 64 KiB that takes longer is a caller that is stuck, or that means to occupy us."""

STATE_HASH_ITEMS_MAX: Final = 20_000
"""Sessions, holds, waiters and what is remembered of ended ones. Hashing takes about 5 microseconds for each, in
which the node does nothing else: 0.1 s, as long as a heartbeat."""

_LIST_QUERY: Final = frozenset({"key", "prefix", "limit", "after", "consistency"})
_READ_QUERY: Final = frozenset({"consistency"})
_CHECK_QUERY: Final = frozenset({"key", "token", "consistency"})
_CLUSTER_QUERY: Final = frozenset({"state_hash"})
_NO_QUERY: Final[frozenset[str]] = frozenset()

_JSON_HEADERS: Final = {"Content-Type": wire.MEDIA_JSON, "Cache-Control": "no-store"}
_MSGPACK_HEADERS: Final = {"Content-Type": wire.MEDIA_MSGPACK, "Cache-Control": "no-store"}
_encode_json = msgspec.json.Encoder().encode
_encode_msgpack = msgspec.msgpack.Encoder().encode

B = TypeVar("B")
O = TypeVar("O", bound=Outcome)  # noqa: E741 - an outcome


def answer(request: web.BaseRequest, body: Any, status: int = 200) -> web.Response:
    """`body` in the media type that the caller asked for."""
    if requests.wants_msgpack(request.headers.get(hdrs.ACCEPT)):
        return web.Response(body=_encode_msgpack(body), status=status, headers=_MSGPACK_HEADERS)
    return web.Response(body=_encode_json(body), status=status, headers=_JSON_HEADERS)


class Api:
    """The handlers of one node. `new_session` makes an unguessable id of 128 random bits."""

    def __init__(
        self,
        node: NodePort,
        metrics: Metrics,
        machine_limits: Limits,
        http_limits: HttpLimits,
        new_session: Callable[[], str],
        openapi: bytes,
    ) -> None:
        self._node = node
        self._metrics = metrics
        self._machine_limits = machine_limits
        self._limits = http_limits
        self._new_session = new_session
        self._openapi = openapi

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/sessions", self.open_session, expect_handler=_expect),
            web.post("/v1/sessions/renew", self.renew_session, expect_handler=_expect),
            web.post("/v1/sessions/close", self.close_session, expect_handler=_expect),
            web.post("/v1/locks/acquire", self.acquire, expect_handler=_expect),
            web.post("/v1/locks/release", self.release, expect_handler=_expect),
            web.post("/v1/locks/cancel", self.cancel, expect_handler=_expect),
            web.post("/v1/locks/read", self.read_locks, expect_handler=_expect),
            web.get("/v1/locks", self.list_locks),
            web.get("/v1/locks/check", self.check),
            web.get("/v1/cluster", self.cluster),
            web.post("/v1/cluster/step-down", self.step_down, expect_handler=_expect),
            web.post("/v1/cluster/replace-node", self.replace_node, expect_handler=_expect),
            web.get("/v1/openapi.yaml", self.openapi),
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.metrics),
        ]

    # -- sessions ----------------------------------------------------------------------------------------------------------

    async def open_session(self, request: web.Request) -> web.Response:
        body = await _body(request, requests.decode_open)
        operation = requests.open_session(body, self._new_session, self._machine_limits)
        opened = await self._submit(operation, SessionOpened)
        return answer(
            request, views.SessionView(opened.session, opened.ttl_ms, opened.remaining_ms), 201
        )

    async def renew_session(self, request: web.Request) -> web.Response:
        body = await _body(request, requests.decode_session)
        renewed = await self._submit(requests.renew_session(body), Renewed)
        return answer(request, views.RenewedView(renewed.remaining_ms))

    async def close_session(self, request: web.Request) -> web.Response:
        body = await _body(request, requests.decode_session)
        closed = await self._submit(requests.close_session(body), Closed)
        return answer(request, views.ClosedView(list(closed.released)))

    # -- locks -------------------------------------------------------------------------------------------------------------

    async def acquire(self, request: web.Request) -> web.Response:
        body = await _body(request, requests.decode_acquire)
        operation = requests.acquire(body, self._new_session, self._machine_limits)
        started = self._metrics.now()
        outcome = "cancelled"  # what remains if the caller goes away
        try:
            granted = await self._submit(operation, Granted)
            outcome = "granted"
        except Problem as problem:
            outcome = problem.code.value
            raise
        finally:
            self._metrics.observe_acquire(outcome, self._metrics.now() - started)
        return answer(request, views.grant_view(granted))

    async def release(self, request: web.Request) -> web.Response:
        body = await _body(request, requests.decode_release)
        await self._submit(requests.release(body), Released)
        return answer(request, views.ReleasedView(released=True))

    async def cancel(self, request: web.Request) -> web.Response:
        body = await _body(request, requests.decode_cancel)
        cancelled = await self._submit(requests.cancel(body), Cancelled)
        return answer(request, views.CancelledView(cancelled.released))

    async def list_locks(self, request: web.Request) -> web.Response:
        fields = requests.query(request.rel_url.raw_query_string, _LIST_QUERY)
        consistency = requests.consistency(fields)
        wanted = requests.ReadBody(
            fields.get("key"),
            fields.get("prefix"),
            requests.query_integer(fields, "limit"),
            fields.get("after"),
        )
        return await self._read(request, wanted, consistency)

    async def read_locks(self, request: web.Request) -> web.Response:
        fields = requests.query(request.rel_url.raw_query_string, _READ_QUERY)
        consistency = requests.consistency(fields)
        wanted = await _decoded(request, requests.decode_read)
        return await self._read(request, wanted, consistency)

    async def _read(
        self, request: web.Request, wanted: requests.ReadBody, consistency: requests.Consistency
    ) -> web.Response:
        read = requests.read(wanted, self._limits.list_limit_max)
        local = consistency == "local"
        if not local:
            await self._barrier()
        # From here to the answer nothing awaits: what is read is one state of the machine.
        node, shown_max = self._node, self._limits.waiters_shown_max
        body: msgspec.Struct
        if isinstance(read, requests.ReadOne):
            body = views.lock_state(node.machine.lock(read.key), node.session_ref, shown_max)
            return answer(request, views.aged(body, node.lag_ms) if local else body)
        locks, after = node.machine.locks(read.prefix, read.after, read.limit)
        states = [views.lock_state(lock, node.session_ref, shown_max) for lock in locks]
        body = views.LockPage(states, after)
        return answer(request, views.aged(body, node.lag_ms) if local else body)

    async def check(self, request: web.Request) -> web.Response:
        fields = requests.query(request.rel_url.raw_query_string, _CHECK_QUERY)
        consistency = requests.consistency(fields)
        key, token = requests.check(fields)
        local = consistency == "local"
        if not local:
            await self._barrier()
        body = views.Check(self._node.machine.is_current(key, token))
        return answer(request, views.aged(body, self._node.lag_ms) if local else body)

    # -- the node ----------------------------------------------------------------------------------------------------------

    async def cluster(self, request: web.Request) -> web.Response:
        fields = requests.query(request.rel_url.raw_query_string, _CLUSTER_QUERY)
        state_hash = self._state_hash() if requests.wants_state_hash(fields) else None
        # No await between the two: the hash belongs to the applied index beside it.
        return answer(request, views.cluster_view(self._node.status(), state_hash))

    def _state_hash(self) -> bytes:
        machine = self._node.machine
        counts = machine.counts()
        remembered = counts.sessions + counts.holds + counts.waiters
        if remembered + counts.previous + counts.ended_sessions > STATE_HASH_ITEMS_MAX:
            detail = f"the hash of more than {STATE_HASH_ITEMS_MAX} things would hold up the node; compare snapshots instead"
            raise Problem(Code.LIMIT_REACHED, detail)
        return machine.state_hash()

    async def step_down(self, request: web.Request) -> web.Response:
        requests.query(request.rel_url.raw_query_string, _NO_QUERY)
        try:
            leader = await self._node.step_down()
        except AdminRefused as refused:
            raise of_admin_refusal(refused) from None
        return answer(request, views.SteppedDown(leader))

    async def replace_node(self, request: web.Request) -> web.Response:
        body = await _body(request, requests.decode_replace)
        names = [member.name for member in self._node.status().nodes]
        if body.node not in names:
            raise bad_request(
                "node", f"is not a node of this cluster; its nodes: {', '.join(names)}"
            )
        try:
            await self._node.replace_node(body.node)
        except AdminRefused as refused:
            raise of_admin_refusal(refused) from None
        return answer(request, views.NodeReplaced(body.node))

    async def openapi(self, request: web.Request) -> web.Response:
        return web.Response(body=self._openapi, content_type="application/yaml")

    async def healthz(self, request: web.Request) -> web.Response:
        return answer(request, views.Alive(alive=True))

    async def readyz(self, request: web.Request) -> web.Response:
        if self._node.is_ready:
            return answer(request, views.Ready(ready=True))
        if self._node.status().leader is None:
            raise Problem(Code.NO_LEADER, "this node knows no leader")
        raise Problem(Code.OVERLOADED, "this node is behind with applying what is committed")

    async def metrics(self, request: web.Request) -> web.Response:
        body, content_type = self._metrics.render(request.headers.get(hdrs.ACCEPT, ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    # -- asking the node ---------------------------------------------------------------------------------------------------

    async def _submit(self, operation: Operation, expected: type[O]) -> O:
        """The outcome of `operation` if it is the success that the call promises. Raises `Problem` for every other."""
        outcome = await self._node.submit(operation)
        if isinstance(outcome, expected):
            return outcome
        if isinstance(outcome, Refused):
            raise of_refusal(outcome, self._node.session_ref)
        if isinstance(outcome, Unknown):
            raise Problem(Code.UNKNOWN_OUTCOME, outcome.detail)
        if isinstance(outcome, Withdrawn):
            detail = "this node was cut off from the leader while the caller waited; nothing was acquired; ask again"
            raise Problem(Code.NO_LEADER, detail)
        if isinstance(outcome, Detached):
            detail = "another caller asked again under the same request id and waits now in place of this one"
            raise Problem(Code.UNKNOWN_OUTCOME, detail)
        raise TypeError(f"{type(operation).__name__} was answered with {type(outcome).__name__}")

    async def _barrier(self) -> None:
        """Returns when the machine may be read linearizably. A read that cannot be made took no effect: that is never unknown."""
        refusal = await self._node.barrier()
        if refusal is None:
            return
        if isinstance(refusal, Unknown):
            raise Problem(
                Code.NO_LEADER, f"{refusal.detail}; ?consistency=local asks this node alone"
            )
        raise of_refusal(refusal, self._node.session_ref)


async def _expect(request: web.Request) -> web.StreamResponse | None:
    """Let a caller go on who asks before it sends its body; a problem for any other expectation."""
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # What a 100 takes is no part of the answer, by whose size the server knows whether it has begun.
        request.writer.output_size = 0
        return None
    # This runs outside the application's middleware, so it is not raised but returned.
    return bad_request("Expect", "is not 100-continue").response()


async def _body(request: web.Request, decode: Callable[..., B]) -> B:
    """The body of a call that takes no query."""
    if request.rel_url.raw_query_string:
        requests.query(request.rel_url.raw_query_string, _NO_QUERY)
    return await _decoded(request, decode)


async def _decoded(request: web.Request, decode: Callable[..., B]) -> B:
    headers = request.headers
    msgpack = requests.media_type_is_msgpack(headers.get(hdrs.CONTENT_TYPE))
    if headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        # A small body that unpacks into a large one is an old trick, and a lock request needs no packing.
        detail = "send the body as it is, without Content-Encoding"
        raise Problem(Code.UNSUPPORTED_MEDIA_TYPE, detail, headers={"Accept-Encoding": "identity"})
    if request.content.is_eof():
        # The usual case: all of it came with the head, and taking it at once is cheaper than `read`.
        data = request.content.read_nowait()
        if len(data) > request.client_max_size:
            raise web.HTTPRequestEntityTooLarge(request.client_max_size)
    else:
        try:
            async with asyncio.timeout(BODY_READ_SECONDS_MAX):
                data = await request.read()
        except TimeoutError:
            raise _slow_body() from None
    return decode(data, msgpack=msgpack)


def _slow_body() -> Problem:
    detail = f"the body did not arrive within {BODY_READ_SECONDS_MAX:g} s"
    return Problem(Code.BAD_REQUEST, detail, field=requests.BODY, headers={"Connection": "close"})
