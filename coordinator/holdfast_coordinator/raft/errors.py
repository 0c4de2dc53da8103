"""What can go wrong in the engine. One tree; each class says what whoever catches it should do."""

from __future__ import annotations


class EngineFailure(Exception):
    """The engine cannot start, or has stopped itself. Its text is a sentence for the operator.

    Whoever catches it stops the node: it must not answer anything any more.
    """


class JournalError(EngineFailure):
    """The files of the journal cannot be read, or can no longer be written or synced.

    Nothing may be acknowledged after it; only a new start, from the files, may go on.
    """
