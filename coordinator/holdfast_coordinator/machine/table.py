"""The lock table: holds, queues, and the one rule by which a waiter becomes a holder.

Rule: a request is granted when every key of it is free and it stands at the head of the queue of each. All queues are in the
order of the log, so requests for several keys cannot wait for each other in a circle, and nobody overtakes.

Why no grant causes another: a waiter can become grantable only when one of its keys is freed or one of its queues gets a new
head. A grant frees nothing, and the queues that it leaves belong to keys that are now held. So `promote` looks once at the
heads of the keys that changed, and is done.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from .limits import INCARNATION_TOKENS_MAX
from .operations import Origin
from .outcomes import Ended, Granted, Holder, Refused
from .refusals import too_many
from .state import Hold, Out, RequestId, Session, State, Waiter


def is_free(state: State, keys: tuple[str, ...]) -> bool:
    """Nobody holds any of the keys and nobody waits for one."""
    holds, queues = state.holds_by_key, state.queues
    for key in keys:  # noqa: SIM110 -- twice as fast as all(...) for one key, and every acquire comes by here
        if key in holds or key in queues:
            return False
    return True


def holders(state: State, keys: tuple[str, ...]) -> tuple[Holder, ...]:
    """The distinct holds that stand on these keys, in the order of the keys."""
    found: dict[int, Holder] = {}
    for key in keys:
        hold = state.holds_by_key.get(key)
        if hold is not None and hold.token not in found:
            remaining_ms = remaining_of(state, state.sessions[hold.session])
            found[hold.token] = Holder(
                hold.token, hold.session, hold.owner, "exclusive", remaining_ms
            )
    return tuple(found.values())


def remaining_of(state: State, session: Session) -> int:
    """Milliseconds of lease left; the whole TTL for an implicit session whose lease has not started."""
    if session.deadline_ms is None:
        return session.ttl_ms
    return max(0, session.deadline_ms - state.cluster_time_ms)


def no_token_left(state: State) -> Refused | None:
    if state.last_token & INCARNATION_TOKENS_MAX == INCARNATION_TOKENS_MAX:
        return too_many("tokens", INCARNATION_TOKENS_MAX, "tokens of this incarnation")
    return None


def grant(
    state: State, session: Session, keys: tuple[str, ...], owner: str | None
) -> tuple[Hold, Granted]:
    """Make a hold. The caller has checked that the keys are free, the session lives, and a token is left."""
    token = state.last_token + 1
    state.last_token = token
    state.totals.grants += 1
    if session.deadline_ms is None:
        session.deadline_ms = state.cluster_time_ms + session.ttl_ms
        state.deadlines.add_session(session)
    hold = Hold(token, session.id, keys, owner)
    link_hold(state, session, hold)
    remembered = state.history.previous
    return hold, Granted(
        token,
        token,
        keys,
        "exclusive",
        session.id,
        session.deadline_ms - state.cluster_time_ms,
        tuple([remembered.get(key) for key in keys]),
        state.history.horizon,
    )


def link_hold(state: State, session: Session, hold: Hold) -> None:
    """Enter a hold under its token, its session and its keys."""
    state.holds[hold.token] = hold
    session.holds[hold.token] = hold
    for key in hold.keys:
        state.holds_by_key[key] = hold


def end_hold(state: State, session: Session, hold: Hold, ended: Ended) -> None:
    """Free the keys and remember how. The caller promotes whoever waits for them."""
    del state.holds[hold.token]
    del session.holds[hold.token]
    for key in hold.keys:
        del state.holds_by_key[key]
    hold.ended = ended
    if ended == "expired":
        state.totals.expired_holds += 1
    else:
        state.totals.releases += 1
    limits = state.limits
    state.history.hold_ended(
        hold.token, session.id, hold.keys, ended, limits.previous_max, limits.endings_max
    )


def enqueue(
    state: State,
    session: Session,
    keys: tuple[str, ...],
    owner: str | None,
    request_id: RequestId | None,
    attachment: Origin,
    deadline_ms: int,
) -> tuple[Waiter, int]:
    """Put a request at the end of the queue of each of its keys. Returns it, and how many stand before it at most."""
    waiter = Waiter(state.next_waiter, session.id, keys, owner, request_id, attachment, deadline_ms)
    state.next_waiter += 1
    position = max(len(state.queues.get(key, ())) for key in keys)
    link_waiter(state, session, waiter)
    return waiter, position


def link_waiter(state: State, session: Session, waiter: Waiter) -> None:
    """Enter a waiter under its number, its caller, its session, its deadline, and at the end of its queues."""
    for key in waiter.keys:
        queue = state.queues.get(key)
        if queue is None:
            queue = state.queues[key] = OrderedDict()
        queue[waiter.number] = waiter
    state.waiters[waiter.number] = waiter
    state.attachments[waiter.attachment] = waiter
    state.keys_waited += len(waiter.keys)
    if session.waiters is None:
        session.waiters = {}
    session.waiters[waiter.number] = waiter
    state.deadlines.add_wait(waiter)


def dequeue(state: State, waiter: Waiter) -> None:
    """Take a request out of every queue. The caller promotes whoever stood behind it."""
    for key in waiter.keys:
        queue = state.queues[key]
        del queue[waiter.number]
        if not queue:
            del state.queues[key]
    del state.waiters[waiter.number]
    del state.attachments[waiter.attachment]
    state.keys_waited -= len(waiter.keys)
    waiters = state.sessions[waiter.session].waiters
    if waiters is not None:
        del waiters[waiter.number]


def position_of(state: State, waiter: Waiter) -> int:
    """How many stand before it, in the longest of its queues (counted: only repeats ask)."""
    return max(
        sum(1 for number in state.queues[key] if number < waiter.number) for key in waiter.keys
    )


def promote(state: State, keys: Iterable[str], out: Out) -> None:
    """Grant whatever has become grantable on keys that were freed or whose queue lost a waiter, in the order of the log."""
    heads: dict[int, Waiter] = {}
    for key in keys:
        queue = state.queues.get(key)
        if queue is not None:
            waiter = next(iter(queue.values()))
            heads[waiter.number] = waiter
    for number in sorted(heads):
        if _is_grantable(state, heads[number]):
            _grant_waiter(state, heads[number], out)


def _is_grantable(state: State, waiter: Waiter) -> bool:
    """Also checks that the session is alive. One that is past its deadline here is about to be ended by the expiries of this
    same entry (renewals have run), and its end promotes those behind it: passing it over strands nobody."""
    deadline_ms = state.sessions[waiter.session].deadline_ms
    if deadline_ms is not None and deadline_ms <= state.cluster_time_ms:
        return False
    number = waiter.number
    return all(
        key not in state.holds_by_key and next(iter(state.queues[key])) == number
        for key in waiter.keys
    )


def _grant_waiter(state: State, waiter: Waiter, out: Out) -> None:
    if no_token_left(state):
        return  # it times out; there is nothing better to say to it then or now
    dequeue(state, waiter)
    session = state.sessions[waiter.session]
    hold, granted = grant(state, session, waiter.keys, waiter.owner)
    if waiter.request_id is not None and session.requests is not None:
        request = session.requests.by_id[waiter.request_id]
        request.waiter, request.hold = None, hold
        request.previous, request.previous_horizon = granted.previous, granted.previous_horizon
    out.append((waiter.attachment, granted))
