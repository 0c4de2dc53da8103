"""How fast the replicated log is: three real processes, fsync on, a machine that does nothing; and what the lock table adds.

    python bench/engine.py                                  1, 64 and 512 in flight, about two minutes
    python bench/engine.py --quick --in-flight 64
    python bench/engine.py --prototype prototype.py         beside the throw-away prototype that the design was measured with
    python bench/engine.py --tls --rounds 3

For each number of operations in flight it starts three nodes on loopback with new data directories, waits until all are connected,
and lets the leader propose for so many seconds, each operation as soon as the one before it is applied. `engine`: the log alone.
`node`: the same with the lock table on every node and the way of an operation through it, half of them acquires and half releases;
no HTTP and no client. `prototype`: a program that is not in this repository, run in the same way. They take turns, round by round;
the figures are medians. Everything shares one machine, so they are a floor for three.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import msgpack
import uvloop
from measuring import answer, log_to_stderr, parser, percentile, say

from holdfast_coordinator.certificates import CertificateFiles
from holdfast_coordinator.collector import Collector
from holdfast_coordinator.local_cluster import free_ports
from holdfast_coordinator.machine import Limits
from holdfast_coordinator.machine.operations import Acquire, OpenSession, Release
from holdfast_coordinator.machine.outcomes import Granted
from holdfast_coordinator.node import Node
from holdfast_coordinator.raft import Engine, EngineConfig
from holdfast_coordinator.server import boot_time_ns

NAMES = ("n1", "n2", "n3")
START_SECONDS_MAX = 30
SECONDS, QUICK_SECONDS = 5.0, 2.0
ROUNDS, QUICK_ROUNDS = 3, 1
SESSION = "bench-session-0123456789"
DAY_MS = 24 * 3600 * 1000

Propose = Callable[[int, int], Awaitable[object]]
"""(worker, number of the operation): one operation of that worker, until it is applied."""


class NullHost:
    """Everything that waits goes into the next entry; applying it only counts."""

    def __init__(self) -> None:
        self.waiting: list[tuple[list[object], asyncio.Future[None]]] = []
        self.in_log: dict[int, list[asyncio.Future[None]]] = {}
        self.batches = 0
        self.applied = 0

    def next_batch(self, term: int) -> bytes | None:
        if not self.waiting:
            return None
        batch, self.waiting = self.waiting, []
        self.batches += 1
        self.in_log[self.batches] = [future for _, future in batch]
        payload: bytes = msgpack.packb([self.batches, [operation for operation, _ in batch]])
        return payload

    def apply(self, index: int, term: int, payload: bytes) -> bool:
        number, operations = msgpack.unpackb(payload)
        self.applied += len(operations)
        for future in self.in_log.pop(number, ()):
            if not future.done():
                future.set_result(None)
        return False

    def restore(self, index: int, term: int, payload: bytes) -> Generator[None, None, None]:
        yield

    def on_message(self, peer: str, payload: bytes) -> None: ...
    def on_peer_connected(self, peer: str) -> None: ...
    def on_leader(self, leader: str | None, term: int) -> None: ...


async def run_node(arguments: argparse.Namespace) -> None:
    """One of the three processes. The one that leads prints its result as JSON."""
    ports = [int(port) for port in arguments.ports.split(",")]
    members = {name: ("127.0.0.1", port) for name, port in zip(NAMES, ports, strict=True)}
    directory = Path(arguments.directory)
    config = EngineConfig(
        node=arguments.node,
        cluster="bench",
        secret=b"bench",
        members=members,
        data_dir=directory / arguments.node,
        heartbeat_ms=200,
        election_ms=(1000, 2000),
        bootstrap=True,
        certificates=certificate_files(directory, arguments.node) if arguments.tls else None,
    )
    engine, propose, stop = await (_node if arguments.who == "node" else _null)(config)
    deadline = time.perf_counter() + START_SECONDS_MAX
    while time.perf_counter() < deadline:
        await asyncio.sleep(0.05)
        if engine.has_own_term_commit and set(engine.match_index.values()) == {engine.last_index}:
            await measure(engine, propose, arguments.load, arguments.seconds)
            break
    # The others serve until they are stopped.
    await asyncio.wait({engine.failed}, timeout=START_SECONDS_MAX + arguments.seconds)
    await stop()


async def _null(config: EngineConfig) -> tuple[Engine, Propose, Callable[[], Awaitable[None]]]:
    host = NullHost()
    engine = Engine(config, host, rng=random.Random(config.node))  # noqa: S311 - a seeded run
    await engine.start()
    loop = asyncio.get_running_loop()

    async def propose(worker: int, number: int) -> None:
        future = loop.create_future()
        operation = ["acq", f"key{worker}", f"owner-{worker}", 30000, number]
        host.waiting.append((operation, future))
        engine.wake()
        await future

    return engine, propose, engine.stop


async def _node(config: EngineConfig) -> tuple[Engine, Propose, Callable[[], Awaitable[None]]]:
    log_to_stderr()
    Collector().install()
    engines: list[Engine] = []

    def factory(node: Node) -> Engine:
        engines.append(Engine(config, node, rng=random.Random(config.node)))  # noqa: S311
        return engines[0]

    node = Node(
        config.node,
        factory,
        clock_ns=boot_time_ns,
        limits=Limits(),
        cluster="bench",
        members=dict.fromkeys(NAMES, ("", "")),
        session_ref_key=b"bench",
    )
    await node.start()
    tokens: dict[int, int] = {}
    is_open = False

    async def propose(worker: int, number: int) -> None:
        nonlocal is_open
        if not is_open:
            is_open = True
            await node.submit(OpenSession(SESSION, DAY_MS))
        token = tokens.pop(worker, None)
        if token is not None:
            await node.submit(Release(SESSION, token))
            return
        outcome = await node.submit(Acquire((f"bench/{worker}",), SESSION))
        if isinstance(outcome, Granted):
            tokens[worker] = outcome.token

    return engines[0], propose, node.stop


async def measure(engine: Engine, propose: Propose, in_flight: int, seconds: float) -> None:
    """Run the load on the leader and print what came out."""
    latencies: list[float] = []
    sync_seconds: list[float] = []
    engine.stats.fsync_observer = sync_seconds.append
    begun = time.perf_counter()
    stop = begun + seconds

    async def worker(number: int) -> None:
        count = 0
        while (sent := time.perf_counter()) < stop:
            await propose(number, count)
            latencies.append(time.perf_counter() - sent)
            count += 1

    await asyncio.gather(*[worker(number) for number in range(in_flight)])
    took = time.perf_counter() - begun
    latencies.sort()
    result = {
        "rate": len(latencies) / took,
        "p50_ms": percentile(latencies, 0.50) * 1000,
        "p99_ms": percentile(latencies, 0.99) * 1000,
        "syncs_per_operation": len(sync_seconds) / len(latencies),
        "sync_ms": sum(sync_seconds) / max(1, len(sync_seconds)) * 1000,
    }
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def first_line(processes: list[subprocess.Popen[str]], pattern: str, seconds: float) -> str:
    """The first line that one of them prints and that matches; then all are stopped."""
    try:
        end = time.perf_counter() + seconds
        streams = {process.stdout.fileno(): process for process in processes if process.stdout}
        for descriptor in streams:
            os.set_blocking(descriptor, False)
        texts = dict.fromkeys(streams, "")
        while time.perf_counter() < end:
            for descriptor in streams:
                with contextlib.suppress(BlockingIOError):
                    texts[descriptor] += os.read(descriptor, 65536).decode()
                for line in texts[descriptor].splitlines():
                    if re.search(pattern, line):
                        return line
            time.sleep(0.05)
        raise SystemExit(f"no result within {seconds} s")
    finally:
        for process in processes:
            process.kill()
            process.wait()


def certificate_files(directory: Path, node: str) -> CertificateFiles:
    return CertificateFiles(
        directory / "ca.pem", directory / f"{node}.pem", directory / f"{node}.key"
    )


def make_certificates(directory: Path) -> None:
    """For all three, by a CA of this run."""
    import trustme

    ca = trustme.CA()
    for name in NAMES:
        files = certificate_files(directory, name)
        leaf = ca.issue_cert(name)
        ca.cert_pem.write_to_path(files.ca)
        leaf.cert_chain_pems[0].write_to_path(files.certificate)
        leaf.private_key_pem.write_to_path(files.key)


def run_ours(who: str, in_flight: int, seconds: float, directory: Path) -> dict[str, float]:
    """Three processes of ours: `engine`, `engine TLS` or `node`."""
    ports = ",".join(map(str, free_ports(len(NAMES))))
    command = [sys.executable, __file__, "--ports", ports, "--load", str(in_flight)]
    command += ["--seconds", str(seconds), "--directory", str(directory), "--who", who]
    if who == "engine TLS":
        make_certificates(directory)
        command.append("--tls")
    processes = [
        subprocess.Popen([*command, "--node", name], stdout=subprocess.PIPE, text=True)  # noqa: S603 - programs of ours
        for name in NAMES
    ]
    result: dict[str, float] = json.loads(
        first_line(processes, "^{.*}$", START_SECONDS_MAX + seconds)
    )
    return result


def run_prototype(path: str, in_flight: int, seconds: float, directory: Path) -> dict[str, float]:
    """Three processes of the prototype, which prints a line of its own kind."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(len(NAMES))]
    environment = {**os.environ, "PROTOTYPE_DIR": str(directory)}
    processes = [
        subprocess.Popen(  # noqa: S603 - programs of ours
            [sys.executable, path, address, ",".join(addresses), str(in_flight), str(seconds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # it logs every entry that it cuts away
            text=True,
            env=environment,
        )
        for address in addresses
    ]
    line = first_line(processes, "ops/s", START_SECONDS_MAX + seconds)
    found = re.search(
        r"ops/s=(\d+) p50=([\d.]+)ms p99=([\d.]+)ms syncs=(\d+) avg sync ([\d.]+)ms", line
    )
    if found is None:
        raise SystemExit(f"cannot read: {line}")
    rate, p50, p99, syncs, sync_ms = map(float, found.groups())
    return {
        "rate": rate,
        "p50_ms": p50,
        "p99_ms": p99,
        "syncs_per_operation": syncs / (rate * seconds),
        "sync_ms": sync_ms,
    }


def run_all(arguments: argparse.Namespace) -> dict[str, Any]:
    rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else ROUNDS)
    seconds = arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS)
    who = ["engine", *(["engine TLS"] if arguments.tls else []), "node"]
    who += ["prototype"] if arguments.prototype else []
    got: dict[tuple[str, int], list[dict[str, float]]] = {}
    arguments.directory.mkdir(parents=True, exist_ok=True)
    for _ in range(rounds):
        for in_flight in [int(each) for each in arguments.in_flight.split(",")]:
            for each in who:
                with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
                    if each == "prototype":
                        path = arguments.prototype
                        result = run_prototype(path, in_flight, seconds, Path(folder))
                    else:
                        result = run_ours(each, in_flight, seconds, Path(folder))
                say(f"{each:10} {in_flight:4} in flight {result['rate']:10,.0f} operations/s")
                got.setdefault((each, in_flight), []).append(result)
    rows = []
    for (each, in_flight), results in got.items():
        figures = {key: statistics.median(one[key] for one in results) for key in results[0]}
        rows.append({"who": each, "in_flight": in_flight, **figures})
    missing = {} if arguments.prototype else {"prototype": "say --prototype FILE"}
    return {"what": "engine", "rounds": rounds, "rows": rows, "missing": missing}


