"""Keeps the nodes of one cluster running on this machine: what `holdfast up` does.

Rule: one task per node decides, in order: start it; see it ready; if it dies, say so and start it again after a pause that
doubles with every quick death. A node that refuses to start at all (it exits by itself before the cluster has ever seen it
ready: a wrong data directory, a port in use) is not a death but a mistake of ours, and the whole start is given up.

It knows neither processes nor HTTP nor time: those come in through `World`, so that a test drives it with a clock of its own.
"""

from __future__ import annotations

import asyncio
import signal
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from holdfast.cli import exit_codes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

RESTART_SECONDS_MIN: Final = 1.0
"""The first pause: long enough to read what happened, short enough that a killed leader is back within an election or two."""
RESTART_SECONDS_MAX: Final = 30.0
"""A node that cannot stay up costs one start in half a minute, no more."""
STEADY_SECONDS: Final = 60.0
"""A node that ran this long died of something new: the pause starts small again."""
READY_POLL_SECONDS: Final = 0.1
REMIND_SECONDS: Final = 15.0
"""When a start takes longer than this, whoever waits is told for whom."""
STOP_SECONDS_MAX: Final = 10.0
"""A node that has not ended this long after SIGTERM is killed: its journal is made for that."""


class Child(Protocol):
    """A running node process."""

    @property
    def pid(self) -> int: ...

    async def wait(self) -> int:
        """The exit status; negative for a signal. May be awaited by several, and again after the end."""
        ...

    def terminate(self) -> None:
        """Ask it to end. Harmless if it has ended."""
        ...

    def kill(self) -> None:
        """End it. Harmless if it has ended."""
        ...


class World(Protocol):
    """Everything outside: processes, readiness, time."""

    def now(self) -> float:
        """Seconds on a clock that never goes back."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    async def start(self, node: str) -> Child:
        """Raises OSError when no process can be made."""
        ...

    async def is_ready(self, node: str) -> bool:
        """Whether the node answers that it can serve. Never raises; False is what a node that is not there says."""
        ...


@dataclass(frozen=True, slots=True)
class Event:
    """Something that whoever watches wants to know. Fields that make no sense for `event` are None."""

    event: Literal[
        "started",
        "ready",
        "all_ready",
        "waiting",
        "died",
        "restarting",
        "refused",
        "stopping",
        "stopped",
    ]
    node: str | None = None
    pid: int | None = None
    how: str | None = None
    after_seconds: float | None = None
    nodes: tuple[str, ...] | None = None

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


def describe_end(status: int) -> str:
    """How a process ended, in words: `exit code 3`, `signal 9 (SIGKILL)`."""
    if status >= 0:
        return f"exit code {status}"
    try:
        return f"signal {-status} ({signal.Signals(-status).name})"
    except ValueError:
        return f"signal {-status}"


class Supervisor:
    """Runs the nodes until `request_stop`, or until there is nothing left to run.

    `report` is called with every `Event`, from the event loop; it must not block.
    """

    def __init__(
        self,
        nodes: Sequence[str],
        world: World,
        report: Callable[[Event], None],
        *,
        restart: bool = True,
    ) -> None:
        self._nodes = tuple(nodes)
        self._world = world
        self._report = report
        self._restart = restart
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._seen_ready: set[str] = set()
        self._exit_code = exit_codes.OK

    def request_stop(self) -> None:
        """End every node in an orderly way; asked a second time, at once."""
        if self._stop.is_set():
            self._hurry.set()
        else:
            self._report(Event("stopping"))
            self._stop.set()

    async def run(self) -> int:
        """The exit code: 0 after a requested stop, else that of the node that refused to start, or 1 if all are dead."""
        reminder = asyncio.create_task(self._remind())
        try:
            async with asyncio.TaskGroup() as keepers:
                for node in self._nodes:
                    keepers.create_task(self._keep(node))
        finally:
            reminder.cancel()
        if not self._stop.is_set():  # only without restarts: one after the other has died
            self._exit_code = exit_codes.FAILED
        self._report(Event("stopped"))
        return self._exit_code

    async def _remind(self) -> None:
        await self._world.sleep(REMIND_SECONDS)
        missing = tuple(node for node in self._nodes if node not in self._seen_ready)
        if missing:
            self._report(Event("waiting", nodes=missing))

    async def _keep(self, node: str) -> None:
        pause = RESTART_SECONDS_MIN
        while not self._stop.is_set():
            started_at = self._world.now()
            try:
                child = await self._world.start(node)
            except OSError as error:
                self._refuse(node, f"no process can be started: {error}", exit_codes.FAILED)
                return
            self._report(Event("started", node=node, pid=child.pid))
            status = await self._watch(node, child)
            if status is None:
                return
            self._report(Event("died", node=node, pid=child.pid, how=describe_end(status)))
            if status > 0 and node not in self._seen_ready:
                self._refuse(node, describe_end(status), status)
                return
            if not self._restart:
                return
            if self._world.now() - started_at >= STEADY_SECONDS:
                pause = RESTART_SECONDS_MIN
            self._report(Event("restarting", node=node, after_seconds=pause))
            await self._first_of(self._world.sleep(pause), self._stop.wait())
            pause = min(pause * 2, RESTART_SECONDS_MAX)

    def _refuse(self, node: str, how: str, exit_code: int) -> None:
        self._report(Event("refused", node=node, how=how))
        if not self._stop.is_set():
            self._exit_code = exit_code
            self._stop.set()

    async def _watch(self, node: str, child: Child) -> int | None:
        """The status with which the child ended by itself; None if it was ended here because of a stop."""
        readiness = asyncio.create_task(self._see_ready(node))
        try:
            await self._first_of(child.wait(), self._stop.wait())
            if not self._stop.is_set():
                return await child.wait()
        except asyncio.CancelledError:
            child.kill()  # never leave a node behind, whatever goes wrong here
            raise
        finally:
            readiness.cancel()
        child.terminate()
        await self._first_of(child.wait(), self._hurry.wait(), self._world.sleep(STOP_SECONDS_MAX))
        child.kill()
        await child.wait()
        return None

    async def _see_ready(self, node: str) -> None:
        while not await self._world.is_ready(node):
            await self._world.sleep(READY_POLL_SECONDS)
        self._report(Event("ready", node=node))
        if node not in self._seen_ready:
            self._seen_ready.add(node)
            if len(self._seen_ready) == len(self._nodes):
                self._report(Event("all_ready", nodes=self._nodes))

    @staticmethod
    async def _first_of(*awaitables: Awaitable[object]) -> None:
        """Returns when one of them is done; the others are cancelled."""
        tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
