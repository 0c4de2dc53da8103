"""A snapshot on its way from a leader to a peer whose next entry the leader's log no longer has.

    leader   -> peer     Offer    what there is; repeated like a heartbeat, and it is one
    peer     -> leader   Answer   so many bytes are here; `refused`: they were wrong, and are gone
    leader   -> peer     Chunk    the next pieces, a window ahead of what was answered
    peer     -> leader   Ack      it is installed and durable, or the log has its last entry already (D10)

The rules:
* The peer collects a temporary file, strictly in order. What is out of order is dropped, and the answer to
  the next offer says where to go on: an offer remembers how much had been sent before it, so an answer to it
  that says less means loss. A broken connection costs what was on its way; the file so far is kept (D11).
* Nothing is replaced before the whole has arrived and its length and SHA-256 are those of the offer.
* At most WINDOW_CHUNKS are on the way to one peer, and one snapshot is collected at a time.

This module does not know terms, connections or the log: the kernel (kernel.py) asks it only about messages
of the present leader, and does what is left to do with a complete snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from holdfast_coordinator.raft.errors import SnapshotError
from holdfast_coordinator.raft.messages import (
    SNAPSHOT_CHUNK_BYTES,
    SnapshotAnswer,
    SnapshotChunk,
    SnapshotOffer,
)
from holdfast_coordinator.raft.snapshots import (
    SnapshotInfo,
    SnapshotReader,
    SnapshotStore,
    SnapshotWriter,
    Unreadable,
)

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

WINDOW_CHUNKS = 4
"""1 MiB on its way: fills a fast link, and is small beside the send buffer."""


@dataclass(slots=True)
class _Sending:
    """One peer's transfer. `offer_stamp` is that of the last offer, before which `offer_sent` bytes had
    been sent."""

    reader: SnapshotReader
    sent: int = 0
    offer_stamp: int = -1
    offer_sent: int = 0
    offered_at: float = float("-inf")
    refusals: int = 0


@dataclass(slots=True)
class Sender:
    """The leader's side, for all peers. `close` when this node leads no longer."""

    store: SnapshotStore
    offer_every_s: float
    _to: dict[str, _Sending] = field(default_factory=dict)

    def needed(
        self, peer: str, *, term: int, first_index: int, now: float, new_stamp: Callable[[], int]
    ) -> SnapshotOffer | None:
        """The log begins at `first_index`, and the peer needs something from before. None: it was
        offered a moment ago, or there is nothing to offer."""
        sending = self._to.get(peer)
        if sending is not None and sending.reader.info.index < first_index:
            # It would need another one after this. A newer one must exist: start with that.
            self.cancel(peer)
            sending = None
        if sending is None:
            if self.store.newest is None:
                return None
            sending = self._to[peer] = _Sending(self.store.open(self.store.newest))
        if now < sending.offered_at + self.offer_every_s:
            return None
        sending.offered_at = now
        sending.offer_stamp, sending.offer_sent = new_stamp(), sending.sent
        info = sending.reader.info
        return SnapshotOffer(
            term, sending.offer_stamp, info.index, info.term, info.length, info.digest
        )

    def answered(
        self, peer: str, answer: SnapshotAnswer, *, term: int, new_stamp: Callable[[], int]
    ) -> list[SnapshotChunk]:
        """What to send next."""
        sending = self._to.get(peer)
        if sending is None or sending.reader.info.index != answer.index:
            return []
        info = sending.reader.info
        if answer.refused:
            self._check_own(sending)
            sending.sent = 0
        elif answer.stamp == sending.offer_stamp and answer.received < sending.offer_sent:
            sending.sent = min(sending.sent, answer.received)
        # A peer that kept a part from an earlier connection is ahead of what was sent on this one.
        sending.sent = max(sending.sent, min(answer.received, info.length))
        chunks = []
        end = min(info.length, answer.received + WINDOW_CHUNKS * SNAPSHOT_CHUNK_BYTES)
        while sending.sent < end:
            data = sending.reader.read(sending.sent, SNAPSHOT_CHUNK_BYTES)
            if not data:
                raise SnapshotError(f"{self.store.path(info.index)} has become shorter")
            chunks.append(SnapshotChunk(term, new_stamp(), info.index, sending.sent, data))
            sending.sent += len(data)
        return chunks

    def acknowledged(self, peer: str, index: int) -> bool:
        """The peer's log reaches this far. Whether a snapshot that was sent to its end brought it there."""
        sending = self._to.get(peer)
        if sending is None or index < sending.reader.info.index:
            return False
        self.cancel(peer)
        return sending.sent == sending.reader.info.length

    def cancel(self, peer: str) -> None:
        """The connection is gone, or the peer has what it needed."""
        sending = self._to.pop(peer, None)
        if sending is not None:
            sending.reader.close()

    def close(self) -> None:
        """Cancel all."""
        for peer in list(self._to):
            self.cancel(peer)

    def _check_own(self, sending: _Sending) -> None:
        """What arrived was not what was offered. If it is the file here that has decayed, this node could
        not start again, and must not offer it for ever."""
        sending.refusals += 1
        index = sending.reader.info.index
        if self.store.newest is None or self.store.newest.index != index:
            return
        try:
            self.store.load(index)
        except Unreadable as unreadable:
            raise SnapshotError(
                f"{self.store.path(index)}: {unreadable}. A peer refused what was read from it. Put this "
                "node back as a new one with an empty data directory"
            ) from unreadable


@dataclass(slots=True)
class Receiver:
    """The follower's side."""

    store: SnapshotStore
    _writer: SnapshotWriter | None = None

    def offered(self, info: SnapshotInfo) -> int:
        """How many bytes of it are here. Another one than before takes the place of that."""
        writer = self._writer
        if writer is None or writer.info != info:
            self.discard()
            writer = self._writer = self._guarded(lambda: self.store.receive(info))
        return writer.received

    def take(self, index: int, offset: int, data: bytes) -> int | None:
        """How many bytes are here now; None: this piece is not the next one, and was dropped."""
        writer = self._writer
        if writer is None or writer.info.index != index or writer.received != offset:
            return None
        if offset + len(data) > writer.info.length:
            return None
        self._guarded(lambda: writer.write(data))
        return writer.received

    def complete(self) -> SnapshotWriter | None:
        """The finished, verified, synced temporary file, once everything has arrived. Raises Unreadable
        if it is not what was offered; then nothing of it is left."""
        writer = self._writer
        if writer is None or not writer.is_complete:
            return None
        try:
            self._guarded(writer.finish)
        except Unreadable:
            self.discard()
            raise
        self._writer = None
        return writer

    def discard(self) -> None:
        """Nothing of what has arrived so far is wanted."""
        writer, self._writer = self._writer, None
        if writer is not None:
            self._guarded(writer.discard)

    def close(self) -> None:
        """The node stops; the next start removes the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    @staticmethod
    def _guarded(step: Callable[[], T]) -> T:
        try:
            return step()
        except OSError as error:
            raise SnapshotError(
                f"a snapshot of the leader cannot be written: {error}. Mend the disk (space, hardware), "
                "then start the node again"
            ) from error
