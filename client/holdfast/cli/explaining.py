"""`explain`: why a key is where it is. Looks and changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from holdfast.cli.common import connect, endpoints_option, json_option, print_json, run
from holdfast.cli.sentences import lock_lines, who

if TYPE_CHECKING:
    import holdfast


@click.command(short_help="Why a key is held, who waits for whom, and how long it takes.")
@click.argument("key")
@endpoints_option
@json_option
def explain(key: str, endpoints: str, as_json: bool) -> None:
    """Explain KEY: who holds it, since when and until when, who waits, for whose hold each waits, and how long its grants have
    taken."""
    found = run(_explain(endpoints, key))
    if as_json:
        print_json(found.raw)
        return
    for line in lock_lines(found.lock):
        click.echo(line)
    for holder in found.lock.holders:
        click.echo(f"  token {holder.token} has been held for {holder.held:.1f} s")
    for place, (waiter, blockers) in enumerate(found.waits_for, start=1):
        click.echo(f"  {place}. has waited {waiter.waited:.1f} s, for:")
        for each in blockers:
            name = who(each.owner, each.session_ref, each.context)
            click.echo(f"       {each.key}, token {each.token} of {name}")
    click.echo(f"  {figures(found)}")


def figures(found: holdfast.Explanation) -> str:
    """How long grants have taken."""
    if not found.grants:
        return f"no grants of it are kept (since revision {found.since})"
    told = f"{found.grants} grants since revision {found.since}"
    if found.waited is not None:
        told += (
            f"; waited {found.waited.median:.3f} s (median), {found.waited.longest:.3f} s at most"
        )
    if found.held is not None:
        told += f"; held {found.held.median:.3f} s (median), {found.held.longest:.3f} s at most"
    return told


async def _explain(endpoints: str, key: str) -> holdfast.Explanation:
    async with connect(endpoints) as client:
        return await client.explain(key)
