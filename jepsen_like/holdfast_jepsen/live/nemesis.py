"""Carries out a plan of faults on real processes, and believes in none that it has not seen.

Rules:
* `fired` counts a fault only when there is proof: the process ended by SIGKILL; the kernel says that it is stopped; a probe over
  the link did not arrive; the queue delayed or dropped something; not a byte of the disk was free.
* Whatever a fault does is undone at its end, but for a clock that it set: that stays as it is. `heal` comes when all have ended; it
  gives room to every disk, mends every cut, and starts and wakes every node, whatever the faults have left.
* Which node is hit follows from the fault's own draw, and where the kind says so from who leads at that moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from typing import TYPE_CHECKING

from holdfast_coordinator.local_cluster import LocalClusterError
from holdfast_jepsen.live.network import CLIENTS, Link
from holdfast_jepsen.sim.rng import Rng
from holdfast_jepsen.sim.world import SECOND

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    import aiohttp

    from holdfast_jepsen.faults.plan import Fault
    from holdfast_jepsen.live.clients import Clients
    from holdfast_jepsen.live.cluster import LiveCluster
    from holdfast_jepsen.live.disk import SmallDisk

SKEW = 0.004
"""Clocks run up to so much wrong, as in the simulator; the client's margin is 1 %."""
STOPPED_SECONDS = 1.0
"""For a signal to arrive."""
END_SECONDS = 30.0
"""For a node that is asked to end: it hands over, answers its callers and closes its files, on a busy machine too."""
LEADER_SECONDS = 15.0
"""For an election to end, and on a busy machine for the interpreters that take part in it to start."""
LOG_LOOKS = 100
"""A tenth of a second apart: an interpreter starts within, on a busy machine too."""
PROOF_SECONDS = 0.25
"""Between two looks whether a cut link holds something back."""


