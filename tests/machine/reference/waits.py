"""Who waits for whom, all of it at once: the whole relation is written down anew for each question and followed to its end.

Rule: a request waits for every request ahead of it in a queue of its own; for a hold that it cannot share a key with; and a task
waits for whatever any of its requests waits for. A task is a session and a context. Permits of a semaphore with more than
one are nobody's in particular, so its holds are waited for by nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .records import ModelRequest

if TYPE_CHECKING:
    from holdfast_coordinator.machine import Blocked

    from .table import Table


class Step(NamedTuple):
    """`who` waits at `key` for the hold `token` (None: for its place in the queue), that is, for `whom`."""

    who: ModelRequest
    key: str
    token: int | None
    whom: ModelRequest


def steps(table: Table, asked: ModelRequest) -> list[Step]:
    """Every wait there is, if `asked` stood at the end of its queues."""
    waiting = [*table.waiting(), asked]
    found = []
    for place, who in enumerate(waiting):
        for key in who.keys:
            ahead = [other for other in waiting[:place] if key in other.keys]
            found += [Step(who, key, None, other) for other in ahead]
            for hold in table.holding(key):
                exclusive = "exclusive" in (who.terms.mode, hold.terms.mode)
                if exclusive or hold.terms.limit == 1:
                    found.append(Step(who, key, hold.token, hold))
    return found


def closes_a_circle(table: Table, asked: ModelRequest) -> bool:
    """Whether `asked` would wait, over however many steps, for a hold of its own task."""
    if asked.context is None:
        return False
    relation = steps(table, asked)
    reached = [asked]
    for who in reached:  # grows while it is read
        for step in relation:
            if step.who is not who:
                continue
            if step.token is None:
                following = [step.whom]
            elif step.whom.context is None:
                following = []
            elif _task(step.whom) == _task(asked):
                return True
            else:
                following = [each for each in table.waiting() if _task(each) == _task(step.whom)]
            reached += [each for each in following if each not in reached]
    return False


def is_a_circle(relation: list[Step], asked: ModelRequest, cycle: tuple[Blocked, ...]) -> bool:
    """Whether this answer tells a true story: each step is a wait that there is, leads to the next, and the last one back. A
    hold may be named by whoever stands behind the one that waits for it in the queue of the same key."""
    through = [
        Step(behind.who, behind.key, ahead.token, ahead.whom)
        for behind in relation
        for ahead in relation
        if behind.token is None and ahead.who is behind.whom and ahead.key == behind.key
    ]
    relation = relation + [step for step in through if step.token is not None]
    if not cycle or (cycle[0].session, cycle[0].context) != _task(asked):
        return False
    following = [*((each.session, each.context) for each in cycle[1:]), _task(asked)]
    return all(
        any(
            _task(step.who) == (told.session, told.context)
            and step.who.owner == told.owner
            and (step.key, step.token) == (told.key, told.token)
            and _task(step.whom) == then
            for step in relation
        )
        for told, then in zip(cycle, following, strict=True)
    )


def _task(request: ModelRequest) -> tuple[str, str | None]:
    return request.session, request.context
