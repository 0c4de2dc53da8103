"""Giving locks back when the process is told to end.

Rule: somebody else's signal handler is never replaced and never run in a different order. Only where SIGTERM would kill the
process on the spot (the default) it is turned into an ordinary end: `SystemExit` in the main thread, so that every `with` block
unwinds, `asyncio.run` cancels its tasks, and what is still held is released. Nothing is released under a body that still runs.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from types import FrameType

EXIT_STATUS: Final = 128 + signal.SIGTERM
"""What a shell reports of a process that SIGTERM killed."""


def release_on_sigterm() -> bool:
    """Make SIGTERM an ordinary end of this process, so that its locks are released at once and not after their TTL.

    Call it once, in the main thread, before the work begins; the exit status becomes 143. Returns False, and changes nothing, if
    SIGTERM has a handler already or is ignored: then that handler decides (uvicorn, gunicorn and Celery bring their own, which end
    the process in order). Raises `ValueError` outside the main thread. Threads that are not daemons are waited for, as at any end
    of a Python process; SIGKILL and a crash release nothing, and the locks end with their TTL.
    """
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return False
    signal.signal(signal.SIGTERM, _end)
    return True


def _end(number: int, frame: FrameType | None) -> NoReturn:
    # A second signal during the unwinding must not interrupt the releasing; the sender has SIGKILL if that takes too long.
    signal.signal(number, signal.SIG_IGN)
    sys.exit(EXIT_STATUS)
