"""`up`, `serve`, `demo` and `config check`: the commands that run coordinator nodes. They need the `server` extra."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from holdfast.cli import exit_codes, server_extra
from holdfast.cli.common import fail, json_option, print_json, say
from holdfast.cli.processes import ProcessWorld, end_with_parent, occupied, serve_command
from holdfast.cli.supervisor import Event, Supervisor

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from holdfast.cli.common import Command
    from holdfast.cli.server_extra import LocalNode

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DEMO_WORKERS_MAX: Final = 64
"""Each is a process of its own, on one machine, beside three nodes."""


def _config_option(command: Command) -> Command:
    return click.option(
        "--config",
        "config_path",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        default="cluster.yml",
        show_default=True,
        envvar="HOLDFAST_CONFIG",
        show_envvar=True,
        help="The file that describes the cluster.",
    )(command)


@contextlib.contextmanager
def _refusals_as_exit_codes() -> Iterator[None]:
    try:
        yield
    except server_extra.Refusal as refusal:
        fail(str(refusal), refusal.exit_code)


@click.command(short_help="Start every node of cluster.yml on this machine.")
@_config_option
@click.option(
    "--no-restart", is_flag=True, help="Leave a node dead that dies, to see how the others do."
)
@json_option
def up(config_path: Path, no_restart: bool, as_json: bool) -> None:
    """Start every node of the configuration on this machine, each as a process, and keep them running.

    Prints the addresses when all of them can serve. A node that dies is reported with its process id and how it
    ended, and is started again after a second (longer if it keeps dying). Ctrl-C or SIGTERM stops them all;
    a second one does not wait for them. With --json every event is one line of JSON.

    \b
    Exit codes: 0 stopped as asked; 1 a port is in use, or (--no-restart) all nodes have died;
                2 the configuration is wrong, or a node refused to start (it has said why).
    """
    with _refusals_as_exit_codes():
        loaded = server_extra.load(config_path)
    nodes = server_extra.local_nodes(loaded)
    _warn(loaded.warnings)
    taken = occupied(nodes)
    if taken is not None:
        fail(taken + "; nothing was started", exit_codes.FAILED)
    report = _report_json if as_json else _Reporter(nodes)
    raise click.exceptions.Exit(
        asyncio.run(
            _supervise(
                nodes,
                serve_command(config_path.resolve(), bootstrap=server_extra.is_new_cluster(loaded)),
                report,
                restart=not no_restart,
                tls=server_extra.readiness_tls(loaded),
            )
        )
    )


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        say(f"warning: {warning}")


async def _supervise(
    nodes: Sequence[LocalNode],
    command: Sequence[str],
    report: Callable[[Event], None],
    *,
    restart: bool,
    tls: ssl.SSLContext | None,
) -> int:
    ready_urls = {node.name: f"{node.http_url}/readyz" for node in nodes}
    async with ProcessWorld(command, ready_urls, tls) as world:
        supervisor = Supervisor([node.name for node in nodes], world, report, restart=restart)
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, supervisor.request_stop)
        return await supervisor.run()


def _report_json(event: Event) -> None:
    print_json(event.as_json())


class _Reporter:
    """Tells events to a person, one line each, on standard output."""

    def __init__(self, nodes: Sequence[LocalNode]) -> None:
        self._urls = {node.name: node.http_url for node in nodes}

    def __call__(self, event: Event) -> None:
        click.echo(self._sentence(event))

    def _sentence(self, event: Event) -> str:
        node = event.node or ""
        match event.event:
            case "started":
                return f"{node}: started as process {event.pid}, will listen on {self._urls[node]}"
            case "ready":
                return f"{node}: ready"
            case "all_ready":
                return (
                    f"The cluster is up. HOLDFAST_ENDPOINTS={','.join(self._urls.values())}\n"
                    "Ctrl-C stops it. Try: holdfast status"
                )
            case "waiting":
                return f"still waiting for {', '.join(event.nodes or ())} to be ready"
            case "died":
                return f"{node}: process {event.pid} died ({event.how})"
            case "restarting":
                return f"{node}: starting again in {event.after_seconds:g} s"
            case "refused":
                return f"{node}: refused to start ({event.how}; the reason is above); stopping the others"
            case "stopping":
                return "stopping"
            case "stopped":
                return "stopped"


@click.command(short_help="Run one node in the foreground (what a service manager starts).")
@click.option(
    "--node", required=True, metavar="NAME", help="Its name in the configuration, such as n1."
)
@_config_option
@click.option(
    "--bootstrap",
    is_flag=True,
    help="Found a new cluster: once, on all its nodes. Without it a new data directory waits for "
    "`holdfast replace-node`. Of no effect on a directory that is in use.",
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json", "console"]),
    envvar="HOLDFAST_LOG_FORMAT",
    show_envvar=True,
    help="Lines of JSON, or for people; auto: console on a terminal, else JSON. Without it, what the configuration says.",
)
@click.option(
    "--supervised-by", type=int, hidden=True, help="End when this process, the parent, dies."
)
def serve(
    node: str, config_path: Path, bootstrap: bool, log_format: str | None, supervised_by: int | None
) -> None:
    """Run one node of the cluster in the foreground, until SIGTERM or SIGINT.

    \b
    Exit codes: 0 stopped as asked; 1 it had to stop by itself (a failing disk);
                2 it could not start: the configuration, its address, its data directory; the reason is printed.
    """
    if supervised_by is not None:
        end_with_parent(supervised_by)
    with _refusals_as_exit_codes():
        chosen = {} if log_format is None else {"HOLDFAST_LOG_FORMAT": log_format}
        loaded = server_extra.load(config_path, {**os.environ, **chosen})
        raise click.exceptions.Exit(server_extra.serve(loaded, node, bootstrap=bootstrap))


@click.command(short_help="Three nodes, a ledger, eight workers, and things that go wrong.")
@click.option(
    "--messages",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The payment messages: JSON Lines or CSV with payment_id, customer, action, amount, currency. "
    "Without it, a sample of some hundred with duplicates.",
)
@click.option(
    "--workers",
    type=click.IntRange(2, DEMO_WORKERS_MAX),
    default=8,
    show_default=True,
    help="How many worker processes (one of them will be frozen).",
)
@click.option(
    "--without-fence",
    is_flag=True,
    help="Take the fence and the unique payment key out, and see a payment captured twice.",
)
@click.option(
    "--seed", type=int, help="Choose the moments of the faults; the same seed, the same choices."
)
@json_option
def demo(
    messages: Path | None, workers: int, without_fence: bool, seed: int | None, as_json: bool
) -> None:
    """Watch every payment being captured once while the leader is killed and a worker is frozen.

    Starts three nodes, a payment ledger and a crowd of worker processes in a temporary folder; feeds them a queue
    of payment messages full of duplicates; kills the leader (SIGKILL) and freezes a worker (SIGSTOP) between its
    lock and its capture, past its lease. The summary counts captures, ignored duplicates and refused stale writes.

    \b
    Exit codes: 0 each payment was captured once, at least one stale write was refused, the ledger balances;
                1 something of that does not hold (with --without-fence that is the point);
                2 wrong arguments.
    """
    with _refusals_as_exit_codes():
        raise click.exceptions.Exit(
            server_extra.demo(
                messages=messages,
                workers=workers,
                without_fence=without_fence,
                json_output=as_json,
                seed=seed,
            )
        )


@click.group(short_help="Look at the configuration.")
def config() -> None:
    """Look at the configuration without starting anything."""


@config.command(
    "check", short_help="Say whether cluster.yml is right, and if not, where it is wrong."
)
@click.argument(
    "file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@_config_option
@json_option
def check(file: Path | None, config_path: Path, as_json: bool) -> None:
    """Read the configuration as a node would and say what it found; FILE comes before --config. Nothing is started.

    What is wrong is told with its line and its path in the file; what works, and is probably not meant, as a warning.

    \b
    Exit codes: 0 a node would start with it; 2 it would not, or there is no such file.
    """
    path = file or config_path
    with _refusals_as_exit_codes():
        loaded = server_extra.load(path)
        warnings = [*loaded.warnings, *server_extra.check_certificates(loaded)]
    nodes = server_extra.local_nodes(loaded)
    _warn(warnings)
    if as_json:
        names = [node.name for node in nodes]
        answer = {
            "cluster": loaded.cluster,
            "nodes": names,
            "survives": loaded.survives,
            "ok": True,
        }
        print_json({**answer, "warnings": warnings})
        return
    click.echo(
        f"{path} is good: cluster {loaded.cluster} with {_counted(len(nodes))}, {_survives(loaded.survives)}"
    )
    for node in nodes:
        addresses = ", ".join(f"{what} {host}:{port}" for what, host, port in node.listens)
        click.echo(f"  {node.name}: {addresses}")


def _counted(nodes: int) -> str:
    return "1 node" if nodes == 1 else f"{nodes} nodes"


def _survives(nodes: int) -> str:
    return f"survives the loss of {nodes}" if nodes else "not available when a node is lost"
