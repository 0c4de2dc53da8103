"""What a refused acquire says besides "somebody has it": done, in doubt, closed, a deadlock.

Rule: pure; the answer of a node becomes the exception that says what to do. Keys are named as the request named them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from holdfast.closed import closure_of, cycle_of
from holdfast.errors import AlreadyDone, Deadlock, InDoubt, KeyClosed, NotAcquired
from holdfast.wire import Code

CLOSED_CODES: Final = frozenset({Code.CLOSED, Code.IN_DOUBT, Code.ALREADY_DONE})


def why_not(code: str, body: Mapping[str, Any], keys: tuple[str, ...]) -> NotAcquired | None:
    """The exception for one of these codes; None for every other."""
    if code == Code.DEADLOCK:
        cycle = cycle_of(body.get("cycle"))
        told = f"{_names(keys)}: waiting would close a circle of {len(cycle)} tasks"
        return Deadlock(told, keys=keys, cycle=cycle)
    if code not in CLOSED_CODES:
        return None
    closed = closure_of(body.get("closed"))
    if code == Code.IN_DOUBT:
        by = "" if closed is None else f": its last hold (token {closed.token}) {closed.ended}"
        return InDoubt(f"{_names(keys)} is in doubt{by}", keys=keys, closed=closed)
    if closed is None:  # a node that does not say why: still nobody got the lock
        return NotAcquired(f"{_names(keys)} was not acquired: {code}", keys=keys, code=code)
    if code == Code.ALREADY_DONE:
        return AlreadyDone(f"{closed.key!r} is done already", keys=keys, closed=closed)
    left = closed.remaining or 0.0
    return KeyClosed(
        f"{closed.key!r} stays closed for another {left:.1f} s after an unclean end",
        keys=keys,
        closed=closed,
    )


def _names(keys: tuple[str, ...]) -> str:
    return ", ".join(map(repr, keys)) or "the lock"
