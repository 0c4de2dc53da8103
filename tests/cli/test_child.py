"""The command that `holdfast lock` runs, with real processes: its group, its signals, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

from holdfast.cli import exit_codes
from holdfast.cli.child import SignalRelay, run_child

if TYPE_CHECKING:
    from collections.abc import Callable

STUBBORN = """
trap '' TERM
echo up > "$SAID"
read nothing < "$NEVER"
"""
"""Ignores SIGTERM and stands still for ever, without using any processor time."""

WITH_GRANDCHILD = """
import os, signal, sys
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(os.environ["SAID"], "w").write(str(os.getpid()))
    signal.pause()
signal.pause()
"""


def no_interruption(number: signal.Signals) -> None:
    pytest.fail(f"{number!r} was not passed on to the command")


async def run(
    command: str | list[str],
    line: Any = None,
    *,
    grace: float = 30.0,
    stopping: Callable[[], None] = lambda: None,
) -> int:
    words = ["/bin/sh", "-c", command] if isinstance(command, str) else command
    environment = line.environment if line is not None else dict(os.environ)
    with SignalRelay(no_interruption) as relay:
        return await run_child(words, environment, relay, grace=grace, stopping=stopping)


async def test_the_status_of_the_command_is_told() -> None:
    """3 stays 3."""
    assert await run("exit 3") == 3


async def test_death_by_a_signal_is_told_as_the_shell_tells_it() -> None:
    """Signal 9 is 137."""
    assert exit_codes.of_child(await run("kill -9 $$")) == 137


async def test_the_command_has_a_process_group_of_its_own(line: Any) -> None:
    """So that all that it starts can be signalled with it, and nothing of ours."""
    code = 'import os; print(os.getpgrp() == os.getpid(), file=open(os.environ["SAID"], "w"))'
    assert await run([sys.executable, "-c", code], line) == 0
    assert await line.said() == "True"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
async def test_signals_are_passed_on(line: Any, number: signal.Signals) -> None:
    """What a service manager sends to the wrapper reaches the command, which may answer it in its own way."""
    script = f'trap "exit 42" {number.value}; echo up > "$SAID"; read nothing < "$NEVER"'
    task = asyncio.ensure_future(run(script, line))
    assert await line.said() == "up"
    os.kill(os.getpid(), number)
    assert await task == 42


async def test_cancelled_it_gets_sigterm_and_time_to_clean_up(line: Any) -> None:
    """A lost lock stops the command, but lets it put its things in order."""
    told: list[str] = []
    script = 'trap "echo cleaned > $SAID; exit 0" TERM; echo up > "$SAID"; read nothing < "$NEVER"'
    task = asyncio.ensure_future(run(script, line, stopping=lambda: told.append("stopping")))
    assert await line.said() == "up"
    task.cancel()
    assert await line.said() == "cleaned"
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == ["stopping"]


async def test_cancelled_a_command_that_ignores_sigterm_is_killed(line: Any) -> None:
    """After the grace time nothing of it goes on under a lock that somebody else may hold."""
    task = asyncio.ensure_future(run(STUBBORN, line, grace=0.05))
    assert await line.said() == "up"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.skipif(
    not hasattr(os, "pidfd_open"), reason="needs Linux: waits for a process that is not our child"
)
async def test_cancelled_what_the_command_has_started_ends_too(line: Any) -> None:
    """A grandchild that ignores SIGTERM does not live on when the command itself obeys."""
    task = asyncio.ensure_future(run([sys.executable, "-c", WITH_GRANDCHILD], line))
    grandchild = os.pidfd_open(int(await line.said()))
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().add_reader(
        grandchild, lambda: ended.done() or ended.set_result(None)
    )
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await ended
    asyncio.get_running_loop().remove_reader(grandchild)
    os.close(grandchild)


async def test_a_command_that_does_not_exist_is_an_error_of_its_own() -> None:
    """The caller turns it into 127 and gives the lock back."""
    with pytest.raises(FileNotFoundError):
        await run(["/nonexistent/command"])


async def test_signal_handlers_are_gone_afterwards() -> None:
    """Ctrl-C means what it meant before."""
    with SignalRelay(no_interruption):
        pass
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
