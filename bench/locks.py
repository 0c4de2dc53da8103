"""How fast a lock is taken and given back, and what a held lock weighs.

    make bench                                  everything, about half a minute
    .venv/bin/python bench/locks.py --json      the same, for a machine
    .venv/bin/python bench/locks.py --seconds 10 --clients 1,16,64,256

Rule: what is measured is what a user has: three real node processes with fsync on, plain HTTP on kept-alive connections, no client
library in between. One cycle is `POST /v1/locks/acquire` and `POST /v1/locks/release` of a key that nobody else wants, each
answered after a majority has it on disk. The load is made by one process on the same machine, so with many clients the figures are
a lower bound: on few cores the load and the nodes compete. The machine's memory is measured in a fresh process, without any I/O.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Sequence

CLIENTS = (1, 16, 64)
SECONDS = 5.0
WARM_UP_SECONDS = 1.0
LOCKS = 100_000
LOCKS_PER_SESSION = 100
BATCH = 500
TTL_MS = 60_000


@dataclass(frozen=True, slots=True)
class Rate:
    """Of one number of clients. Milliseconds are of one whole cycle: acquire and release."""

    clients: int
    cycles: int
    cycles_per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


# -- rate ------------------------------------------------------------------------------------------------------------------


async def _call(http: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> dict[str, Any]:
    async with http.post(url, json=body) as answer:
        payload: dict[str, Any] = await answer.json()
        if answer.status >= 300:
            raise SystemExit(f"{url} answered {answer.status}: {payload}")
        return payload


async def _client(
    http: aiohttp.ClientSession, url: str, key: str, begin: float, end: float
) -> list[float]:
    """Cycles from now to `end`; the durations in seconds of those that began at `begin` or later."""
    opened = await _call(http, f"{url}/v1/sessions", {"ttl_ms": TTL_MS})
    session = opened["session"]
    durations: list[float] = []
    while (start := time.perf_counter()) < end:
        granted = await _call(http, f"{url}/v1/locks/acquire", {"key": key, "session": session})
        await _call(
            http, f"{url}/v1/locks/release", {"token": granted["token"], "session": session}
        )
        if start >= begin:
            durations.append(time.perf_counter() - start)
    await _call(http, f"{url}/v1/sessions/close", {"session": session})
    return durations


async def measure(urls: Sequence[str], clients: int, seconds: float) -> Rate:
    """`clients` closed loops, spread evenly over `urls`."""
    begin = time.perf_counter() + WARM_UP_SECONDS
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        per_client = await asyncio.gather(
            *(
                _client(http, urls[i % len(urls)], f"bench/{clients}/{i}", begin, begin + seconds)
                for i in range(clients)
            )
        )
    ordered = sorted(duration * 1000 for durations in per_client for duration in durations)
    return Rate(
        clients=clients,
        cycles=len(ordered),
        cycles_per_second=round(len(ordered) / seconds, 1),
        p50_ms=round(percentile(ordered, 0.50), 2),
        p99_ms=round(percentile(ordered, 0.99), 2),
        max_ms=round(ordered[-1], 2),
    )


async def rates(clients: Sequence[int], seconds: float, through: str) -> list[Rate]:
    from holdfast_coordinator.local_cluster import LocalCluster

    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        async with LocalCluster(Path(folder)) as cluster:
            urls = cluster.endpoints.split(",")
            if through == "leader":
                urls = [await _leader_url(cluster, urls[0])]
            return [await measure(urls, each, seconds) for each in clients]


async def _leader_url(cluster: Any, url: str) -> str:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/v1/cluster") as answer:
        leader = (await answer.json())["leader"]
    return str(cluster.url(leader))


# -- memory ----------------------------------------------------------------------------------------------------------------


def resident_bytes() -> int:
    """Of this process, now (Linux), or at its peak so far (elsewhere): the same here, since it only grows."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def fill(shape: str, locks: int) -> dict[str, Any]:
    """Hold `locks` keys in a bare machine. `shape`: `shared-sessions` (100 locks each) or `session-per-lock` (implicit ones)."""
    from holdfast_coordinator.machine import (
        Acquire,
        Entry,
        Machine,
        OpenSession,
        Operation,
        Origin,
    )

    machine = Machine()
    sequence = 0
    before = resident_bytes()
    for first in range(0, locks, BATCH):
        operations: list[tuple[Origin, Operation]] = []
        for number in range(first, min(first + BATCH, locks)):
            key = f"payments/{number:08d}/collect"
            asked: list[Operation] = []
            if shape == "session-per-lock":
                asked.append(Acquire(keys=(key,), session=f"{number:032x}", ttl_ms=TTL_MS))
            else:
                session = f"{number // LOCKS_PER_SESSION:032x}"
                if number % LOCKS_PER_SESSION == 0:
                    asked.append(OpenSession(session=session, ttl_ms=TTL_MS))
                asked.append(Acquire(keys=(key,), session=session))
            for operation in asked:
                sequence += 1
                operations.append((Origin("n1", 1, sequence), operation))
        machine.apply(Entry(term=1, elapsed_ms=0, operations=tuple(operations)))
    after = resident_bytes()
    held = machine.counts().holds
    if held != locks:
        raise SystemExit(f"{held} locks are held instead of {locks}: the benchmark is wrong")
    return {"shape": shape, "locks": locks, "bytes_per_lock": round((after - before) / locks)}


def memory(locks: int) -> list[dict[str, Any]]:
    """Each shape in a process of its own, so that one does not use what another has left behind."""
    return [
        json.loads(
            subprocess.run(  # noqa: S603 -- this file, with our own interpreter
                [sys.executable, __file__, "--fill", shape, "--locks", str(locks)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for shape in ("shared-sessions", "session-per-lock")
    ]


# -- the command -----------------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--clients", default=",".join(map(str, CLIENTS)), help="how many at a time, e.g. 1,16,64"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement")
    parser.add_argument("--locks", type=int, default=LOCKS, help="held at once, for the memory")
    parser.add_argument(
        "--through",
        choices=("all", "leader"),
        default="all",
        help="connect to all nodes in turn, or to the leader only",
    )
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    parser.add_argument(
        "--fill", choices=("shared-sessions", "session-per-lock"), help=argparse.SUPPRESS
    )
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    if asked.fill:
        print(json.dumps(fill(asked.fill, asked.locks)))
        return
    clients = [int(each) for each in asked.clients.split(",")]
    measured = asyncio.run(rates(clients, asked.seconds, asked.through))
    weighed = memory(asked.locks)
    if asked.json:
        print(json.dumps({"rates": [asdict(rate) for rate in measured], "memory": weighed}))
        return
    print(
        f"three processes, fsync on, connected to {asked.through} nodes, {asked.seconds:g} s each; "
        f"{os.cpu_count()} cores, Python {platform.python_version()}\n"
    )
    print(f"{'clients':>8} {'cycles/s':>10} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8}")
    for rate in measured:
        print(
            f"{rate.clients:>8} {rate.cycles_per_second:>10,.0f} {rate.p50_ms:>8.2f} {rate.p99_ms:>8.2f} {rate.max_ms:>8.1f}"
        )
    print()
    for each in weighed:
        print(
            f"{each['bytes_per_lock']:>8,} bytes per held lock ({each['locks']:,}, {each['shape']})"
        )


if __name__ == "__main__":
    main()
