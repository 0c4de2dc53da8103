"""What held locks cost: the memory of each node for 100,000 of them, and the throughput with 1,000,000 against 1,000.

    python bench/held_locks.py                   both, some minutes (most of it to fill a million locks)
    python bench/held_locks.py --quick           20,000 locks instead of both numbers
    python bench/held_locks.py --skip throughput

Rule: memory is what the operating system says that each node's process has, before and after: what a person sees in `top`. etcd, as
many keys under as many leases, is weighed in the same way; ZooKeeper is not, for a Java heap grows when it likes. For the
throughput two clusters of the same kind run side by side, one with few and one with many held locks, and take turns. The locks are
taken through the Python client by a few sessions, in a process of its own, which keeps them renewed meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop
from field import names_of
from measuring import Tape, Usage, answer, parser, resident_mib, say
from peers import contender, etcd
from peers.holdfast_client import drive

import holdfast
from holdfast_coordinator.local_cluster import LocalCluster

MEMORY_LOCKS, FEW, MANY = 100_000, 1_000, 1_000_000
QUICK_LOCKS = 20_000
SESSIONS = 8
FILL_WORKERS = 256
TTL_SECONDS = 120.0
WORKERS = 64
ROUNDS, SECONDS, WARM_UP_SECONDS = 3, 5.0, 1.0
QUICK_SECONDS = 2.0
SETTLE_SECONDS = 3.0
FILL_SECONDS_MAX = 900.0
SETTINGS = """limits:
  keys_held_max: 1100000
snapshots:
  after_entries: 1000000
  after_mib: 10000
