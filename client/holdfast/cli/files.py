"""`snapshot inspect`: what a node's files say, read offline. Changes nothing; the node may be running."""

from __future__ import annotations

from pathlib import Path

import click

from holdfast.cli import server_extra
from holdfast.cli.common import fail, json_option, print_json


@click.group(short_help="Look at a node's snapshot files.")
def snapshot() -> None:
    """Look at a node's snapshot files without a node."""


@snapshot.command("inspect", short_help="Check a snapshot file and say what it holds.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def inspect(file: Path, as_json: bool) -> None:
    """Check every byte of FILE and say what it holds. Keys and owners are not shown.

    \b
    Exit codes: 0 it is whole; 1 it is damaged, or not a snapshot of this version: standard error says where.
    """
    try:
        found = server_extra.inspect_snapshot(file)
    except server_extra.Refusal as refusal:
        fail(str(refusal), refusal.exit_code)
    if as_json:
        print_json({"file": str(file), "ok": True, **found})
        return
    click.echo(f"{file} is whole")
    for name, value in found.items():
        click.echo(f"  {name.replace('_', ' '):<22} {value}")