def table(result: dict[str, Any]) -> str:
    lines = []
    for row in sorted(result["rows"], key=lambda row: row["in_flight"]):
        lines.append(
            f"{row['who']:<10} in flight {row['in_flight']:>4}   {row['rate']:>9,.0f} operations/s   "
            f"p50 {row['p50_ms']:6.2f} ms   p99 {row['p99_ms']:6.2f} ms   "
            f"{row['syncs_per_operation']:.4f} syncs/operation   {row['sync_ms']:.3f} ms/sync"
        )
        if row["who"] == "prototype":
            ours = next(
                one["rate"]
                for one in result["rows"]
                if one["who"] == "engine" and one["in_flight"] == row["in_flight"]
            )
            lines.append(f"{'':26}the engine does {ours / row['rate']:.0%} of that")
    return "\n".join([*lines, *(f"not found: {why}" for why in result["missing"].values())])


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--in-flight", default="1,64,512")
    options.add_argument("--seconds", type=float, help="of each run")
    options.add_argument("--rounds", type=int)
    options.add_argument("--tls", action="store_true", help="run the engine over TLS too")
    options.add_argument("--prototype", help="the file of the prototype")
    for hidden in ("--node", "--ports", "--load", "--who"):
        options.add_argument(hidden, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.node:
        arguments.load = int(arguments.load)
        uvloop.run(run_node(arguments))
        return
    result = run_all(arguments)
    answer(result, as_json=arguments.json, table=table(result))


if __name__ == "__main__":
    main()
