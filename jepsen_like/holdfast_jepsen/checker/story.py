"""What watchers were told, against what clients were answered.

Rule: pure; returns sentences, none if all is well. The story may lack what happened last, and what is no longer kept; within what
it has, every answered grant, release and completion is told once, with its keys, and tokens are granted in rising order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast_coordinator.machine import Record
    from holdfast_jepsen.history import History

ENDED = {"release": "released", "complete": "completed"}


def check(history: History, story: Mapping[int, Record]) -> list[str]:
    """`story`: each revision that a watcher saw."""
    found: list[str] = []
    granted: dict[int, Record] = {}
    ended: dict[int, Record] = {}
    highest = 0
    for revision in sorted(story):
        record = story[revision]
        if record.kind == "granted":
            if record.token <= highest:
                found.append(f"{revision}: token {record.token} was granted after {highest}")
            highest = max(highest, record.token)
            granted[record.token] = record
        elif record.kind == "ended":
            if record.token in ended:
                found.append(f"{revision}: token {record.token} ended a second time")
            ended[record.token] = record
    # What was asked for when an end had been answered already stands behind that end: who knows of the grant knows of the end.
    told_until = max(
        (
            each.called
            for each in history.operations
            if each.kind == "acquire" and each.result == "ok" and each.token in granted
        ),
        default=0,
    )
    for each in history.operations:
        if each.result != "ok":
            continue
        if each.kind == "acquire" and each.token <= highest:
            told = granted.get(each.token)
            if told is None or told.keys != each.keys:
                found.append(f"token {each.token} was granted, and watchers were told {told}")
        how = ENDED.get(each.kind)
        if how is None or each.token not in granted or each.returned is None:
            continue
        told = ended.get(each.token)
        if told is None and each.returned < told_until:
            found.append(f"token {each.token} was {how}, and watchers were not told")
        elif told is not None and told.ended != how:
            found.append(f"token {each.token} was {how}, and watchers were told {told.ended}")
    return found
