"""A closed key as others may see it: in a refusal, and in a list. Lookups only."""

from __future__ import annotations

from .outcomes import ClosedView
from .state import Closure, State


def closed_view(state: State, closure: Closure) -> ClosedView:
    remaining_ms = None
    if closure.deadline_ms is not None:
        remaining_ms = max(0, closure.deadline_ms - state.cluster_time_ms)
    return ClosedView(
        closure.key, closure.by, closure.token, closure.ended, remaining_ms, closure.result
    )


def unclean_view(state: State, key: str) -> ClosedView:
    """A key that is open, for those who do not mind how its last hold ended. The caller has seen that it ended uncleanly."""
    previous = state.history.previous[key]
    return ClosedView(key, "in_doubt", previous.token, previous.ended, None)
