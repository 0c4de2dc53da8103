"""The real journal, with everything that it is told also told to the invariants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast_coordinator.raft.journal import Journal

if TYPE_CHECKING:
    from holdfast_jepsen.checker.raft_invariants import RaftInvariants


class WatchedJournal(Journal):
    """Changes nothing."""

    def __init__(self, directory: Any, *, node: str, watch: RaftInvariants, **options: Any) -> None:
        self._watch = watch
        self._node = node
        super().__init__(directory, **options)

    def add(self, command: bytes, idx: int, term: int) -> None:
        super().add(command, idx, term)
        entries = self._entries
        previous = entries[-2][2] if len(entries) > 1 else None
        self._watch.on_append(self._node, idx, term, command, previous)
