"""Checks that need no search: tokens against real time over all keys, the order of those who wait, refusals, how long
sessions last, and beliefs of clients.

Rule: pure; each returns sentences, none if all is well.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from holdfast_jepsen.checker.linearizability import Timeline

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast_jepsen.history import Belief, History, Operation

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


def first_come_first_served(history: History) -> list[str]:
    """Whoever was asked for when another one certainly waited for one of its keys already has the larger token (G5).

    Only what is certain is judged: a wait counts from when its place in the log was known until its grant, and an acquire may have
    entered the log at any time after its call.
    """
    found = []
    latest: dict[str, Operation] = {}  # of the grants so far, the one that was asked for last
    grants = [each for each in history.operations if each.kind == "acquire" and each.result == "ok"]
    for grant in sorted(grants, key=lambda each: each.token):
        for key in grant.keys:
            before = latest.get(key)
            if before is not None and grant.queued is not None and before.called > grant.queued:
                found.append(
                    f"{before.process} asked for {key} when {grant.process} had waited for it since {grant.queued / SECOND:.3f} s, "
                    f"and got token {before.token} before it, which got {grant.token}"
                )
            if before is None or grant.called > before.called:
                latest[key] = grant
    return found


def nothing_happened(
    history: History, granted: Mapping[int, tuple[str, tuple[str, ...]]]
) -> list[str]:
    """Whoever was told that an acquire took no effect was told the truth (G9): every grant of the log is that of an acquire
    that was answered with it, or of one whose outcome is unknown. `granted`: by token, the session and the keys."""
    acquires = [each for each in history.operations if each.kind == "acquire"]
    known = {each.token for each in acquires if each.result == "ok"}
    unknown = Counter((each.session, each.keys) for each in acquires if each.result == "unknown")
    found = []
    for token in sorted(granted.keys() - known):
        unknown[granted[token]] -= 1
        if unknown[granted[token]] < 0:
            session, keys = granted[token]
            found.append(
                f"token {token} was granted to session {session} on {', '.join(keys)}, which was told of no acquire that it was"
            )
    return found


def sessions_last(history: History) -> list[str]:
    """No call is refused for a session that has ended before its last acknowledged lease can have (G4), unless it was closed."""
    ends = Timeline.of(history).by_session
    found = []
    for each in history.operations:
        if each.kind == "told over" and (end := ends.get(each.session, 0)) > (each.returned or 0):
            early = (end - (each.returned or 0)) / SECOND
            found.append(
                f"{each.process} was told at {(each.returned or 0) / SECOND:.3f} s that its session was over, {early:.3f} s early"
            )
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
