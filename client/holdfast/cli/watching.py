"""`watch`: what happens, as it happens, one line each."""

from __future__ import annotations

import asyncio
import signal

import click

import holdfast
from holdfast.cli.common import (
    connect,
    endpoints_option,
    errors_as_exit_codes,
    json_option,
    print_json,
    say,
)
from holdfast.cli.sentences import record_line


@click.command(short_help="Follow what happens.")
@click.argument("prefix", default="")
@click.option("--after", type=click.IntRange(0), metavar="REVISION", help="Begin after this one.")
@click.option(
    "--restart",
    is_flag=True,
    help="Where events were dropped that were not seen yet, say so and go on.",
)
@endpoints_option
@json_option
def watch(prefix: str, after: int | None, restart: bool, endpoints: str, as_json: bool) -> None:
    """Follow what happens to the keys that begin with PREFIX (all of them without it), without gaps, through any node that answers.

    Without --after: from now on. --json: one object a line; its `revision` is what --after takes.

    \b
    Exit codes: 1 events that were not seen were dropped (without --restart); 69 no node answered; 130 ended by Ctrl-C.
    """
    try:
        with errors_as_exit_codes():
            asyncio.run(_watch(endpoints, prefix, after, restart, as_json))
    except KeyboardInterrupt:
        raise click.exceptions.Exit(128 + signal.SIGINT) from None


async def _watch(
    endpoints: str, prefix: str, after: int | None, restart: bool, as_json: bool
) -> None:
    async with (
        connect(endpoints) as client,
        client.watch(prefix, after=after, restart=restart) as events,
    ):
        say(f"watching, from revision {events.revision} on")
        async for event in events:
            if isinstance(event, holdfast.Restarted):
                say(f"events were dropped; going on from revision {event.revision}")
                if as_json:
                    print_json({"kind": "restarted", "revision": event.revision})
            elif as_json:
                print_json(event.raw)
            else:
                click.echo(record_line(event))
