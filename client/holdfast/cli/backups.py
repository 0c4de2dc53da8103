"""`backup`, `backup verify` and `restore`: the state of a cluster as one file, and a cluster begun from it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import aiohttp
import click

from holdfast import wire
from holdfast.cli import calling, exit_codes, server_extra
from holdfast.cli.common import endpoints_option, fail, json_option, print_json, say

if TYPE_CHECKING:
    from collections.abc import Mapping

CONNECT_SECONDS: Final = 5.0
SILENCE_SECONDS: Final = 600.0
"""Before the first byte the node takes a snapshot, at the lowest priority: seconds, or minutes on a busy machine. It gives it up
itself after so long."""
FILE_MODE: Final = 0o600
"""Keys may be personal data, and a session's id is a secret of its creator."""


class _WithFile(click.Group):
    """`backup FILE` is `backup create FILE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["create", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_WithFile, short_help="Write the state of a running cluster to a file.")
def backup() -> None:
    """Write the state of the running cluster to a file, or check such a file.

    \b
      holdfast backup FILE           (or: holdfast backup create FILE, for a file named like a command)
      holdfast backup verify FILE
      holdfast restore FILE          begins a cluster from it
    """


@backup.command("create", short_help="Write a backup, and check it.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@endpoints_option
@json_option
def create(file: Path, endpoints: str, as_json: bool) -> None:
    """Write the state of the cluster to FILE, while it serves: the state after one entry of its log, with everything that was
    acknowledged before. FILE appears when it has been read back and checked, not before. It holds keys and the ids of sessions,
    so nobody but you may read it.

    \b
    Exit codes: 0 written and checked; 1 it was refused, or what came does not check; 69 no node answered, none knows a leader, or
                it broke off.
    """
    partial = file.with_name(file.name + ".partial")
    try:
        with open(partial, "wb", opener=_private) as out:
            asyncio.run(_receive(endpoints, out))
            out.flush()
            os.fsync(out.fileno())
        found = _inspected(partial)
        partial.replace(file)
        _sync(file.parent)
    except OSError as error:
        fail(f"{file}: {error.strerror or error}", exit_codes.FAILED)
    finally:
        partial.unlink(missing_ok=True)
    _tell(file, found, as_json)


@backup.command("verify", short_help="Whether a backup can be restored.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def verify(file: Path, as_json: bool) -> None:
    """Check every byte of FILE, read the state in it as a node would, and hold it to the rules that a state obeys.

    \b
    Exit codes: 0 it can be restored; 1 it cannot: standard error says why.
    """
    _tell(file, _inspected(file), as_json)


@click.command(short_help="Begin a cluster from a backup, with all nodes stopped.")
@click.argument(
    "file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--without-backup",
    is_flag=True,
    help="There is no FILE: begin with no locks at all, and with tokens above all that were ever granted.",
)
@click.option(
    "--holds",
    type=click.Choice(("keep", "drop")),
    help="With FILE. keep: who held a lock holds it, with its whole lease before it. drop: every session ends as expired.",
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default="cluster.yml",
    show_default=True,
    envvar="HOLDFAST_CONFIG",
    show_envvar=True,
    help="The file that describes the new cluster; its `incarnation` must be above that of the backup.",
)
@click.option(
    "--node",
    "nodes",
    multiple=True,
    metavar="NAME",
    help="A node of this machine; may be repeated. Without it, all nodes of the file.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write to DIRECTORY/<name> instead of below the data_dir of the file.",
)
@json_option
def restore(
    file: Path | None,
    without_backup: bool,
    holds: str | None,
    config_path: Path,
    nodes: tuple[str, ...],
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Write empty data directories so that a cluster begins with the state in FILE, as the next incarnation: its tokens are above
    all that can have been granted since the backup, and no node of the old cluster can join it.

    Stop every node first. Run it on every machine, with the same FILE, cluster.yml and --holds, then start all nodes as always
    (without --bootstrap). They begin to serve when all of them have met; nodes that were not given the same refuse each other.
    The number of nodes may be another one than before. docs/backup-and-restore.md says what --holds means for running clients.

    \b
    Exit codes: 0 written; 1 refused, and nothing starts on what is there: a directory is not empty or in use, a node still
                answers, FILE is damaged, the incarnation is too low; 2 the configuration is wrong.
    """
    if (file is None) != without_backup:
        raise click.UsageError("name a FILE, or say --without-backup")
    if file is not None and holds is None:
        raise click.UsageError(
            "say what becomes of the holds in FILE: --holds keep or --holds drop"
        )
    try:
        config = server_extra.load(config_path)
        done = server_extra.restore(
            file, config, nodes, keep_holds=holds == "keep", data_dir=data_dir
        )
    except server_extra.Refusal as refusal:
        fail(str(refusal), refusal.exit_code)
    if as_json:
        print_json({"file": None if file is None else str(file), "ok": True, **done})
        return
    directories = done.pop("directories")
    click.echo(f"{file or 'nothing'} is restored as {done.pop('cluster')}")
    _print_fields(done)
    for name, where in directories.items():
        click.echo(f"  {name}: {where}")
    say("do the same on every other machine, compare the sha256, then start all nodes")


def _inspected(file: Path) -> dict[str, Any]:
    try:
        return server_extra.inspect_backup(file)
    except server_extra.Refusal as refusal:
        fail(str(refusal), refusal.exit_code)


def _tell(file: Path, found: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json({"file": str(file), "ok": True, **found})
        return
    click.echo(f"{file} is whole")
    _print_fields(found)


def _print_fields(found: Mapping[str, Any]) -> None:
    for name, value in found.items():
        click.echo(f"  {name.replace('_', ' '):<22} {value}")


async def _receive(endpoints: str, out: IO[bytes]) -> None:
    """Write what the first node sends that has a backup to send. Ends the command with what the last one said if none does."""
    sentence, exit_code = "no node of the cluster answered", exit_codes.UNREACHABLE
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS
    )
    async with calling.session(timeout) as http:
        for endpoint in calling.addresses(endpoints):
            url = f"{endpoint}{wire.API_PREFIX}/cluster/backup"
            try:
                async with http.post(url) as response:
                    if response.status == 200:
                        async for piece in response.content.iter_any():
                            out.write(piece)
                        return
                    problem = await response.json(content_type=None)
                    sentence = str(problem.get("detail", f"{endpoint} answered {response.status}"))
                    exit_code = calling.exit_code_of(problem.get("code"))
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                out.seek(0)
                out.truncate()
                sentence = f"{endpoint} broke off: {str(error) or 'it was silent for too long'}"
                exit_code = exit_codes.UNREACHABLE
    fail(sentence, exit_code)


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, FILE_MODE)


def _sync(directory: Path) -> None:
    """The name of a file is on disk when its directory is."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
