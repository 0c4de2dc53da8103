"""In memory, for tests and simulators: a journal, and a cluster in virtual time.

Rule: no files, no sockets, no clock and no randomness of its own; whoever runs it decides what
happens and when. The journal forgets on a crash what was not synced, and promises what the one on
disk promises.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, overload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Entry = tuple[bytes, int, int]


class MemoryJournal:
    """Entries are (command, index, term)."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._vote: tuple[int, str | None] = (0, None)
        self._commit_index = 1
        self._durable: tuple[list[Entry], tuple[int, str | None], int] = ([], (0, None), 1)
        self._dirty = False
        self.sync_count = 0
        self.sync_observer: Callable[[float], None] | None = None

    def crash(self) -> MemoryJournal:
        """What a new process finds after a power loss now."""
        after = MemoryJournal()
        entries, after._vote, commit_index = self._durable
        after._entries = list(entries)
        after._commit_index = commit_index
        after._durable = (list(entries), after._vote, commit_index)
        return after

    @property
    def durable_index(self) -> int:
        """Index of the last entry that a crash keeps, in the log as it is."""
        durable = self._durable[0]
        if not self._dirty:
            return durable[-1][1] if durable else 0
        common = 0
        for mine, kept in zip(self._entries, durable, strict=False):
            if mine != kept:
                break
            common = mine[1]
        return common

    def sync(self) -> None:
        """Make everything durable; costs nothing when nothing has changed."""
        if not self._dirty:
            return
        self._durable = (list(self._entries), self._vote, self._commit_index)
        self._dirty = False
        self.sync_count += 1
        if self.sync_observer is not None:
            self.sync_observer(0.0)

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append an entry."""
        self._entries.append((command, idx, term))
        self._dirty = True

    def clear(self) -> None:
        """Drop all entries."""
        self._entries.clear()
        self._dirty = True

    def deleteEntriesFrom(self, entry_from: int) -> None:
        """Drop the entries at this position and behind it."""
        del self._entries[entry_from:]
        self._dirty = True

    def deleteEntriesTo(self, entry_to: int) -> None:
        """Drop the entries before this position."""
        del self._entries[:entry_to]
        self._dirty = True

    @overload
    def __getitem__(self, item: int) -> Entry: ...
    @overload
    def __getitem__(self, item: slice) -> list[Entry]: ...
    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        return self._entries[item]

    def __len__(self) -> int:
        return len(self._entries)

    def _destroy(self) -> None: ...

    def setRaftCommitIndex(self, raft_commit_index: int) -> None:
        """Kept with the next sync; a hint, so it alone makes nothing dirty."""
        self._commit_index = raft_commit_index

    def getRaftCommitIndex(self) -> int:
        """Never beyond the end of the log (D7)."""
        return min(self._commit_index, self._entries[-1][1]) if self._entries else 1

    def setCurrentTerm(self, term: int, voted_for: str | None) -> None:
        """Term and vote, durable after the next sync."""
        self._vote = (term, voted_for)
        self._dirty = True

    def getCurrentTerm(self) -> int:
        """The present term."""
        return self._vote[0]

    def getVotedForNodeId(self) -> str | None:
        """Who got the vote of the present term."""
        return self._vote[1]

    def onOneSecondTimer(self) -> None: ...


@dataclass(slots=True)
class VirtualClock:
    """Seconds that pass only when told to."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


class ClusterNode(Protocol):
    """What a cluster in memory drives: a `kernel.Kernel`, or something that behaves like one."""

    def peer_connected(self, peer: str) -> None: ...
    def peer_disconnected(self, peer: str) -> None: ...
    def receive(self, peer: str, message: Any) -> object: ...
    def tick(self) -> None: ...
    def release(self, deliver: Callable[[str, Sequence[Any]], None]) -> None: ...
    def next_deadline(self) -> float | None: ...


