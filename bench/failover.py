"""How long nobody gets a lock when the leader dies, freezes, or hands over.

    .venv/bin/python bench/failover.py                       20 rounds of each, about four minutes with etcd
    .venv/bin/python bench/failover.py --rounds 50 --json
    .venv/bin/python bench/failover.py --peers ''            Holdfast alone

Rule: what is measured is what a caller sees: three real node processes with fsync on and the default timing, plain HTTP, no client
library. From the signal on, one caller at each surviving node asks for a lock that nobody else wants, again and again; the time to
the first grant of a request that was sent after the signal is the unavailability. For the hand-over, callers at all nodes, the old
leader included, go on all the time, and the longest time between two grants counts; not one of them may be refused. etcd, with its
default timing, is asked in the same way (peers/etcd_failover.py).

    killed   SIGKILL of the leader: its sockets close, so the others need not wait for their election time
    frozen   SIGSTOP of the leader: nothing closes, only the heartbeats stay away
    handed   POST /v1/cluster/step-down at a node that does not lead
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import aiohttp
from field import names_of
from measuring import answer, parser, percentile, say
from peers import contender
from peers.holdfast_cluster import Server

from holdfast_coordinator.local_cluster import LocalCluster

ROUNDS, QUICK_ROUNDS = 20, 2
GRANT_SECONDS_MAX = 10.0
HAND_OVER_LOAD_SECONDS = 0.4
"""Of load before and after a hand-over: the gap is found in between."""
TARGETS_MS = {"killed": (400, 1000), "frozen": (1000, None), "handed": (200, 200)}
"""p50 and p99 that the project promises itself."""


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of failover. Milliseconds without a grant."""

    contender: str
    kind: str
    rounds: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    refused: int


class Service(Protocol):
    """Three nodes that can be asked one by one, and lose their leader."""

    nodes: Sequence[str]

    async def grant(self, node: str) -> bool:
        """Take a lock of our own at this node and give it back. False: refused, or nobody was there."""

    async def leader(self) -> str:
        """The leader that every node names, once each of them is ready."""

    def signal(self, node: str, number: signal.Signals) -> None: ...

    async def start_again(self, node: str) -> None:
        """After SIGKILL."""


class Holdfast:
    """The callers, and the cluster that they ask."""

    def __init__(self, cluster: LocalCluster, http: aiohttp.ClientSession) -> None:
        self.nodes = cluster.names
        self._cluster = cluster
        self._http = http
        self._number = 0

    async def grant(self, node: str) -> bool:
        self._number += 1
        body = {"key": f"failover/{self._number}", "ttl_ms": 60_000}
        url = self._cluster.url(node)
        try:
            async with self._http.post(f"{url}/v1/locks/acquire", json=body) as response:
                grant = await response.json(content_type=None)
                if response.status != 200:
                    return False
            release = {"token": grant["token"], "session": grant["session"]}
            async with self._http.post(f"{url}/v1/locks/release", json=release) as response:
                await response.read()
        except aiohttp.ClientError:
            return False
        return True

    async def leader(self) -> str:
        async with asyncio.timeout(GRANT_SECONDS_MAX):
            while True:
                named = {await self._leader_at(name) for name in self.nodes}
                if len(named) == 1 and None not in named:
                    return str(named.pop())
                await asyncio.sleep(0.02)

    async def _leader_at(self, node: str) -> str | None:
        try:
            async with self._http.get(f"{self._cluster.url(node)}/v1/cluster") as response:
                leader: str | None = (await response.json(content_type=None))["leader"]
                return leader
        except aiohttp.ClientError:
            return None

    def signal(self, node: str, number: signal.Signals) -> None:
        self._cluster.signal(node, number)

    async def start_again(self, node: str) -> None:
        await self._cluster.ended(node)
        await self._cluster.start(node)

    async def step_down(self, leader: str) -> None:
        """Ask another node that this one shall lead no more."""
        other = next(name for name in self.nodes if name != leader)
        url = f"{self._cluster.url(other)}/v1/cluster/step-down"
        async with self._http.post(url) as response:
            told: dict[str, Any] = await response.json(content_type=None)
            if response.status != 200 or told["leader"] == leader:
                raise SystemExit(f"the leader did not hand over: {told}")


# -- one round of each kind: seconds without a grant, and how many were refused --------------------


async def first_grant(service: Service, node: str) -> None:
    while not await service.grant(node):  # noqa: ASYNC110 - other processes decide
        await asyncio.sleep(0.005)


