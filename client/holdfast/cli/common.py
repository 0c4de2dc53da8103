"""What several commands share: how the cluster is named, how an answer is printed, what an error becomes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click
from rich.console import Console

import holdfast
from holdfast.cli import exit_codes
from holdfast.credentials import (
    ENV_BEARER,
    ENV_BEARER_FILE,
    ENV_CA_FILE,
    ENV_CERTIFICATE_FILE,
    ENV_KEY_FILE,
    Credentials,
    credentials_of,
)
from holdfast.stores.address import parse_store

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

ENDPOINTS_DEFAULT: Final = "http://127.0.0.1:7601,http://127.0.0.1:7602,http://127.0.0.1:7603"
"""The cluster that `holdfast up` starts from the cluster.yml in the repository."""
ANSWER_SECONDS: Final = 5.0
"""A person waits for the answer: long enough for an election, short enough not to look hung."""

Command = TypeVar("Command", bound="Callable[..., object]")
Result = TypeVar("Result")


_SHOWN: Final = "holdfast.cli.shown"
"""Where the options of what is shown to the nodes are kept, in the `meta` of the command's context."""

_SHOWN_OPTIONS: Final = (
    ("--ca", "ca_file", ENV_CA_FILE, "PEM file of who signs the nodes' certificates."),
    ("--cert", "certificate_file", ENV_CERTIFICATE_FILE, "PEM file: the certificate to show."),
    ("--key", "key_file", ENV_KEY_FILE, "PEM file: the key of --cert, if it is not in there."),
    ("--bearer-file", "token_file", ENV_BEARER_FILE, "File with the bearer token to show."),
)


def endpoints_option(command: Command) -> Command:
    """--endpoints, and what is shown to the nodes there (see `credentials`). A bearer token is no option: everybody on a machine
    sees the arguments of everybody's commands."""
    for name, keyword, variable, told in reversed(_SHOWN_OPTIONS):
        command = click.option(
            name,
            keyword,
            envvar=variable,
            show_envvar=True,
            type=click.Path(exists=True, dir_okay=False),
            expose_value=False,
            callback=_keep_shown,
            help=told,
        )(command)
    return click.option(
        "--endpoints",
        envvar="HOLDFAST_ENDPOINTS",
        default=ENDPOINTS_DEFAULT,
        show_default=True,
        show_envvar=True,
        metavar="URLS",
        help="The nodes, separated by commas; any of them will do. Or another store: sqlite:///locks.db, redis://host, ...",
    )(command)


def _keep_shown(context: click.Context, option: click.Parameter, value: str | None) -> None:
    if option.name is not None:
        context.meta.setdefault(_SHOWN, {})[option.name] = value


def credentials() -> Credentials:
    """What the command that runs now shows to nodes. Exits with a sentence when a file cannot be used."""
    shown = click.get_current_context().meta.get(_SHOWN, {})
    try:
        return credentials_of(token=os.environ.get(ENV_BEARER), **shown)
    except ValueError as error:
        fail(str(error), exit_codes.USAGE)


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for scripts.")(
        command
    )


def connect(endpoints: str, *, ttl: float = 10.0, owner: str | None = None) -> holdfast.AsyncClient:
    """A client for one command. Exits with a sentence when `endpoints` is no address, or one that makes no sense here."""
    if endpoints.strip().startswith("memory:"):
        fail(
            "--endpoints: locks in memory end with this command, and no other process sees them; use a file (sqlite:///locks.db)",
            exit_codes.USAGE,
        )
    try:
        is_cluster = parse_store(endpoints) is None
        shown = credentials() if is_cluster else Credentials()
        return holdfast.connect(
            endpoints, ttl=ttl, owner=owner, timeout=ANSWER_SECONDS, **shown.keywords
        )
    except (ValueError, ModuleNotFoundError, holdfast.HoldfastError) as error:
        fail(f"--endpoints: {error}", exit_codes.USAGE)


def connect_cluster(endpoints: str) -> holdfast.AsyncClient:
    """The same, for commands about nodes: another store has none."""
    if "://" in endpoints and not endpoints.strip().startswith(("http://", "https://")):
        fail(
            "--endpoints: this is about the nodes of a cluster, and a store has none",
            exit_codes.USAGE,
        )
    return connect(endpoints)


def default_owner() -> str:
    """What others see as the holder: enough to find the process, nothing about the person."""
    return f"{socket.gethostname()}:{os.getpid()}"


def say(sentence: str) -> None:
    """To the person: standard error, since standard output belongs to answers and to the commands that `lock` runs."""
    click.echo(f"holdfast: {sentence}", err=True)


def fail(sentence: str, exit_code: int) -> NoReturn:
    """Say it and end the command."""
    say(sentence)
    raise click.exceptions.Exit(exit_code)


def print_json(value: object) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


def console() -> Console:
    return Console(file=sys.stdout, highlight=False, emoji=False)


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a command's coroutine; what the cluster refused becomes a sentence and an exit code."""
    with errors_as_exit_codes():
        return asyncio.run(main)


@contextlib.contextmanager
def errors_as_exit_codes() -> Iterator[None]:
    try:
        yield
    except holdfast.HoldfastError as error:
        raise click.exceptions.Exit(report(error)) from error


def report(error: holdfast.HoldfastError) -> int:
    """Say what went wrong; the exit code that goes with it."""
    say(str(error) or type(error).__name__)
    if isinstance(error, holdfast.BadRequest):
        return exit_codes.USAGE
    if isinstance(error, holdfast.LockLost | holdfast.SessionLost):
        return exit_codes.LOST
    if isinstance(error, holdfast.Unreachable | holdfast.UnknownOutcome):
        return exit_codes.UNREACHABLE
    return exit_codes.FAILED
