"""`status --watch`: the cluster, looked at again and again, until somebody ends it.

Rule: whatever a round meets (no leader, no node at all) is shown, and the next round looks again; only the person ends it. On a
terminal one table is drawn over; elsewhere each round is one line, or one line of JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import click
from rich.live import Live
from rich.table import Table
from rich.text import Text

import holdfast
from holdfast.cli.common import connect_cluster, console, print_json
from holdfast.diagnosis import Round, has_majority

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

Answers = dict[str, "holdfast.NodeReport | holdfast.HoldfastError"]


async def watch(endpoints: str, *, seconds: float, rounds: int | None, as_json: bool) -> bool:
    """Whether locks could be granted, as of the last round. `rounds` None: until it is cancelled."""
    screen = console()
    can_grant, number = False, 0
    async with connect_cluster(endpoints) as client:
        with contextlib.ExitStack() as stack:
            live = _live(stack, screen) if screen.is_terminal and not as_json else None
            before: Answers = {}
            while rounds is None or number < rounds:
                if number:
                    await asyncio.sleep(seconds)
                number += 1
                now = await client.reports()
                can_grant = leader_of(now) is not None and has_majority(Round(tuple(_reports(now))))
                if as_json:
                    print_json(as_document(before, now))
                elif live is not None:
                    live.update(table(before, now), refresh=True)
                else:
                    click.echo(line(before, now))
                before = now
    return can_grant


def _live(stack: contextlib.ExitStack, screen: Console) -> Live:
    return stack.enter_context(Live(console=screen, auto_refresh=False))


def leader_of(answers: Answers) -> holdfast.NodeReport | None:
    """Of the highest term, the node that says who leads."""
    known = [each for each in _reports(answers) if each.leader is not None]
    return max(known, key=lambda report: int(report.raw["term"]), default=None)


def rate(before: Answers, now: Answers, name: str) -> float | None:
    """How often a second, over the whole cluster: every node that has applied the log knows. None: it cannot be told yet."""
    for url, report in now.items():
        earlier = before.get(url)
        if isinstance(report, holdfast.NodeReport) and isinstance(earlier, holdfast.NodeReport):
            seconds = report.clock - earlier.clock
            more = report.raw["locks"][name] - earlier.raw["locks"][name]
            if seconds > 0 and more >= 0:  # else it was restarted, and has not caught up
                return float(more / seconds)
    return None


def summary(before: Answers, now: Answers) -> str:
    """What is true of the cluster as a whole."""
    knows = leader_of(now)
    if not _reports(now):
        return "no node answers"
    if not has_majority(Round(tuple(_reports(now)))):
        return "no majority of the nodes is up: nothing is granted"
    if knows is None:
        return "no leader: nothing is granted"
    freshest = max(_reports(now), key=lambda report: int(report.raw["applied_index"]))
    locks = freshest.raw["locks"]
    parts = [
        f"leader {knows.leader}, term {knows.raw['term']}",
        f"{locks['sessions']} sessions, {locks['holds']} holds, {locks['waiters']} waiters",
    ]
    rates = [
        f"{per_second:.1f} {what}/s"
        for name, what in (("grants_total", "grants"), ("expired_total", "expired"))
        if (per_second := rate(before, now, name)) is not None
    ]
    return "; ".join([*parts, *([", ".join(rates)] if rates else [])])


def line(before: Answers, now: Answers) -> str:
    """For a log or a pipe."""
    nodes = [f"{each.node} {_state(each)} lag {_lag(each)}" for each in _reports(now)]
    nodes += [f"{url} {why_silent(error)}" for url, error in _silent(now).items()]
    return "; ".join([summary(before, now), *nodes])


def table(before: Answers, now: Answers) -> Table:
    """For a terminal."""
    drawn = Table(box=None, pad_edge=False, title=summary(before, now), title_justify="left")
    for title in (
        "NODE",
        "STATE",
        "TERM",
        "LAG",
        "APPLIED",
        "SYNC",
        "VERSION",
        "LEVEL",
        "ENDPOINT",
    ):
        drawn.add_column(title, overflow="fold")
    for url, answer in now.items():
        if isinstance(answer, holdfast.NodeReport):
            raw = answer.raw
            drawn.add_row(
                Text(answer.node),
                _state(answer),
                str(raw["term"]),
                _lag(answer),
                str(raw["applied_index"]),
                f"{raw['syncs']['p99_us'] / 1000:.1f} ms",
                Text(answer.version),
                str(raw["format_levels"]["current"]),
                Text(url),
            )
        else:
            drawn.add_row("-", Text(why_silent(answer), style="red"), *("-",) * 6, Text(url))
    return drawn


def as_document(before: Answers, now: Answers) -> dict[str, Any]:
    """For scripts."""
    knows = leader_of(now)
    nodes: dict[str, Mapping[str, Any]] = {
        url: answer.raw if isinstance(answer, holdfast.NodeReport) else {"error": str(answer)}
        for url, answer in now.items()
    }
    return {
        "leader": None if knows is None else knows.leader,
        "term": None if knows is None else knows.raw["term"],
        "grants_per_second": rate(before, now, "grants_total"),
        "expired_per_second": rate(before, now, "expired_total"),
        "endpoints": nodes,
    }


def _reports(answers: Answers) -> list[holdfast.NodeReport]:
    return [each for each in answers.values() if isinstance(each, holdfast.NodeReport)]


def _silent(answers: Answers) -> dict[str, holdfast.HoldfastError]:
    return {url: each for url, each in answers.items() if isinstance(each, holdfast.HoldfastError)}


def why_silent(error: holdfast.HoldfastError) -> str:
    """In a word or two: a node that refuses to tell is not one that is gone."""
    return error.code if isinstance(error, holdfast.Refused) and error.code else "unreachable"


def _state(report: holdfast.NodeReport) -> str:
    if report.leader is None:
        return "no leader"
    state = "leader" if report.leader == report.node else "follower"
    return state if report.ready else f"{state}, not ready"


def _lag(report: holdfast.NodeReport) -> str:
    lag_ms = report.raw["lag_ms"]
    return "unknown" if lag_ms is None else f"{lag_ms} ms"
