"""The command that `holdfast lock` runs: started in a process group of its own, signalled and stopped as a group.

Rule: whatever happens to the caller (cancelled, interrupted, an error), no process of the group outlives `run_child`'s stay in
it unless the command itself ended and left something behind on purpose. It knows nothing of locks: being cancelled is how it
learns that the command has to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

FORWARDED: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""What people and service managers send to the wrapper and mean for the command."""


class SignalRelay:
    """Gives each signal that arrives to whoever is in charge at the moment. Use as a context manager, in the running loop.

    Before the command runs that is `interrupted` (stop waiting for the lock); while it runs, its process group.
    """

    def __init__(self, interrupted: Callable[[signal.Signals], None]) -> None:
        self._interrupted = interrupted
        self._group: int | None = None

    def __enter__(self) -> SignalRelay:
        loop = asyncio.get_running_loop()
        for number in FORWARDED:
            loop.add_signal_handler(number, self._arrived, number)
        return self

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in FORWARDED:
            loop.remove_signal_handler(number)

    @contextlib.contextmanager
    def to_group(self, group: int) -> Iterator[None]:
        self._group = group
        try:
            yield
        finally:
            self._group = None

    def _arrived(self, number: signal.Signals) -> None:
        if self._group is None:
            self._interrupted(number)
        else:
            signal_group(self._group, number)


def signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # all of it has ended: nothing is left to be told
        os.killpg(group, number)


async def run_child(
    command: Sequence[str],
    environment: Mapping[str, str],
    relay: SignalRelay,
    *,
    grace: float,
    stopping: Callable[[], None] = lambda: None,
) -> int:
    """Run `command` to its end; its status as subprocess reports it (negative: killed by that signal).

    Cancelled: calls `stopping`, sends SIGTERM to the group, SIGKILL after `grace` seconds if the command has not ended, and is then
    cancelled. Raises OSError if the command cannot be executed.
    """
    with _terminal_stop_ignored():
        process = await asyncio.create_subprocess_exec(
            *command, env=dict(environment), process_group=0
        )
    group = process.pid
    with relay.to_group(group), _terminal_given_to(group):
        try:
            return await process.wait()
        except asyncio.CancelledError:
            stopping()
            await _stop(process, grace)
            raise
        finally:
            if process.returncode is None:
                signal_group(group, signal.SIGKILL)


async def _stop(process: asyncio.subprocess.Process, grace: float) -> None:
    signal_group(process.pid, signal.SIGTERM)
    signal_group(
        process.pid, signal.SIGCONT
    )  # a stopped process would not see the SIGTERM before it is continued
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace):
            await process.wait()
    # Also when the command itself has ended: what it started and left behind works under the lost lock too.
    signal_group(process.pid, signal.SIGKILL)
    await process.wait()


@contextlib.contextmanager
def _terminal_stop_ignored() -> Iterator[None]:
    """The command inherits that Ctrl-Z does nothing: a command that stands still while the lease is renewed would keep the lock
    from everybody (and our shell could not continue a group that it does not know)."""
    before = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, before)


@contextlib.contextmanager
def _terminal_given_to(group: int) -> Iterator[None]:
    """Where standard input is a terminal of ours, the command's group becomes its foreground, so that it may read what is typed and
    Ctrl-C goes to it. Without a terminal, or in the background, nothing happens."""
    ours = os.getpgrp()
    if not _is_foreground(ours):
        yield
        return
    _set_foreground(group)
    # time 0: the command starts, reads, and is stopped by SIGTTIN; time 1: the terminal is given to it. It must go on.
    signal_group(group, signal.SIGCONT)
    try:
        yield
    finally:
        _set_foreground(ours)


def _is_foreground(group: int) -> bool:
    try:
        return os.tcgetpgrp(sys.__stdin__.fileno() if sys.__stdin__ else 0) == group
    except (OSError, ValueError):  # no terminal, or standard input is closed
        return False


def _set_foreground(group: int) -> None:
    # From the background this call raises SIGTTOU in us, which would stop us; ignoring it is the documented way.
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        with contextlib.suppress(OSError):  # the group has ended already, or the terminal is gone
            os.tcsetpgrp(sys.__stdin__.fileno() if sys.__stdin__ else 0, group)
    finally:
        signal.signal(signal.SIGTTOU, before)
