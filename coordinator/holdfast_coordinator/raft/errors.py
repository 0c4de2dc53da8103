"""What can go wrong in the engine. One tree; each class says what whoever catches it should do."""

from __future__ import annotations

from typing import Literal


class EngineFailure(Exception):
    """The engine cannot start, or has stopped itself. Its text is a sentence for the operator.

    Whoever catches it stops the node: it must not answer anything any more.
    """


class AdminRefused(Exception):
    """The engine does not do what an operator asked for; the sentence says why, and `code` is one of

    no_leader  nothing was done; ask again later        conflict   nothing was done; asking again does not help
    unknown    it was begun, and its end was not seen; look at the cluster, ask again
    """

    def __init__(self, code: Literal["no_leader", "conflict", "unknown"], sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class JournalError(EngineFailure):
    """The files of the journal cannot be read, or can no longer be written or synced.

    Nothing may be acknowledged after it; only a new start, from the files, may go on.
    """


class SnapshotError(EngineFailure):
    """A snapshot cannot be read, written or put in place.

    The state on the disk is the one before: the old snapshot and its journal.
    """
