"""What the engine asks of whoever uses it. The engine knows bytes; it does not know locks.

All calls come from the one event-loop thread. None of them may block. None
may raise, except an `EngineFailure` where going on would be wrong: the engine then stops for good.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StorageStatus:
    """What a node keeps on its disk, and how snapshots have gone since it started. For metrics only.

    `journal_bytes` is what its segments take, space reserved for what comes included; `log_entries` is what a start would
    replay at most; `snapshot_index` and `snapshot_bytes` are of the newest snapshot, 0 if there is none; `snapshots` counts the
    attempts to take one, by outcome; sent and installed are those that a leader gave to a peer.
    """

    journal_bytes: int = 0
    journal_segments: int = 0
    log_entries: int = 0
    snapshot_index: int = 0
    snapshot_bytes: int = 0
    snapshots: Mapping[str, int] = field(default_factory=dict)
    snapshots_sent: int = 0
    snapshots_installed: int = 0


class Host(Protocol):
    """The user of the engine (the node, or a test)."""

    def next_batch(self, term: int) -> bytes | None:
        """Called by a leader, repeatedly within one tick, until it answers None: the next entry, stamped now and appended in the
        same step (it never waits and never travels to another leader). `term` is the term in which it will be appended."""

    def apply(self, index: int, term: int, payload: bytes) -> bool:
        """A committed entry, exactly once for each index, in order of the log. Also called for the whole journal after a start.
        Whether somebody waits at another node to hear of it: a leader then tells its peers at once that it is committed."""

    def restore(self, index: int, term: int, payload: bytes) -> Generator[None, None, None]:
        """The state after entry `index`, in place of all that was applied so far: at a start, before the first `apply`, or when a
        leader sent a snapshot. A generator, of which each step takes a few milliseconds at most, because the node must answer its
        leader meanwhile. Between its steps `apply` may go on with entries of the state so far; the last step takes over the new
        one, and the next `apply` is of `index + 1`. It may also be closed before its end, and has then changed nothing.

        May raise ValueError for what it cannot read: the node stops, and nothing on its disk was replaced."""

    def on_message(self, peer: str, payload: bytes) -> None:
        """An application message of an authenticated peer, in the order sent on the present connection."""

    def on_peer_connected(self, peer: str) -> None:
        """A connection to this peer is new: whatever was sent on an earlier one may be lost."""

    def on_leader(self, leader: str | None, term: int) -> None:
        """The known leader or the term changed. `leader` is a node's name, or None while there is none."""


class PayloadReader(Protocol):
    """The payload of a snapshot. Whoever was given it closes it."""

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes; none at the end."""

    def close(self) -> None: ...


class EnginePort(Protocol):
    """The engine, as its host uses it. Everything belongs to the one event-loop thread."""

    @property
    def boot(self) -> int:
        """How often this data directory has been opened; known once `start` has returned, and before the first `Host.apply`."""

    @property
    def is_leader(self) -> bool: ...

    @property
    def term(self) -> int: ...

    @property
    def last_index(self) -> int: ...

    @property
    def commit_index(self) -> int: ...

    @property
    def applied_index(self) -> int: ...

    @property
    def leader_commit_index(self) -> int | None:
        """How far the log is committed, as the leader of this term has said since this node last connected with it. None: it has
        not said yet, or may not know itself what the leaders before it committed."""

    @property
    def match_index(self) -> Mapping[str, int]:
        """What each peer is known to have on disk; empty unless this node leads."""

    @property
    def connected_peers(self) -> frozenset[str]: ...

    @property
    def rejected(self) -> Mapping[str, int]:
        """How much of what peers sent was refused, by reason."""

    @property
    def storage(self) -> StorageStatus: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def step_down(self) -> str:
        """Have the leader hand over to another node; the new leader's name. Raises `AdminRefused`."""

    async def replace_node(self, name: str) -> None:
        """Admit the data directory that `name` has now, in place of the one it had. Raises `AdminRefused`."""

    def move_peer(self, name: str, address: tuple[str, int]) -> None:
        """`name` is reached at this host and port from now on."""

    async def open_backup(self) -> tuple[bytes, PayloadReader]:
        """The head of a snapshot file of no less than what is applied here, and what follows it. Raises `AdminRefused`."""

    def wake(self) -> None:
        """There may be something to propose: `Host.next_batch` will be called soon, if this node leads."""

    def send(self, peer: str, payload: bytes) -> bool:
        """An application message. False: not sent, because the peer is not connected or its buffer is full."""
