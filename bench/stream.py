"""What the stream saves: lock cycles through the Python client over the stream, and by a request for each call, in turn.

    python bench/stream.py [--workers 1,16,64,256] [--seconds 3] [--rounds 1] [--via any|leader|follower]

Rule: three real node processes with fsync on, and this process as the client, on the same machine. A cycle is one
`async with client.lock(key)` of a key that nobody else wants. The two ways take turns within each round, so that their ratio means
something on a machine that does other things as well. Beside the rate stands what a cycle cost, in microseconds of CPU, in each
process: that moves far less than the rate when others use the machine. `*` is the leader.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from measuring import cpu_seconds, percentile

import holdfast
from holdfast_coordinator.local_cluster import LocalCluster

WARM_UP_SECONDS = 0.7
WAYS: dict[str, dict[str, Any]] = {
    "stream": {"stream": True},
    "plain": {"stream": False, "encoding": "msgpack"},
}


@dataclass
class Measured:
    cycles_per_second: float
    p50_ms: float
    p99_ms: float
    cost_us: dict[str, float]


async def measure(
    endpoints: str, workers: int, seconds: float, processes: dict[str, int], way: dict[str, Any]
) -> Measured:
    """`workers` closed loops of one client."""
    acquired: list[float] = []
    stop = asyncio.Event()

    async def work(client: holdfast.AsyncClient, key: str) -> None:
        while not stop.is_set():
            begun = time.perf_counter()
            async with client.lock(key):
                acquired.append(time.perf_counter() - begun)

    async with holdfast.connect(endpoints, **way) as client:
        tasks = [asyncio.create_task(work(client, f"bench/{n}")) for n in range(workers)]
        await asyncio.sleep(WARM_UP_SECONDS)
        acquired.clear()
        before = {name: cpu_seconds([pid]) for name, pid in processes.items()}
        begun = time.perf_counter()
        await asyncio.sleep(seconds)
        cycles, took = len(acquired), time.perf_counter() - begun
        ordered = sorted(acquired)
        cost = {
            name: (cpu_seconds([pid]) - before[name]) / max(1, cycles) * 1e6
            for name, pid in processes.items()
        }
        stop.set()
        await asyncio.gather(*tasks)
    return Measured(
        cycles / took,
        percentile(ordered, 0.50) * 1000,
        percentile(ordered, 0.99) * 1000,
        cost,
    )


async def run(
    workers: list[int], seconds: float, rounds: int, via: str, ways: Sequence[str]
) -> None:
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        async with LocalCluster(Path(folder)) as cluster:
            async with holdfast.connect(cluster.endpoints) as client:
                leader = (await client.status()).leader or cluster.names[0]
            processes = {
                f"{name}{'*' if name == leader else ''}": cluster.pid(name)
                for name in cluster.names
            }
            processes["client"] = os.getpid()
            follower = next(each for each in cluster.names if each != leader)
            endpoints = {
                "any": cluster.endpoints,
                "leader": cluster.url(leader),
                "follower": cluster.url(follower),
            }[via]
            print(
                f"{'workers':>8} {'way':>7} {'cycles/s':>9} {'p50 ms':>7} {'p99 ms':>7}  us per cycle"
            )
            for _ in range(rounds):
                for number in workers:
                    await compare(endpoints, number, seconds, processes, ways)


async def compare(
    endpoints: str, workers: int, seconds: float, processes: dict[str, int], ways: Sequence[str]
) -> None:
    rates = {}
    for name in ways:
        one = await measure(endpoints, workers, seconds, processes, WAYS[name])
        rates[name] = one.cycles_per_second
        cost = "  ".join(f"{who} {us:.0f}" for who, us in one.cost_us.items())
        print(
            f"{workers:>8} {name:>7} {one.cycles_per_second:>9,.0f} {one.p50_ms:>7.2f} {one.p99_ms:>7.2f}"
            f"  {cost}  sum {sum(one.cost_us.values()):.0f}",
            flush=True,
        )
    if len(rates) == len(WAYS):
        print(f"{workers:>8} stream/plain {rates['stream'] / max(rates['plain'], 1e-9):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--workers", default="1,16,64,256", help="how many at a time")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--via", choices=("any", "leader", "follower"), default="any")
    parser.add_argument("--ways", default="stream,plain", help="which of the two, for a profile")
    asked = parser.parse_args()
    workers = [int(each) for each in asked.workers.split(",")]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(workers, asked.seconds, asked.rounds, asked.via, asked.ways.split(",")))


if __name__ == "__main__":
    main()
