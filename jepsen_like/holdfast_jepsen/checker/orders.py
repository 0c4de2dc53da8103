"""Two checks that need no search: tokens against real time over all keys, and beliefs of clients.

Rule: pure; each returns sentences, none if all is well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast_jepsen.history import Belief, History

SECOND = 1_000_000_000


def token_order(history: History) -> list[str]:
    """A grant that returned before another was asked for has the smaller token, whatever the keys."""
    grants = [
        each
        for each in history.operations
        if each.kind == "acquire" and each.result == "ok" and each.returned is not None
    ]
    by_call = sorted(grants, key=lambda grant: grant.called)
    by_return = sorted(grants, key=lambda grant: grant.returned or 0)
    found, highest, position = [], 0, 0
    for grant in by_call:
        while (by_return[position].returned or 0) < grant.called:
            highest = max(highest, by_return[position].token)
            position += 1
        if grant.token <= highest:
            found.append(f"{grant.process} got token {grant.token} after {highest} was known")
    return found


def beliefs(history: History) -> list[str]:
    """No two clients trust at one moment that they hold one key, if one of them holds it alone (G3)."""
    by_key: dict[str, list[Belief]] = {}
    for belief in history.beliefs:
        by_key.setdefault(belief.key, []).append(belief)
    found = []
    for key in sorted(by_key):
        longest: dict[bool, Belief] = {}  # the one that lasts longest so far, alone and shared
        for belief in sorted(by_key[key], key=lambda each: (each.begun, each.token)):
            rivals = [longest.get(True)] + ([longest.get(False)] if belief.alone else [])
            for last in rivals:
                if last is None or belief.begun >= last.ended or belief.token == last.token:
                    continue
                found.append(
                    f"at {belief.begun / SECOND:.3f} s tokens {last.token} and {belief.token} were both "
                    f"trusted to hold {key}, for {(min(last.ended, belief.ended) - belief.begun) / SECOND:.3f} s"
                )
            before = longest.get(belief.alone)
            if before is None or belief.ended > before.ended:
                longest[belief.alone] = belief
    return found
