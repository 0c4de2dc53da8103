"""How long nobody gets a lock when the leader dies, freezes, or hands over.

    .venv/bin/python bench/failover.py                       20 rounds of each, about two minutes
    .venv/bin/python bench/failover.py --rounds 50 --json

Rule: what is measured is what a caller sees: three real node processes with fsync on and the default timing, plain HTTP, no client
library. From the signal on, one caller at each surviving node asks for a lock that nobody else wants, again and again; the time to
the first grant of a request that was sent after the signal is the unavailability. For the hand-over, callers at all nodes, the old
leader included, go on all the time, and the longest time between two grants counts; not one of them may be refused.

    killed   SIGKILL of the leader: its sockets close, so the others need not wait for their election time
    frozen   SIGSTOP of the leader: nothing closes, only the heartbeats stay away
    handed   POST /v1/cluster/step-down at a node that does not lead
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
from measuring import parser

from holdfast_coordinator.local_cluster import LocalCluster

ROUNDS, QUICK_ROUNDS = 20, 3
GRANT_SECONDS_MAX = 10.0
HAND_OVER_LOAD_SECONDS = 0.4
"""Of load before and after a hand-over: the gap is found in between."""
TARGETS_MS = {"killed": (400, 1000), "frozen": (1000, None), "handed": (200, 200)}
"""p50 and p99 that the project promises itself."""


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of failover. Milliseconds without a grant."""

    kind: str
    rounds: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    refused: int


class Bench:
    """The callers, and the cluster that they ask."""

    def __init__(self, cluster: LocalCluster, http: aiohttp.ClientSession) -> None:
        self.cluster = cluster
        self.http = http
        self.number = 0
        self.refused = 0

    async def grant(self, node: str) -> bool:
        """Take a lock of our own and give it back. False: refused, or nobody was there."""
        self.number += 1
        body = {"key": f"failover/{self.number}", "ttl_ms": 60_000}
        url = self.cluster.url(node)
        try:
            async with self.http.post(f"{url}/v1/locks/acquire", json=body) as response:
                grant = await response.json(content_type=None)
                if response.status != 200:
                    return False
            release = {"token": grant["token"], "session": grant["session"]}
            async with self.http.post(f"{url}/v1/locks/release", json=release) as response:
                await response.read()
        except aiohttp.ClientError:
            return False
        return True

    async def first_grant(self, node: str) -> None:
        while not await self.grant(node):  # noqa: ASYNC110 - other processes decide
            await asyncio.sleep(0.005)

    async def leader(self) -> str:
        """The leader that every running node names, once each of them is ready."""
        async with asyncio.timeout(GRANT_SECONDS_MAX):
            while True:
                named = {await self._leader_at(name) for name in self.cluster.running}
                if len(named) == 1 and None not in named:
                    return str(named.pop())
                await asyncio.sleep(0.02)

    async def _leader_at(self, node: str) -> str | None:
        try:
            async with self.http.get(f"{self.cluster.url(node)}/v1/cluster") as response:
                leader: str | None = (await response.json(content_type=None))["leader"]
                return leader
        except aiohttp.ClientError:
            return None

    async def without(self, leader: str, number: signal.Signals) -> float:
        """Send the signal; seconds until somebody gets a lock at another node."""
        others = [name for name in self.cluster.names if name != leader]
        if number == signal.SIGKILL:
            await self.cluster.kill(leader, number)
        else:
            self.cluster.signal(leader, number)
        began = time.perf_counter()
        asking = [asyncio.ensure_future(self.first_grant(name)) for name in others]
        try:
            async with asyncio.timeout(GRANT_SECONDS_MAX):
                await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in asking:
                each.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        return time.perf_counter() - began

    async def killed(self) -> float:
        leader = await self.leader()
        gap = await self.without(leader, signal.SIGKILL)
        await self.cluster.start(leader)
        return gap

    async def frozen(self) -> float:
        leader = await self.leader()
        try:
            return await self.without(leader, signal.SIGSTOP)
        finally:
            self.cluster.signal(leader, signal.SIGCONT)

    async def handed(self) -> float:
        """The longest time between two grants, while all nodes are asked all the time."""
        leader = await self.leader()
        other = next(name for name in self.cluster.names if name != leader)
        grants: list[float] = []
        stop = asyncio.Event()

        async def keep_asking(node: str) -> None:
            while not stop.is_set():
                if await self.grant(node):
                    grants.append(time.perf_counter())
                else:
                    self.refused += 1

        asking = [asyncio.ensure_future(keep_asking(name)) for name in self.cluster.names]
        await asyncio.sleep(HAND_OVER_LOAD_SECONDS)
        url = f"{self.cluster.url(other)}/v1/cluster/step-down"
        async with self.http.post(url) as response:
            answer: dict[str, Any] = await response.json(content_type=None)
            if response.status != 200 or answer["leader"] == leader:
                raise SystemExit(f"the leader did not hand over: {answer}")
        await asyncio.sleep(HAND_OVER_LOAD_SECONDS)
        stop.set()
        await asyncio.gather(*asking)
        return max(after - before for before, after in itertools.pairwise(grants))


async def measure(kind: str, rounds: int, bench: Bench, one: Callable[[], Awaitable[float]]) -> Row:
    """So many rounds of one kind."""
    bench.refused = 0
    gaps = sorted([1000 * await one() for _ in range(rounds)])

    def rank(share: float) -> float:
        return round(gaps[max(0, math.ceil(len(gaps) * share) - 1)], 1)

    return Row(kind, rounds, rank(0.5), rank(0.99), rank(1), bench.refused)


def show(rows: list[Row]) -> None:
    """A table for a person."""
    print(
        f"{'leader':<8}{'rounds':>7}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}{'refused':>9}   target"
    )
    for row in rows:
        p50, p99 = TARGETS_MS[row.kind]
        met = row.p50_ms < p50 and (p99 is None or row.p99_ms < p99)
        target = f"p50 < {p50}" + (f", p99 < {p99}" if p99 else "")
        figures = f"{row.p50_ms:>9.1f}{row.p99_ms:>9.1f}{row.max_ms:>9.1f}{row.refused:>9}"
        print(f"{row.kind:<8}{row.rounds:>7}{figures}   {target}: {'met' if met else 'MISSED'}")


async def run(rounds: int, kinds: list[str], directory: Path) -> list[Row]:
    """Everything, on one cluster."""
    timeout = aiohttp.ClientTimeout(total=GRANT_SECONDS_MAX)
    async with LocalCluster(directory) as cluster, aiohttp.ClientSession(timeout=timeout) as http:
        bench = Bench(cluster, http)
        ways = {"killed": bench.killed, "frozen": bench.frozen, "handed": bench.handed}
        return [await measure(kind, rounds, bench, ways[kind]) for kind in kinds]


def main() -> int:
    """The command. Exit code 0 whatever the figures are: they depend on the machine."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int)
    options.add_argument("--only", choices=sorted(TARGETS_MS), action="append")
    arguments = options.parse_args()
    kinds = arguments.only or list(TARGETS_MS)
    rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else ROUNDS)
    arguments.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=arguments.directory) as directory:
        rows = asyncio.run(run(rounds, kinds, Path(directory)))
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
