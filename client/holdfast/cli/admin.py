"""`step-down` and `replace-node`: the two calls by which an operator changes who does what in a running cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import aiohttp
import click

from holdfast import wire
from holdfast.cli import calling, exit_codes, replacing, server_extra
from holdfast.cli.common import (
    endpoints_option,
    fail,
    json_option,
    print_json,
    say,
)
from holdfast.wire import Code

CALL_SECONDS: Final = 6.0
"""More than the nodes themselves wait for a hand-over or for a majority."""

TRY_ANOTHER: Final = frozenset({Code.NO_LEADER, Code.OVERLOADED, Code.CONFLICT})
"""These may be different at another node: one that cannot reach the leader, or has not seen a newcomer."""


@click.command("step-down", short_help="Have the leader hand over to another node.")
@endpoints_option
@json_option
def step_down(endpoints: str, as_json: bool) -> None:
    """Have the leader hand over to the most advanced of the others, before maintenance for instance. Callers are delayed by some
    milliseconds, none is refused for it. A leader that is stopped with SIGTERM does the same by itself.

    \b
    Exit codes: 0 another node leads; 1 it was asked, but no other leader was seen; 69 no node answered, or none knows a leader.
    """
    answer = asyncio.run(_call(endpoints, "step-down", None))
    print_json(answer) if as_json else click.echo(f"{answer['leader']} leads now")


@click.command("replace-node", short_help="Admit a node that has lost its disk, or its machine.")
@click.argument("node")
@click.option(
    "--config",
    "config_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="NODE comes back at another address: the new cluster.yml, which every machine has been given.",
)
@click.option(
    "--without",
    multiple=True,
    metavar="NAME",
    help="With --config: another node that is known to be down. May be repeated.",
)
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="With --config: how many seconds NODE gets to start, and to catch up.",
)
@endpoints_option
@json_option
def replace_node(
    node: str,
    config_path: Path | None,
    without: tuple[str, ...],
    wait_seconds: float,
    endpoints: str,
    as_json: bool,
) -> None:
    """Admit NODE with the data directory that it has now, because the one it had is lost.

    A node that comes back with an empty directory has forgotten what it acknowledged, and is refused by the others. Start it,
    then run this, while the other nodes run. It gets everything from the leader, and counts as a voter once it has caught up.
    The old directory must not be used again: it is refused from now on.

    With --config NODE may come back on another machine, at another address. Give every machine the cluster.yml with the new address
    and the next `epoch`, then run this: it looks whether every step is safe, has the other nodes read the new address one after
    another, waits for NODE and admits it. It stops with a sentence where something is not as it must be (another node is down,
    there is no majority, the old machine still answers, the nodes go by different files), and goes on from there when asked again.

    \b
    Exit codes: 0 it is admitted (--config: and has caught up); 1 there is nothing to admit, no majority to admit it, or the next
                step is not safe; 2 there is no such node; 69 no node answered, or none knows a leader.
    """
    if config_path is not None:
        _replace_machine(node, config_path, frozenset(without), wait_seconds, as_json)
        return
    answer = asyncio.run(_call(endpoints, "replace-node", {"node": node}))
    print_json(answer) if as_json else click.echo(
        f"{node} is admitted; it catches up and becomes a voter by itself"
    )


def _replace_machine(
    node: str, config_path: Path, without: frozenset[str], wait_seconds: float, as_json: bool
) -> None:
    try:
        config = server_extra.load(config_path)
        plan = server_extra.plan_of(config, node, without)
    except server_extra.Refusal as refusal:
        fail(str(refusal), refusal.exit_code)
    try:
        asyncio.run(replacing.run(plan, wait_seconds, say if as_json else click.echo))
    except replacing.Unsafe as unsafe:
        fail(str(unsafe), exit_codes.FAILED)
    if as_json:
        print_json({"node": node, "epoch": plan.epoch})


async def _call(endpoints: str, what: str, body: dict[str, Any] | None) -> dict[str, Any]:
    """The answer of the first node that does it. Ends the command with a sentence if none does."""
    sentence, exit_code = "no node of the cluster answered", exit_codes.UNREACHABLE
    timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
    async with calling.session(timeout) as http:
        for endpoint in calling.addresses(endpoints):
            url = f"{endpoint}{wire.API_PREFIX}/cluster/{what}"
            try:
                async with http.post(url, json=body) as response:
                    answer: dict[str, Any] = await response.json(content_type=None)
            except (aiohttp.ClientError, TimeoutError, ValueError):
                continue
            if response.status == 200:
                return answer
            code = answer.get("code")
            sentence = str(answer.get("detail", f"{endpoint} answered {response.status}"))
            exit_code = calling.exit_code_of(code)
            if code not in TRY_ANOTHER:
                break
    fail(sentence, exit_code)
