"""A log without Raft: several hosts on one shared list. What the engine does over sockets and disks, a test does here by hand:
who leads, which message is lost, which node does not apply. Public, so that whoever builds on `Host` can test it.
"""

from __future__ import annotations

from collections.abc import Mapping

from .errors import AdminRefused
from .ports import Host, PayloadReader, StorageStatus


class ScriptedEngine:
    """Fulfils `EnginePort` for one host on an `ScriptedLog`."""

    def __init__(self, log: ScriptedLog, name: str, host: Host) -> None:
        self.log = log
        self.name = name
        self.host = host
        self.boot = 1
        self.moved: dict[str, tuple[str, int]] = {}
        self.applied_index = 0
        self.leader_commit_index: int | None = None

    @property
    def is_leader(self) -> bool:
        return self.log.leader == self.name

    @property
    def term(self) -> int:
        return self.log.term

    @property
    def last_index(self) -> int:
        return len(self.log.entries)

    @property
    def commit_index(self) -> int:
        return self.log.committed

    @property
    def match_index(self) -> Mapping[str, int]:
        return {}

    @property
    def connected_peers(self) -> frozenset[str]:
        return frozenset(self.log.engines) - {self.name}

    @property
    def rejected(self) -> Mapping[str, int]:
        return {}

    @property
    def storage(self) -> StorageStatus:
        return StorageStatus()

    async def start(self) -> None:
        return None

    async def stop(self) -> None:
        return None

    async def step_down(self) -> str:
        raise AdminRefused("conflict", "a scripted log has the leader that its script says")

    def move_peer(self, name: str, address: tuple[str, int]) -> None:
        self.moved[name] = address

    async def open_backup(self) -> tuple[bytes, PayloadReader]:
        raise AdminRefused("conflict", "a log without a disk has no snapshots")

    async def replace_node(self, name: str) -> None:
        raise AdminRefused("conflict", f"a scripted log knows no directories, so none of {name}")

    def wake(self) -> None:
        self.log.propose()

    def send(self, peer: str, payload: bytes) -> bool:
        self.log.messages.append((self.name, peer, payload))
        return True


class ScriptedLog:
    """`attach` each host, `elect` one, then `step` until nothing moves. Nodes named in `frozen` neither receive nor apply."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, bytes]] = []
        self.committed = 0
        self.term = 0
        self.leader: str | None = None
        self.messages: list[tuple[str, str, bytes]] = []
        self.engines: dict[str, ScriptedEngine] = {}
        self.frozen: set[str] = set()

    def attach(self, name: str, host: Host) -> ScriptedEngine:
        self.engines[name] = ScriptedEngine(self, name, host)
        return self.engines[name]

    def elect(self, leader: str | None) -> None:
        """The next term begins, with or without a leader, and everybody who is not frozen hears of it."""
        self.term += 1
        self.leader = leader
        for name in sorted(self.engines):
            if name not in self.frozen:
                self.engines[name].leader_commit_index = None
                self.engines[name].host.on_leader(leader, self.term)

    def propose(self) -> None:
        if self.leader is None or self.leader in self.frozen:
            return
        while (payload := self.engines[self.leader].host.next_batch(self.term)) is not None:
            self.entries.append((self.term, payload))

    def deliver(self) -> None:
        messages, self.messages = self.messages, []
        for sender, receiver, payload in messages:
            if receiver not in self.frozen:
                self.engines[receiver].host.on_message(sender, payload)

    def apply(self) -> None:
        """Commit everything, and apply it wherever it has not been."""
        self.committed = len(self.entries)
        for name in sorted(self.engines):
            engine = self.engines[name]
            if self.leader is not None and name not in self.frozen:
                engine.leader_commit_index = self.committed
            while name not in self.frozen and engine.applied_index < self.committed:
                term, payload = self.entries[engine.applied_index]
                engine.applied_index += 1
                engine.host.apply(engine.applied_index, term, payload)

    def step(self) -> None:
        self.deliver()
        self.propose()
        self.apply()
