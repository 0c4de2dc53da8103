"""What each operation does. One function an operation, and the endings that time brings; outcomes are appended to `out`.

Rule: total. Whatever an operation says, it ends in exactly one final outcome (for an acquire that waits: later), and nothing
raises. The order in which these functions are called within an entry is decided in `machine.py`.
"""

from __future__ import annotations

from . import quotas
from .blocking import find_circle
from .closed_views import closed_view, unclean_view
from .operations import (
    Acquire,
    Barrier,
    Cancel,
    CloseSession,
    Malformed,
    OpenSession,
    Origin,
    Release,
    RenewSession,
    Withdraw,
)
from .outcomes import (
    UNCLEAN,
    Cancelled,
    Closed,
    Ended,
    Passed,
    Queued,
    Refused,
    Released,
    Renewed,
    SessionOpened,
    Withdrawn,
)
from .refusals import (
    bad_request,
    closed,
    conflict,
    deadlock,
    held,
    no_such_session,
    not_held,
    session_ended,
    too_many,
    wait_ended,
)
from .requests import fingerprint_of, forget, is_settled, no_room, remember, repeat, settle
from .state import (
    Closure,
    Hold,
    Out,
    Request,
    RequestBook,
    Session,
    State,
    Waiter,
    granted_request,
)
from .table import (
    close_key,
    dequeue,
    end_hold,
    enqueue,
    grant,
    holders,
    is_open,
    limit_in_use,
    no_token_left,
    open_key,
    promote,
    refuse_waiter,
    remaining_of,
    unclean_key,
)
from .validation import check_acquire, check_cancel, check_new_session, check_open

# --- sessions ---------------------------------------------------------------------------------------------------------


def open_session(state: State, origin: Origin, operation: OpenSession, out: Out) -> None:
    refusal = check_open(operation, state.limits)
    session = state.sessions.get(operation.session)
    if refusal is None and session is None:
        refusal = _no_new_session(state, operation.session)
        if refusal is None and state.limits.quotas:
            refusal = quotas.no_more_sessions(state, operation.owner)
    elif refusal is None and session is not None and session.implicit:
        refusal = conflict("session", "this id belongs to an implicit session")
    elif refusal is None and session is not None and session.ttl_ms != operation.ttl_ms:
        refusal = conflict("ttl_ms", f"this session is open with a ttl of {session.ttl_ms} ms")
    if refusal is not None:
        out.append((origin, refusal))
        return
    created = session is None
    if session is None:
        deadline_ms = state.cluster_time_ms + operation.ttl_ms
        session = Session(operation.session, operation.ttl_ms, operation.owner, False, deadline_ms)
        state.sessions[session.id] = session
        state.deadlines.add_session(session)
        if state.limits.quotas:
            quotas.count_session(state, session, 1)
    opened = SessionOpened(session.id, session.ttl_ms, remaining_of(state, session), created)
    out.append((origin, opened))


def renew_session(state: State, origin: Origin, operation: RenewSession, out: Out) -> None:
    """Start the lease anew. The heap is left alone: see `deadlines.py`."""
    session = state.sessions.get(operation.session)
    if session is None:
        out.append((origin, _absent(state, operation.session)))
        return
    if session.deadline_ms is not None:
        session.deadline_ms = state.cluster_time_ms + session.ttl_ms
    out.append((origin, Renewed(session.ttl_ms, tuple(session.forced or ()))))


def close_session(state: State, origin: Origin, operation: CloseSession, out: Out) -> None:
    session = state.sessions.get(operation.session)
    if session is not None:
        released = tuple(session.holds)
        out.append((origin, Closed(released)))
        end_session(state, session, "released", out)
    elif state.history.ended_sessions.get(operation.session) == "released":
        out.append((origin, Closed(())))
    else:
        out.append((origin, _absent(state, operation.session)))


def end_session(state: State, session: Session, ended: Ended, out: Out) -> None:
    """Its waiters go first, so that nothing it frees is granted to itself; then its holds, in the order of their tokens."""
    changed: dict[str, None] = {}
    for waiter in list((session.waiters or {}).values()):
        dequeue(state, waiter)
        changed.update(dict.fromkeys(waiter.keys))
        out.append((waiter.attachment, session_ended(ended)))
    for hold in list(session.holds.values()):
        end_hold(state, session, hold, ended)
        changed.update(close_after(state, hold, ended, out))
    remove_session(state, session, ended)
    promote(state, changed, out)


