"""What must be true of the state after every entry, checked from the outside.

Rule: a check reads everything and trusts no index: each index is compared with what it indexes. It costs time in proportion
to the state, so tests and the simulator run it after every apply, and production only behind a switch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import quotas
from .deadlines import CLOSURE, SESSION, WAIT
from .limits import DEADLINES_SLACK, INCARNATION_TOKENS_MAX
from .outcomes import UNCLEAN
from .state import Closure, Hold, Phase, Session, State, Tally
from .table import is_joinable
from .trail import chain

if TYPE_CHECKING:
    from .machine import Machine


class InvariantViolation(AssertionError):
    """The machine has a defect: stop, keep the log, and replay it."""


def check_invariants(machine: Machine) -> None:
    """Raise `InvariantViolation` at the first thing that is not as it must be."""
    state = machine.state
    _check_holds(state)
    _check_standing(state)
    _check_closures(state)
    _check_waiters(state)
    _check_nobody_is_stranded(state)
    for session in state.sessions.values():
        _check_session(state, session)
    _check_deadlines(state)
    _check_history(state)
    _check_tally(state)
    _check_trail(state)
    _check_limits(state)


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise InvariantViolation(sentence)


def _check_holds(state: State) -> None:
    last = 0
    for token, hold in state.holds.items():
        _require(token == hold.token and hold.ended is None, f"hold {token} lasts under its token")
        _require(token > last, f"hold {token} is entered in the order of tokens")
        _require(hold.session in state.sessions, f"the session of hold {token} is open")
        session = state.sessions[hold.session]
        _require(session.holds.get(token) is hold, f"the session of hold {token} knows it")
        for key in hold.keys:
            stands = state.standing.get(key)
            if hold.terms.mode == "exclusive":
                _require(stands is hold, f"hold {token} stands alone on its keys (G1)")
            else:
                shares = isinstance(stands, Phase) and stands.holds.get(token) is hold
                _require(shares, f"hold {token} stands in the phases of its keys")
        last = token
    _require(last <= state.last_token, "no hold has a token of the future (G2)")
    _require(state.last_token & INCARNATION_TOKENS_MAX >= 0, "tokens count up")


def _check_standing(state: State) -> None:
    for key, stands in state.standing.items():
        if isinstance(stands, Hold):
            living = state.holds.get(stands.token) is stands and key in stands.keys
            _require(living, "what stands on a key is held")
        elif isinstance(stands, Phase):
            _check_phase(state, key, stands)
        else:
            _require(state.closures.get(key) is stands, "a closure is known by its key")


def _check_phase(state: State, key: str, phase: Phase) -> None:
    _require(len(phase.holds) > 0, "an empty phase is dropped")
    within = phase.limit is None or len(phase.holds) <= phase.limit
    _require(within, "a phase is within its limit (G1)")
    # A restore raises the fence of the phases that it keeps to the beginning of its incarnation.
    carried_over = phase.fence & INCARNATION_TOKENS_MAX == 0
    opened = phase.fence <= min(phase.holds) or carried_over
    _require(opened, "a phase was opened by its first hold")
    for token, hold in phase.holds.items():
        living = state.holds.get(token) is hold and key in hold.keys
        _require(living and hold.terms.mode == "shared", "a phase is of living shared holds")
        _require(hold.terms.limit == phase.limit, "one limit belongs to a key")


def _check_closures(state: State) -> None:
    for key, closure in state.closures.items():
        _require(key == closure.key and state.standing.get(key) is closure, "a closure stands")
        timeless = closure.deadline_ms is None
        _require(timeless == (closure.by == "in_doubt"), "doubt has no deadline, the rest has one")
        if closure.deadline_ms is not None:
            _require(closure.deadline_ms > state.cluster_time_ms, "a closure has time left")
        done = closure.by == "done"
        _require(done == (closure.ended == "completed"), "what is done was completed")
        _require(done or closure.ended in UNCLEAN, "what is closed otherwise ended uncleanly")
        if closure.by != "delay":
            _require(key not in state.queues, "nobody waits for what time alone does not open")
    by_token: dict[int, list[Closure]] = {}
    for closure in state.closures.values():
        if closure.by == "done":
            by_token.setdefault(closure.token, []).append(closure)
    found = {token: list(closures) for token, closures in state.done.items()}
    _require(found == by_token, "every result is found by its token")
    for note in state.checkpoints.values():
        _require(note.token <= state.last_token, "a checkpoint was written by a holder")


def _check_waiters(state: State) -> None:
    for number, waiter in state.waiters.items():
        _require(number == waiter.number < state.next_waiter, f"waiter {number} has its number")
        session = state.sessions.get(waiter.session)
        _require(session is not None, f"the session of waiter {number} is open")
        known = session is not None and (session.waiters or {}).get(number) is waiter
        _require(known, f"the session of waiter {number} knows it")
        attached = state.attachments.get(waiter.attachment) is waiter
        _require(attached, f"the attachment of waiter {number} leads to it")
        for key in waiter.keys:
            queued = key in state.queues and state.queues[key].get(number) is waiter
            _require(queued, f"waiter {number} stands in the queue of each key")
        _require(waiter.deadline_ms > state.cluster_time_ms, f"waiter {number} has time left")
    _require(len(state.attachments) == len(state.waiters), "one attachment leads to one waiter")
    queued_total = 0
    for key, queue in state.queues.items():
        _require(len(queue) > 0, "an empty queue is dropped")
        _require(list(queue) == sorted(queue), "a queue is in the order of the log (G5)")
        limits = {waiter.terms.limit for waiter in queue.values()}
        stands = state.standing.get(key)
        if isinstance(stands, Hold | Phase):
            limits.add(stands.limit if isinstance(stands, Phase) else None)
        _require(len(limits) == 1, "one limit belongs to a key in use")
        queued_total += len(queue)
    _require(queued_total == state.tally.keys_waited, "queues hold living waiters only")


def _check_nobody_is_stranded(state: State) -> None:
    """A waiter that could be granted has been granted: the head of all its queues is blocked by what stands on a key."""
    if state.last_token & INCARNATION_TOKENS_MAX == INCARNATION_TOKENS_MAX:
        return
    for number, waiter in state.waiters.items():
        blocked = any(
            next(iter(state.queues[key])) != number
            or (
                (stands := state.standing.get(key)) is not None
                and not is_joinable(stands, waiter.terms)
            )
            for key in waiter.keys
        )
        _require(blocked, f"waiter {number} waits for something")


def _check_session(state: State, session: Session) -> None:
    name = f"session at {session.deadline_ms}"
    _require(state.sessions.get(session.id) is session, f"{name} has its id")
    _require(session.id not in state.history.ended_sessions, f"{name} is open or ended, not both")
    if session.deadline_ms is None:
        waits = session.implicit and len(session.waiters or {}) == 1 and not session.holds
        _require(waits, f"{name}: only an implicit session that waits has no lease")
    else:
        _require(session.deadline_ms > state.cluster_time_ms, f"{name} has lease left (G4)")
        if session.implicit:
            _require(len(session.holds) == 1, f"{name}: an implicit session is its one hold")
    for token, hold in session.holds.items():
        _require(state.holds.get(token) is hold, f"{name} holds what the table knows")
    for number, waiter in (session.waiters or {}).items():
        _require(state.waiters.get(number) is waiter, f"{name} waits where the table knows")
    tasks: dict[str, int] = {}
    for hold in session.holds.values():
        if hold.context is not None:
            tasks[hold.context] = tasks.get(hold.context, 0) + 1
    _require(tasks == (session.tasks or {}), f"{name} counts the holds of its tasks")
    if session.requests is not None:
        _check_requests(state, session)


def _check_requests(state: State, session: Session) -> None:
    book = session.requests
    if book is None:
        return
    integers = sorted(name for name in book.by_id if isinstance(name, int))
    _require(integers == book.integer_ids, "integer request ids are indexed in order")
    _require(not integers or integers[0] > book.settled, "what is settled is forgotten")
    for name, request in book.by_id.items():
        outcomes = (request.waiter, request.hold, request.refused)
        one = sum(outcome is not None for outcome in outcomes) == 1
        _require(one, "a request has one outcome (G6)")
        if request.waiter is not None:
            number = request.waiter.number
            living = state.waiters.get(number) is request.waiter
            _require(living and request.waiter.request_id == name, "a waiting request waits")
        if request.hold is not None and request.hold.ended is None:
            living = state.holds.get(request.hold.token) is request.hold
            _require(living, "a granted request knows its hold")


def _check_deadlines(state: State) -> None:
    heap = state.deadlines.heap
    current = 0
    for scheduled_ms, kind, name in heap:
        if kind == SESSION and isinstance(name, str):
            session = state.sessions.get(name)
            current += session is not None and session.scheduled_ms == scheduled_ms
        elif kind == WAIT and isinstance(name, int):
            waiter = state.waiters.get(name)
            current += waiter is not None and waiter.scheduled_ms == scheduled_ms
        elif kind == CLOSURE and isinstance(name, str):
            closure = state.closures.get(name)
            current += closure is not None and closure.scheduled_ms == scheduled_ms
    leases = sum(session.deadline_ms is not None for session in state.sessions.values())
    timed = sum(closure.deadline_ms is not None for closure in state.closures.values())
    expected = leases + len(state.waiters) + timed
    _require(current >= expected, "everything that lives has a deadline in the heap")
    living = len(state.sessions) + len(state.waiters) + len(state.closures)
    bound = 2 * living + DEADLINES_SLACK
    _require(len(heap) <= bound, "left-over deadlines are swept")


def _check_history(state: State) -> None:
    history = state.history
    tokens = [previous.token for previous in history.previous.values()]
    _require(all(token <= state.last_token for token in tokens), "previous holds had tokens")
    _require(history.horizon <= state.last_token, "the horizon lies in the past")
    remembered = sorted(token for token, _ in history.previous_heap)
    _require(len(remembered) >= len(tokens), "every previous hold can be dropped")
    _require(list(history.endings) == list(history.ending_order), "endings are kept in order")
    forced = {token for token, (_, how) in history.endings.items() if how == "forced"}
    _require(set(history.forced) == forced, "the floor of a forced hold is known while its end is")
    ended = list(history.ended_sessions) == list(history.ended_order)
    _require(ended, "ended sessions are kept in order")
    _require(all(token not in state.holds for token in history.endings), "what ended has ended")


def _check_tally(state: State) -> None:
    """Counted again from the records."""
    tally = state.tally
    waiters = state.waiters.values()
    _require(tally.keys_waited == sum(len(each.keys) for each in waiters), "keys waited for")
    several = sum(len(each.keys) > 1 for each in waiters)
    _require(tally.waiters_of_several == several, "waiters of several keys are counted")
    closed = Tally().closed
    for closure in state.closures.values():
        closed[closure.by] += 1
    _require(tally.closed == closed, "closures are counted by kind")
    results = (closure.result or "" for closure in state.closures.values())
    _require(tally.done_bytes == sum(len(each.encode()) for each in results), "bytes of results")
    notes = sum(len(note.value.encode()) for note in state.checkpoints.values())
    _require(tally.checkpoint_bytes == notes, "bytes of checkpoints are counted")
    counted = (tally.quota_sessions, tally.quota_holds, tally.quota_waiters)
    _require(counted == quotas.counted_again(state), "quotas are counted")


def _check_trail(state: State) -> None:
    trail = state.trail
    before, following = trail.before, trail.first_revision
    for block in trail.blocks:
        _require(block.first == following, "blocks follow each other")
        _require(block.hash == chain(before, block.first, block.packed), "blocks are chained")
        before, following = block.hash, block.first + block.length
    named = sum(len(raw[4]) for raw in trail.open)
    _require(trail.open_keys == named, "the keys of the open block are counted")
    _require(trail.open_first == following, "the open block follows the last full one")
    _require(trail.size == sum(len(block.packed) for block in trail.blocks), "its size is counted")


def _check_limits(state: State) -> None:
    limits, history = state.limits, state.history
    _require(len(state.sessions) <= limits.sessions_max, "sessions_max")
    keys = len(state.standing) + state.tally.keys_waited
    _require(keys <= limits.keys_held_max, "keys_held_max")
    _require(len(state.waiters) <= limits.waiters_max, "waiters_max")
    longest = max((len(queue) for queue in state.queues.values()), default=0)
    _require(longest <= limits.waiters_per_key_max, "waiters_per_key_max")
    _require(state.tally.closed["done"] <= limits.done_max, "done_max")
    _require(state.tally.done_bytes <= limits.done_bytes_max, "done_bytes_max")
    _require(len(state.checkpoints) <= limits.checkpoints_max, "checkpoints_max")
    _require(state.tally.checkpoint_bytes <= limits.checkpoint_bytes_max, "checkpoint_bytes_max")
    _require(len(state.trail.blocks) <= limits.trail_blocks_max, "trail_blocks_max")
    _require(state.trail.size <= limits.trail_bytes_max, "trail_bytes_max")
    _require(len(history.previous) <= limits.previous_max, "previous_max")
    _require(len(history.endings) <= limits.endings_max, "endings_max")
    _require(len(history.ended_sessions) <= limits.ended_sessions_max, "ended_sessions_max")
    for session in state.sessions.values():
        remembered = 0 if session.requests is None else len(session.requests.by_id)
        _require(remembered <= limits.request_ids_per_session_max, "request_ids_per_session_max")
