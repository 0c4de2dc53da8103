"""The real journal, with everything that it is told also told to the invariants, and points to be killed at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast_coordinator.raft.journal import Journal

if TYPE_CHECKING:
    from holdfast_jepsen.sim.server import Server


class WatchedJournal(Journal):
    """Changes nothing."""

    def __init__(self, directory: Any, *, server: Server, **options: Any) -> None:
        self._watch = server.watch
        self._server = server
        super().__init__(directory, **options)

    def add(self, command: bytes, idx: int, term: int) -> None:
        self._server.pass_point("before append")
        super().add(command, idx, term)
        entries = self._entries
        previous = entries[-2][2] if len(entries) > 1 else None
        self._watch.on_append(self._server.name, idx, term, command, previous)
        self._server.pass_point("after append")

    def _write(self) -> None:
        self._server.pass_point("before sync")
        super()._write()
        self._server.pass_point("after sync")

    def deleteEntriesTo(self, entryTo: int) -> None:
        self._server.pass_point("before journal trim")
        super().deleteEntriesTo(entryTo)
        self.sync()
        self._server.pass_point("after journal trim")