class Nemesis:
    """See the module."""

    def __init__(
        self,
        cluster: LiveCluster,
        clients: Clients,
        http: aiohttp.ClientSession,
        disks: dict[str, SmallDisk],
        say: Callable[[str], None],
        now: Callable[[], int],
    ) -> None:
        self.fired: Counter[str] = Counter()
        self.failures: list[str] = []
        """Sentences about nodes that did what no fault explains."""
        self.acts: list[tuple[Fault, int, str]] = []
        """(fault, nanoseconds since the run began, what was done to whom then): for the report."""
        self._cluster = cluster
        self._clients = clients
        self._http = http
        self._disks = disks
        self._say = say
        self._now = now
        self._cut: Counter[Link] = Counter()
        """By how many faults a link is cut now."""
        self._queues = asyncio.Lock()
        """Held by the fault that slows what nodes send, or loses it."""
        self._full: set[str] = set()
        """Nodes whose disk is full, or was since their last start: they may stop themselves."""
        self._actions: dict[str, Callable[[Fault, Rng], Awaitable[bool]]] = {
            "kill": lambda f, r: self._kill([r.choice(cluster.names)], f),
            "kill-leader": self._kill_leader,
            "kill-all": lambda f, _: self._kill(cluster.names, f),
            "rolling-restart": self._rolling_restart,
            "pause": lambda f, r: self._pause([r.choice(cluster.names)], f),
            "pause-leader": self._pause_leader,
            "pause-majority": self._pause_majority,
            "pause-all": lambda f, _: self._pause(cluster.names, f),
            "isolate": lambda f, r: self._isolate(r.choice(cluster.names), f),
            "isolate-leader": self._isolate_leader,
            "halves": self._halves,
            "bridge": self._bridge,
            "one-way": self._one_way,
            "ring": self._ring,
            "pause-client": self._pause_client,
            "crash-client": self._crash_client,
            "cut-clients": self._cut_clients,
            "slow-links": self._slow,
            "loss": self._loss,
            "clock": self._clock,
            "disk-full": self._disk_full,
            "hand-over": self._hand_over,
        }

    async def act(self, fault: Fault) -> None:
        """From its beginning to its end."""
        self._say(f"{fault.kind} for {fault.duration / SECOND:.1f} s")
        begun = self._now()
        if await self._actions[fault.kind](fault, Rng(fault.draw)):
            self.fired[fault.kind] += 1
        else:
            self.acts.append((fault, begun, "without effect"))

    def _note(self, fault: Fault, what: str) -> None:
        self.acts.append((fault, self._now(), what))

    async def heal(self) -> None:
        """No more faults; everything that can live does."""
        cluster = self._cluster
        for disk in self._disks.values():
            disk.make_room()
        await cluster.network.mend([*self._cut])
        self._cut.clear()
        for name in cluster.names:
            if cluster.is_running(name):
                cluster.signal(name, SIGCONT)
        await self._restart(cluster.names)
        for name in cluster.names:
            with contextlib.suppress(
                LocalClusterError
            ):  # that it has ended is told by `look_around`
                await cluster.wait_ready(name)

    def look_around(self) -> None:
        """Nodes that have ended by themselves. Only a full disk is a reason."""
        for name in self._cluster.names:
            status = self._cluster.forget_ended(name)
            if status is None:
                continue
            if name in self._full and status == 1:
                self._say(f"{name} stopped itself: its disk is full")
            else:
                said = self._cluster.log(name).strip()[-300:]
                self.failures.append(f"{name} ended by itself with {status}: {said}")

    # Processes.

    async def _leader(self) -> str | None:
        """Whoever leads now, or as soon as somebody does; None: nobody does for a while."""
        end = asyncio.get_running_loop().time() + LEADER_SECONDS
        while asyncio.get_running_loop().time() < end:
            leader = await self._cluster.leader(self._http)
            if leader is not None and self._cluster.is_running(leader):
                return leader
            await asyncio.sleep(PROOF_SECONDS)
        return None

    async def _kill(self, names: Sequence[str], fault: Fault) -> bool:
        cluster = self._cluster
        self.look_around()
        victims = [name for name in names if cluster.is_running(name)]
        if not victims:
            return False
        self._note(fault, f"kill -9 {', '.join(victims)}")
        await asyncio.gather(*(cluster.kill(name, SIGKILL) for name in victims))
        await asyncio.sleep(fault.duration / SECOND)
        await self._restart(victims)
        return True

    async def _kill_leader(self, fault: Fault, _: Rng) -> bool:
        leader = await self._leader()
        return leader is not None and await self._kill([leader], fault)

    async def _restart(self, names: Iterable[str]) -> None:
        self.look_around()
        for name in names:
            if not self._cluster.is_running(name):
                self._full.discard(name)
                await self._cluster.start_unready(name)

    async def _rolling_restart(self, fault: Fault, rng: Rng) -> bool:
        """Every node in turn is asked to end, and is started again; the next one once that one is ready."""
        cluster, ended = self._cluster, 0
        for name in rng.sample(cluster.names, len(cluster.names)):
            self.look_around()
            if not cluster.is_running(name):
                continue
            self._note(fault, f"SIGTERM {name}")
            cluster.signal(name, SIGCONT)  # whoever stands still cannot end
            late = asyncio.get_running_loop().call_later(
                END_SECONDS, self._does_not_end, name, cluster.pid(name)
            )
            await cluster.kill(name, SIGTERM)
            late.cancel()
            ended += 1
            await self._restart([name])
            with contextlib.suppress(LocalClusterError):  # another fault has hit it
                await cluster.wait_ready(name)
        return ended > 0

    def _does_not_end(self, name: str, pid: int) -> None:
        self.failures.append(f"{name} did not end within {END_SECONDS:g} s of SIGTERM")
        os.kill(pid, SIGKILL)

    async def _pause(self, names: Sequence[str], fault: Fault) -> bool:
        cluster = self._cluster
        self.look_around()
        victims = [name for name in names if cluster.is_running(name)]
        self._note(fault, f"SIGSTOP {', '.join(victims)}")
        pids = {name: cluster.pid(name) for name in victims}
        for name in victims:
            cluster.signal(name, SIGSTOP)
        stopped = [await _is_stopped(pid) for pid in pids.values()]
        await asyncio.sleep(fault.duration / SECOND)
        for name in victims:
            if cluster.is_running(name) and cluster.pid(name) == pids[name]:
                cluster.signal(name, SIGCONT)
        return any(stopped)

    async def _pause_leader(self, fault: Fault, _: Rng) -> bool:
        leader = await self._leader()
        return leader is not None and await self._pause([leader], fault)

    async def _pause_majority(self, fault: Fault, rng: Rng) -> bool:
        names = self._cluster.names
        return await self._pause(rng.sample(names, len(names) // 2 + 1), fault)

    async def _clock(self, fault: Fault, rng: Rng) -> bool:
        """As after a reboot: CLOCK_BOOTTIME stands elsewhere and runs at another rate, and the wall clock is a day wrong."""
        name = rng.choice(self._cluster.names)
        rate = 1 - SKEW + 2 * SKEW * rng.random()
        days = rng.choice((-1, 1))
        self._cluster.clocks[name] = (rate, float(rng.between(0, 1_000_000)), days * 86_400.0)
        if not await self._kill([name], fault):
            return False
        for _ in range(LOG_LOOKS):
            if f"clock runs {rate} times" in self._cluster.log(name):
                return True
            await asyncio.sleep(0.1)
        return False

    async def _hand_over(self, fault: Fault, _: Rng) -> bool:
        leader = await self._leader()
        if leader is None:
            return False
        self._note(fault, f"{leader} is asked to hand over")
        url = f"{self._cluster.url(leader)}/v1/cluster/step-down"
        with contextlib.suppress(OSError, TimeoutError):
            async with self._http.post(url) as response:
                return response.status == 200
        return False

    # Clients.

    async def _pause_client(self, fault: Fault, rng: Rng) -> bool:
        place = rng.below(self._clients.count)
        self._note(fault, f"SIGSTOP the client at place {place + 1}")
        stopped = await _is_stopped(self._clients.pause(place))
        await asyncio.sleep(fault.duration / SECOND)
        self._clients.resume(place)
        return stopped

    async def _crash_client(self, fault: Fault, rng: Rng) -> bool:
        place = rng.below(self._clients.count)
        self._note(fault, f"kill -9 the client at place {place + 1}")
        return await self._clients.replace(place)

    async def _cut_clients(self, fault: Fault, rng: Rng) -> bool:
        name = rng.choice(self._cluster.names)
        return await self._cut_for(between([name], [CLIENTS]), fault)

    # Links.

    async def _cut_for(self, links: Sequence[Link], fault: Fault) -> bool:
        network = self._cluster.network
        self._note(fault, f"cut {', '.join(f'{a} -> {b}' for a, b in links)}")
        self._cut.update(links)
        await network.cut(links)
        loop = asyncio.get_running_loop()
        end = loop.time() + fault.duration / SECOND
        was_cut = False
        while not was_cut and loop.time() < end:
            was_cut = any([not await network.passes(link) for link in links])
            await asyncio.sleep(PROOF_SECONDS)
        await asyncio.sleep(max(0.0, end - loop.time()))
        self._cut.subtract(links)
        await network.mend([link for link in links if self._cut[link] <= 0])
        self._cut = +self._cut
        return was_cut

    async def _isolate(self, name: str, fault: Fault) -> bool:
        return await self._cut_for(between([name], self._others(name)), fault)

    async def _isolate_leader(self, fault: Fault, _: Rng) -> bool:
        leader = await self._leader()
        return leader is not None and await self._isolate(leader, fault)

    async def _halves(self, fault: Fault, rng: Rng) -> bool:
        names = self._cluster.names
        side = rng.sample(names, len(names) // 2)
        return await self._cut_for(between(side, [n for n in names if n not in side]), fault)

    async def _bridge(self, fault: Fault, rng: Rng) -> bool:
        """Two sides that see each other only through one node."""
        names = rng.sample(self._cluster.names, len(self._cluster.names))
        middle = len(names) // 2
        return await self._cut_for(between(names[:middle], names[middle + 1 :]), fault)

    async def _one_way(self, fault: Fault, rng: Rng) -> bool:
        """One node hears the others, and they do not hear it; or the other way round."""
        name = rng.choice(self._cluster.names)
        links = [(name, other) for other in self._others(name)]
        if rng.chance(0.5):
            links = [(other, one) for one, other in links]
        return await self._cut_for(links, fault)

    async def _ring(self, fault: Fault, rng: Rng) -> bool:
        """Every node sees a majority, no two the same one (of five); of three, one link is missing."""
        names = rng.sample(self._cluster.names, len(self._cluster.names))
        count = len(names)
        pairs = [(i, j) for i in range(count) for j in range(i + 2, count) if (j + 1) % count != i]
        return await self._cut_for(
            [link for i, j in pairs or [(0, 1)] for link in between([names[i]], [names[j]])], fault
        )

    async def _slow(self, fault: Fault, rng: Rng) -> bool:
        milliseconds = rng.choice((20, 80, 300))
        return await self._impair(fault, rng, self._cluster.network.slow, milliseconds)

    async def _loss(self, fault: Fault, rng: Rng) -> bool:
        percent = rng.choice((5, 20, 50))
        return await self._impair(fault, rng, self._cluster.network.lose, percent)

    async def _impair(
        self,
        fault: Fault,
        rng: Rng,
        impair: Callable[[str, int], Awaitable[str]],
        much: int,
    ) -> bool:
        """One after the other: a node has one queue, and what it did says nothing if two faults share it."""
        names = rng.sample(self._cluster.names, rng.between(1, len(self._cluster.names)))
        async with self._queues:
            how = {await impair(name, much) for name in names}
            self._note(fault, f"{', '.join(names)}: {', '.join(how)}")
            await asyncio.sleep(fault.duration / SECOND)
            disturbed = [await self._cluster.network.disturbed(name) for name in names]
            for name in names:
                await impair(name, 0)
        return any(disturbed)

    def _others(self, name: str) -> list[str]:
        return [other for other in self._cluster.names if other != name]

    # Disks.

    async def _disk_full(self, fault: Fault, rng: Rng) -> bool:
        name = rng.choice(sorted(self._disks))
        disk = self._disks[name]
        self._note(fault, f"the disk of {name} is full")
        self._full.add(name)
        disk.fill()
        was_full = os.statvfs(disk.where).f_bavail == 0
        await asyncio.sleep(fault.duration / SECOND)
        disk.make_room()
        await self._restart([name])
        return was_full


def between(one: Sequence[str], other: Sequence[str]) -> list[Link]:
    """Every link from one side to the other, in both directions."""
    return [pair for a in one for b in other for pair in ((a, b), (b, a))]


async def _is_stopped(pid: int) -> bool:
    """Whether the kernel says so, within a moment."""
    loop = asyncio.get_running_loop()
    end = loop.time() + STOPPED_SECONDS
    while loop.time() < end:
        if _state(pid) == "T":
            return True
        await asyncio.sleep(0.01)
    return False


def _state(pid: int) -> str:
    """One letter, as proc(5) has it; none: there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
