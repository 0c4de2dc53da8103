"""`capabilities`: what the store behind an address can promise. Asks nobody: the promises are data of the library."""

from __future__ import annotations

import click
from rich.table import Table

import holdfast
from holdfast.cli import exit_codes
from holdfast.cli.common import console, fail, json_option, print_json
from holdfast.stores import capabilities as data
from holdfast.stores.address import capabilities_of


@click.command(short_help="What a store can and cannot promise.")
@click.argument("url", required=False)
@click.option(
    "--require",
    metavar="CAPABILITY=VALUE",
    multiple=True,
    help="Exit with 1 and a sentence if the store promises less; may be repeated.",
)
@json_option
def capabilities(url: str | None, require: tuple[str, ...], as_json: bool) -> None:
    """Show the promises of the store at URL (of all stores without it).

    \b
    Exit codes: 0 it promises what is required; 1 it promises less; 2 no such store, capability or value.
    """
    try:
        stores = data.ALL if url is None else (capabilities_of(url),)
        for each in stores:
            data.check(each, require)
    except holdfast.Unsuitable as error:
        fail(str(error), exit_codes.FAILED)
    except (ValueError, ModuleNotFoundError) as error:
        fail(str(error), exit_codes.USAGE)
    if as_json:
        print_json({each.store: _json(each) for each in stores})
        return
    head, *rows = data.as_rows(stores)
    table = Table(box=None, pad_edge=False)
    for title in head:
        table.add_column(title.upper(), overflow="fold")
    for row in rows:
        table.add_row(*row)
    console().print(table)
    if url is not None:
        for name, note in stores[0].notes.items():
            click.echo(f"{name}: {note}")


def _json(store: data.Capabilities) -> dict[str, str]:
    return {name: str(value.value) for name, value in store.values().items()}
