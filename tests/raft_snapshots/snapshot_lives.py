"""Nodes whose disks are in memory: kernel, real journal, real snapshot store, and a host that keeps a list."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import msgpack

from holdfast_coordinator.raft.compaction import CompactionConfig, tail_start
from holdfast_coordinator.raft.compactor import Job, compact
from holdfast_coordinator.raft.datadir import DataDirectory
from holdfast_coordinator.raft.inmem import Cluster, VirtualClock
from holdfast_coordinator.raft.journal import Journal
from holdfast_coordinator.raft.kernel import Kernel, KernelConfig
from holdfast_coordinator.raft.memory_disk import MemoryDisk
from holdfast_coordinator.raft.messages import Message, decode, encode
from holdfast_coordinator.raft.snapshots import SnapshotInfo, SnapshotStore

PATH = Path("/data/node")
CLUSTER = "c"
KEEP = 2
RESTORE_STEPS = 3


def through_the_codec(message: Message) -> Message:
    """What a message is after it has been on the wire."""
    return decode(msgpack.unpackb(msgpack.packb(encode(message))), entry_bytes_max=2**20)


class ListHost:
    """Its state is the list of everything applied."""

    def __init__(self) -> None:
        self.queue: deque[bytes] = deque()
        self.state: list[list[Any]] = []
        self.restored: list[int] = []

    def next_batch(self, term: int) -> bytes | None:
        return self.queue.popleft() if self.queue else None

    def apply(self, index: int, term: int, payload: bytes) -> bool:
        if self.state:
            assert index > self.state[-1][0], "each entry once, in order"
        self.state.append([index, term, payload.decode()])
        return False

    def restore(self, index: int, term: int, payload: bytes) -> Generator[None, None, None]:
        state = json.loads(payload)
        for _ in range(RESTORE_STEPS):
            yield
        self.state = state
        self.restored.append(index)

    def snapshot(self) -> bytes:
        return json.dumps(self.state).encode()

    def on_message(self, peer: str, payload: bytes) -> None: ...
    def on_peer_connected(self, peer: str) -> None: ...
    def on_leader(self, leader: str | None, term: int) -> None: ...


def replayer(_parameters: dict[str, Any], payload: bytes | None) -> ListHost:
    """The host, as a compactor makes it."""
    host = ListHost()
    if payload is not None:
        for _ in host.restore(0, 0, payload):
            pass
    return host


class Life:
    """One life of one node on a disk; `disk.after_kill()` and the like give the next."""

    def __init__(
        self,
        disk: MemoryDisk,
        *,
        name: str = "n1",
        peers: tuple[str, ...] = (),
        clock: VirtualClock | None = None,
        segment_bytes: int = 700,
        seed: int = 0,
        **config: Any,
    ) -> None:
        self.disk = disk
        self.clock = clock or VirtualClock()
        self.directory = DataDirectory.open(
            PATH, cluster=CLUSTER, node=name, disk=disk, new_id=lambda length: "5a" * length
        )
        self.host = ListHost()
        try:
            self.journal = Journal(self.directory, segment_bytes=segment_bytes, reserve_bytes=128)
            self.store = SnapshotStore(
                self.directory.files, cluster=CLUSTER, life=self.directory.boot
            )
            self.kernel = Kernel(
                KernelConfig(node=name, peers=peers, **config),
                self.journal,
                self.host,
                clock=self.clock,
                rng=random.Random(seed),  # noqa: S311 - a schedule, not a secret
                snapshots=self.store,
            )
        except BaseException:
            self.directory.close()
            raise

    @property
    def names(self) -> list[str]:
        return [each for each in self.directory.files.names() if each.startswith("snapshot-")]

    def read_snapshot(self) -> None:
        """The rounds in which the host reads a snapshot that has arrived."""
        for _ in range(RESTORE_STEPS + 1):
            self.kernel.tick()

    # A node alone is its own majority.

    def propose(self, *payloads: bytes) -> None:
        """Commit and apply, as the only node of its cluster."""
        self.host.queue.extend(payloads)
        for _ in range(20):
            self.clock.now += 1
            self.kernel.tick()
            self.kernel.release(lambda _peer, _messages: None)

    def job(self, output: str | None = None) -> Job:
        index = min(self.kernel.applied_index, self.journal.durable_index)
        newest = self.store.newest
        return Job(
            data_dir=str(PATH),
            directory_id=self.directory.id,
            cluster=CLUSTER,
            base=0 if newest is None else newest.index,
            index=index,
            term=self.journal[index - self.journal[0][1]][2],
            output=output or self.store.new_temporary_name(index),
            parameters={},
        )

    def take_snapshot(self, keep: int = KEEP) -> SnapshotInfo:
        """What the compactor process and its parent do, step by step, on this disk."""
        job = self.job()
        info = compact(self.directory.files, job, replayer)
        self.adopt(job, info, keep)
        return info

    def adopt(self, job: Job, info: SnapshotInfo, keep: int = KEEP) -> None:
        self.store.adopt(job.output, info)
        config = CompactionConfig(command=(), keep_entries=keep)
        self.kernel.cut_log(tail_start(self.journal, info.index, config))
        self.store.drop_older()


class Nodes:
    """A cluster of lives in virtual time."""

    def __init__(self, count: int = 3, *, seed: int = 0, **config: Any) -> None:
        self.names = [f"n{number}" for number in range(1, count + 1)]
        self.clock = VirtualClock()
        self.disks = {name: MemoryDisk() for name in self.names}
        self.lives: dict[str, Life] = {}
        self.carry: Callable[[Message], Message] = through_the_codec
        self._random = random.Random(seed)  # noqa: S311 - a schedule, not a secret
        self._config = config
        self.cluster = Cluster(self.names, self._make, clock=self.clock, carry=self._carry)

    def _carry(self, message: Message) -> Message:
        return self.carry(message)  # which a test may replace at any time

    def _make(self, name: str) -> Kernel:
        self.lives[name] = Life(
            self.disks[name],
            name=name,
            peers=tuple(each for each in self.names if each != name),
            clock=self.clock,
            seed=self._random.randrange(2**30),
            segment_bytes=1 << 20,
            **self._config,
        )
        return self.lives[name].kernel

    def leader(self) -> str | None:
        leaders = [n for n in self.cluster.nodes if self.lives[n].kernel.has_own_term_commit]
        return max(leaders, key=lambda n: self.lives[n].kernel.term, default=None)

    def elect(self) -> str:
        self.cluster.run_until(lambda: self.leader() is not None, within=20)
        leader = self.leader()
        assert leader is not None
        return leader

    def propose(self, name: str, *payloads: bytes) -> None:
        life = self.lives[name]
        life.host.queue.extend(payloads)
        self.cluster.round(name)

    def settle(self, *names: str, within: float = 20) -> None:
        """Until these nodes have applied everything that the leader has."""
        leader = self.elect()

        def done() -> bool:
            last = self.lives[leader].kernel.last_index
            return all(self.lives[n].kernel.applied_index >= last for n in (*names, leader))

        self.cluster.run_until(done, within=within)

    def crash(self, name: str, *, power: bool = True) -> None:
        self.cluster.crash(name)
        disk = self.lives.pop(name).disk
        self.disks[name] = disk.after_power_cut() if power else disk.after_kill()
