"""`journal verify` and `journal dump`: what a node's journal says, read offline. Changes nothing; the node may be running."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli import server_extra
from holdfast.cli.common import fail, json_option, print_json

if TYPE_CHECKING:
    from holdfast.cli.common import Command


def _directory_argument(command: Command) -> Command:
    return click.argument(
        "directory",
        metavar="DIR",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
    )(command)


@click.group(short_help="Look at a node's journal.")
def journal() -> None:
    """Look at the journal in a node's data directory without a node, and without changing it."""


@journal.command("verify", short_help="Check a journal as a start would, and say what it holds.")
@_directory_argument
@json_option
def verify(directory: Path, as_json: bool) -> None:
    """Check every byte of the journal in data directory DIR (such as data/n1), by the same code with which a node starts.

    \b
    Exit codes: 0 a node would start on it; 1 it would not: standard error has the file, the offset and what to do.
    """
    try:
        found = server_extra.verify_journal(directory)
    except server_extra.Refusal as refusal:
        fail(str(refusal), refusal.exit_code)
    if as_json:
        print_json({"directory": str(directory), "ok": True, **found})
        return
    click.echo(f"{directory} is whole")
    for name, value in found.items():
        click.echo(f"  {name.replace('_', ' '):<20} {value}")


@journal.command("dump", short_help="Show the entries of a journal.")
@_directory_argument
@click.option("--from", "first", type=click.IntRange(1), help="The first index to show.")
@click.option("--to", "last", type=click.IntRange(1), help="The last index to show.")
@json_option
def dump(directory: Path, first: int | None, last: int | None, as_json: bool) -> None:
    """Show the log entries in data directory DIR, oldest first, one a line (and one more for each operation).

    Keys and owners are shown as they are; of a session's id, which is a secret, only the beginning. Entries that a snapshot
    covers are no longer there. --json: one object a line.

    \b
    Exit codes: 0 shown; 1 the journal is damaged: standard error says where.
    """
    try:
        for entry in server_extra.dump_journal(directory, first, last):
            print_json(entry) if as_json else click.echo(_sentence(entry))
    except server_extra.Refusal as refusal:
        fail(str(refusal), refusal.exit_code)


def _sentence(entry: dict[str, Any]) -> str:
    head = f"{entry['index']:>8}  term {entry['term']}"
    match entry["type"]:
        case "batch":
            lines = [f"{head}  {entry['elapsed_ms']:>3} ms, {len(entry['operations'])} operations"]
            lines += [f"          {_operation(operation)}" for operation in entry["operations"]]
            return "\n".join(lines)
        case "node replaced":
            return f"{head}  {entry['node']} has data directory {entry['directory']} from here on"
        case "unknown":
            return f"{head}  {entry['bytes']} bytes that this version cannot read"
    return f"{head}  {entry['type']}"


def _operation(operation: dict[str, Any]) -> str:
    rest = " ".join(
        f"{name}={value!r}"
        for name, value in operation.items()
        if name not in {"origin", "operation"}
    )
    return f"{operation['origin']}  {operation['operation']} {rest}".rstrip()
