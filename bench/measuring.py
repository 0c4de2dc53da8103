"""What every measurement needs: percentiles, the CPU and the memory of processes, and the facts about the machine.

Rule: a duration is measured with `time.perf_counter`, CPU time is the kernel's, of processes and all their children. A figure that
a busy machine has spoilt is not hidden: each window says how much CPU strangers used meanwhile (`cpu_other`), and the report names
those in which it was more than DISTURBED_CORES.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import math
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop

TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
MIB: Final = 2**20
DISTURBED_CORES: Final = 0.15
"""More than this used by strangers, and a window is called disturbed. The servers of the contenders whose turn it is not are among
the strangers; on a quiet machine all of them together use half of it."""
SPAWN: Final = multiprocessing.get_context("spawn")
"""For the processes that measure the machine: whoever asks for that may have threads, which a fork does not survive."""
START_SECONDS_MAX: Final = 60.0
WRITERS: Final = 3
"""As many nodes as the clusters have here, each of which syncs its log on the one disk."""
FOLDER: Final = Path(__file__).parent


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed (nearest rank). NaN of nothing."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)] if ordered else math.nan


# -- processes -------------------------------------------------------------------------------------


def family(roots: Iterable[int]) -> set[int]:
    """These processes and everything that they started."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields is not None:
                parents[int(entry.name)] = int(fields[1])
    found = set(roots) & parents.keys()
    while new := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= new
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Used so far by processes that are still there, in user and kernel mode."""
    fields = [found for found in map(_stat, pids) if found is not None]
    return sum(int(each[11]) + int(each[12]) for each in fields) / TICKS_PER_SECOND


def resident_mib(pid: int) -> float:
    """What this process has in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES / MIB


def _stat(pid: int) -> list[str] | None:
    """The fields behind the name, from the state on. None: there is no such process any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _busy_seconds() -> float:
    """Of all cores of this machine together."""
    with Path("/proc/stat").open() as file:
        user, nice, system, _, _, irq, soft_irq, *_ = map(int, file.readline().split()[1:])
    return (user + nice + system + irq + soft_irq) / TICKS_PER_SECOND


class Usage:
    """Cores used by a client (this process by default), by servers, and by everybody else, from its making to `end`."""

    def __init__(self, servers: Iterable[int], clients: Iterable[int] | None = None) -> None:
        self._servers = family(servers)
        self._clients = family([os.getpid()] if clients is None else clients) - self._servers
        self._began = self._read()

    def end(self) -> dict[str, float]:
        """`seconds`, and in cores `cpu_client`, `cpu_server`, `cpu_other`."""
        seconds, busy, client, server = (
            after - before for after, before in zip(self._read(), self._began, strict=True)
        )
        return {
            "seconds": round(seconds, 3),
            "cpu_client": round(client / seconds, 3),
            "cpu_server": round(server / seconds, 3),
            "cpu_other": round(max(0.0, busy - client - server) / seconds, 3),
        }

    def _read(self) -> tuple[float, float, float, float]:
        return (
            time.perf_counter(),
            _busy_seconds(),
            cpu_seconds(self._clients),
            cpu_seconds(self._servers),
        )


# -- cycles ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Tape:
    """What the workers of one load write down. Appending is all they do, so threads may do it too."""

    workers: int
    stopping: bool = False
    acquires: list[float] = field(default_factory=list)
    """Seconds from asking to having."""
    cycles: list[float] = field(default_factory=list)
    granted_at: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = [0] * self.workers

    def note(self, worker: int, asked: float, granted: float, ended: float) -> None:
        """One whole cycle: the instants when it asked, had the lock, and had given it back."""
        self.acquires.append(granted - asked)
        self.cycles.append(ended - asked)
        self.granted_at.append(granted)
        self.counts[worker] += 1

    def cut(self) -> Tape:
        """What was written so far; it begins anew."""
        taken = Tape(self.workers)
        taken.acquires, self.acquires = self.acquires, []
        taken.cycles, self.cycles = self.cycles, []
        taken.granted_at, self.granted_at = self.granted_at, []
        taken.counts, self.counts = self.counts, [0] * self.workers
        return taken

    def figures(self, seconds: float) -> dict[str, float]:
        """Rates a second, times in milliseconds. A hand-over is the time from one grant to the next, whoever gets it: with one
        contended key that is what the key was out of use for, since nobody holds it longer than an instant."""
        acquires, cycles, grants = map(sorted, (self.acquires, self.cycles, self.granted_at))
        gaps = sorted(after - before for before, after in itertools.pairwise(grants))
        return {
            "per_second": round(len(cycles) / seconds, 1),
            "acquire_p50_ms": round(percentile(acquires, 0.50) * 1000, 3),
            "acquire_p99_ms": round(percentile(acquires, 0.99) * 1000, 3),
            "cycle_p99_ms": round(percentile(cycles, 0.99) * 1000, 3),
            "between_grants_p99_ms": round(percentile(gaps, 0.99) * 1000, 3),
            "worker_min": min(self.counts),
            "worker_max": max(self.counts),
        }


# -- the report ------------------------------------------------------------------------------------


def machine_facts(directory: Path) -> dict[str, Any]:
    """What somebody needs to know who compares figures with those of another machine."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / MIB
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "file_system": _file_system(directory),
        "fdatasync_us": fdatasync_us(directory),
        "fdatasync_of_three_us": fdatasync_of_three_us(directory),
        "round_trip_us": round_trip_us(),
        "load_average": round(os.getloadavg()[0], 2),
        "commit": _commit(),
    }


