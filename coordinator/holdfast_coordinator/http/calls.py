"""What every call does alike: read a body, ask the node, answer.

Rule: a handler has four lines of thought: decode (`requests`, `queries`), may this caller (`rights.authorize` with the keys), ask
(`Calls.submit` or `Calls.barrier`), show (`views`, and of it what is `visible`).
Whatever is not a success is raised as a `Problem`. If the caller goes away the handler is cancelled where it awaits the
node, and that is how the node learns of it: nothing here may catch that, or shield from it. This module knows no Raft,
and keeps nothing between requests.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from aiohttp import hdrs, web

from holdfast import wire
from holdfast.wire import Code
from holdfast_coordinator.http import bodies, media, ownership, queries, views
from holdfast_coordinator.http.problems import Problem, bad_request, of_refusal
from holdfast_coordinator.http.visible import cycle_shown
from holdfast_coordinator.machine.outcomes import Detached, Outcome, Refused, Withdrawn
from holdfast_coordinator.node_types import NodePort, Unknown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast_coordinator.access import Identity
    from holdfast_coordinator.config import HttpLimits
    from holdfast_coordinator.http.metrics import Metrics
    from holdfast_coordinator.machine import Limits
    from holdfast_coordinator.machine.operations import Operation

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

BODY_READ_SECONDS_MAX: Final = 10.0
"""A body of 64 KiB that takes longer is a caller that is stuck, or that means to occupy us."""

_JSON_HEADERS: Final = {"Content-Type": wire.MEDIA_JSON, "Cache-Control": "no-store"}
_MSGPACK_HEADERS: Final = {"Content-Type": wire.MEDIA_MSGPACK, "Cache-Control": "no-store"}
_encode_json = msgspec.json.Encoder().encode
_encode_msgpack = msgspec.msgpack.Encoder().encode

B = TypeVar("B")
O = TypeVar("O", bound=Outcome)  # noqa: E741 - an outcome
S = TypeVar("S", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Calls:
    """What the handlers of one node share. `new_session` makes an unguessable id of 128 random bits."""

    node: NodePort
    metrics: Metrics
    machine_limits: Limits
    limits: HttpLimits
    new_session: Callable[[], str]

    async def submit(self, identity: Identity, operation: Operation, expected: type[O]) -> O:
        """The outcome of `operation`, which `identity` asks for, if it is the success that the call promises. Raises `Problem` for
        every other."""
        outcome = await self.node.submit(ownership.owned(identity, operation))
        if not isinstance(outcome, Unknown):
            outcome = ownership.shown(identity, operation, outcome)
        if isinstance(outcome, expected):
            return outcome
        raise self.problem_of(identity, outcome)

    def problem_of(self, identity: Identity, outcome: Outcome | Unknown) -> Problem:
        """What `identity` is told of an outcome that is no success."""
        if isinstance(outcome, Refused):
            problem = of_refusal(outcome, self.node.session_ref)
            if problem.cycle:
                problem.cycle = cycle_shown(identity, problem.cycle)
            return problem
        if isinstance(outcome, Unknown):
            return Problem(Code.UNKNOWN_OUTCOME, outcome.detail)
        if isinstance(outcome, Withdrawn):
            detail = "this node was cut off from the leader while the caller waited; nothing was acquired; ask again"
            return Problem(Code.NO_LEADER, detail)
        if isinstance(outcome, Detached):
            detail = "another caller asked again under the same request id and waits now in place of this one"
            return Problem(Code.UNKNOWN_OUTCOME, detail)
        raise TypeError(f"a call was answered with {type(outcome).__name__}")

    async def barrier(self) -> None:
        """Returns when the machine may be read linearizably. A read that cannot be made took no effect: that is never unknown."""
        refusal = await self.node.barrier()
        if refusal is None:
            return
        if isinstance(refusal, Unknown):
            raise Problem(
                Code.NO_LEADER, f"{refusal.detail}; ?consistency=local asks this node alone"
            )
        raise of_refusal(refusal, self.node.session_ref)

    async def read(
        self, request: web.Request, consistency: queries.Consistency, look: Callable[[], S]
    ) -> web.Response:
        """What `look` sees in the machine, in one step: linearizably, or as this node's own view that says how old it is."""
        if consistency == "local":
            return answer(request, views.aged(look(), self.node.lag_ms))
        await self.barrier()
        return answer(request, look())


def post(path: str, handler: Handler) -> web.RouteDef:
    return web.post(path, handler, expect_handler=_expect)


def query(request: web.Request, allowed: frozenset[str]) -> dict[str, str]:
    return queries.parse(request.rel_url.raw_query_string, allowed)


def answer(request: web.BaseRequest, body: Any, status: int = 200) -> web.Response:
    """`body` in the media type that the caller asked for."""
    if media.wants_msgpack(request.headers.get(hdrs.ACCEPT)):
        return web.Response(body=_encode_msgpack(body), status=status, headers=_MSGPACK_HEADERS)
    return web.Response(body=_encode_json(body), status=status, headers=_JSON_HEADERS)


async def body_of(request: web.Request, decode: Callable[..., B]) -> B:
    """The body of a call that takes no query."""
    if request.rel_url.raw_query_string:
        query(request, queries.NONE)
    return await decoded(request, decode)


async def decoded(request: web.Request, decode: Callable[..., B]) -> B:
    headers = request.headers
    msgpack = media.body_is_msgpack(headers.get(hdrs.CONTENT_TYPE))
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
    return Problem(Code.BAD_REQUEST, detail, field=bodies.BODY, headers={"Connection": "close"})


async def _expect(request: web.Request) -> web.StreamResponse | None:
    """Let a caller go on who asks before it sends its body; a problem for any other expectation."""
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # What a 100 takes is no part of the answer, by whose size the server knows whether it has begun.
        request.writer.output_size = 0
        return None
    # This runs outside the application's middleware, so it is not raised but returned.
    return bad_request("Expect", "is not 100-continue").response()
