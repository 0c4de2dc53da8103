"""What a holder does with its hold besides releasing it: note how far it has come, and complete the work.

Rule: as in `rules.py`. Only an exclusive holder may: of several holders at once none can say that the work is done.
"""

from __future__ import annotations

from .operations import Checkpoint, Complete, Origin
from .outcomes import Checkpointed, Completed, Note, Refused
from .refusals import conflict, not_held, too_many
from .rules import remove_session
from .state import Closure, Hold, Out, State
from .table import close_key, drop_checkpoint, end_hold, promote
from .validation import check_checkpoint, check_complete


def complete(state: State, origin: Origin, operation: Complete, out: Out) -> None:
    """End the hold; its keys stay closed, and whoever asks for them is told the result instead."""
    hold = _hold_of(state, operation.session, operation.token)
    refusal = check_complete(operation)
    if refusal is None and hold is None:
        out.append((origin, _completed_before(state, operation)))
        return
    if refusal is not None or hold is None:
        out.append((origin, refusal or not_held(None)))
        return
    refusal = _not_exclusive(hold) or _no_room_for_result(state, hold, operation.result)
    if refusal is not None:
        out.append((origin, refusal))
        return
    session = state.sessions[hold.session]
    end_hold(state, session, hold, "completed")
    if session.implicit:
        remove_session(state, session, "completed")
    out.append((origin, Completed(hold.token, operation.retain_ms)))
    changed: dict[str, None] = {}
    for key in hold.keys:
        deadline_ms = state.cluster_time_ms + operation.retain_ms
        closure = Closure(key, "done", hold.token, "completed", deadline_ms, operation.result)
        changed.update(close_key(state, closure, out))
    promote(state, changed, out)


def checkpoint(state: State, origin: Origin, operation: Checkpoint, out: Out) -> None:
    """The note replaces the one before; it is read in every later grant of the keys until a hold of theirs ends cleanly."""
    hold = _hold_of(state, operation.session, operation.token)
    refusal = check_checkpoint(operation)
    if refusal is None:
        refusal = _ended_before(state, operation) if hold is None else _not_exclusive(hold)
    if refusal is None and hold is not None and _is_late(state, hold, operation.number):
        out.append((origin, Checkpointed(hold.token)))
        return
    if refusal is None and hold is not None:
        refusal = _no_room_for_note(state, hold, operation.value)
    if refusal is not None or hold is None:
        out.append((origin, refusal or not_held(None)))
        return
    note = Note(hold.token, operation.value, operation.number or 0)
    for key in hold.keys:
        drop_checkpoint(state, key)
        state.checkpoints[key] = note
        state.tally.checkpoint_bytes += len(note.value.encode())
    out.append((origin, Checkpointed(hold.token)))


def _is_late(state: State, hold: Hold, number: int | None) -> bool:
    """Time 0: note 1 is sent to a node that stays silent. Time 1: it is sent again through another, and note 2 after it. Time 2:
    the silent node takes note 1; it must not stand again."""
    note = state.checkpoints.get(hold.keys[0])
    return (
        note is not None and note.token == hold.token and (number or note.number + 1) <= note.number
    )


def _hold_of(state: State, session: str, token: int) -> Hold | None:
    hold = state.holds.get(token)
    return hold if hold is not None and hold.session == session else None


def _ended_before(state: State, operation: Complete | Checkpoint) -> Refused:
    session, ended = state.history.endings.get(operation.token, (None, None))
    return not_held(ended if session == operation.session else None)


def _completed_before(state: State, operation: Complete) -> Completed | Refused:
    """A repeat of what was done is answered as the first time; everything else holds nothing."""
    session, ended = state.history.endings.get(operation.token, (None, None))
    if session != operation.session or ended != "completed":
        return _ended_before(state, operation)
    closures = state.done.get(operation.token)
    if closures is None:
        return Completed(operation.token, 0)
    closure = closures[0]  # one result and one deadline for all the keys that are left
    if closure.result != operation.result:
        return conflict("result", "the work was completed with another result")
    return Completed(operation.token, (closure.deadline_ms or 0) - state.cluster_time_ms)


def _not_exclusive(hold: Hold) -> Refused | None:
    if hold.terms.mode == "exclusive":
        return None
    return conflict("token", "this hold is shared; only an exclusive one can do this")


def _no_room_for_result(state: State, hold: Hold, result: str) -> Refused | None:
    limits, tally = state.limits, state.tally
    if tally.closed["done"] + len(hold.keys) > limits.done_max:
        return too_many("done_max", limits.done_max, "keys remembered as done")
    if tally.done_bytes + len(hold.keys) * len(result.encode()) > limits.done_bytes_max:
        return too_many("done_bytes_max", limits.done_bytes_max, "bytes of remembered results")
    return None


def _no_room_for_note(state: State, hold: Hold, value: str) -> Refused | None:
    limits = state.limits
    replaced = [note for key in hold.keys if (note := state.checkpoints.get(key)) is not None]
    count = len(state.checkpoints) - len(replaced) + len(hold.keys)
    size = state.tally.checkpoint_bytes + len(hold.keys) * len(value.encode())
    size -= sum(len(note.value.encode()) for note in replaced)
    if count > limits.checkpoints_max:
        return too_many("checkpoints_max", limits.checkpoints_max, "keys with a checkpoint")
    if size > limits.checkpoint_bytes_max:
        return too_many("checkpoint_bytes_max", limits.checkpoint_bytes_max, "bytes of checkpoints")
    return None