def close_after(state: State, hold: Hold, ended: Ended, out: Out) -> dict[str, None]:
    """What the holder wanted to become of its keys after such an end. Returns the keys to promote."""
    changed = dict.fromkeys(hold.keys)
    terms = hold.terms
    if ended not in UNCLEAN or terms.on_unclean == "grant":
        return changed
    for key in hold.keys:
        if terms.on_unclean == "delay":
            deadline_ms = state.cluster_time_ms + terms.delay_ms
            closure = Closure(key, "delay", hold.token, ended, deadline_ms)
        else:
            closure = Closure(key, "in_doubt", hold.token, ended, None)
        changed.update(close_key(state, closure, out))
    return changed


def remove_session(state: State, session: Session, ended: Ended) -> None:
    del state.sessions[session.id]
    if state.limits.quotas:
        quotas.count_session(state, session, -1)
    state.history.session_ended(session.id, ended)


def _absent(state: State, session: str) -> Refused:
    ended = state.history.ended_sessions.get(session)
    return no_such_session() if ended is None else session_ended(ended)


def _no_new_session(state: State, session: str) -> Refused | None:
    """Why no session of this id can be opened; None if it can."""
    refusal = check_new_session(session)
    if refusal is not None:
        return refusal
    if session in state.history.ended_sessions:
        return session_ended(state.history.ended_sessions[session])
    if len(state.sessions) >= state.limits.sessions_max:
        return too_many("sessions_max", state.limits.sessions_max, "sessions")
    return None


# --- acquire ----------------------------------------------------------------------------------------------------------


def acquire(state: State, origin: Origin, operation: Acquire, out: Out) -> None:
    """Repeats first, then: free keys are granted, others refused (`wait_ms` 0) or waited for."""
    session = state.sessions.get(operation.session)
    refusal = check_acquire(operation, state.limits)
    if refusal is None and (session is None or operation.ttl_ms is not None):
        refusal = _session_unfit(state, operation, session)
    if refusal is not None:
        out.append((origin, refusal))
        return
    request_id = operation.request_id
    if session is not None:
        if operation.settled is not None:
            settle(state, session, operation.settled, out)
        book = session.requests
        if request_id is not None and book is not None:
            request = book.by_id.get(request_id)
            if request is not None:
                repeat(state, origin, operation, session, request, out)
                return
            if is_settled(book, request_id):
                sentence = "this request id was settled; it is never executed again"
                refusal = conflict("request_id", sentence)
            else:
                refusal = no_room(state, book)
        if session.implicit:
            refusal = conflict("session", "an implicit session serves the one acquire that made it")
        if refusal is not None:
            out.append((origin, refusal))
            return
    refusal = _decide(state, origin, operation, session, out)
    if refusal is not None:
        if request_id is not None and session is not None:
            request = Request(fingerprint_of(operation), refused=refusal)
            remember(session, request_id, request)
        out.append((origin, refusal))


def _session_unfit(state: State, operation: Acquire, session: Session | None) -> Refused | None:
    """An acquire with `ttl_ms` makes its session, or repeats the acquire that made it; one without needs an open one, and has it
    unless this is asked."""
    if operation.ttl_ms is None:
        return _absent(state, operation.session) if session is None else None
    if session is None:
        return _no_new_session(state, operation.session)
    if not session.implicit or operation.request_id is None:
        return conflict("session", "an implicit session needs an id of its own; this one is open")
    return None


