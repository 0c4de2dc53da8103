"""A state that was set back to an earlier one, made fit to be gone on from: the next incarnation of a cluster.

What happened after the backup is not known here, but it did happen: tokens were granted, holds ended, callers were told. So:

* Tokens, fences of shared phases and revisions go on above everything that the incarnation before can ever have given.
* What was remembered as having ended cleanly is forgotten, and the horizon says so: a later hold of that key may have ended
  otherwise. What ended uncleanly, or is closed, stays so.
* Whoever waited has gone, and who speaks for a node (`origins`) begins anew: the nodes start with boot 1.
* A session that is kept has its whole lease before it; holds that are not kept end as if their session had expired.

Rule: pure, and the same on every node: what it makes of a state depends on the arguments alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .limits import INCARNATION_BITS
from .outcomes import UNCLEAN
from .rules import end_session, withdraw_everybody
from .state import Out, Phase, State

if TYPE_CHECKING:
    from .machine import Machine

INCARNATION_MAX: Final = (1 << 53 - INCARNATION_BITS) - 1
"""Tokens stay below 2^53, so that readers of JSON keep them exact: a cluster can be restored 8,191 times."""


def incarnation_of(machine: Machine) -> int:
    """0 for a cluster that was never restored."""
    return machine.last_token >> INCARNATION_BITS


def begin_incarnation(machine: Machine, incarnation: int, *, keep_holds: bool) -> None:
    """Change the state in place. Raises ValueError if tokens could repeat, or would leave the numbers there are."""
    if not incarnation_of(machine) < incarnation <= INCARNATION_MAX:
        raise ValueError(
            f"incarnation {incarnation} is not above {incarnation_of(machine)}, or above {INCARNATION_MAX}"
        )
    state = machine.state
    first = incarnation << INCARNATION_BITS
    state.last_token = first
    state.last_term = None
    state.origins.last.clear()
    state.wall_ms = _last_wall_ms(state)
    state.trail.begin_again(first + 1)
    out: Out = []
    withdraw_everybody(state, out)
    _forget_clean_ends(state, first)
    if keep_holds:
        _lease_anew(state)
        _raise_fences(state, first)
    else:
        for session in list(state.sessions.values()):
            state.totals.expired_sessions += 1
            end_session(state, session, "expired", out)


def _last_wall_ms(state: State) -> int:
    """What is written into the records of the ends that a restore brings about: nobody's clock is asked for it."""
    trail = state.trail
    last = (
        trail.read(trail.last_revision - 1, 1)
        if trail.last_revision >= trail.first_revision
        else []
    )
    return last[0].wall_ms if last else 0


def _forget_clean_ends(state: State, horizon: int) -> None:
    history = state.history
    history.previous = {
        key: previous for key, previous in history.previous.items() if previous.ended in UNCLEAN
    }
    history.horizon = horizon
    history.rebuild_heap()


def _lease_anew(state: State) -> None:
    for session in state.sessions.values():
        session.deadline_ms = state.cluster_time_ms + session.ttl_ms


def _raise_fences(state: State, fence: int) -> None:
    """time 0: the backup, with a reader of phase 3; time 1: it goes, a writer gets token 9, and the resource remembers 9; time 2:
    the restore keeps the reader; time 3: a second reader joins its phase. With fence 3 it would be refused, though it is new."""
    for stands in state.standing.values():
        if isinstance(stands, Phase):
            stands.fence = fence
