"""`history`: what happened to a key; the whole trail as a file; and whether such a file is what the cluster wrote (offline)."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from holdfast.cli import exit_codes
from holdfast.cli.common import (
    connect,
    endpoints_option,
    fail,
    json_option,
    print_json,
    run,
    say,
)
from holdfast.cli.sentences import record_line
from holdfast.verifying import Tampered, verify

if TYPE_CHECKING:
    from holdfast.verifying import Verified


class Moment(click.ParamType[datetime]):
    """A time of day: ISO 8601, or Unix seconds. Without a zone it is UTC, on every machine."""

    name = "time"

    def convert(
        self, value: str | datetime, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            if value.replace(".", "", 1).isdecimal():
                return datetime.fromtimestamp(float(value), UTC)
            moment = datetime.fromisoformat(value)
        except (ValueError, OverflowError, OSError):
            self.fail(f"{value!r} is no time: 2026-11-24T09:30, with +01:00 or not (then UTC)")
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


class KeyOrCommand(click.Group):
    """`holdfast history KEY` is `holdfast history of KEY`: a word that is no command is a key."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["of", *args]
        return super().parse_args(ctx, args)


@click.group(cls=KeyOrCommand, short_help="Who held a key, and how that ended.")
def history() -> None:
    """What happened, as far back as the cluster keeps it.

    \b
      holdfast history KEY --since 2026-11-24T09:00    (or: holdfast history of KEY, for a key named like a command)
      holdfast history export trail.jsonl
      holdfast history verify trail.jsonl
    """


@history.command("of", short_help="The history of a key.")
@click.argument("key")
@click.option("--since", type=Moment(), help="Not before this time of day (UTC without a zone).")
@click.option("--until", type=Moment(), help="Not after this time of day.")
@endpoints_option
@json_option
def of(
    key: str, since: datetime | None, until: datetime | None, endpoints: str, as_json: bool
) -> None:
    """Show what happened to KEY, oldest first. Times are those of the leader's clock then; the order is that of the log. --json:
    one object a line."""
    run(_history(endpoints, key, since, until, as_json))


async def _history(
    endpoints: str, key: str, since: datetime | None, until: datetime | None, as_json: bool
) -> None:
    count = 0
    async with connect(endpoints) as client:
        async for record in client.history(key, since=since, until=until):
            count += 1
            print_json(record.raw) if as_json else click.echo(record_line(record))
        if count == 0:
            page = await client.history_page(key, limit=1)
            say(f"nothing is known of it since revision {page.first_revision}")


@history.command("export", short_help="Everything that is kept, as a file.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--after", type=click.IntRange(0), default=0, help="Leave out what an older file has."
)
@endpoints_option
@json_option
def export(file: Path, after: int, endpoints: str, as_json: bool) -> None:
    """Write what the cluster keeps to FILE, as JSON Lines with the hashes by which it can be checked. FILE appears when it is
    complete and checked, not before.

    \b
    Exit codes: 0 written; 1 what came does not check; 69 no node answered, or it broke off.
    """
    partial = file.with_name(file.name + ".partial")
    try:
        run(_export(endpoints, partial, after))
        found = _verified(partial)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    _tell(file, found, as_json)


async def _export(endpoints: str, file: Path, after: int) -> None:
    async with connect(endpoints) as client:
        with file.open("wb") as out:
            async for piece in client.export_history(after=after):
                out.write(piece)


@history.command("verify", short_help="Whether an exported file is what the cluster wrote.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def check(file: Path, as_json: bool) -> None:
    """Check FILE without the cluster: that no record in it was changed, left out or put in.

    The records of the last block are not covered by a hash yet, and are counted as such. A chain that was forged as a whole is
    only found by its head: compare it with one that you noted elsewhere, or with `before` of a later file.

    \b
    Exit codes: 0 it is whole; 1 it is not: standard error says which line, and from which revision on nothing is to be believed.
    """
    _tell(file, _verified(file, as_json), as_json)


def _verified(file: Path, as_json: bool = False) -> Verified:
    try:
        with file.open("rb") as lines:
            return verify(lines)
    except Tampered as tampered:
        if as_json:
            bad = {"line": tampered.line, "block": tampered.block, "reason": tampered.reason}
            print_json({"file": str(file), "ok": False, **bad})
        fail(f"{file}: {tampered}", exit_codes.FAILED)


def _tell(file: Path, found: Verified, as_json: bool) -> None:
    values = dataclasses.asdict(found)
    if as_json:
        print_json({"file": str(file), "ok": True, **values})
        return
    click.echo(f"{file} is whole")
    for name, value in values.items():
        click.echo(f"  {name.replace('_', ' '):<16} {value}")
    if found.uncovered:
        say(f"the last {found.uncovered} records are in no block yet: no hash covers them")
