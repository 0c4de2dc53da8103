"""`lock`: run a command while holding a lock, with the manners of flock(1).

Rule: the command never runs without the lock. It is started after the grant and stopped when the lock is lost; its own status
is ours in every other case. What is printed goes to standard error: standard output is the command's.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import click

import holdfast
from holdfast import wire
from holdfast.cli import exit_codes
from holdfast.cli.child import SignalRelay, run_child
from holdfast.cli.common import Command, connect, default_owner, endpoints_option, report, say
from holdfast.options import LockKeywords

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TTL_SECONDS_DEFAULT: Final = 10.0
GRACE_SECONDS_DEFAULT: Final = 5.0
"""Between SIGTERM and SIGKILL when the lock is lost; what `consul lock` gives."""
EXIT_CODE_MAX: Final = 255


@dataclass(frozen=True, slots=True)
class _Request:
    """What the options of one `holdfast lock` ask for. `wait`: seconds, None: as long as it takes."""

    endpoints: str
    key: str
    command: tuple[str, ...]
    wait: float | None
    conflict_exit_code: int
    ttl: float
    grace: float
    owner: str
    terms: LockKeywords = field(default_factory=LockKeywords)
    """What else `client.lock` is told."""


def _ttl_option(meaning: str) -> Callable[[Command], Command]:
    """`meaning`: of the lease, in the words of the command."""
    return click.option(
        "--ttl",
        type=click.FloatRange(wire.TTL_MS_MIN / 1000, wire.TTL_MS_MAX / 1000),
        default=TTL_SECONDS_DEFAULT,
        show_default=True,
        metavar="SEC",
        help=meaning,
    )


def _grace_option(meaning: str) -> Callable[[Command], Command]:
    """`meaning`: of the time that a command has to end by itself."""
    return click.option(
        "--grace",
        type=click.FloatRange(min=0),
        default=GRACE_SECONDS_DEFAULT,
        show_default=True,
        metavar="SEC",
        help=meaning,
    )


@click.command(
    short_help="Run a command while holding a lock.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option("-n", "--nonblock", is_flag=True, help="Fail at once if somebody else holds the key.")
@click.option(
    "-w",
    "--wait",
    type=click.FloatRange(min=0),
    metavar="SEC",
    help="Wait at most this long. Without -n and -w: as long as it takes.",
)
@click.option(
    "-E",
    "--conflict-exit-code",
    type=click.IntRange(0, EXIT_CODE_MAX),
    default=exit_codes.CONFLICT,
    show_default=True,
    metavar="CODE",
    help="The exit code when the key is held, or was for all of -w.",
)
@_ttl_option(
    "How long the lock outlives this process if it dies without a word. It is renewed while the command runs."
)
@_grace_option("When the lock is lost: how long between SIGTERM and SIGKILL for the command.")
@click.option(
    "--owner", metavar="TEXT", help="How others see the holder (host:process id by default)."
)
@click.option(
    "--shared", is_flag=True, help="Share KEY with others who say --shared; exclusive ones wait."
)
@click.option(
    "--holders",
    type=click.IntRange(1, wire.LIMIT_MAX),
    metavar="N",
    help="At most N at once (a semaphore). Everybody has to say the same N; there is no fence.",
)
@click.option(
    "--on-unclean",
    type=click.Choice(["grant", "delay", "refuse"]),
    help="If this holder dies: let the next one in (the default), after --delay, or nobody before somebody has looked.",
)
@click.option(
    "--delay",
    type=click.FloatRange(0.001, wire.DELAY_MS_MAX / 1000),
    metavar="SEC",
    help="How long KEY stays closed if this holder dies; says --on-unclean=delay as well.",
)
@click.option(
    "--require-clean", is_flag=True, help="Fail if the last holder died, or was forced out."
)
@endpoints_option
@click.argument("key")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def lock(
    nonblock: bool,
    wait: float | None,
    conflict_exit_code: int,
    ttl: float,
    grace: float,
    owner: str | None,
    shared: bool,
    holders: int | None,
    on_unclean: Literal["grant", "delay", "refuse"] | None,
    delay: float | None,
    require_clean: bool,
    endpoints: str,
    key: str,
    command: tuple[str, ...],
) -> None:
    """Acquire KEY, run COMMAND, release KEY.

    \b
      holdfast lock -n nightly-report -- ./report.sh
      holdfast lock -w 30 -E 99 payments/1234/collect -- python collect.py 1234
      holdfast lock --holders 3 psp -- python reconcile.py

    COMMAND runs in a process group of its own, with HOLDFAST_LOCK (the key), HOLDFAST_TOKEN (the number of the grant),
    HOLDFAST_FENCE (give it to whatever the lock protects, which must refuse a lower one; not set with --holders) and
    HOLDFAST_DEADLINE (until when the lock holds if it can not be renewed any more: seconds on CLOCK_BOOTTIME, the first number
    of /proc/uptime). Signals are passed on to it; while the lock is waited for, they end the waiting.

    \b
    Exit codes: that of COMMAND, or 128+n if signal n killed it; and:
      1 (or -E)  the key is held (or was for all of -w), closed, in doubt, or done already; COMMAND was not run
      2          wrong arguments        126/127  COMMAND cannot be executed / does not exist
      69         no node answered, or none could
      75         the lock was lost; COMMAND was stopped (SIGTERM, after --grace SIGKILL)
      128+n      signal n ended the waiting; COMMAND was not run
    """
    if nonblock and wait is not None:
        raise click.UsageError("-n and -w exclude each other: -n does not wait at all")
    if delay is not None and on_unclean not in (None, "delay"):
        raise click.UsageError("--delay belongs to --on-unclean=delay")
    if on_unclean == "delay" and delay is None:
        raise click.UsageError("--on-unclean=delay needs --delay SEC")
    terms = LockKeywords()
    if shared or holders is not None:
        terms["mode"] = "shared"
    if holders is not None:
        terms["limit"] = holders
    if delay is not None:
        terms |= {"on_unclean": "delay", "delay": delay}
    elif on_unclean is not None:
        terms["on_unclean"] = on_unclean
    if require_clean:
        terms["require_clean"] = True
    arguments = command_after_dashes(command)
    request = _Request(
        endpoints=endpoints,
        key=key,
        command=arguments,
        wait=0.0 if nonblock else wait,
        conflict_exit_code=conflict_exit_code,
        ttl=ttl,
        grace=grace,
        owner=owner if owner is not None else default_owner(),
        terms=terms,
    )
    raise click.exceptions.Exit(asyncio.run(_lock(request)))


@click.command(
    short_help="Run a command while being the leader.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option(
    "-w", "--wait", type=click.FloatRange(min=0), metavar="SEC", help="Campaign at most this long."
)
@_ttl_option("How long others wait for a leader that died without a word.")
@_grace_option("When the leadership is lost: how long between SIGTERM and SIGKILL for the command.")
@click.option("--owner", metavar="TEXT", help="How others see the leader (host:process id).")
@endpoints_option
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def elect(
    wait: float | None,
    ttl: float,
    grace: float,
    owner: str | None,
    endpoints: str,
    name: str,
    command: tuple[str, ...],
) -> None:
    """Campaign in the election NAME, run COMMAND as the leader, resign when it ends.

    \b
      holdfast elect scheduler -- python scheduler.py

    The leader holds the key NAME. COMMAND has HOLDFAST_TOKEN and HOLDFAST_FENCE: the epoch, greater than that of every leader
    before; whatever it writes to must refuse a lower one. Everything else is as in `holdfast lock`, exit codes included: 75 if
    the leadership was lost and COMMAND was stopped. Run it in a loop to stand again.
    """
    request = _Request(
        endpoints=endpoints,
        key=name,
        command=command_after_dashes(command),
        wait=wait,
        conflict_exit_code=exit_codes.CONFLICT,
        ttl=ttl,
        grace=grace,
        owner=owner if owner is not None else default_owner(),
    )
    raise click.exceptions.Exit(asyncio.run(_lock(request)))


def command_after_dashes(command: tuple[str, ...]) -> tuple[str, ...]:
    arguments = command[1:] if command[0] == "--" else command
    if not arguments:
        raise click.UsageError("there is no command to run after --")
    return arguments


async def _lock(request: _Request) -> int:
    interrupted_by: list[signal.Signals] = []
    ended: list[int] = []

    def interrupted(number: signal.Signals) -> None:
        interrupted_by.append(number)
        work.cancel()

    with SignalRelay(interrupted) as relay:
        work = asyncio.ensure_future(_run_with_lock(request, relay, ended))
        try:
            return await work
        except asyncio.CancelledError:
            if not interrupted_by:
                raise
            return ended[-1] if ended else 128 + interrupted_by[0]


async def _run_with_lock(request: _Request, relay: SignalRelay, ended: list[int]) -> int:
    """The exit code. Cancelled while it waits: the client withdraws the request, so that nothing is left in the queue. `ended` gets
    the exit code as soon as the command has decided it: a signal may cut the release short, and that changes nothing."""

    def stopping() -> None:
        say(f"lost the lock {request.key!r}; stopping the command")
        ended.append(exit_codes.LOST)

    terms: LockKeywords = {**request.terms, "wait": request.wait}
    try:
        async with (
            connect(request.endpoints, ttl=request.ttl, owner=request.owner) as client,
            lock_of(client)(request.key, **terms) as grant,
        ):
            environment = _environment(request.key, grant)
            status = await run_child(
                request.command, environment, relay, grace=request.grace, stopping=stopping
            )
            ended.append(exit_codes.of_child(status))
            return ended[-1]
    except OSError as error:
        say(f"cannot run {request.command[0]!r}: {error.strerror}")
        return (
            exit_codes.NOT_FOUND
            if isinstance(error, FileNotFoundError)
            else exit_codes.NOT_EXECUTABLE
        )
    except holdfast.NotAcquired as error:
        say(_conflict(request.key, error))
        return request.conflict_exit_code
    except holdfast.HoldfastError as error:
        code = report(error)
        # Only a lost lock outweighs how the command ended: that its release went unheard does not undo its work.
        return ended[-1] if ended and not isinstance(error, holdfast.LockLost) else code


def lock_of(client: holdfast.AsyncClient) -> Callable[..., holdfast.Lock[Any]]:
    """`client.lock`, for keywords that are not known in advance."""
    return client.lock


def _environment(key: str, grant: holdfast.Grant) -> Mapping[str, str]:
    deadline = _boot_seconds() + grant.remaining()
    fence = {} if grant.fence is None else {"HOLDFAST_FENCE": str(grant.fence)}
    return {
        **os.environ,
        **fence,
        "HOLDFAST_LOCK": key,
        "HOLDFAST_TOKEN": str(grant.token),
        "HOLDFAST_DEADLINE": f"{deadline:.3f}",
    }


def _boot_seconds() -> float:
    """The clock of the deadline; where there is no CLOCK_BOOTTIME (macOS) the one that stands in for it in the client."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _conflict(key: str, error: holdfast.NotAcquired) -> str:
    if isinstance(error, holdfast.AlreadyDone):
        return f"{error}: {error.result}"
    if isinstance(error, holdfast.InDoubt):
        token = "" if error.closed is None else f" --token {error.closed.token}"
        return f"{error}. Look what it has done, then: holdfast resolve {key!r}{token} --reason ..."
    if isinstance(error, holdfast.KeyClosed):
        return str(error)
    if not error.holders:
        return f"{key!r} was not acquired: {error.code}"
    holder = error.holders[0]
    owner = holder.owner or f"session {holder.session_ref or 'unknown'}"
    return f"{key!r} is held by {owner} (token {holder.token}), for another {holder.remaining:.1f} s unless renewed"