def _decide(
    state: State, origin: Origin, operation: Acquire, session: Session | None, out: Out
) -> Refused | None:
    """Grant or queue, or say why not."""
    keys, terms = operation.keys, operation.terms
    owner = operation.owner
    if owner is None and session is not None:
        owner = session.owner
    refusal = None
    may_have = is_open(state, keys, terms)
    if not may_have:
        refusal = _not_to_be_had(state, operation, session, owner)
    elif terms.require_clean and (key := unclean_key(state, keys)) is not None:
        refusal = closed(unclean_view(state, key))
    if refusal is None:
        refusal = _no_capacity(state, keys, owner, may_have)
    if refusal is not None:
        return refusal
    if session is None:  # implicit: check_acquire and _session_unfit saw to it that ttl_ms is set
        session = Session(operation.session, operation.ttl_ms or 0, operation.owner, True, None)
        state.sessions[session.id] = session
    request_id = operation.request_id
    if may_have:
        hold, granted = grant(state, session, operation, owner, 0)
        out.append((origin, granted))
        if request_id is not None:
            request = granted_request(fingerprint_of(operation), hold, granted)
            remember(session, request_id, request)
        return None
    waiter, position = enqueue(state, session, operation, owner, origin)
    out.append((origin, Queued(position)))
    if request_id is not None:
        remember(session, request_id, Request(fingerprint_of(operation), waiter=waiter))
    return None


def _not_to_be_had(
    state: State, operation: Acquire, session: Session | None, owner: str | None
) -> Refused | None:
    """Why a request whose keys are not open is refused now; None if it may wait."""
    keys, terms = operation.keys, operation.terms
    delay: Closure | None = None
    for key in keys:
        closure = state.closures.get(key)
        if closure is not None and closure.by != "delay":
            return closed(closed_view(state, closure))
        delay = delay or closure
        is_in_use, limit = limit_in_use(state, key)
        if is_in_use and limit != terms.limit:
            return conflict(
                "limit", f"the limit of this key is {limit or 'none'} while it is in use"
            )
    if operation.wait_ms == 0:
        found = holders(state, keys)
        if delay is not None and not found:
            return closed(closed_view(state, delay))
        return held(found, max(len(state.queues.get(key, ())) for key in keys))
    if session is not None and (circle := find_circle(state, session, operation, owner)):
        state.totals.deadlocks += 1
        return deadlock(circle)
    return None


def _no_capacity(
    state: State, keys: tuple[str, ...], owner: str | None, may_have: bool
) -> Refused | None:
    limits = state.limits
    if len(state.standing) + state.tally.keys_waited + len(keys) > limits.keys_held_max:
        return too_many("keys_held_max", limits.keys_held_max, "keys held or waited for")
    if limits.quotas:
        refusal = quotas.no_more_keys(state, keys, owner, waiting=not may_have)
        if refusal is not None:
            return refusal
    if may_have:
        return no_token_left(state)
    if len(state.waiters) >= limits.waiters_max:
        return too_many("waiters_max", limits.waiters_max, "waiters")
    if any(len(state.queues.get(key, ())) >= limits.waiters_per_key_max for key in keys):
        return too_many("waiters_per_key_max", limits.waiters_per_key_max, "waiters for one key")
    return None


# --- release, cancel, withdraw ----------------------------------------------------------------------------------------


def release(state: State, origin: Origin, operation: Release, out: Out) -> None:
    token = operation.token
    hold = state.holds.get(token)
    if hold is not None and hold.session == operation.session:
        out.append((origin, Released(token)))
        _release_hold(state, hold, out)
        return
    session, ended = state.history.endings.get(token, (None, None))
    if _lets_go_of_forced(state, operation.session, token):
        out.append((origin, not_held("forced")))
    elif session != operation.session:
        out.append((origin, not_held(None)))
    elif ended == "released":
        out.append((origin, Released(token)))
    else:
        out.append((origin, not_held(ended)))


def _lets_go_of_forced(state: State, session_id: str, token: int) -> bool:
    """The client knows now that an operator ended this hold: it need not be told again. Its session remembers that for as long
    as it takes, also when the ending itself has been forgotten."""
    session = state.sessions.get(session_id)
    if session is None or session.forced is None or token not in session.forced:
        return False
    session.forced.remove(token)
    return True


def _release_hold(state: State, hold: Hold, out: Out) -> None:
    session = state.sessions[hold.session]
    end_hold(state, session, hold, "released")
    if session.implicit:
        remove_session(state, session, "released")
    promote(state, hold.keys, out)


