"""pysyncobj 0.3.17 as it is shipped, driven like our kernel: to show what the shield is there for."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import pysyncobj.syncobj as library
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.transport import Transport

from holdfast_coordinator.raft.inmem import MemoryJournal
from holdfast_coordinator.raft.library import Peer


class _Wire(Transport):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(None, None, [])
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send(self, node: Peer, message: dict[str, Any]) -> bool:
        self.sent.append((node.id, copy.deepcopy(message)))
        return True


class Replica(SyncObj):  # type: ignore[misc]
    """A replicated list, in the way of the library's manual."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.applied: list[Any] = []
        self.broken = False

    @replicated
    def put(self, item: Any) -> Any:
        self.applied.append(item)
        if self.broken:
            raise ValueError("after half of the work")
        return item


class StockNode:
    """One node of the unmodified library."""

    def __init__(
        self,
        name: str,
        peers: Sequence[str],
        *,
        clock: Callable[[], float],
        seed: int = 0,
        journal: Any = None,
        replica: type[SyncObj] = Replica,
        **conf: Any,
    ) -> None:
        self.clock = clock
        self.journal = journal if journal is not None else MemoryJournal()
        self.wire = _Wire()
        self.random = random.Random(seed)  # noqa: S311 - a seeded run
        places = {each: place for place, each in enumerate(sorted({name, *peers}))}
        self.peers = {each: Peer(each, places[each]) for each in peers}
        settings = {
            "autoTick": False,
            "appendEntriesUseBatch": False,
            "raftMinTimeout": 0.4,
            "raftMaxTimeout": 0.8,
            "leaderFallbackTimeout": 0.8,
            "commandsWaitLeader": False,
            "logCompactionMinEntries": 10**9,
            "logCompactionMinTime": 10**9,
        } | conf
        self._enter()
        create_journal = library.createJournal
        library.createJournal = lambda _path: self.journal
        try:
            self.raft = replica(
                Peer(name, places[name]),
                list(self.peers.values()),
                conf=SyncObjConf(**settings),
                transport=self.wire,
            )
        finally:
            library.createJournal = create_journal

    def _enter(self) -> None:
        library.monotonicTime = self.clock
        library.random = self.random if hasattr(self, "random") else random
        library.createPoller = lambda _kind: _NoPoller()
        library.PIPE_NOTIFIER_ENABLED = False

    @property
    def log(self) -> list[tuple[bytes, int, int]]:
        return self.journal[:]

    @property
    def term(self) -> int:
        return self.raft._SyncObj__raftCurrentTerm

    @property
    def is_leader(self) -> bool:
        return self.raft._isLeader()

    @property
    def applied(self) -> list[Any]:
        return self.raft.applied

    def put(self, item: Any, callback: Any = None) -> None:
        self._enter()
        self.raft.put(item, callback=callback)

    def peer_connected(self, peer: str) -> None:
        self._enter()
        self.wire._onNodeConnected(self.peers[peer])

    def peer_disconnected(self, peer: str) -> None:
        self._enter()
        self.wire._onNodeDisconnected(self.peers[peer])
        self.wire.sent = [item for item in self.wire.sent if item[0] != peer]

    def receive(self, peer: str, message: dict[str, Any]) -> None:
        self._enter()
        self.wire._onMessageReceived(self.peers[peer], message)

    def tick(self) -> None:
        self._enter()
        self.raft.doTick(0)

    def release(self, deliver: Callable[[str, Sequence[Any]], None]) -> None:
        sent, self.wire.sent = self.wire.sent, []
        for peer, message in sent:
            deliver(peer, [message])

    def next_deadline(self) -> float | None:
        raft = self.raft
        if self.is_leader:
            return min(raft._SyncObj__newAppendEntriesTime, self.clock() + 0.02)
        return raft._SyncObj__raftElectionDeadline if raft._SyncObj__connectedNodes else None

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        """What it has said since the last time."""
        sent, self.wire.sent = self.wire.sent, []
        return sent


class _NoPoller:
    def subscribe(self, *_: object) -> None: ...
    def poll(self, _timeout: float) -> None: ...
