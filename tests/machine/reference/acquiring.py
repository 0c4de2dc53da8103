"""Acquire, in the model: the longest of the operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast_coordinator.machine import Acquire, Detached, Origin, Queued, Refused, Terms

from .records import ModelRequest, ModelSession, refused
from .waits import closes_a_circle, steps

if TYPE_CHECKING:
    from .model import Model


def acquire(model: Model, origin: Origin, op: Acquire) -> None:
    session = model.session(op.session)
    if len(set(op.keys)) < len(op.keys) or not terms_go_together(op.terms):
        model.say(origin, refused("bad_request"))
        return
    if op.ttl_ms is None and session is None:
        model.say(origin, model.absent(op.session))
        return
    if op.ttl_ms is not None and session is None and op.session in model.gone:
        model.say(origin, model.absent(op.session))
        return
    implicit_repeat = session and session.implicit and op.request_id is not None
    if op.ttl_ms is not None and session is not None and not implicit_repeat:
        model.say(origin, refused("conflict"))
        return
    if session is not None and op.settled is not None:
        settle(model, session, op.settled)
    body = (op.keys, op.ttl_ms, op.owner, op.context, op.terms)
    known = named(model, op.session, op.request_id) if session else None
    if known is not None:
        repeat(model, origin, op, known, body)
    elif session and (session.implicit or is_settled(session, op.request_id)):
        model.say(origin, refused("conflict"))
    else:
        fresh(model, origin, op, session, body)


def terms_go_together(terms: Terms) -> bool:
    if terms.mode == "exclusive":
        delayed = terms.on_unclean == "delay"
        return terms.limit is None and (terms.delay_ms > 0) == delayed
    return terms.on_unclean == "grant" and terms.delay_ms == 0 and terms.limit != 0


def named(model: Model, session: str, name: int | str | None) -> ModelRequest | None:
    for request in model.requests:
        same = request.session == session and request.name == name
        if name is not None and same and not request.forgotten:
            return request
    return None


def is_settled(session: ModelSession, name: int | str | None) -> bool:
    return isinstance(name, int) and name <= session.settled


def settle(model: Model, session: ModelSession, settled: int) -> None:
    session.settled = max(session.settled, settled)
    for request in model.requests:
        ours = request.session == session.name and not request.forgotten
        if ours and is_settled(session, request.name):
            request.forgotten = True
            if request.status == "waiting":
                request.status = "refused"
                model.say(request.origin, refused("wait_timeout"))
    model.promote()


def repeat(model: Model, origin: Origin, op: Acquire, known: ModelRequest, body: object) -> None:
    if known.body not in (None, body):
        model.say(origin, refused("conflict"))
    elif known.status == "waiting":
        model.say(known.origin, Detached())
        known.origin = origin
        known.wait_until = max(known.wait_until, model.now + op.wait_ms)
        before = model.requests[: model.requests.index(known)]
        model.say(origin, Queued(position(known.keys, before)))
    elif known.status == "granted":
        model.say(origin, model.granted(known))
    elif known.status == "ended":
        model.say(origin, refused("not_held", known.ended))
    else:
        assert known.refused is not None
        model.say(origin, known.refused)


def position(keys: tuple[str, ...], among: list[ModelRequest]) -> int:
    waiting = [r for r in among if r.status == "waiting"]
    return max(sum(key in r.keys for r in waiting) for key in keys)


def fresh(
    model: Model, origin: Origin, op: Acquire, session: ModelSession | None, body: object
) -> None:
    request = ModelRequest(op.session, op.request_id, body, op.keys, "refused", op.terms)
    request.owner, request.context, request.since = op.owner, op.context, model.now
    if request.owner is None and session is not None:
        request.owner = session.owner
    queued = any(model.queue(key) for key in op.keys)
    open_to_it = not queued and all(model.free(key, op.terms) for key in op.keys)
    if open_to_it:
        refusal = model.unclean(op.keys) if op.terms.require_clean else None
    else:
        refusal = not_to_be_had(model, op) or deadlock(model, origin, op, session, request)
    if refusal is None and (limit := limit_reached(model, request, open_to_it)) is not None:
        refusal = refused("limit_reached", limit=limit)
    if refusal is not None:
        request.refused = refusal
        model.say(origin, refusal)
        if session is not None:
            model.requests.append(request)
        return
    if session is None:
        assert op.ttl_ms is not None
        model.sessions.append(ModelSession(op.session, op.ttl_ms, True, None, op.owner))
    if not open_to_it:
        request.status, request.origin = "waiting", origin
        request.wait_until = model.now + op.wait_ms
        model.say(origin, Queued(position(op.keys, model.requests)))
        model.requests.append(request)
    else:
        model.requests.append(request)
        model.say(origin, model.grant(request))


def not_to_be_had(model: Model, op: Acquire) -> Refused | None:
    for key in op.keys:
        closure = model.closure(key)
        if closure is not None and closure.by != "delay":
            return model.closed(closure)
        users = [*model.holding(key), *model.queue(key)]
        if users and users[0].terms.limit != op.terms.limit:
            return refused("conflict")
    if op.wait_ms > 0:
        return None
    standing = {r.token: model.holder(r) for key in op.keys for r in model.holding(key)}
    delays = [c for key in op.keys if (c := model.closure(key)) is not None]
    if delays and not standing:
        return model.closed(delays[0])
    queue = position(op.keys, model.requests)
    return refused("held", holders=tuple(standing.values()), queue_length=queue)


def deadlock(
    model: Model, origin: Origin, op: Acquire, session: ModelSession | None, asked: ModelRequest
) -> Refused | None:
    """Which of several circles is told is the machine's choice, so the answer is kept with all the waits it may name."""
    if session is None or not closes_a_circle(model, asked):
        return None
    model.count("deadlocks")
    model.circles[origin] = (steps(model, asked), asked)
    return refused("deadlock")


def limit_reached(model: Model, asked: ModelRequest, open_to_it: bool) -> str | None:
    limits = model.limits
    held, waiting = model.held(), model.waiting()
    standing = {key for r in held for key in r.keys} | {c.key for c in model.closures}
    waited = sum(len(r.keys) for r in waiting)
    if len(standing) + waited + len(asked.keys) > limits.keys_held_max:
        return "keys_held_max"
    kind, users = ("holds", held) if open_to_it else ("waiters", waiting)
    for quota in limits.quotas:
        shares = [
            sum(key.startswith(quota.prefix) for key in r.keys)
            if quota.prefix is not None
            else (len(r.keys) if r.owner == quota.owner else 0)
            for r in [*users, asked]
        ]
        maximum = getattr(quota, kind)
        if maximum is not None and shares[-1] and sum(shares) > maximum:
            return f"quota.{kind}:{quota.name}"
    if open_to_it:
        return None
    if len(waiting) >= limits.waiters_max:
        return "waiters_max"
    if any(len(model.queue(key)) >= limits.waiters_per_key_max for key in asked.keys):
        return "waiters_per_key_max"
    return None


def quota_of_sessions(model: Model, owner: str | None) -> str | None:
    for quota in model.limits.quotas:
        used = sum(not s.implicit and s.owner == owner for s in model.sessions)
        meant = quota.owner is not None and quota.owner == owner
        if meant and quota.sessions is not None and used >= quota.sessions:
            return f"quota.sessions:{quota.name}"
    return None
