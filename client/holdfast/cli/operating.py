"""`force` and `resolve`: what an operator does about somebody else's hold. Both say who and why, and that goes into the history."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from holdfast.cli import ledger_extra
from holdfast.cli.common import (
    connect,
    endpoints_option,
    fail,
    json_option,
    print_json,
    run,
    say,
)
from holdfast.cli.server_extra import Refusal

if TYPE_CHECKING:
    import holdfast
    from holdfast.cli.common import Command


def _operator_option(command: Command) -> Command:
    return click.option(
        "--operator",
        required=True,
        envvar="HOLDFAST_OPERATOR",
        show_envvar=True,
        metavar="NAME",
        help="Who does it.",
    )(command)


def _reason_option(command: Command) -> Command:
    return click.option("--reason", required=True, metavar="TEXT", help="Why.")(command)


@click.command(short_help="End somebody's hold.")
@click.argument("key")
@_reason_option
@_operator_option
@click.option(
    "--token",
    type=click.IntRange(1),
    help="Only if this is the hold. Without it: whoever holds KEY now.",
)
@click.option(
    "--ledger",
    metavar="URL",
    help="Tell the payment ledger at this SQLAlchemy URL, so that the old holder is refused there too.",
)
@endpoints_option
@json_option
def force(
    key: str,
    reason: str,
    operator: str,
    token: int | None,
    ledger: str | None,
    endpoints: str,
    as_json: bool,
) -> None:
    """End the hold of KEY although its holder has not, and let the next one have it.

    The old holder may still be at work: it is told with its next renewal, but only the resource can stop its writes. So the
    answer has a `floor`: a fresh token that the resource must know. --ledger carries it to a payment ledger; anything else you
    tell yourself. Asking again with the --token of the ended hold gives the same floor.

    \b
    Exit codes: 0 done (and the ledger told); 1 nobody holds it (so), or the ledger was not told; 69 no node answered.
    """
    try:
        if ledger is not None:
            ledger_extra.check()
        ended = run(_force(endpoints, key, reason, operator, token))
        told = None if ledger is None else ledger_extra.raise_floor(ledger, key, ended.floor)
    except Refusal as refusal:
        fail(str(refusal), refusal.exit_code)
    if as_json:
        print_json(
            {
                "released": list(ended.tokens),
                "floor": ended.floor,
                "ledger_told": ledger is not None,
            }
        )
        return
    tokens = ", ".join(map(str, ended.tokens))
    click.echo(f"{key}: ended the hold of token {tokens}; the floor is {ended.floor}")
    if told is not None:
        click.echo(
            "the ledger refuses everything below it now"
            if told
            else "the ledger has seen a newer holder already: it refuses everything below that"
        )


async def _force(
    endpoints: str, key: str, reason: str, operator: str, token: int | None
) -> holdfast.Forced:
    async with connect(endpoints) as client:
        forced = await client.force_release(key, reason=reason, operator=operator, token=token)
        again = forced.tokens[-1]
        say(f"ended (should anything fail now, ask again with --token {again})")
        return forced


@click.command(short_help="Open a key that is closed.")
@click.argument("key")
@click.option(
    "--token",
    type=click.IntRange(1),
    required=True,
    help="The hold that closed it, as `holdfast show KEY` tells: so that nothing newer is opened.",
)
@_reason_option
@_operator_option
@endpoints_option
@json_option
def resolve(
    key: str, token: int, reason: str, operator: str, endpoints: str, as_json: bool
) -> None:
    """Open KEY, which the hold of TOKEN left closed: in doubt, delayed, or done. Look first what that holder has done: after this
    somebody will do it.

    \b
    Exit codes: 0 it is open; 1 nothing was closed under that token (any more); 69 no node answered.
    """
    resolved = run(_resolve(endpoints, key, token, reason, operator))
    if as_json:
        print_json({"resolved": resolved})
    elif resolved:
        click.echo(f"{key} is open")
    if not resolved:
        fail(f"{key!r}: nothing is closed under token {token} (any more)", 1)


async def _resolve(endpoints: str, key: str, token: int, reason: str, operator: str) -> bool:
    async with connect(endpoints) as client:
        return await client.resolve(key, token=token, reason=reason, operator=operator)