async def without(service: Service, leader: str, number: signal.Signals) -> float:
    """Send the signal; seconds until somebody gets a lock at another node."""
    others = [name for name in service.nodes if name != leader]
    for name in others:
        await first_grant(service, name)  # the connections are there
    began = time.perf_counter()
    service.signal(leader, number)
    asking = [asyncio.ensure_future(first_grant(service, name)) for name in others]
    try:
        async with asyncio.timeout(GRANT_SECONDS_MAX):
            await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        return time.perf_counter() - began
    finally:
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def killed(service: Service) -> tuple[float, int]:
    leader = await service.leader()
    gap = await without(service, leader, signal.SIGKILL)
    await service.start_again(leader)
    return gap, 0


async def frozen(service: Service) -> tuple[float, int]:
    leader = await service.leader()
    try:
        return await without(service, leader, signal.SIGSTOP), 0
    finally:
        service.signal(leader, signal.SIGCONT)


async def handed(service: Holdfast) -> tuple[float, int]:
    """The longest time between two grants, while all nodes are asked all the time."""
    leader = await service.leader()
    grants: list[float] = []
    refused = 0
    stop = asyncio.Event()

    async def keep_asking(node: str) -> None:
        nonlocal refused
        while not stop.is_set():
            if await service.grant(node):
                grants.append(time.perf_counter())
            else:
                refused += 1

    asking = [asyncio.ensure_future(keep_asking(name)) for name in service.nodes]
    await asyncio.sleep(HAND_OVER_LOAD_SECONDS)
    await service.step_down(leader)
    await asyncio.sleep(HAND_OVER_LOAD_SECONDS)
    stop.set()
    await asyncio.gather(*asking)
    return max(after - before for before, after in itertools.pairwise(grants)), refused


async def measure(
    name: str, kind: str, rounds: int, one: Callable[[], Awaitable[tuple[float, int]]]
) -> Row:
    """So many rounds of one kind."""
    seen = [await one() for _ in range(rounds)]
    gaps = sorted(1000 * gap for gap, _ in seen)
    p50, p99, longest = (round(percentile(gaps, share), 1) for share in (0.5, 0.99, 1))
    say(f"{name:10} leader {kind}: p50 {p50:,.0f} ms, longest {longest:,.0f} ms")
    return Row(name, kind, rounds, p50, p99, longest, sum(refused for _, refused in seen))


# -- the program -----------------------------------------------------------------------------------


async def run(arguments: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Everything, one service after the other."""
    rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else ROUNDS)
    kinds = arguments.only or list(TARGETS_MS)
    facts: dict[str, Any] = {"versions": {"Holdfast": Server().version()}, "missing": {}}
    timeout = aiohttp.ClientTimeout(total=GRANT_SECONDS_MAX)
    rows = []
    async with (
        LocalCluster(directory / "holdfast") as cluster,
        aiohttp.ClientSession(timeout=timeout) as http,
    ):
        ours = Holdfast(cluster, http)
        for kind, way in {"killed": killed, "frozen": frozen, "handed": handed}.items():
            if kind in kinds:
                rows.append(await measure("holdfast", kind, rounds, lambda way=way: way(ours)))
    if "etcd" in names_of(arguments.peers):
        from peers import etcd

        server = etcd.Server()
        why = server.missing()
        if why is None:
            from peers.etcd_failover import Etcd

            async with AsyncExitStack() as stack:
                theirs = await stack.enter_async_context(Etcd(server, directory / "etcd"))
                for kind, way in {"killed": killed, "frozen": frozen}.items():
                    if kind in kinds:
                        rows.append(
                            await measure("etcd", kind, rounds, lambda way=way: way(theirs))
                        )
            facts["versions"]["etcd"] = server.version()
        else:
            facts["missing"]["etcd"] = why
    return {"what": "failover", "rounds": rounds, **facts, "rows": [asdict(row) for row in rows]}


def table(result: dict[str, Any]) -> str:
    """For a person."""
    lines = [
        f"{'':10}{'leader':<8}{'rounds':>7}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}{'refused':>9}"
    ]
    for row in result["rows"]:
        figures = f"{row['p50_ms']:>9.1f}{row['p99_ms']:>9.1f}{row['max_ms']:>9.1f}"
        title = contender(row["contender"]).service
        lines.append(f"{title:10}{row['kind']:<8}{row['rounds']:>7}{figures}{row['refused']:>9}")
    lines += [f"not found: {why}" for why in result["missing"].values()]
    return "\n".join(lines)


def main() -> int:
    """The command. Exit code 0 whatever the figures are: they depend on the machine."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int)
    options.add_argument("--only", choices=sorted(TARGETS_MS), action="append")
    options.add_argument("--peers", help="etcd; '' for none")
    arguments = options.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=arguments.directory) as directory:
        result = asyncio.run(run(arguments, Path(directory)))
    answer(result, as_json=arguments.json, table=table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
