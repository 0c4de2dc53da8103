"""The supervisor of `holdfast up`, on a clock of the test's own: who is started, when again, and what ends it all."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import signal
from typing import TYPE_CHECKING

import pytest

from holdfast.cli.supervisor import (
    READY_POLL_SECONDS,
    REMIND_SECONDS,
    RESTART_SECONDS_MAX,
    RESTART_SECONDS_MIN,
    STEADY_SECONDS,
    STOP_SECONDS_MAX,
    Event,
    Supervisor,
    describe_end,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

KILLED = -signal.SIGKILL


class FakeChild:
    def __init__(self, pid: int, *, obeys: bool) -> None:
        self.pid = pid
        self.obeys = obeys
        self.asked_to_end = False
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    @property
    def status(self) -> int | None:
        return self._ended.result() if self._ended.done() else None

    def die(self, status: int) -> None:
        if not self._ended.done():
            self._ended.set_result(status)

    def terminate(self) -> None:
        self.asked_to_end = True
        if self.obeys:
            self.die(0)

    def kill(self) -> None:
        self.die(KILLED)


class FakeWorld:
    """Time moves only by `advance`. Nodes are ready as soon as they are in `ready`."""

    def __init__(self) -> None:
        self.time = 0.0
        self.children: dict[str, list[FakeChild]] = {}
        self.ready: set[str] = set()
        self.obeys = True
        self.cannot_start = False
        self._pids = itertools.count(100)
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.time + seconds, next(self._order), wake))
        await wake

    async def start(self, node: str) -> FakeChild:
        if self.cannot_start:
            raise OSError("no more processes")
        child = FakeChild(next(self._pids), obeys=self.obeys)
        self.children.setdefault(node, []).append(child)
        return child

    async def is_ready(self, node: str) -> bool:
        return node in self.ready

    def last(self, node: str) -> FakeChild:
        return self.children[node][-1]

    async def advance(self, seconds: float) -> None:
        until = self.time + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            self.time, _, wake = heapq.heappop(self._sleepers)
            if not wake.done():
                wake.set_result(None)
            await settle()
        self.time = until


async def settle() -> None:
    """Let every task go as far as it can without time."""
    for _ in range(30):
        await asyncio.sleep(0)


class Running:
    """A supervisor at work, and everything it has reported."""

    def __init__(self, world: FakeWorld, *, restart: bool) -> None:
        self.world = world
        self.events: list[Event] = []
        self.supervisor = Supervisor(["n1", "n2", "n3"], world, self.events.append, restart=restart)
        self.done = asyncio.ensure_future(self.supervisor.run())

    def told(self, event: str) -> list[Event]:
        return [each for each in self.events if each.event == event]


@contextlib.asynccontextmanager
async def supervising(
    world: FakeWorld | None = None, *, restart: bool = True
) -> AsyncIterator[Running]:
    running = Running(world or FakeWorld(), restart=restart)
    await settle()
    try:
        yield running
    finally:
        running.done.cancel()
        await asyncio.gather(running.done, return_exceptions=True)


async def up(running: Running) -> None:
    running.world.ready |= {"n1", "n2", "n3"}
    await running.world.advance(READY_POLL_SECONDS)


async def test_every_node_is_started_and_all_ready_is_told_once() -> None:
    """Three processes; each is told when it can serve, and the cluster when all can."""
    async with supervising() as running:
        assert [event.node for event in running.told("started")] == ["n1", "n2", "n3"]
        running.world.ready.add("n2")
        await running.world.advance(READY_POLL_SECONDS)
        assert [event.node for event in running.told("ready")] == ["n2"]
        assert running.told("all_ready") == []
        await up(running)
        assert running.told("all_ready") == [Event("all_ready", nodes=("n1", "n2", "n3"))]


async def test_a_killed_node_is_reported_with_its_process_and_started_again() -> None:
    """The report names the process id and the signal; the new process comes after the pause and not before."""
    async with supervising() as running:
        await up(running)
        first = running.world.last("n2")
        first.die(KILLED)
        await settle()
        assert running.told("died") == [
            Event("died", node="n2", pid=first.pid, how="signal 9 (SIGKILL)")
        ]
        assert running.told("restarting") == [
            Event("restarting", node="n2", after_seconds=RESTART_SECONDS_MIN)
        ]
        await running.world.advance(RESTART_SECONDS_MIN - 0.01)
        assert len(running.world.children["n2"]) == 1
        await running.world.advance(0.02)
        assert len(running.world.children["n2"]) == 2
        assert len(running.told("all_ready")) == 1


async def test_the_pause_doubles_for_a_node_that_keeps_dying_up_to_a_bound() -> None:
    """Nobody burns a processor on a node that cannot stay up."""
    async with supervising() as running:
        await up(running)
        for _ in range(8):
            running.world.last("n1").die(1)
            await running.world.advance(RESTART_SECONDS_MAX)
        pauses = [event.after_seconds for event in running.told("restarting")]
        assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


async def test_the_pause_is_small_again_after_a_steady_time() -> None:
    """A node that ran for long died of something new."""
    async with supervising() as running:
        await up(running)
        running.world.last("n1").die(1)
        await running.world.advance(RESTART_SECONDS_MIN)
        await running.world.advance(STEADY_SECONDS)
        running.world.last("n1").die(1)
        await settle()
        assert [event.after_seconds for event in running.told("restarting")] == [1, 1]


async def test_no_restart_leaves_the_dead_dead_and_ends_when_all_are() -> None:
    """The exit code is 1: a cluster without a node is not what was asked for."""
    async with supervising(restart=False) as running:
        await up(running)
        running.world.last("n1").die(KILLED)
        await running.world.advance(RESTART_SECONDS_MAX)
        assert len(running.world.children["n1"]) == 1
        assert not running.done.done()
        running.world.last("n2").die(KILLED)
        running.world.last("n3").die(0)
        assert await running.done == 1


async def test_a_node_that_refuses_to_start_gives_up_the_whole_start() -> None:
    """A wrong data directory: the others are stopped, and its exit code is ours."""
    async with supervising() as running:
        running.world.ready |= {"n1", "n3"}
        await running.world.advance(READY_POLL_SECONDS)
        running.world.last("n2").die(2)
        assert await running.done == 2
        assert running.told("refused") == [Event("refused", node="n2", how="exit code 2")]
        assert running.world.last("n1").asked_to_end
        assert running.world.last("n3").asked_to_end


async def test_a_node_that_is_killed_before_it_is_ready_is_started_again() -> None:
    """Killed by a signal is a fault, not a refusal."""
    async with supervising() as running:
        running.world.last("n2").die(KILLED)
        await running.world.advance(RESTART_SECONDS_MIN)
        assert len(running.world.children["n2"]) == 2


async def test_no_process_can_be_made() -> None:
    """The machine is out of processes: a sentence and exit code 1, not a traceback."""
    world = FakeWorld()
    world.cannot_start = True
    async with supervising(world) as running:
        assert await running.done == 1
        assert "no more processes" in str(running.told("refused")[0].how)


async def test_a_stop_ends_all_nodes_in_an_orderly_way() -> None:
    """SIGTERM to each, and exit code 0."""
    async with supervising() as running:
        await up(running)
        running.supervisor.request_stop()
        assert await running.done == 0
        assert [running.world.last(node).status for node in ("n1", "n2", "n3")] == [0, 0, 0]
        assert [event.event for event in running.events[-2:]] == ["stopping", "stopped"]


async def test_a_stop_during_the_pause_does_not_start_the_node_again() -> None:
    """Ctrl-C right after a death ends at once."""
    async with supervising() as running:
        await up(running)
        running.world.last("n1").die(KILLED)
        await settle()
        running.supervisor.request_stop()
        assert await running.done == 0
        assert len(running.world.children["n1"]) == 1


async def test_a_node_that_does_not_end_is_killed_after_a_while() -> None:
    """A hung node cannot keep the supervisor."""
    world = FakeWorld()
    world.obeys = False
    async with supervising(world) as running:
        await up(running)
        running.supervisor.request_stop()
        await world.advance(STOP_SECONDS_MAX - 0.01)
        assert not running.done.done()
        await world.advance(0.02)
        assert await running.done == 0
        assert world.last("n1").status == KILLED


async def test_a_second_stop_does_not_wait() -> None:
    """Ctrl-C twice: kill."""
    world = FakeWorld()
    world.obeys = False
    async with supervising(world) as running:
        await up(running)
        running.supervisor.request_stop()
        await settle()
        running.supervisor.request_stop()
        assert await running.done == 0
        assert world.last("n3").status == KILLED


async def test_whoever_waits_long_for_the_start_is_told_for_whom() -> None:
    """A node that replays a long journal is not a riddle."""
    async with supervising() as running:
        running.world.ready |= {"n1", "n3"}
        await running.world.advance(REMIND_SECONDS)
        assert running.told("waiting") == [Event("waiting", nodes=("n2",))]


async def test_a_cancelled_supervisor_leaves_no_process() -> None:
    """Whatever goes wrong above it, the nodes do not outlive it."""
    async with supervising() as running:
        await up(running)
        running.done.cancel()
        await settle()
        assert [running.world.last(node).status for node in ("n1", "n2", "n3")] == [KILLED] * 3


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "exit code 0"), (3, "exit code 3"), (-15, "signal 15 (SIGTERM)"), (-200, "signal 200")],
)
def test_an_end_is_described_in_words(status: int, words: str) -> None:
    """A number alone says nothing to the person who has to act."""
    assert describe_end(status) == words


def test_an_event_as_json_has_only_what_it_has() -> None:
    """One line a script can read, without empty fields."""
    assert Event("died", node="n1", pid=7, how="signal 9 (SIGKILL)").as_json() == {
        "event": "died",
        "node": "n1",
        "pid": 7,
        "how": "signal 9 (SIGKILL)",
    }
