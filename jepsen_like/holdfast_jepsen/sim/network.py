"""The simulated network between nodes: connections that keep order, break, stall, and are superseded.

Rules (what the real transport promises, and no more):
* One connection for each pair; what is sent on it arrives in order, or the connection breaks.
* The newest connection wins: what is still on its way on an older one is never delivered.
* A blocked direction stalls what is sent (TCP would repeat it); after `SILENCE` the connection breaks.

Not known here: what a message means.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from holdfast_coordinator.raft.messages import SnapshotChunk
from holdfast_jepsen.sim.world import MILLISECOND, SECOND, Actor, World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast_jepsen.sim.rng import Rng

SILENCE = 3 * SECOND
"""As in the transport: a peer that sends nothing for so long is taken for gone."""
RETRANSMISSION = 200 * MILLISECOND
"""After which TCP repeats what was not acknowledged."""
REDIAL = (50 * MILLISECOND, 250 * MILLISECOND)


class Endpoint(Protocol):
    """One machine on the network."""

    name: str
    actor: Actor | None

    def on_connected(self, peer: str, epoch: int) -> None: ...
    def on_disconnected(self, peer: str, epoch: int) -> None: ...
    def on_delivery(self, peer: str, epoch: int, kind: str, content: Any) -> None: ...


@dataclass(slots=True)
class _Connection:
    epoch: int
    arrivals: dict[str, int] = field(default_factory=dict)
    stalled: dict[str, list[tuple[str, Any]]] = field(default_factory=dict)


class Network:
    """See the module. `carry` is what happens to each raft message on its way (a run through the codec)."""

    def __init__(
        self, world: World, rng: Rng, *, carry: Callable[[Any], Any] | None = None
    ) -> None:
        self.world = world
        self.latency = (200_000 * world.pace, 800_000 * world.pace)
        """Of one way, in nanoseconds: smallest, largest."""
        self.duplicates = 0.0
        """Part of the raft messages that arrive twice: no TCP does it, but the kernel must not mind."""
        self._rng = rng
        self._carry = carry
        self._ends: dict[str, Endpoint] = {}
        self._connections: dict[tuple[str, str], _Connection] = {}
        self._blocked: set[tuple[str, str]] = set()
        self._delays: dict[tuple[str, str], int] = {}
        self._epoch = 0
        self.introduce: Callable[[str, str], bool] = lambda one, other: True
        """Whether two machines that meet accept each other; whoever builds the cluster knows how they do."""
        self.losses = 0.0
        """Part of what is sent that is lost and comes later, in its place: TCP repeats it."""
        self.corruption = 0.0
        """Part of what is sent that arrives damaged: its checksum is wrong, and the connection ends."""
        self.lost_chunks = 0.0
        """Part of the pieces of snapshots that never arrive."""
        self.hits: Callable[[str], None] = lambda kind: None
        """Told of each message that one of these has hit."""
        self._silence = SILENCE * world.pace

    def add(self, end: Endpoint) -> None:
        """A machine is plugged in; all pairs begin to dial."""
        for other in sorted(self._ends):
            self._redial(_pair(end.name, other))
        self._ends[end.name] = end

    # Faults.

    def block(self, sender: str, receiver: str) -> None:
        """Nothing arrives in this direction until `unblock`."""
        self._blocked.add((sender, receiver))
        connection = self._connections.get(_pair(sender, receiver))
        if connection is not None:
            self.world.after(
                self._silence, self._break_if_blocked, sender, receiver, connection.epoch
            )

    def unblock(self, sender: str, receiver: str) -> None:
        """What was stalled arrives, in order."""
        if (sender, receiver) not in self._blocked:
            return
        self._blocked.discard((sender, receiver))
        connection = self._connections.get(_pair(sender, receiver))
        if connection is not None:
            for kind, content in connection.stalled.pop(receiver, []):
                self._deliver_later(connection, sender, receiver, kind, content, 0)

    def heal(self) -> None:
        """Every direction is open, nothing is slow."""
        for sender, receiver in sorted(self._blocked):
            self.unblock(sender, receiver)
        self._delays.clear()
        self.duplicates = self.losses = self.corruption = self.lost_chunks = 0.0

    def is_blocked(self, sender: str, receiver: str) -> bool:
        """Whether this direction is."""
        return (sender, receiver) in self._blocked

    def delay(self, sender: str, receiver: str, nanoseconds: int) -> None:
        """Up to so much longer on the way, until `heal`; 0: as before."""
        self._delays[sender, receiver] = nanoseconds

    def reset(self, one: str, other: str) -> bool:
        """The connection breaks now, with what is on its way; both ends see it. False: there is none."""
        pair = _pair(one, other)
        connection = self._connections.pop(pair, None)
        if connection is None:
            return False
        for name in pair:
            self._tell_disconnected(name, pair, connection.epoch)
        self._redial(pair)
        return True

    def supersede(self, one: str, other: str) -> bool:
        """A new connection replaces one that its ends still think to be alive. False: there is none, or none can be had."""
        pair = _pair(one, other)
        if pair not in self._connections or not self.introduce(*pair):
            return False
        del self._connections[pair]
        self._connect(pair)
        return True

    def machine_gone(self, name: str, *, silently: bool) -> None:
        """A process has died. Silently: with its machine, so that nobody is told."""
        for pair in sorted(self._connections):
            if name not in pair:
                continue
            connection = self._connections[pair]
            if silently:
                self.world.after(self._silence, self._break, pair, connection.epoch)
                connection.arrivals.clear()
                connection.stalled.clear()
            else:
                self._break(pair, connection.epoch)
            if self._connections.get(pair) is connection:
                self._lost(pair)

    def silence(self, name: str, duration: int) -> None:
        """A machine is paused for so long: its peers may take it for gone."""
        if duration > self._silence:
            for pair in sorted(self._connections):
                if name in pair:
                    self.world.after(
                        self._silence, self._break, pair, self._connections[pair].epoch
                    )

    # Traffic.

    def send(self, sender: str, receiver: str, kind: str, content: Any, *, after: int = 0) -> bool:
        """On the present connection; False: there is none."""
        connection = self._connections.get(_pair(sender, receiver))
        if connection is None:
            return False
        if self.corruption and self._rng.chance(self.corruption):
            self.hits("corrupt")
            self.reset(sender, receiver)
            return True
        if self.lost_chunks and kind == "raft":
            content = self._without_chunks(content)
        if kind == "raft" and self._carry is not None:
            content = [self._carry(message) for message in content]
        if (sender, receiver) in self._blocked:
            connection.stalled.setdefault(receiver, []).append((kind, content))
        else:
            self._deliver_later(connection, sender, receiver, kind, content, after)
        return True

    def one_way(self) -> int:
        """A latency."""
        low, high = self.latency
        return low + self._rng.below(high - low + 1)

    # Leaves.

    def _without_chunks(self, content: list[Any]) -> list[Any]:
        left = [m for m in content if not (_is_chunk(m) and self._rng.chance(self.lost_chunks))]
        if len(left) < len(content):
            self.hits("lost-chunks")
        return left

    def _deliver_later(
        self,
        connection: _Connection,
        sender: str,
        receiver: str,
        kind: str,
        content: Any,
        after: int,
    ) -> None:
        delay = self._delays.get((sender, receiver), 0)
        if delay:
            self.hits("slow-links")
        at = self.world.now + after + self.one_way() + (self._rng.below(delay) if delay else 0)
        while self.losses and self._rng.chance(self.losses):
            self.hits("losses")
            at += RETRANSMISSION * self.world.pace
        at = max(at, connection.arrivals.get(receiver, 0))
        connection.arrivals[receiver] = at
        end = self._ends[receiver]
        deliver = end.on_delivery, sender, connection.epoch, kind, content
        self.world.at(at, *deliver, actor=end.actor)
        if self.duplicates and kind == "raft" and self._rng.chance(self.duplicates):
            self.hits("duplicates")
            self.world.at(at + self.one_way(), *deliver, actor=end.actor)

    def _tell_disconnected(self, name: str, pair: tuple[str, str], epoch: int) -> None:
        end = self._ends[name]
        if end.actor is not None:
            other = pair[0] if name == pair[1] else pair[1]
            self.world.after(self.one_way(), end.on_disconnected, other, epoch, actor=end.actor)

    def _break(self, pair: tuple[str, str], epoch: int) -> None:
        connection = self._connections.get(pair)
        if connection is not None and connection.epoch == epoch:
            self.reset(*pair)
        else:
            for name in pair:  # an end that never heard of its successor
                self._tell_disconnected(name, pair, epoch)

    def _break_if_blocked(self, sender: str, receiver: str, epoch: int) -> None:
        if (sender, receiver) in self._blocked:
            self._break(_pair(sender, receiver), epoch)

    def _lost(self, pair: tuple[str, str]) -> None:
        del self._connections[pair]
        self._redial(pair)

    def _redial(self, pair: tuple[str, str]) -> None:
        delay = self._rng.between(*REDIAL) * self.world.pace
        self.world.after(delay, self._dial, pair)

    def _dial(self, pair: tuple[str, str]) -> None:
        if pair in self._connections:
            return
        ends = [self._ends[name].actor for name in pair]
        is_open = not (pair in self._blocked or (pair[1], pair[0]) in self._blocked)
        is_up = all(actor is not None and not actor.is_paused for actor in ends)
        if is_open and is_up and self.introduce(*pair):
            self._connect(pair)
        else:
            self._redial(pair)

    def _connect(self, pair: tuple[str, str]) -> None:
        """The dialer is ready one way before the acceptor, which hears the proof first."""
        self._epoch += 1
        connection = self._connections[pair] = _Connection(self._epoch)
        at = self.world.now
        for name, other in (pair, (pair[1], pair[0])):
            at += 2 * self.one_way()
            end = self._ends[name]
            connection.arrivals[name] = at
            self.world.at(at, end.on_connected, other, self._epoch, actor=end.actor)


def _is_chunk(message: Any) -> bool:
    return isinstance(message, SnapshotChunk)


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)


def links(names: Sequence[str]) -> list[tuple[str, str]]:
    """Every ordered pair."""
    return [(one, other) for one in names for other in names if one != other]
