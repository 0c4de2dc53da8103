"""`status`, `ls` and `show`: the commands that look and change nothing. Every read is linearizable unless it says otherwise."""

from __future__ import annotations

from typing import Any, Literal

import click
from rich.table import Table
from rich.text import Text

import holdfast
from holdfast import wire
from holdfast.cli import exit_codes, live
from holdfast.cli.common import (
    connect,
    console,
    endpoints_option,
    json_option,
    print_json,
    run,
    say,
)
from holdfast.cli.sentences import lock_lines


@click.command(short_help="How the cluster is: who leads, who answers, who lags.")
@click.option("--watch", "-w", is_flag=True, help="Look again and again, with rates, until Ctrl-C.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Between two looks, with --watch.",
)
@click.option("--rounds", type=click.IntRange(1), help="Stop after so many looks, with --watch.")
@endpoints_option
@json_option
def status(watch: bool, seconds: float, rounds: int | None, endpoints: str, as_json: bool) -> None:
    """Ask every node how it sees the cluster.

    \b
    Exit codes: 0 some node knows a leader; 69 none does, or none answered: no lock can be granted now.
    """
    if watch:
        again = live.watch(endpoints, seconds=seconds, rounds=rounds, as_json=as_json)
        if not run(again):
            raise click.exceptions.Exit(exit_codes.UNREACHABLE)
        return
    views = run(_statuses(endpoints))
    answers = {url: view for url, view in views.items() if isinstance(view, holdfast.ClusterInfo)}
    best = max(
        answers.values(), key=lambda view: (view.leader is not None, view.term), default=None
    )
    if as_json:
        print_json(_status_json(views, best))
    else:
        _print_status(views, best)
    if best is None or best.leader is None:
        say(
            "no node answered"
            if best is None
            else "no leader: the nodes that answer have not elected one"
        )
        raise click.exceptions.Exit(exit_codes.UNREACHABLE)


Views = dict[str, "holdfast.ClusterInfo | holdfast.HoldfastError"]


async def _statuses(endpoints: str) -> Views:
    async with connect(endpoints) as client:
        return await client.statuses()


def _status_json(views: Views, best: holdfast.ClusterInfo | None) -> dict[str, Any]:
    return {
        "leader": best.leader if best else None,
        "term": best.term if best else None,
        "endpoints": {
            url: view.raw if isinstance(view, holdfast.ClusterInfo) else {"error": str(view)}
            for url, view in views.items()
        },
    }


def _print_status(views: Views, best: holdfast.ClusterInfo | None) -> None:
    if best is not None:
        click.echo(f"leader {best.leader or 'unknown'}, term {best.term}")
    table = Table(box=None, pad_edge=False)
    for title in ("ENDPOINT", "NODE", "STATE", "APPLIED", "COMMITTED"):
        table.add_column(title, overflow="fold")
    for url, view in views.items():
        if isinstance(view, holdfast.ClusterInfo):
            state = next((node.state for node in view.nodes if node.name == view.node), "unknown")
            numbers = (str(view.applied_index), str(view.commit_index))
            table.add_row(Text(url), Text(view.node), state, *numbers)
        else:
            table.add_row(Text(url), "-", "unreachable", "-", "-")
    console().print(table)
    for view in views.values():
        if isinstance(view, holdfast.HoldfastError):
            say(str(view))


@click.command(short_help="The locks that are held or waited for.")
@click.argument("prefix", default="")
@click.option(
    "--limit",
    type=click.IntRange(1, wire.LIST_LIMIT_MAX),
    default=100,
    show_default=True,
    help="How many at most.",
)
@click.option("--after", metavar="KEY", help="Go on after this key (where the last list ended).")
@endpoints_option
@json_option
def ls(prefix: str, limit: int, after: str | None, endpoints: str, as_json: bool) -> None:
    """List the locks whose keys begin with PREFIX (all of them without it), in the order of their keys."""
    page = run(_list_locks(endpoints, prefix, limit, after))
    if as_json:
        print_json(page.raw)
        return
    table = Table(box=None, pad_edge=False)
    for title in ("KEY", "TOKEN", "OWNER", "LEFT", "WAITING"):
        table.add_column(
            title, overflow="fold", justify="right" if title in {"LEFT", "WAITING"} else "left"
        )
    for lock in page.locks:
        holder = lock.holders[0] if lock.holders else None
        table.add_row(
            Text(lock.key),
            str(holder.token) if holder else "-",
            Text(holder.owner or "-") if holder else "-",
            f"{holder.remaining:.1f} s" if holder else "-",
            str(lock.queue_length),
        )
    console().print(table)
    if page.next is not None:
        say(f"there are more: --after {page.next!r}")


async def _list_locks(
    endpoints: str, prefix: str, limit: int, after: str | None
) -> holdfast.LockPage:
    async with connect(endpoints) as client:
        return await client.list_locks(prefix, limit=limit, after=after)


@click.command(short_help="Who holds one lock, and who waits for it.")
@click.argument("key")
@endpoints_option
@json_option
def show(key: str, endpoints: str, as_json: bool) -> None:
    """Show who holds KEY and who waits for it, in the order in which they will get it; why nobody gets it, if it is closed; and
    what a holder noted about its work."""
    lock = run(_read_lock(endpoints, key))
    if as_json:
        print_json(lock.raw)
        return
    for line in lock_lines(lock):
        click.echo(line)


async def _read_lock(endpoints: str, key: str) -> holdfast.LockInfo:
    async with connect(endpoints) as client:
        return await client.read_lock(key)


@click.command(short_help="The keys that nobody holds and nobody gets.")
@click.argument("prefix", default="")
@click.option(
    "--by",
    type=click.Choice(["delay", "in_doubt", "done"]),
    help="Only those that are closed for this reason.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, wire.LIST_LIMIT_MAX),
    default=100,
    show_default=True,
    help="How many at most.",
)
@click.option("--after", metavar="KEY", help="Go on after this key (where the last list ended).")
@endpoints_option
@json_option
def closed(
    prefix: str,
    by: Literal["delay", "in_doubt", "done"] | None,
    limit: int,
    after: str | None,
    endpoints: str,
    as_json: bool,
) -> None:
    """List the keys that begin with PREFIX and are closed: done, in doubt, or delayed after an unclean end."""
    page = run(_closures(endpoints, prefix, by, limit, after))
    if as_json:
        print_json(page.raw)
        return
    table = Table(box=None, pad_edge=False)
    for title in ("KEY", "BY", "TOKEN", "ENDED", "LEFT", "RESULT"):
        table.add_column(title, overflow="fold", justify="right" if title == "LEFT" else "left")
    for each in page.closed:
        left = "until resolved" if each.remaining is None else f"{each.remaining:.1f} s"
        result = Text("-" if each.result is None else each.result)
        table.add_row(Text(each.key), each.by, str(each.token), each.ended, left, result)
    console().print(table)
    if page.next is not None:
        say(f"there are more: --after {page.next!r}")


async def _closures(
    endpoints: str,
    prefix: str,
    by: Literal["delay", "in_doubt", "done"] | None,
    limit: int,
    after: str | None,
) -> holdfast.ClosedPage:
    async with connect(endpoints) as client:
        return await client.closures(prefix, by=by, limit=limit, after=after)
