"""The machine's operations as HTTP calls, and the answers as its outcomes, so that one client serves both halves.

Rule: pure. None is what says nothing definite: no answer, 500, 504. Sessions in answers are `session_ref`s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast_coordinator.machine.operations import (
    Acquire,
    Cancel,
    CloseSession,
    Complete,
    OpenSession,
    Release,
    RenewSession,
)
from holdfast_coordinator.machine.outcomes import (
    Cancelled,
    Closed,
    ClosedView,
    Completed,
    Granted,
    Holder,
    Refused,
    Released,
    Renewed,
    SessionOpened,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

UNKNOWN_STATUSES = (500, 502, 504)


def request_of(operation: Any) -> tuple[str, dict[str, Any]]:
    """(path, body)"""
    match operation:
        case OpenSession(session, ttl_ms, owner):
            return "/v1/sessions", {"session": session, "ttl_ms": ttl_ms, "owner": owner}
        case RenewSession(session):
            return "/v1/sessions/renew", {"session": session}
        case CloseSession(session):
            return "/v1/sessions/close", {"session": session}
        case Release(session, token):
            return "/v1/locks/release", {"session": session, "token": token}
        case Cancel(session, request_id):
            return "/v1/locks/cancel", {"session": session, "request_id": request_id}
        case Complete(session, token, result, retain_ms):
            body = {"session": session, "token": token, "result": result, "retain_ms": retain_ms}
            return "/v1/locks/complete", body
        case Acquire():
            return "/v1/locks/acquire", _acquire(operation)
    raise TypeError(f"no call for {operation!r}")


def _acquire(asked: Acquire) -> dict[str, Any]:
    body = {
        "keys": list(asked.keys),
        "session": asked.session,
        "ttl_ms": asked.ttl_ms,
        "wait_ms": asked.wait_ms,
        "request_id": asked.request_id,
        "settled": asked.settled if asked.request_id is not None else None,
        "owner": asked.owner,
        "mode": asked.terms.mode,
        "limit": asked.terms.limit,
    }
    return {name: value for name, value in body.items() if value is not None}


def outcome_of(operation: Any, status: int, body: Mapping[str, Any]) -> Any:
    """The outcome of `operation`; None: nobody can say."""
    if status in UNKNOWN_STATUSES:
        return None
    if status >= 400:
        return _refused(body)
    match operation:
        case OpenSession():
            return SessionOpened(body["session"], body["ttl_ms"], body["remaining_ms"], True)
        case RenewSession():
            return Renewed(body["remaining_ms"])
        case CloseSession():
            return Closed(tuple(body["released"]))
        case Release():
            return Released(operation.token)
        case Cancel():
            return Cancelled(body["released"])
        case Complete():
            return Completed(operation.token, body["remaining_ms"])
    fence = body["fence"]
    if isinstance(fence, dict):
        fence = tuple(fence[key] for key in operation.keys)
    keys = operation.keys
    return Granted(
        body["token"], fence, keys, body["mode"], operation.session, body["remaining_ms"],
        (None,) * len(keys), body["previous_horizon"],
    )  # fmt: skip


def _refused(body: Mapping[str, Any]) -> Refused:
    holders = tuple(
        Holder(each["token"], each["session_ref"], each["owner"], each["mode"],
               each["remaining_ms"], each["limit"])
        for each in body.get("holders") or ()
    )  # fmt: skip
    closed = body.get("closed")
    return Refused(
        body["code"],
        body["detail"],
        ended=body.get("ended"),
        holders=holders,
        closed=None
        if closed is None
        else ClosedView(
            closed["key"], closed["by"], closed["token"], closed["ended"], closed["remaining_ms"]
        ),
    )
