"""A cluster without Raft: several real nodes on one shared list that is the log. What the engine does over sockets, a test does
here by hand: who leads, which message is lost, which node does not apply."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast_coordinator.machine import Limits
from holdfast_coordinator.node import Node


class ManualClock:
    def __init__(self) -> None:
        self.now_ns = 10**12

    def __call__(self) -> int:
        return self.now_ns

    def advance_ms(self, elapsed_ms: int) -> None:
        self.now_ns += elapsed_ms * 1_000_000


class FakeEngine:
    """Fulfils `EnginePort`."""

    def __init__(self, cluster: FakeLog, host: Node) -> None:
        self.cluster = cluster
        self.host = host
        self.boot = 1
        self.applied_index = 0

    @property
    def is_leader(self) -> bool:
        return self.cluster.leader == self.host.name

    @property
    def term(self) -> int:
        return self.cluster.term

    @property
    def last_index(self) -> int:
        return len(self.cluster.log)

    @property
    def commit_index(self) -> int:
        return self.cluster.committed

    @property
    def match_index(self) -> Mapping[str, int]:
        return {}

    @property
    def connected_peers(self) -> frozenset[str]:
        return frozenset(self.cluster.nodes) - {self.host.name}

    async def start(self) -> None:
        return None

    async def stop(self) -> None:
        return None

    def wake(self) -> None:
        self.cluster.propose()

    def send(self, peer: str, payload: bytes) -> bool:
        self.cluster.messages.append((self.host.name, peer, payload))
        return True


class FakeLog:
    """`settle()` lets everything run until nothing moves: messages delivered, entries appended, committed, applied everywhere."""

    def __init__(self, names: tuple[str, ...] = ("n1", "n2", "n3")) -> None:
        self.clock = ManualClock()
        self.log: list[tuple[int, bytes]] = []
        self.committed = 0
        self.term = 0
        self.leader: str | None = None
        self.messages: list[tuple[str, str, bytes]] = []
        self.nodes: dict[str, Node] = {}
        self.frozen: set[str] = set()
        for name in names:
            self.nodes[name] = Node(
                name,
                lambda node: FakeEngine(self, node),
                clock_ns=self.clock,
                limits=Limits(),
                members={member: (f"http-{member}", f"raft-{member}") for member in names},
                session_ref_key=b"test",
            )

    def elect(self, leader: str | None) -> None:
        self.term += 1
        self.leader = leader
        for name in sorted(self.nodes):
            if name not in self.frozen:
                self.nodes[name].on_leader(leader, self.term)

    def propose(self) -> None:
        if self.leader is None or self.leader in self.frozen:
            return
        while (payload := self.nodes[self.leader].next_batch(self.term)) is not None:
            self.log.append((self.term, payload))

    def deliver(self) -> None:
        messages, self.messages = self.messages, []
        for sender, receiver, payload in messages:
            if receiver not in self.frozen:
                self.nodes[receiver].on_message(sender, payload)

    def apply(self) -> None:
        self.committed = len(self.log)
        for name in sorted(self.nodes):
            engine = self.nodes[name].engine
            assert isinstance(engine, FakeEngine)
            while name not in self.frozen and engine.applied_index < self.committed:
                term, payload = self.log[engine.applied_index]
                engine.applied_index += 1
                self.nodes[name].apply(engine.applied_index, term, payload)

    async def settle(self) -> None:
        import asyncio

        for _ in range(12):
            await asyncio.sleep(0)
            self.deliver()
            self.propose()
            self.apply()

    def house(self) -> None:
        """One round of every node's housekeeping, as its timer would do."""
        for name in sorted(self.nodes):
            node = self.nodes[name]
            node.keep_house()
