"""Small builders for the schedules of the audit."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
from recording_host import RecordingHost
from stock_pysyncobj import StockNode

from holdfast_coordinator.raft.inmem import Cluster, MemoryJournal, VirtualClock
from holdfast_coordinator.raft.kernel import Kernel, KernelConfig
from holdfast_coordinator.raft.messages import ENTRY_OWN, Append, Message, decode, encode


def through_the_codec(message: Message) -> Message:
    """What a message is after it has been on the wire."""
    return decode(msgpack.unpackb(msgpack.packb(encode(message))), entry_bytes_max=2**20)


def kernel(
    name: str,
    peers: Sequence[str],
    *,
    clock: Callable[[], float],
    journal: MemoryJournal | None = None,
    host: RecordingHost | None = None,
    seed: int = 0,
    **config: Any,
) -> Kernel:
    """A kernel on a journal in memory; `peers` are connected."""
    made = Kernel(
        KernelConfig(node=name, peers=tuple(peers), **config),
        journal if journal is not None else MemoryJournal(),
        host if host is not None else RecordingHost(),
        clock=clock,
        rng=random.Random(seed),  # noqa: S311 - a seeded run
    )
    for peer in peers:
        made.peer_connected(peer)
    return made


def stock(name: str, peers: Sequence[str], *, clock: Callable[[], float], **more: Any) -> StockNode:
    """The unmodified library; `peers` are connected."""
    made = StockNode(name, peers, clock=clock, **more)
    for peer in peers:
        made.peer_connected(peer)
    return made


def say(node: Kernel) -> list[tuple[str, Message]]:
    """Release what a kernel has to say."""
    said: list[tuple[str, Message]] = []
    node.release(lambda peer, messages: said.extend((peer, each) for each in messages))
    return said


def own(first: int, last: int, term: int = 1) -> tuple[tuple[int, bytes], ...]:
    """Entries of ours, as they stand in an `Append`."""
    return tuple(
        (term, ENTRY_OWN + b"%d in term %d" % (index, term)) for index in range(first, last + 1)
    )


def append(
    prev: int, last: int, *, term: int = 1, prev_term: int = 1, commit: int = 1, stamp: int = 1
) -> Append:
    """An append of the entries prev + 1 to last."""
    return Append(
        term, commit, prev, 0 if prev == 1 else prev_term, stamp, own(prev + 1, last, term)
    )


def stock_append(
    prev: int, last: int, *, term: int = 1, prev_term: int = 1, commit: int = 1
) -> dict[str, Any]:
    """The same in the library's form."""
    entries = [
        (command, prev + 1 + place, t)
        for place, (t, command) in enumerate(own(prev + 1, last, term))
    ]
    return {
        "type": "append_entries",
        "term": term,
        "commit_index": commit,
        "entries": entries,
        "prevLogIdx": prev,
        "prevLogTerm": 0 if prev == 1 else prev_term,
    }


def last_index(journal: Any) -> int:
    return journal[-1][1]


class Shielded:
    """A cluster of kernels in virtual time."""

    def __init__(self, count: int = 3, *, seed: int = 0, **config: Any) -> None:
        self.names = [f"n{number}" for number in range(1, count + 1)]
        self.clock = VirtualClock()
        self.journals = {name: MemoryJournal() for name in self.names}
        self.hosts = {name: RecordingHost() for name in self.names}
        self.random = random.Random(seed)  # noqa: S311 - a seeded run
        self._config = config
        self.cluster = Cluster(self.names, self._make, clock=self.clock, carry=through_the_codec)

    def _make(self, name: str) -> Kernel:
        self.hosts[name].applied.clear()
        self.hosts[name].queue.clear()
        return Kernel(
            KernelConfig(
                node=name, peers=tuple(n for n in self.names if n != name), **self._config
            ),
            self.journals[name],
            self.hosts[name],
            clock=self.clock,
            rng=random.Random(self.random.random()),  # noqa: S311 - a seeded run
        )

    def kernel(self, name: str) -> Kernel:
        node = self.cluster.nodes[name]
        assert isinstance(node, Kernel)
        return node

    def leader(self) -> str | None:
        """The leader of the highest term, once it has committed in it."""
        leaders = [n for n in self.cluster.nodes if self.kernel(n).has_own_term_commit]
        return max(leaders, key=lambda n: self.kernel(n).term, default=None)

    def elect(self) -> str:
        self.cluster.run_until(lambda: self.leader() is not None, within=10)
        leader = self.leader()
        assert leader is not None
        return leader

    def propose(self, name: str, payload: bytes) -> None:
        self.hosts[name].queue.append(payload)
        self.cluster.round(name)

    def crash(self, name: str) -> None:
        """Power loss: what was not synced is gone."""
        self.cluster.crash(name)
        self.journals[name] = self.journals[name].crash()
