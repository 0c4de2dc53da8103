"""What an operator does: end somebody's hold by force, and open a key that is closed.

Rule: as in `rules.py`. Both say who did it and why, and that goes into the trail. Both name the hold that is meant by its token
(force may leave it out), so that a repeat, or an operator who looked a minute ago, never strikes the next holder.
"""

from __future__ import annotations

from .limits import FORCED_TOLD_MAX
from .operations import ForceRelease, Origin, Resolve
from .outcomes import ForceReleased, Refused, Resolved
from .refusals import not_held
from .rules import close_after, remove_session
from .state import Hold, Out, Session, State
from .table import end_hold, holds_on, no_token_left, open_key, promote
from .validation import check_intervention


def force_release(state: State, origin: Origin, operation: ForceRelease, out: Out) -> None:
    """End the holds of a key. The floor is a fresh token: above all of them, below every grant to come."""
    refusal = check_intervention(operation)
    holds = [] if refusal is not None else _holds_meant(state, operation)
    if refusal is None and not holds:
        out.append((origin, _forced_before(state, operation)))
        return
    refusal = refusal or no_token_left(state)
    if refusal is not None:
        out.append((origin, refusal))
        return
    floor = state.last_token = state.last_token + 1
    out.append((origin, ForceReleased(tuple([hold.token for hold in holds]), floor)))
    changed: dict[str, None] = {}
    for hold in holds:
        session = state.sessions[hold.session]
        end_hold(state, session, hold, "forced", floor, (operation.operator, operation.reason))
        _tell(session, hold)
        changed.update(close_after(state, hold, "forced", out))
        if session.implicit:
            remove_session(state, session, "forced")
    promote(state, changed, out)


def _holds_meant(state: State, operation: ForceRelease) -> list[Hold]:
    """Everything that stands on the key, if the named hold is among it. A shared phase has one fence and so goes as one: the floor
    would shut out those who are left. The holds of a semaphore have none, so there a single one can go. The named hold is
    the last to end, so that `previous` tells of it."""
    holds = holds_on(state, operation.key)
    named = [hold for hold in holds if hold.token == operation.token]
    if operation.token is None:
        return holds
    if not named or named[0].terms.limit is not None:
        return named
    return [hold for hold in holds if hold is not named[0]] + named


def _forced_before(state: State, operation: ForceRelease) -> ForceReleased | Refused:
    """The floor must be the same again. Time 0: token 17 is forced out, floor 18, and the answer is lost. Time 1: 19 is granted
    (and perhaps released). Time 2: the operator asks again; a new floor of 20 would shut out 19, who has done nothing wrong,
    and `not_held` would say of what was done that it was refused."""
    key, token = operation.key, operation.token
    if token is None:
        return not_held(None)
    keys, floor = state.history.forced.get(token, ((), 0))
    if key in keys:
        return ForceReleased((token,), floor)
    previous = state.history.previous.get(key)
    return not_held(previous.ended if previous is not None and previous.token == token else None)


def _tell(session: Session, hold: Hold) -> None:
    if session.forced is None:
        session.forced = []
    session.forced.append(hold.token)
    del session.forced[:-FORCED_TOLD_MAX]


def resolve(state: State, origin: Origin, operation: Resolve, out: Out) -> None:
    """Somebody has looked into it: the key is open, and its last hold counts as resolved."""
    refusal = check_intervention(operation)
    if refusal is not None:
        out.append((origin, refusal))
        return
    key, token = operation.key, operation.token
    closure = state.closures.get(key)
    is_closed = closure is not None and closure.token == token
    was_unclean = state.history.resolve(key, token)
    out.append((origin, Resolved(is_closed or was_unclean)))
    if closure is not None and is_closed:
        open_key(state, closure)
    if is_closed or was_unclean:
        nothing = (None, None, None, None, None, None)
        told = ("resolved", state.cluster_time_ms, state.wall_ms, token, (key,), *nothing)
        ended = None if closure is None else closure.ended
        state.trail.append((*told, ended, operation.operator, operation.reason), 1)
        promote(state, (key,), out)
