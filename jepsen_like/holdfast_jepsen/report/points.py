"""Where in time each operation can have taken effect; and, where no order explains a key, the shortest beginning of its history
that none explains.

Rule: pure; every answer is the checker's. An order becomes points: each operation as early as its call and its predecessors allow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from holdfast_jepsen.checker import linearizability
from holdfast_jepsen.history import History

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast_jepsen.history.history import Operation

STEPS_MAX = 200_000
"""Of one search for a picture: it is repeated for each bisection, and a picture is not worth more."""

Points = list[tuple["Operation", int]]
"""(operation, nanoseconds of the run at which it can have taken effect), in that order."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """The shortest beginning of one key's history that no order explains. `points` explain it without the answer of `last`, in
    which `last` may be anything; with that answer nothing does."""

    key: str
    operations: tuple[Operation, ...]
    last: Operation
    points: Points


def points_of(history: History) -> dict[str, Points]:
    """By key; keys that no order explains (or for which the search was given up) are missing."""
    found = {}
    for verdict in linearizability.check(history, steps_max=STEPS_MAX):
        if verdict.answer == "ok":
            found[verdict.key] = spread(verdict.order)
    return found


def spread(order: Sequence[Operation]) -> Points:
    """As early as possible."""
    points: Points = []
    at = 0
    for operation in order:
        at = max(at, operation.called)
        points.append((operation, at))
    return points


def smallest_illegal_prefix(history: History, key: str) -> Prefix | None:
    """None: the whole history of `key` is not shown to be illegal within the bound."""
    mine = [
        each
        for each in history.operations
        if key in each.keys and each.kind not in linearizability.ENDS
    ]
    answers = sorted(each.returned for each in mine if each.returned is not None)
    if not answers or _answer(history, key, answers[-1]).answer != "illegal":
        return None
    low, high = -1, len(answers) - 1  # legal up to low, illegal up to high
    while high - low > 1:
        middle = (low + high) // 2
        if _answer(history, key, answers[middle]).answer == "illegal":
            high = middle
        else:
            low = middle
    at = answers[high]
    last = next(each for each in mine if each.returned == at)
    explained = _answer(history, key, at - 1)
    shown = tuple(each for each in mine if each.called < at)
    return Prefix(key, shown, last, spread(explained.order))


def _answer(history: History, key: str, at: int) -> linearizability.Verdict:
    verdicts = linearizability.check(_until(history, key, at), steps_max=STEPS_MAX)
    return next((each for each in verdicts if each.key == key), linearizability.Verdict("ok", key))


def _until(history: History, key: str, at: int) -> History:
    """What was known of one key at this moment: later answers are not there yet."""
    known = []
    for each in history.operations:
        if each.called >= at or (each.kind not in linearizability.ENDS and key not in each.keys):
            continue
        if each.kind in linearizability.ENDS or (each.returned is not None and each.returned <= at):
            known.append(each)
            continue
        token = 0 if each.kind == "acquire" else each.token
        known.append(
            replace(
                each, returned=None, result="unknown", token=token, holders=(), fences=(), done=0
            )
        )
    return History(known, history.leases)
