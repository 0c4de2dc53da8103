"""A start: which snapshot the journal continues from, and what a crash left half done.

What a crash can leave behind, and what becomes of it (D1, D8, D16):

    taking      time 0  a compactor fills a temporary file         -> removed
                time 1  the file gets its final name               -> used; the journal still reaches back
                time 2  the journal is cut                         -> used
                time 3  the older snapshot is removed              -> removed here
    installing  time 0  pieces arrive in a temporary file          -> removed
                time 1  the file gets its final name               -> the journal ends before it, or
                                                                      contradicts it: reset to it here
                time 2  the journal is reset to it                 -> used
                time 3  the leader hears of it

So a snapshot that was taken from this journal always finds its last entry there; one that came from a
leader may not, and then says what is committed. Anything else is a loss, and the node does not start.

This module does not know the peers, nor what the state means.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast_coordinator.raft import shield
from holdfast_coordinator.raft.errors import SnapshotError
from holdfast_coordinator.raft.messages import ENTRY_NO_OP
from holdfast_coordinator.raft.snapshots import SnapshotInfo, Unreadable

if TYPE_CHECKING:
    from holdfast_coordinator.raft.snapshots import Header, SnapshotStore

log = logging.getLogger(__name__)

_ADVICE = (
    "Nothing was changed. Restore the data directory from a copy made after this node last ran, or put "
    "the node back as a new one with an empty data directory"
)


@dataclass(frozen=True, slots=True)
class Restored:
    """The state that the journal continues from."""

    info: SnapshotInfo
    payload: bytes


def recover(journal: Any, store: SnapshotStore) -> Restored | None:
    """Make journal and snapshots agree, durably; None: the journal has the whole history.

    A snapshot that does not check is passed over only if an older one, or nothing at all, and an unbroken
    journal give the same state. Raises SnapshotError otherwise, and changes nothing then.
    """
    damaged: list[str] = []
    for index in store.indices():
        try:
            header, payload = store.load(index)
        except Unreadable as unreadable:
            damaged.append(f"{store.path(index)}: {unreadable}")
            continue
        _reconcile(journal, store, header, damaged)
        _tell(damaged)
        store.use(header.info)
        store.drop_older()
        store.drop_temporaries()
        return Restored(header.info, payload)
    if damaged and not (len(journal) and journal[0][1] == 1):
        raise SnapshotError(f"{damaged[0]}; the journal does not reach back before it. {_ADVICE}")
    if len(journal) and journal[0][1] > 1:
        raise SnapshotError(
            f"the journal in {store.path(1).parent} begins at entry {journal[0][1]}, and the snapshot of "
            f"what was before is missing. {_ADVICE}"
        )
    _tell(damaged)
    store.drop_temporaries()
    return None


def reset(journal: Any, info: SnapshotInfo) -> None:
    """The log is now: nothing but the end of the snapshot. In its place stands an entry that is never
    sent and never applied; pysyncobj reads only its index and term. Durable when this returns."""
    journal.clear()
    journal.add(ENTRY_NO_OP, info.index, info.term)
    journal.setRaftCommitIndex(info.index)
    journal.sync()


def _reconcile(journal: Any, store: SnapshotStore, header: Header, damaged: list[str]) -> None:
    info = header.info
    where = store.path(info.index)
    because = f" ({damaged[0]})" if damaged else ""
    if not len(journal):
        raise SnapshotError(
            f"{where} is there, but the journal beside it is not, and with it this node's vote. {_ADVICE}"
        )
    first, last = journal[0][1], shield.last_index(journal)
    if first > info.index:
        raise SnapshotError(
            f"the journal begins at entry {first}, but the newest usable snapshot, {where}, ends at "
            f"entry {info.index}{because}. {_ADVICE}"
        )
    if info.index <= last and shield.term_at(journal, info.index) == info.term:
        return
    if not header.installed or damaged:
        found = f"ends at entry {last}" if info.index > last else "contradicts its last entry"
        raise SnapshotError(
            f"{where} was made of this journal, which now {found}{because}. {_ADVICE}"
        )
    log.info("finishing the interrupted installation of %s", where)
    reset(journal, info)


def _tell(damaged: list[str]) -> None:
    for what in damaged:
        log.error("a damaged snapshot is passed over, because the journal reaches back: %s", what)
