"""The real journal, with everything that it is told also told to the invariants, and points to be killed at.

Rule: it changes nothing, and it syncs nothing: whoever forgets a sync has to be found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast_coordinator.raft.journal import Journal

if TYPE_CHECKING:
    from holdfast_jepsen.sim.server import Server


class WatchedJournal(Journal):
    """See the module."""

    def __init__(self, directory: Any, *, server: Server, **options: Any) -> None:
        self._watch = server.watch
        self._server = server
        self._is_trimming = False
        """What it has dropped in front is still on the disk: a trim is over with the next sync."""
        super().__init__(directory, **options)
        self._compare(0)

    def add(self, command: bytes, idx: int, term: int) -> None:
        self._server.pass_point("before append")
        super().add(command, idx, term)
        entries = self._entries
        previous = entries[-2][2] if len(entries) > 1 else None
        self._watch.on_append(self._server.name, idx, term, command, previous)
        self._server.pass_point("after append")

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        for _, index, term in self._entries[entryFrom:]:
            self._watch.on_cut(self._server.name, index, term)
        super().deleteEntriesFrom(entryFrom)

    def deleteEntriesTo(self, entryTo: int) -> None:
        self._server.pass_point("before journal trim")
        super().deleteEntriesTo(entryTo)
        self._is_trimming = True

    def _write(self) -> None:
        self._server.pass_point("before sync")
        before, begin = self._file, self._offset
        super()._write()
        self._compare(begin if self._file is before else 0)
        self._server.pass_point("after sync")
        if self._is_trimming:
            self._is_trimming = False
            self._server.pass_point("after journal trim")

    def _compare(self, begin: int) -> None:
        """What was written from here on, the vote, and the names of both files are on the disk, and not in its cache alone."""
        seen, safe = self._server.disk._seen, self._server.disk._safe
        for file, first, last in (
            (self._segment, begin, self._offset),
            (self._votes._file, 0, None),
        ):
            inode = seen.names[self._files.path][file.name]
            is_named = safe.names[self._files.path].get(file.name) == inode
            written, kept = (each.bytes.get(inode, b"")[first:last] for each in (seen, safe))
            self._watch.on_synced(
                self._server.name, file.name, is_on_disk=is_named and written == kept
            )
