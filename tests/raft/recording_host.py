"""Hosts for tests of the engine: they keep what is applied, and propose what they are given."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field

import msgpack


@dataclass
class RecordingHost:
    """Proposes `queue` in order; remembers every call. `is_waited_for`: somebody at another node waits for what is applied."""

    queue: deque[bytes] = field(default_factory=deque)
    applied: list[tuple[int, int, bytes]] = field(default_factory=list)
    messages: list[tuple[str, bytes]] = field(default_factory=list)
    connected: list[str] = field(default_factory=list)
    leaders: list[tuple[str | None, int]] = field(default_factory=list)
    asked_in_terms: list[int] = field(default_factory=list)
    is_waited_for: bool = False

    def next_batch(self, term: int) -> bytes | None:
        self.asked_in_terms.append(term)
        return self.queue.popleft() if self.queue else None

    def apply(self, index: int, term: int, payload: bytes) -> bool:
        self.applied.append((index, term, payload))
        return self.is_waited_for

    def restore(self, index: int, term: int, payload: bytes) -> Generator[None, None, None]:
        """Snapshots of this host are the payloads applied so far, msgpack-encoded."""
        yield
        self.applied[:] = [(0, 0, each) for each in msgpack.unpackb(payload)]

    def on_message(self, peer: str, payload: bytes) -> None:
        self.messages.append((peer, payload))

    def on_peer_connected(self, peer: str) -> None:
        self.connected.append(peer)

    def on_leader(self, leader: str | None, term: int) -> None:
        self.leaders.append((leader, term))

    @property
    def payloads(self) -> list[bytes]:
        """What was applied, in order."""
        return [payload for _, _, payload in self.applied]
