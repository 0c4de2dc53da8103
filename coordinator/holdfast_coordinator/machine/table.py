"""The lock table: what stands on each key, the queues, and the one rule by which a waiter becomes a holder.

Rule: a request is granted when every key of it is open to it and it stands at the head of the queue of each. A key is open when
nothing stands on it, or when a phase of shared holds does that the request may join. All queues are in the order of the log, so
requests for several keys cannot wait for each other in a circle, and nobody overtakes: a reader that comes after a waiting
writer waits for it.

What a grant causes: an exclusive one nothing, for its keys are now held. A shared one can let the next head join, so `promote`
goes on to that. Numbers in a queue only rise, so grants come about in the order of the log.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Any

from . import quotas
from .closed_views import closed_view, unclean_view
from .limits import INCARNATION_TOKENS_MAX
from .operations import Acquire, Origin, Terms
from .outcomes import UNCLEAN, Ended, Granted, Holder, Note, Refused
from .refusals import closed, too_many
from .state import Closure, Hold, Out, Phase, Session, State, Waiter, granted_request


def is_open(state: State, keys: tuple[str, ...], terms: Terms) -> bool:
    """Nothing stands on any of the keys that the request could not join, and nobody waits for one."""
    standing, queues = state.standing, state.queues
    for key in keys:
        if key in queues:
            return False
        stands = standing.get(key)
        if stands is not None and not is_joinable(stands, terms):
            return False
    return True


def is_joinable(stands: Hold | Phase | Closure, terms: Terms) -> bool:
    """Whether one more shared hold may join."""
    if type(stands) is not Phase or terms.mode != "shared" or stands.limit != terms.limit:
        return False
    return stands.limit is None or len(stands.holds) < stands.limit


def holds_on(state: State, key: str) -> list[Hold]:
    stands = state.standing.get(key)
    if type(stands) is Hold:
        return [stands]
    return list(stands.holds.values()) if type(stands) is Phase else []


def holders(state: State, keys: tuple[str, ...]) -> tuple[Holder, ...]:
    """The distinct holds that stand on these keys, in the order of the keys."""
    found: dict[int, Holder] = {}
    for key in keys:
        for hold in holds_on(state, key):
            if hold.token not in found:
                found[hold.token] = Holder(
                    hold.token,
                    hold.session,
                    hold.owner,
                    hold.terms.mode,
                    remaining_of(state, state.sessions[hold.session]),
                    hold.terms.limit,
                    hold.context,
                    state.cluster_time_ms - hold.granted_ms,
                )
    return tuple(found.values())


def remaining_of(state: State, session: Session) -> int:
    """Milliseconds of lease left; the whole TTL for an implicit session whose lease has not started."""
    if session.deadline_ms is None:
        return session.ttl_ms
    return max(0, session.deadline_ms - state.cluster_time_ms)


def limit_in_use(state: State, key: str) -> tuple[bool, int | None]:
    """Whether the key is held or waited for, and the limit that therefore belongs to it."""
    stands = state.standing.get(key)
    if stands is not None and type(stands) is not Closure:
        return True, stands.limit if type(stands) is Phase else None
    queue = state.queues.get(key)
    if queue is None:
        return False, None
    return True, next(iter(queue.values())).terms.limit


# --- tokens and holds -------------------------------------------------------------------------------------------------


def no_token_left(state: State) -> Refused | None:
    if state.last_token & INCARNATION_TOKENS_MAX == INCARNATION_TOKENS_MAX:
        return too_many("tokens", INCARNATION_TOKENS_MAX, "tokens of this incarnation")
    return None


def grant(
    state: State, session: Session, request: Acquire | Waiter, owner: str | None, waited_ms: int
) -> tuple[Hold, Granted]:
    """Make a hold. The caller has checked that the keys are open, the session lives, and a token is left."""
    token = state.last_token = state.last_token + 1
    state.totals.grants += 1
    now_ms = state.cluster_time_ms
    if session.deadline_ms is None:
        session.deadline_ms = now_ms + session.ttl_ms
        state.deadlines.add_session(session)
    keys, terms, context = request.keys, request.terms, request.context
    hold = Hold(token, session.id, keys, owner, terms, context, now_ms)
    link_hold(state, session, hold)
    mode, limit = terms.mode, terms.limit
    record = ("granted", now_ms, state.wall_ms, token, keys, owner, context, mode, limit, waited_ms)
    state.trail.append(record, len(keys))
    history, noted = state.history, state.checkpoints
    return hold, Granted(
        token,
        token if mode == "exclusive" else fence_of(state, hold),
        keys,
        mode,
        session.id,
        session.deadline_ms - now_ms,
        tuple(map(history.previous.get, keys)),
        history.horizon,
        _notes_on(noted, keys) if noted else (),
        limit,
    )


def _notes_on(noted: dict[str, Note], keys: tuple[str, ...]) -> tuple[Note | None, ...]:
    notes = tuple([noted.get(key) for key in keys])
    return notes if any(notes) else ()


def fence_of(state: State, hold: Hold) -> int | tuple[int, ...] | None:
    """What the resource compares: see `Granted`."""
    if hold.terms.mode == "exclusive":
        return hold.token
    if hold.terms.limit is not None:
        return None
    fences = fences_of(state, hold)
    return fences[0] if len(fences) == 1 else fences


def fences_of(state: State, hold: Hold) -> tuple[int, ...]:
    """The tokens that opened the phases in which a shared hold stands."""
    phases = [state.standing[key] for key in hold.keys]
    return tuple([phase.fence for phase in phases if type(phase) is Phase])


def link_hold(state: State, session: Session, hold: Hold) -> None:
    """Enter a hold under its token, its session, its task and its keys."""
    token, context = hold.token, hold.context
    state.holds[token] = hold
    session.holds[token] = hold
    if context is not None:
        tasks = session.tasks
        if tasks is None:
            tasks = session.tasks = {}
        tasks[context] = tasks.get(context, 0) + 1
    standing = state.standing
    if hold.terms.mode == "exclusive":
        for key in hold.keys:
            standing[key] = hold
    else:
        for key in hold.keys:
            phase = standing.get(key)
            if type(phase) is not Phase:
                phase = standing[key] = Phase(token, hold.terms.limit)
            phase.holds[token] = hold
    if state.limits.quotas:
        quotas.count_hold(state, hold, 1)


def end_hold(
    state: State,
    session: Session,
    hold: Hold,
    ended: Ended,
    floor: int | None = None,
    said: tuple[str, ...] = (),
) -> None:
    """Free the keys and remember how. The caller closes them if their holder wanted that, and promotes whoever waits.

    `said`: operator and reason of a forced end.
    """
    token, keys, context, terms = hold.token, hold.keys, hold.context, hold.terms
    del state.holds[token]
    del session.holds[token]
    tasks = session.tasks
    if context is not None and tasks is not None:
        left = tasks[context] - 1
        if left:
            tasks[context] = left
        else:
            del tasks[context]
    standing = state.standing
    for key in keys:
        stands = standing[key]
        if type(stands) is Phase:
            del stands.holds[token]
            if stands.holds:
                continue
        del standing[key]
    if state.limits.quotas:
        quotas.count_hold(state, hold, -1)
    hold.ended = ended
    if ended in UNCLEAN:
        _count_unclean(state, ended)
    else:
        state.totals.releases += 1
        if state.checkpoints and terms.mode == "exclusive":
            for key in keys:
                drop_checkpoint(state, key)
    state.history.hold_ended(token, session.id, keys, ended, floor)
    now_ms = state.cluster_time_ms
    record: tuple[Any, ...] = (
        "ended",
        now_ms,
        state.wall_ms,
        token,
        keys,
        hold.owner,
        context,
        terms.mode,
        terms.limit,
        None,
        now_ms - hold.granted_ms,
        ended,
    )
    state.trail.append(record + said if said else record, len(keys))


def _count_unclean(state: State, ended: Ended) -> None:
    if ended == "expired":
        state.totals.expired_holds += 1
    else:
        state.totals.forced_holds += 1


def drop_checkpoint(state: State, key: str) -> None:
    note = state.checkpoints.pop(key, None)
    if note is not None:
        state.tally.checkpoint_bytes -= len(note.value.encode())


# --- queues -----------------------------------------------------------------------------------------------------------


def enqueue(
    state: State, session: Session, operation: Acquire, owner: str | None, attachment: Origin
) -> tuple[Waiter, int]:
    """Put a request at the end of the queue of each of its keys. Returns it, and how many stand before it at most."""
    now_ms = state.cluster_time_ms
    waiter = Waiter(
        state.next_waiter,
        session.id,
        operation.keys,
        owner,
        operation.terms,
        operation.context,
        operation.request_id,
        attachment,
        now_ms,
        now_ms + operation.wait_ms,
    )
    state.next_waiter += 1
    position = max(len(state.queues.get(key, ())) for key in waiter.keys)
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
    _count_waiter(state, waiter, 1)
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
    _count_waiter(state, waiter, -1)
    waiters = state.sessions[waiter.session].waiters
    if waiters is not None:
        del waiters[waiter.number]


def _count_waiter(state: State, waiter: Waiter, by: int) -> None:
    tally = state.tally
    tally.keys_waited += by * len(waiter.keys)
    if len(waiter.keys) > 1:
        tally.waiters_of_several += by
    if state.limits.quotas:
        quotas.count_waiter(state, waiter, by)


def position_of(state: State, waiter: Waiter) -> int:
    """How many stand before it, in the longest of its queues (counted: only repeats ask)."""
    return max(
        sum(1 for number in state.queues[key] if number < waiter.number) for key in waiter.keys
    )


def refuse_waiter(state: State, waiter: Waiter, refusal: Refused, out: Out) -> None:
    """The wait ends without a grant. The caller promotes whoever stood behind it."""
    dequeue(state, waiter)
    session = state.sessions[waiter.session]
    if session.implicit:
        del state.sessions[session.id]
    elif waiter.request_id is not None and session.requests is not None:
        request = session.requests.by_id[waiter.request_id]
        request.waiter, request.refused = None, refusal
    out.append((waiter.attachment, refusal))


def promote(state: State, keys: Iterable[str], out: Out) -> None:
    """Grant whatever has become grantable on keys that were freed or whose queue lost a waiter, in the order of the log."""
    if not state.queues:
        return
    heads: list[int] = []
    _push_heads(state, keys, heads)
    while heads:
        waiter = state.waiters.get(heappop(heads))
        if waiter is None or not _is_grantable(state, waiter) or no_token_left(state):
            continue  # without a token it times out; there is nothing better to say to it then or now
        key = unclean_key(state, waiter.keys) if waiter.terms.require_clean else None
        if key is not None:
            refuse_waiter(state, waiter, closed(unclean_view(state, key)), out)
        else:
            _grant_waiter(state, waiter, out)
            if waiter.terms.mode == "exclusive":
                continue
        _push_heads(state, waiter.keys, heads)


def _push_heads(state: State, keys: Iterable[str], heads: list[int]) -> None:
    for key in keys:
        queue = state.queues.get(key)
        if queue is not None:
            heappush(heads, next(iter(queue)))


def unclean_key(state: State, keys: tuple[str, ...]) -> str | None:
    """The first of these keys whose last hold ended uncleanly."""
    return next((key for key in keys if state.history.is_unclean(key)), None)


def _is_grantable(state: State, waiter: Waiter) -> bool:
    """Also checks that the session is alive. One that is past its deadline here is about to be ended by the expiries of this
    same entry (renewals have run), and its end promotes those behind it: passing it over strands nobody."""
    deadline_ms = state.sessions[waiter.session].deadline_ms
    if deadline_ms is not None and deadline_ms <= state.cluster_time_ms:
        return False
    number = waiter.number
    for key in waiter.keys:
        stands = state.standing.get(key)
        if stands is not None and not is_joinable(stands, waiter.terms):
            return False
        if next(iter(state.queues[key])) != number:
            return False
    return True


def _grant_waiter(state: State, waiter: Waiter, out: Out) -> None:
    dequeue(state, waiter)
    session = state.sessions[waiter.session]
    waited_ms = state.cluster_time_ms - waiter.since_ms
    hold, granted = grant(state, session, waiter, waiter.owner, waited_ms)
    if waiter.request_id is not None and session.requests is not None:
        by_id = session.requests.by_id
        fingerprint = by_id[waiter.request_id].fingerprint
        by_id[waiter.request_id] = granted_request(fingerprint, hold, granted)
    out.append((waiter.attachment, granted))


# --- closed keys ------------------------------------------------------------------------------------------------------


def close_key(state: State, closure: Closure, out: Out) -> dict[str, None]:
    """Nobody is granted the key until the closure ends. Unless that is a matter of time, waiters are told now; the keys for
    which they waited besides are returned, for the caller to promote."""
    changed: dict[str, None] = {}
    link_closure(state, closure)
    if closure.by != "delay":
        refusal = closed(closed_view(state, closure))
        for waiter in list(state.queues.get(closure.key, {}).values()):
            refuse_waiter(state, waiter, refusal, out)
            changed.update(dict.fromkeys(waiter.keys))
    return changed


def link_closure(state: State, closure: Closure) -> None:
    state.standing[closure.key] = closure
    state.closures[closure.key] = closure
    state.deadlines.add_closure(closure)
    state.tally.closed[closure.by] += 1
    state.tally.done_bytes += _bytes_of(closure)
    if closure.by == "done":
        state.done[closure.token] = (*state.done.get(closure.token, ()), closure)


def open_key(state: State, closure: Closure) -> None:
    """The closure ends. The caller promotes whoever waits."""
    del state.standing[closure.key]
    del state.closures[closure.key]
    state.tally.closed[closure.by] -= 1
    state.tally.done_bytes -= _bytes_of(closure)
    if closure.by == "done":
        left = tuple([each for each in state.done[closure.token] if each is not closure])
        if left:
            state.done[closure.token] = left
        else:
            del state.done[closure.token]


def _bytes_of(closure: Closure) -> int:
    return 0 if closure.result is None else len(closure.result.encode())
