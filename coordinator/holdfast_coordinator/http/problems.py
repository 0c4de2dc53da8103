"""Everything that is not a success, as `application/problem+json` (RFC 9457).

Rule: one way to refuse. A handler raises `Problem`; whatever else goes wrong is turned into one before it leaves the
process. The `code` is for programs, `field` names what to mend, `detail` is a sentence for people. Always JSON, also for
callers who speak msgpack: a proxy or a person has to be able to read it. This module knows the machine's `Refused`, and
no route.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import web

from holdfast import wire
from holdfast.wire import Code
from holdfast_coordinator.http.views import (
    BlockedView,
    ClosureView,
    HolderView,
    blocked_view,
    closure_view,
    holder_view,
)
from holdfast_coordinator.node_types import Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from holdfast_coordinator.machine.outcomes import Refused
    from holdfast_coordinator.node_types import AdminRefused

RETRY_AFTER_MS: Final = {
    # About half an election at the default timing: the next attempt usually finds the new leader.
    Code.NO_LEADER: 300,
    # Of what the HTTP layer refuses; a node that has too much to do says itself when (`admission`).
    Code.OVERLOADED: 100,
}

FIELD_CHARS_MAX: Final = 200
"""An unknown field's name is the caller's own text; an answer does not repeat a body's worth of it."""

DETAIL_CHARS_MAX: Final = 500

_TITLES: Final = {
    Code.BAD_REQUEST: "The request is not valid",
    Code.UNAUTHENTICATED: "A credential is needed",
    Code.FORBIDDEN: "Not allowed",
    Code.NOT_FOUND: "There is no such path",
    Code.NO_SUCH_SESSION: "There is no such session",
    Code.METHOD_NOT_ALLOWED: "The path does not take this method",
    Code.HELD: "Somebody else holds it",
    Code.WAIT_TIMEOUT: "Waited in vain",
    Code.NOT_HELD: "Not held",
    Code.DEADLOCK: "Waiting would never end",
    Code.CLOSED: "Closed for a while",
    Code.IN_DOUBT: "In doubt until somebody resolves it",
    Code.ALREADY_DONE: "The work was completed",
    Code.NO_LONGER_KEPT: "No longer kept",
    Code.CONFLICT: "The same name was used for another request",
    Code.SESSION_EXPIRED: "The session has ended",
    Code.TOO_LARGE: "The request is too large",
    Code.UPGRADE_REQUIRED: "Another protocol is needed",
    Code.UNSUPPORTED_MEDIA_TYPE: "The media type is not supported",
    Code.LIMIT_REACHED: "A limit is reached",
    Code.INTERNAL: "A fault of the server",
    Code.NO_LEADER: "There is no leader at the moment",
    Code.OVERLOADED: "Too much at once",
    Code.UNKNOWN_OUTCOME: "The outcome is unknown",
}


class ProblemBody(msgspec.Struct, omit_defaults=True, frozen=True):
    """What goes over the wire. A member that does not apply is absent, never null."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    field: str | None = None
    limit: str | None = None
    ended: str | None = None
    holders: list[HolderView] | None = None
    queue_length: int | None = None
    closed: ClosureView | None = None
    cycle: list[BlockedView] | None = None
    first_revision: int | None = None
    retry_after_ms: int | None = None


_encode = msgspec.json.Encoder().encode


class Problem(Exception):
    """A refusal on its way to the caller."""

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        field: str | None = None,
        limit: str | None = None,
        ended: str | None = None,
        holders: list[HolderView] | None = None,
        queue_length: int | None = None,
        closed: ClosureView | None = None,
        cycle: list[BlockedView] | None = None,
        first_revision: int | None = None,
        retry_after_ms: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.field = field
        self.limit = limit
        self.ended = ended
        self.holders = holders
        self.queue_length = queue_length
        self.closed = closed
        self.cycle = cycle
        self.first_revision = first_revision
        self.retry_after_ms = RETRY_AFTER_MS.get(code) if retry_after_ms is None else retry_after_ms
        self.headers = headers

    @property
    def status(self) -> int:
        return wire.HTTP_STATUS[self.code]

    def response(self) -> web.Response:
        retry_after_ms = self.retry_after_ms
        headers = {"Content-Type": wire.MEDIA_PROBLEM, "Cache-Control": "no-store"}
        if retry_after_ms is not None:
            # The header knows whole seconds only; the member is the precise one.
            headers["Retry-After"] = str(-(-retry_after_ms // 1000))
        if self.headers is not None:
            headers.update(self.headers)
        return web.Response(body=_encode(self.body()), status=self.status, headers=headers)

    def body(self) -> ProblemBody:
        code = self.code
        return ProblemBody(
            type=f"urn:holdfast:problem:{code}",
            title=_TITLES[code],
            status=self.status,
            detail=self.detail[:DETAIL_CHARS_MAX],
            code=code.value,
            field=self.field[:FIELD_CHARS_MAX] if self.field is not None else None,
            limit=self.limit,
            ended=self.ended,
            holders=self.holders,
            queue_length=self.queue_length,
            closed=self.closed,
            cycle=self.cycle,
            first_revision=self.first_revision,
            retry_after_ms=self.retry_after_ms,
        )


def bad_request(field: str, detail: str) -> Problem:
    return Problem(Code.BAD_REQUEST, f"{field}: {detail}", field=field)


def of_refusal(refused: Refused, session_ref: Callable[[str], str]) -> Problem:
    """The machine's or the node's refusal. Holders, and the tasks of a circle, are shown without their sessions' ids."""
    code = Code(refused.code)
    held = code is Code.HELD
    return Problem(
        code,
        refused.detail,
        field=refused.field,
        limit=refused.limit,
        ended=refused.ended,
        holders=[holder_view(h, session_ref) for h in refused.holders] if held else None,
        queue_length=refused.queue_length if held else None,
        closed=closure_view(refused.closed) if refused.closed is not None else None,
        cycle=[blocked_view(step, session_ref) for step in refused.cycle] or None,
        retry_after_ms=refused.retry_after_ms if isinstance(refused, Overloaded) else None,
    )


def of_admin_refusal(refused: AdminRefused) -> Problem:
    """What an operator asked for and did not get."""
    codes = {
        "no_leader": Code.NO_LEADER,
        "conflict": Code.CONFLICT,
        "unknown": Code.UNKNOWN_OUTCOME,
    }
    return Problem(codes[refused.code], str(refused))


def of_http_exception(error: web.HTTPException) -> Problem:
    """What aiohttp itself refuses: no such path, wrong method, too large a body."""
    if error.status == 405:
        allow = error.headers.get("Allow", "")
        return Problem(
            Code.METHOD_NOT_ALLOWED, f"this path takes {allow}", headers={"Allow": allow}
        )
    if error.status == 404:
        return Problem(Code.NOT_FOUND, "no such path; the calls are listed at /v1/openapi.yaml")
    if error.status == 413:
        return Problem(
            Code.TOO_LARGE, "the body is larger than this node accepts", limit="body_bytes_max"
        )
    if 400 <= error.status < 500:
        return Problem(Code.BAD_REQUEST, error.reason or "the request is not valid")
    return internal()


def internal() -> Problem:
    """Says nothing of what went wrong: that is in the log, and is nobody else's business."""
    return Problem(
        Code.INTERNAL,
        "an unexpected fault, logged by this node; whether the request took effect is unknown",
    )
