"""The exit codes of the command, in one place: scripts depend on them.

They follow what people know: flock(1) for conflicts, sysexits.h for "unavailable" and "try again", the shell for a command
that cannot be run and for death by a signal.
"""

from __future__ import annotations

from typing import Final

OK: Final = 0
FAILED: Final = 1
"""It did not work, and standard error says why (a port in use, a demo whose promise did not hold)."""
CONFLICT: Final = 1
"""`lock`: somebody else holds the key (or held it for all of `-w`); `-E` chooses another code."""
USAGE: Final = 2
"""Wrong arguments or a wrong configuration; nothing was started."""
UNREACHABLE: Final = 69
"""EX_UNAVAILABLE: no node answered, or none could."""
LOST: Final = 75
"""EX_TEMPFAIL: the lock was lost while the command ran; the command was stopped. Trying again is right."""
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127


def of_child(status: int) -> int:
    """The shell's way to tell how a child ended: its own status, or 128 + n if signal n killed it.

    `status` is as subprocess reports it: negative for a signal.
    """
    return 128 - status if status < 0 else status