class Cluster:
    """Several nodes in one process, in virtual time, on a network that keeps the order on a link.

    Everything is an input: the same seed and the same calls give the same run. `make` builds a node
    from its name; it is called again after a crash, so it should keep each node's journal at hand.
    `carry` is what happens to a message on its way (tests send it through the real codec).
    """

    LATENCY_SECONDS = 0.001

    def __init__(
        self,
        names: Sequence[str],
        make: Callable[[str], ClusterNode],
        *,
        clock: VirtualClock,
        carry: Callable[[Any], Any] = lambda message: message,
    ) -> None:
        self.names = sorted(names)
        self.clock = clock
        self.nodes: dict[str, ClusterNode] = {}
        self._make = make
        self._carry = carry
        self._links: dict[tuple[str, str], deque[tuple[float, Any]]] = {}
        self._held: set[tuple[str, str]] = set()
        self._cut: set[frozenset[str]] = set()
        for name in self.names:
            self.start(name)

    # Faults.

    def start(self, name: str) -> None:
        """A node starts and connects with everybody whom it can reach."""
        self.nodes[name] = self._make(name)
        for other in self.names:
            if other != name:
                self._connect(name, other)

    def crash(self, name: str) -> None:
        """A node is gone, with everything that was on its way to or from it."""
        for other in self.names:
            self._disconnect(name, other)
        del self.nodes[name]

    def cut(self, one: str, other: str) -> None:
        """The connection breaks, and what was on its way is lost."""
        self._disconnect(one, other)
        self._cut.add(frozenset((one, other)))

    def heal(self, one: str, other: str) -> None:
        """They connect again."""
        self._cut.discard(frozenset((one, other)))
        if (one, other) not in self._links:
            self._connect(one, other)

    def isolate(self, name: str) -> None:
        """Cut a node off from all others."""
        for other in self.names:
            if other != name:
                self.cut(name, other)

    def heal_all(self) -> None:
        """Every connection is there again."""
        for pair in sorted(map(sorted, self._cut)):
            self.heal(pair[0], pair[1])
        self._held.clear()

    def hold(self, sender: str, receiver: str) -> None:
        """From now on what one sends to the other stays on its way, without a broken connection."""
        self._held.add((sender, receiver))

    def let_go(self, sender: str, receiver: str) -> None:
        """What was held arrives."""
        self._held.discard((sender, receiver))

    def on_the_way(self, sender: str, receiver: str) -> list[Any]:
        """Messages sent and not yet delivered."""
        return [message for _, message in self._links.get((sender, receiver), ())]

    def deliver_one(self, sender: str, receiver: str) -> None:
        """The next message of a held link arrives, and its receiver has its round."""
        self.nodes[receiver].receive(sender, self._links[(sender, receiver)].popleft()[1])
        self.round(receiver)

    # Time.

    def run_for(self, seconds: float) -> None:
        """Let everything happen that happens in this time."""
        end = self.clock.now + seconds
        while (at := self._next_event()) is not None and at <= end:
            self.clock.now = max(self.clock.now, at)
            self.step()
        self.clock.now = end

    def run_until(self, condition: Callable[[], bool], *, within: float) -> None:
        """Until something is so. Raises AssertionError if it does not become so."""
        end = self.clock.now + within
        while not condition():
            at = self._next_event()
            if at is None or at > end:
                raise AssertionError(f"not so within {within} s of virtual time")
            self.clock.now = max(self.clock.now, at)
            self.step()

    def step(self) -> None:
        """One round of every node that has something to do now."""
        now = self.clock.now
        for name in self.names:
            node = self.nodes.get(name)
            if node is None:
                continue
            received = [
                self._receive(node, sender, name, now) for sender in self.names if sender != name
            ]
            deadline = node.next_deadline()
            if any(received) or (deadline is not None and deadline < now):
                self.round(name)

    def round(self, name: str) -> None:
        """Tick one node, and send what it says."""
        node = self.nodes[name]
        node.tick()
        node.release(lambda peer, messages: self._send(name, peer, messages))

    # Leaves.

    def _next_event(self) -> float | None:
        times = [
            link[0][0]
            for pair, link in self._links.items()
            if link and pair not in self._held and pair[1] in self.nodes
        ]
        for node in self.nodes.values():
            deadline = node.next_deadline()
            if deadline is not None:
                # Deadlines are passed, not met, when the clock is later than they are.
                times.append(deadline + 1e-6)
        return max(min(times), self.clock.now) if times else None

    def _receive(self, node: ClusterNode, sender: str, receiver: str, now: float) -> bool:
        link = self._links.get((sender, receiver))
        if not link or (sender, receiver) in self._held:
            return False
        count = 0
        while link and link[0][0] <= now:
            node.receive(sender, link.popleft()[1])
            count += 1
        return count > 0

    def _send(self, sender: str, receiver: str, messages: Sequence[Any]) -> None:
        link = self._links.get((sender, receiver))
        if link is not None:
            at = self.clock.now + self.LATENCY_SECONDS
            link.extend((at, self._carry(message)) for message in messages)

    def _connect(self, one: str, other: str) -> None:
        if frozenset((one, other)) in self._cut or not {one, other} <= self.nodes.keys():
            return
        for pair in ((one, other), (other, one)):
            self._links[pair] = deque()
        self.nodes[one].peer_connected(other)
        self.nodes[other].peer_connected(one)

    def _disconnect(self, one: str, other: str) -> None:
        if self._links.pop((one, other), None) is None:
            return
        del self._links[(other, one)]
        for name, peer in ((one, other), (other, one)):
            if name in self.nodes:
                self.nodes[name].peer_disconnected(peer)
