"""How fast the replicated log is: three real processes, fsync on, a machine that does nothing.

    python bench/engine.py [--in-flight 1,64,512] [--seconds 5] [--rounds 1] [--tls] [--directory DIR]

For each number of operations in flight it starts three nodes on loopback with new data directories,
waits until all are connected, and lets the leader propose for so many seconds, each operation as
soon as the one before it is applied. One line each: operations/s, p50 and p99 from the proposal to
the leader's own apply, syncs of the leader's journal for each operation, and the mean time of a
sync. Everything shares one machine, so the figures are a floor for three machines. With --tls each run is followed
by the same over mutual TLS (that needs trustme: `make setup`); with --rounds both are repeated, one after the other.

If HOLDFAST_PROTOTYPE names the file of the throw-away prototype that the design was measured with,
it is run in the same way, right after the engine, and printed beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import msgpack
import uvloop

from holdfast_coordinator.certificates import CertificateFiles
from holdfast_coordinator.raft import Engine, EngineConfig

NAMES = ("n1", "n2", "n3")
START_SECONDS_MAX = 30


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

    def apply(self, index: int, term: int, payload: bytes) -> None:
        number, operations = msgpack.unpackb(payload)
        self.applied += len(operations)
        for future in self.in_log.pop(number, ()):
            if not future.done():
                future.set_result(None)

    def restore(self, index: int, term: int, payload: bytes) -> Generator[None, None, None]:
        yield

    def on_message(self, peer: str, payload: bytes) -> None: ...
    def on_peer_connected(self, peer: str) -> None: ...
    def on_leader(self, leader: str | None, term: int) -> None: ...


async def run_node(arguments: argparse.Namespace) -> None:
    """One of the three processes. The one that leads prints its result as JSON."""
    ports = [int(port) for port in arguments.ports.split(",")]
    members = {name: ("127.0.0.1", port) for name, port in zip(NAMES, ports, strict=True)}
    host = NullHost()
    engine = Engine(
        EngineConfig(
            node=arguments.node,
            cluster="bench",
            secret=b"bench",
            members=members,
            data_dir=Path(arguments.directory) / arguments.node,
            heartbeat_ms=200,
            election_ms=(1000, 2000),
            bootstrap=True,
            certificates=certificate_files(Path(arguments.directory), arguments.node)
            if arguments.tls
            else None,
        ),
        host,
        rng=random.Random(arguments.node),  # noqa: S311 - a seeded run
    )
    await engine.start()
    deadline = time.perf_counter() + START_SECONDS_MAX
    while time.perf_counter() < deadline:
        await asyncio.sleep(0.05)
        if engine.has_own_term_commit and set(engine.match_index.values()) == {engine.last_index}:
            await measure(engine, host, arguments.load, arguments.seconds)
            break
    # The others serve until they are stopped.
    await asyncio.wait({engine.failed}, timeout=START_SECONDS_MAX + arguments.seconds)
    await engine.stop()


async def measure(engine: Engine, host: NullHost, in_flight: int, seconds: float) -> None:
    """Run the load on the leader and print what came out."""
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    sync_seconds: list[float] = []
    engine.stats.fsync_observer = sync_seconds.append
    begun = time.perf_counter()
    stop = begun + seconds

    async def worker(number: int) -> None:
        count = 0
        while (sent := time.perf_counter()) < stop:
            future = loop.create_future()
            operation = ["acq", f"key{number}", f"owner-{number}", 30000, count]
            host.waiting.append((operation, future))
            engine.wake()
            await future
            latencies.append(time.perf_counter() - sent)
            count += 1

    await asyncio.gather(*[worker(number) for number in range(in_flight)])
    took = time.perf_counter() - begun
    latencies.sort()
    result = {
        "rate": len(latencies) / took,
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1000,
        "syncs_per_operation": len(sync_seconds) / len(latencies),
        "sync_ms": sum(sync_seconds) / max(1, len(sync_seconds)) * 1000,
        "leader_changes": engine.stats.leader_changes,
    }
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def free_ports() -> list[int]:
    sockets = [socket.socket() for _ in NAMES]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


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


def run_engine(
    in_flight: int, seconds: float, directory: Path, *, tls: bool = False
) -> dict[str, float]:
    """Three processes of the engine."""
    ports = ",".join(map(str, free_ports()))
    command = [sys.executable, __file__, "--ports", ports, "--load", str(in_flight)]
    command += ["--seconds", str(seconds), "--directory", str(directory)]
    if tls:
        make_certificates(directory)
        command.append("--tls")
    processes = [
        subprocess.Popen([*command, "--node", name], stdout=subprocess.PIPE, text=True)  # noqa: S603
        for name in NAMES
    ]
    result: dict[str, float] = json.loads(
        first_line(processes, "^{.*}$", START_SECONDS_MAX + seconds)
    )
    return result


def run_prototype(path: str, in_flight: int, seconds: float, directory: Path) -> dict[str, float]:
    """Three processes of the prototype, which prints a line of its own kind."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports()]
    environment = {**os.environ, "PROTOTYPE_DIR": str(directory)}
    processes = [
        subprocess.Popen(  # noqa: S603
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


def report(who: str, in_flight: int, result: dict[str, float]) -> None:
    sys.stdout.write(
        f"{who:<10} in flight {in_flight:>4}   {result['rate']:>9,.0f} operations/s   "
        f"p50 {result['p50_ms']:6.2f} ms   p99 {result['p99_ms']:6.2f} ms   "
        f"{result['syncs_per_operation']:.4f} syncs/operation   {result['sync_ms']:.3f} ms/sync\n"
    )
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--in-flight", default="1,64,512")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--tls", action="store_true", help="run each over TLS too")
    parser.add_argument("--directory", help="where the journals go; default: a temporary folder")
    for hidden in ("--node", "--ports", "--load"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.node:
        arguments.load = int(arguments.load)
        uvloop.run(run_node(arguments))
        return
    for in_flight in [int(each) for each in arguments.in_flight.split(",")] * arguments.rounds:
        for tls in (False, True) if arguments.tls else (False,):
            with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
                result = run_engine(in_flight, arguments.seconds, Path(directory), tls=tls)
                report("engine TLS" if tls else "engine", in_flight, result)
        if prototype:
            with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
                result = run_prototype(prototype, in_flight, arguments.seconds, Path(directory))
                report("prototype", in_flight, result)


if __name__ == "__main__":
    main()
