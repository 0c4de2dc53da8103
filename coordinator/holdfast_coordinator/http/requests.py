"""What a caller may ask, and how each body becomes an operation of the machine, or a read of it.

Rule: decided here, completely, before the node hears of it: every wrong range, length and combination ends as a 400 that names the
field. Pure: decoded bodies in, operations or `Problem` out; no request object, no node, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from holdfast import wire
from holdfast_coordinator.http import fields
from holdfast_coordinator.http.problems import bad_request
from holdfast_coordinator.machine.operations import (
    PLAIN,
    Acquire,
    Cancel,
    Checkpoint,
    CloseSession,
    Complete,
    ForceRelease,
    OpenSession,
    Release,
    RenewSession,
    Resolve,
    Terms,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_coordinator.http import bodies
    from holdfast_coordinator.machine import Limits
    from holdfast_coordinator.machine.outcomes import ClosedBy

LIST_LIMIT_DEFAULT: Final = 100


@dataclass(frozen=True, slots=True)
class ReadOne:
    key: str


@dataclass(frozen=True, slots=True)
class ReadPage:
    prefix: str
    after: str | None
    limit: int


@dataclass(frozen=True, slots=True)
class ReadClosed:
    prefix: str
    by: ClosedBy | None
    after: str | None
    limit: int


@dataclass(frozen=True, slots=True)
class ReadHistory:
    """`from_ms`, `to_ms`: Unix milliseconds of display times, both inclusive. `after`: a revision."""

    key: str
    from_ms: int | None
    to_ms: int | None
    after: int
    limit: int


# -- sessions --------------------------------------------------------------------------------------------------------------


def open_session(
    body: bodies.OpenBody, new_session: Callable[[], str], limits: Limits
) -> OpenSession:
    """`new_session` makes the id if the caller brings none."""
    session = new_session() if body.session is None else fields.session(body.session)
    fields.ttl(body.ttl_ms, limits)
    return OpenSession(session, body.ttl_ms, fields.owner(body.owner))


def renew_session(body: bodies.SessionBody) -> RenewSession:
    return RenewSession(fields.session(body.session))


def close_session(body: bodies.SessionBody) -> CloseSession:
    return CloseSession(fields.session(body.session))


# -- locks -----------------------------------------------------------------------------------------------------------------


def acquire(body: bodies.AcquireBody, new_session: Callable[[], str], limits: Limits) -> Acquire:
    """`new_session` makes the id of the implicit session, if the caller brings none."""
    keys = _keys(body, limits.keys_per_acquire_max)
    if body.session is None and body.ttl_ms is None:
        raise bad_request("session", "is required, or ttl_ms for a session of this lock alone")
    session = new_session() if body.session is None else fields.session(body.session)
    if body.ttl_ms is not None:
        fields.ttl(body.ttl_ms, limits)
    fields.in_range("wait_ms", body.wait_ms, 0, limits.wait_ms_max)
    terms = _terms(body)
    _check_request_id(body)
    return Acquire(
        keys=keys,
        session=session,
        ttl_ms=body.ttl_ms,
        wait_ms=body.wait_ms,
        request_id=body.request_id,
        settled=body.settled,
        owner=fields.owner(body.owner),
        context=fields.text("context", body.context, wire.CONTEXT_BYTES_MAX),
        terms=terms,
    )


def _keys(body: bodies.AcquireBody, count_max: int) -> tuple[str, ...]:
    if body.keys is None:
        if body.key is None:
            raise bad_request("key", "is required, or keys for several")
        return (fields.key("key", body.key),)
    if body.key is not None:
        raise bad_request("keys", "does not go with key: give one of them")
    return fields.keys(body.keys, count_max)


def _terms(body: bodies.AcquireBody) -> Terms:
    if body.limit is not None:
        if body.mode == "exclusive":
            raise bad_request(
                "limit", "goes with mode shared only; an exclusive hold is the only one"
            )
        fields.in_range("limit", body.limit, 1, wire.LIMIT_MAX)
    if body.on_unclean == "delay":
        if body.delay_ms is None:
            raise bad_request("delay_ms", "is required with on_unclean delay")
        fields.in_range("delay_ms", body.delay_ms, 1, wire.DELAY_MS_MAX)
    elif body.delay_ms is not None:
        raise bad_request("delay_ms", "goes with on_unclean delay only")
    if body.on_unclean != "grant" and body.mode == "shared":
        detail = "goes with mode exclusive only; shared holds leave nothing half done"
        raise bad_request("on_unclean", detail)
    terms = Terms(body.mode, body.limit, body.on_unclean, body.delay_ms or 0, body.require_clean)
    return PLAIN if terms == PLAIN else terms


def _check_request_id(body: bodies.AcquireBody) -> None:
    if body.request_id is not None:
        if body.session is None:
            raise bad_request("request_id", "needs session: it names a request within one")
        fields.request_id(body.request_id)
    if body.settled is not None:
        if body.session is None:
            raise bad_request("settled", "needs session")
        fields.in_range("settled", body.settled, 0, wire.INTEGER_MAX)


def release(body: bodies.ReleaseBody) -> Release:
    return Release(fields.session(body.session), fields.token(body.token))


def complete(body: bodies.CompleteBody) -> Complete:
    fields.in_range("retain_ms", body.retain_ms, wire.RETAIN_MS_MIN, wire.RETAIN_MS_MAX)
    result = fields.payload("result", body.result, wire.RESULT_BYTES_MAX)
    return Complete(fields.session(body.session), fields.token(body.token), result, body.retain_ms)


def checkpoint(body: bodies.CheckpointBody) -> Checkpoint:
    value = fields.payload("value", body.value, wire.CHECKPOINT_BYTES_MAX)
    if body.number is not None:
        fields.in_range("number", body.number, 1, wire.INTEGER_MAX)
    return Checkpoint(fields.session(body.session), fields.token(body.token), value, body.number)


def cancel(body: bodies.CancelBody) -> Cancel:
    fields.request_id(body.request_id)
    return Cancel(fields.session(body.session), body.request_id)


# -- what an operator does -------------------------------------------------------------------------------------------------


def force_release(body: bodies.ForceReleaseBody) -> ForceRelease:
    token = None if body.token is None else fields.token(body.token)
    return ForceRelease(fields.key("key", body.key), token, *_said(body.reason, body.operator))


def resolve(body: bodies.ResolveBody) -> Resolve:
    key, token = fields.key("key", body.key), fields.token(body.token)
    return Resolve(key, token, *_said(body.reason, body.operator))


def _said(reason: str, operator: str) -> tuple[str, str]:
    return (
        fields.said("reason", reason, wire.REASON_BYTES_MAX),
        fields.said("operator", operator, wire.OPERATOR_BYTES_MAX),
    )


# -- reads -----------------------------------------------------------------------------------------------------------------


def read(body: bodies.ReadBody, limit_max: int) -> ReadOne | ReadPage:
    if body.key is not None:
        for name in ("prefix", "limit", "after"):
            if getattr(body, name) is not None:
                raise bad_request(name, "does not go with key")
        return ReadOne(fields.key("key", body.key))
    prefix = fields.prefix(body.prefix)
    after = None if body.after is None else fields.key("after", body.after)
    return ReadPage(prefix, after, fields.page_limit(body.limit, LIST_LIMIT_DEFAULT, limit_max))


def read_closed(body: bodies.ClosedReadBody, limit_max: int) -> ReadClosed:
    after = None if body.after is None else fields.key("after", body.after)
    limit = fields.page_limit(body.limit, LIST_LIMIT_DEFAULT, limit_max)
    return ReadClosed(fields.prefix(body.prefix), body.by, after, limit)


def explain(body: bodies.ExplainBody) -> str:
    """The key."""
    return fields.key("key", body.key)


def read_history(body: bodies.HistoryBody, limit_max: int) -> ReadHistory:
    key = fields.key("key", body.key)
    for name in ("from_ms", "to_ms", "after"):
        value = getattr(body, name)
        if value is not None:
            fields.in_range(name, value, 0, wire.INTEGER_MAX)
    if body.from_ms is not None and body.to_ms is not None and body.to_ms < body.from_ms:
        raise bad_request("to_ms", "is before from_ms")
    limit = fields.page_limit(body.limit, LIST_LIMIT_DEFAULT, limit_max)
    return ReadHistory(key, body.from_ms, body.to_ms, body.after or 0, limit)