def cancel(state: State, origin: Origin, operation: Cancel, out: Out) -> None:
    """Also remembers a name that was never seen: the acquire may still be on its way, and must not act when it comes."""
    session = state.sessions.get(operation.session)
    refusal = check_cancel(operation)
    if refusal is not None or session is None:
        out.append((origin, refusal or _absent(state, operation.session)))
        return
    request_id = operation.request_id
    book = session.requests or RequestBook()
    request = book.by_id.get(request_id)
    if request is None:
        is_over = is_settled(book, request_id)
        refusal = None if is_over else no_room(state, book)
        if refusal is None and not is_over:
            cancelled = wait_ended("cancelled by its client before it arrived")
            remember(session, request_id, Request(None, refused=cancelled))
        out.append((origin, refusal or Cancelled(None)))
    elif request.waiter is not None:
        waiter, request.waiter = request.waiter, None
        request.refused = wait_ended("cancelled by its client")
        out.append((origin, Cancelled(None)))
        out.append((waiter.attachment, request.refused))
        dequeue(state, waiter)
        if session.implicit:
            remove_session(state, session, "released")
        promote(state, waiter.keys, out)
    elif request.hold is not None and request.hold.ended is None:
        out.append((origin, Cancelled(request.hold.token)))
        _release_hold(state, request.hold, out)
    else:
        out.append((origin, Cancelled(None)))


def withdraw(state: State, origin: Origin, operation: Withdraw, out: Out) -> None:
    waiter = state.attachments.get(Origin(operation.node, operation.boot, operation.sequence))
    out.append((origin, Withdrawn(waiter is not None)))
    if waiter is not None:
        _take_out(state, waiter, out)
        promote(state, waiter.keys, out)


def _take_out(state: State, waiter: Waiter, out: Out) -> None:
    """The caller has gone and has been told nothing, so the name is free again: it may ask anew, at the end of the queue."""
    session = state.sessions[waiter.session]
    dequeue(state, waiter)
    if waiter.request_id is not None:
        forget(session, waiter.request_id)
    if session.implicit:
        del state.sessions[session.id]
    out.append((waiter.attachment, Withdrawn(True)))


def withdraw_everybody(state: State, out: Out) -> None:
    """All callers have gone. Nobody is left who could be promoted."""
    for waiter in list(state.waiters.values()):
        _take_out(state, waiter, out)


def withdraw_older_boots(state: State, newer_boots: list[Origin], out: Out) -> None:
    """Nodes started again: whoever waited at their earlier boots without a name has gone, and nobody can ask for them again.

    All of them leave before anybody is promoted. Time 0: two such waiters stand in one queue, the first blocked by another
    key. Time 1: the first leaves; promoting now would grant to the second, who is as gone as the first.
    """
    changed: dict[str, None] = {}
    boots = {origin.node: origin.boot for origin in newer_boots}
    for waiter in list(state.waiters.values()):
        attachment = waiter.attachment
        if waiter.request_id is None and attachment.boot < boots.get(attachment.node, 0):
            _take_out(state, waiter, out)
            changed.update(dict.fromkeys(waiter.keys))
    promote(state, changed, out)


# --- the rest ---------------------------------------------------------------------------------------------------------


def barrier(_state: State, origin: Origin, _operation: Barrier, out: Out) -> None:
    out.append((origin, Passed()))


def malformed(_state: State, origin: Origin, operation: Malformed, out: Out) -> None:
    out.append((origin, bad_request("operation", operation.reason)))


def expire(state: State, record: Session | Waiter | Closure, out: Out) -> None:
    """End what is past its deadline: a session with everything it has, a single wait, or the closing of a key."""
    if type(record) is Session:
        state.totals.expired_sessions += 1
        end_session(state, record, "expired", out)
    elif type(record) is Waiter:
        state.totals.wait_timeouts += 1
        refuse_waiter(state, record, wait_ended("waited in vain"), out)
        promote(state, record.keys, out)
    else:
        open_key(state, record)
        if record.by == "done":
            now_ms = state.cluster_time_ms
            told = ("forgotten", now_ms, state.wall_ms, record.token, (record.key,))
            state.trail.append(told, 1)
        promote(state, (record.key,), out)
