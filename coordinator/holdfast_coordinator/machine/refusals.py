"""The refusals that more than one rule gives, each built in one place so that code and wording agree everywhere.

Rule: constructors only. Which refusal applies is decided by the rules.
"""

from __future__ import annotations

from holdfast.wire import Code

from .outcomes import Blocked, ClosedView, Ended, Holder, Refused


def bad_request(field: str, detail: str) -> Refused:
    return Refused(Code.BAD_REQUEST, detail, field=field)


def too_many(limit: str, maximum: int, what: str) -> Refused:
    return Refused(Code.LIMIT_REACHED, f"the limit of {maximum} {what} is reached", limit=limit)


def conflict(field: str, detail: str) -> Refused:
    return Refused(Code.CONFLICT, detail, field=field)


def held(holders: tuple[Holder, ...], queue_length: int) -> Refused:
    return Refused(
        Code.HELD, "a key is held or waited for", holders=holders, queue_length=queue_length
    )


def closed(view: ClosedView) -> Refused:
    """Nobody holds the key, and it is not granted. The three ways of being closed are three codes: what to do differs."""
    match view.by:
        case "delay":
            detail = (
                f"the key stays closed for a while: its last hold ended uncleanly ({view.ended})"
            )
            return Refused(Code.CLOSED, detail, closed=view)
        case "in_doubt":
            detail = f"the last hold of the key ended uncleanly ({view.ended}); look into it, then resolve it"
            return Refused(Code.IN_DOUBT, detail, closed=view)
        case "done":
            return Refused(Code.ALREADY_DONE, "this work was completed", closed=view)


def deadlock(cycle: tuple[Blocked, ...]) -> Refused:
    return Refused(Code.DEADLOCK, "waiting for this would close a circle of waits", cycle=cycle)


def not_held(ended: Ended | None) -> Refused:
    if ended is None:
        return Refused(Code.NOT_HELD, "this session holds nothing under this token")
    return Refused(Code.NOT_HELD, f"the hold has ended: {ended}", ended=ended)


def session_ended(ended: Ended) -> Refused:
    how = {"expired": "has expired", "forced": "was ended by an operator"}.get(ended, "was closed")
    return Refused(Code.SESSION_EXPIRED, f"the session {how}; all it held has ended", ended=ended)


def no_such_session() -> Refused:
    return Refused(Code.NO_SUCH_SESSION, "no session of this id is open", field="session")


def wait_ended(detail: str) -> Refused:
    return Refused(Code.WAIT_TIMEOUT, detail)