def fdatasync_us(directory: Path, count: int = 1000) -> float:
    """The median of an append of 4 KiB made durable, in microseconds."""
    path, block, took = directory / f"fdatasync-{os.getpid()}", os.urandom(4096), []
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        for _ in range(count):
            began = time.perf_counter()
            os.write(descriptor, block)
            os.fdatasync(descriptor)
            took.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
        path.unlink()
    return round(percentile(sorted(took), 0.5) * 1e6, 1)


def fdatasync_of_three_us(directory: Path) -> float:
    """The same by WRITERS processes at a time, each into a file of its own: the median of their medians."""
    together = SPAWN.Barrier(WRITERS, timeout=START_SECONDS_MAX)
    with ProcessPoolExecutor(WRITERS, SPAWN, _share, (together,)) as pool:
        took = list(pool.map(fdatasync_us, [directory] * WRITERS))
    return percentile(sorted(took), 0.5)


def _share(together: Barrier) -> None:
    """None of them begins before all are there."""
    together.wait()


def round_trip_us(count: int = 3000) -> float:
    """The median of a byte sent over loopback to another process and back, both on uvloop, in microseconds."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_echo, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        return uvloop.run(_round_trip_us(ours.recv(), count))
    finally:
        process.kill()
        process.join()


def _echo(ready: Connection) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while byte := await reader.read(1):
            writer.write(byte)

    async def serve() -> None:
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            ready.send(server.sockets[0].getsockname()[1])
            await server.serve_forever()

    uvloop.run(serve())


async def _round_trip_us(port: int, count: int) -> float:
    took = []
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(count):
        began = time.perf_counter()
        writer.write(b"?")
        await reader.readexactly(1)
        took.append(time.perf_counter() - began)
    writer.close()
    return round(percentile(sorted(took), 0.5) * 1e6, 1)


def _file_system(directory: Path) -> str:
    place = directory.resolve()
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    within = [(len(point), kind) for point, kind in mounts if place.is_relative_to(point)]
    return max(within)[1]


def _commit() -> str:
    command = ["git", "-C", str(FOLDER), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - a fixed command
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that every measurement has. From now on SIGTERM ends it as Ctrl-C does: in order, and its servers with it."""
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(os.getpid(), signal.SIGINT))
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="shorter, for a first look")
    made.add_argument("--json", action="store_true", help="answer in JSON, on standard output")
    made.add_argument(
        "--directory",
        type=Path,
        default=FOLDER / "scratch",
        help="where the data goes: on the disk that is meant (default: bench/scratch)",
    )
    return made


def log_to_stderr() -> None:
    """For programs that run a node themselves: standard output is for the answer."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def say(text: str) -> None:
    """Progress, for whoever watches; never part of the answer."""
    print(text, file=sys.stderr, flush=True)


def answer(result: dict[str, Any], *, as_json: bool, table: str) -> None:
    """Print what came out, for a program or for a person."""
    print(json.dumps(result) if as_json else table, flush=True)