"""
"""Room for a million and some. No snapshot: their pause is another measurement (snapshot_pause.py)."""


# -- the process that holds ------------------------------------------------------------------------


async def hold(endpoints: str, prefix: str, locks: int) -> None:
    """Take so many locks, say so, and keep them until standard input ends."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                holdfast.connect(endpoints, ttl=TTL_SECONDS, timeout=60, owner="bench")
            )
            for _ in range(SESSIONS)
        ]
        numbers = iter(range(locks))

        async def fill() -> None:
            for number in numbers:
                client, key = clients[number % SESSIONS], f"{prefix}/{number:08d}/collect"
                while True:
                    try:
                        await client.lock(key).__aenter__()
                        break
                    except holdfast.UnknownOutcome:  # a busy machine; the client withdraws it
                        key += "/again"

        async with asyncio.TaskGroup() as group:
            for _ in range(min(FILL_WORKERS, locks)):
                group.create_task(fill())
        print("held", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        os._exit(0)  # the cluster is thrown away: a million releases would tell nobody anything


@asynccontextmanager
async def held(endpoints: str, prefix: str, locks: int) -> AsyncIterator[None]:
    """So many locks are held until the end of the block."""
    began = time.perf_counter()
    command = [sys.executable, __file__, "--hold", endpoints, "--prefix", prefix]
    process = await asyncio.create_subprocess_exec(
        *command,
        "--locks",
        str(locks),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the process that holds has no pipes")
    try:
        async with asyncio.timeout(FILL_SECONDS_MAX):
            if await process.stdout.readline() != b"held\n":
                raise RuntimeError("the locks could not be taken")
        say(f"{locks:,} locks held after {time.perf_counter() - began:.0f} s")
        yield
    finally:
        process.stdin.close()
        if process.returncode is None:
            process.kill()
        await process.wait()


# -- the measurements ------------------------------------------------------------------------------


async def memory(directory: Path, locks: int) -> dict[str, Any]:
    """MiB of each node of Holdfast without and with so many locks."""
    async with (
        LocalCluster(directory, settings=SETTINGS) as cluster,
        held(cluster.endpoints, "before", FEW),
    ):
        await asyncio.sleep(SETTLE_SECONDS)
        before = {name: resident_mib(cluster.pid(name)) for name in cluster.names}
        async with held(cluster.endpoints, "held", locks):
            await asyncio.sleep(SETTLE_SECONDS)
            after = {name: resident_mib(cluster.pid(name)) for name in cluster.names}
    return weighed("holdfast", before, after)


async def memory_of_etcd(server: Any, directory: Path, locks: int) -> dict[str, Any]:
    """The same of etcd's."""
    from peers.etcd_client import connected, leader_port, own_key, pb

    async def take(client: Any, prefix: str, count: int, leases: list[int]) -> None:
        numbers = iter(range(count))

        async def fill() -> None:
            for number in numbers:
                key = f"{prefix}/{number:08d}/collect".encode()
                acquire, _ = own_key(client, key, leases[number % SESSIONS])
                await acquire()

        await asyncio.gather(*(fill() for _ in range(min(FILL_WORKERS, count))))
        await asyncio.sleep(SETTLE_SECONDS)

    try:
        await server.start(directory)
        async with connected(await leader_port(server.address)) as client:
            granted = [await client.grant(pb.GrantRequest(ttl=3600)) for _ in range(SESSIONS)]
            leases = [each.id for each in granted]
            await take(client, "before", FEW, leases)
            before = {f"n{n}": resident_mib(pid) for n, pid in enumerate(server.pids, 1)}
            await take(client, "held", locks, leases)
            after = {f"n{n}": resident_mib(pid) for n, pid in enumerate(server.pids, 1)}
    finally:
        await server.stop()
    return weighed("etcd", before, after)


def weighed(name: str, before: dict[str, float], after: dict[str, float]) -> dict[str, Any]:
    grown = {node: round(after[node] - before[node], 1) for node in before}
    return {
        "contender": name,
        "mib_before": {node: round(mib, 1) for node, mib in before.items()},
        "mib_for_the_locks": grown,
        "mib_for_the_locks_max": max(grown.values()),
    }


async def window(cluster: LocalCluster, seconds: float) -> dict[str, float]:
    """Cycles of WORKERS workers, as in cycles.py."""
    tape = Tape(WORKERS)
    load = asyncio.ensure_future(drive(cluster.endpoints, tape, contended=False))
    await asyncio.wait([load], timeout=WARM_UP_SECONDS)
    tape.cut()
    usage = Usage([cluster.pid(name) for name in cluster.names])
    await asyncio.wait([load], timeout=seconds)
    taken, used = tape.cut(), usage.end()
    tape.stopping = True
    await load
    return taken.figures(used["seconds"]) | used


async def throughput(directory: Path, counts: list[int], seconds: float) -> list[dict[str, Any]]:
    """Rates with each number of held locks, by clusters that take turns."""
    rates: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
    async with AsyncExitStack() as stack:
        clusters = {}
        for count in counts:
            made = LocalCluster(directory / str(count), settings=SETTINGS)
            cluster = clusters[count] = await stack.enter_async_context(made)
            await stack.enter_async_context(held(cluster.endpoints, "held", count))
        for _ in range(ROUNDS):
            for count, cluster in clusters.items():
                rates[count].append(got := await window(cluster, seconds))
                say(f"{count:>9,} held locks: {got['per_second']:,.0f} cycles/s")
    return [
        {
            "locks": count,
            "per_second": statistics.median(each["per_second"] for each in got),
            "acquire_p99_ms": statistics.median(each["acquire_p99_ms"] for each in got),
            "cpu_other_max": max(each["cpu_other"] for each in got),
        }
        for count, got in rates.items()
    ]


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    arguments.directory.mkdir(parents=True, exist_ok=True)
    seconds = QUICK_SECONDS if arguments.quick else SECONDS
    memory_locks = QUICK_LOCKS if arguments.quick else MEMORY_LOCKS
    many = arguments.many or (QUICK_LOCKS if arguments.quick else MANY)
    counts = sorted({FEW, min(MEMORY_LOCKS, many), many})
    result: dict[str, Any] = {"what": "held_locks", "versions": {}, "missing": {}}
    with tempfile.TemporaryDirectory(prefix="run-", dir=arguments.directory) as folder:
        if arguments.skip != "memory":
            rows = [await memory(Path(folder) / "memory", memory_locks)]
            server, theirs = etcd.Server(), Path(tempfile.mkdtemp(dir=folder))
            if "etcd" in names_of(arguments.peers):
                if (why := server.missing()) is None:
                    rows.append(await memory_of_etcd(server, theirs, memory_locks))
                    result["versions"]["etcd"] = server.version()
                else:
                    result["missing"]["etcd"] = why
            result["memory"] = {"locks": memory_locks, "rows": rows}
        if arguments.skip != "throughput":
            result["throughput"] = await throughput(Path(folder), counts, seconds)
    return result


def table(result: dict[str, Any]) -> str:
    lines = []
    if "memory" in result:
        lines += [
            f"{result['memory']['locks']:,} held locks take {row['mib_for_the_locks_max']:.0f} MiB of the memory "
            f"of a node of {contender(row['contender']).service} (of each: {row['mib_for_the_locks']})"
            for row in result["memory"]["rows"]
        ]
    for row in result.get("throughput", []):
        share = row["per_second"] / result["throughput"][0]["per_second"]
        lines.append(
            f"with {row['locks']:>9,} held locks: {row['per_second']:>8,.0f} cycles/s "
            f"({share:.0%} of the first), acquire p99 {row['acquire_p99_ms']:.1f} ms"
        )
    return "\n".join(lines)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--many", type=int, help=f"locks for the throughput (default {MANY:,})")
    options.add_argument("--peers", help="etcd; '' for none")
    options.add_argument("--skip", choices=("memory", "throughput"))
    for hidden in ("--hold", "--prefix"):
        options.add_argument(hidden, help=argparse.SUPPRESS)
    options.add_argument("--locks", type=int, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.hold:
        uvloop.run(hold(arguments.hold, arguments.prefix, arguments.locks))
        return
    result = uvloop.run(measure(arguments))
    answer(result, as_json=arguments.json, table=table(result))


if __name__ == "__main__":
    main()
