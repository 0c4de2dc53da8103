"""How a client names its tasks and threads to the cluster, so that the cluster can see who waits for whom.

Rule: a name is the same for one task (or thread) for as long as it holds anything, no other of this client has it, and it says
nothing about the person or the work: `task 3`. What the user says of a lock (`context=`) stands before it and never replaces it.
Were the text alone the name, two tasks that use the same text would be one to the cluster:

    time 0  task A holds k, task B holds j, both with the context "collect"
    time 1  A waits for j: held by "collect", which is A itself to the cluster: refused as a deadlock, and there is none

For the same reason a text that comes while the task holds something is not shown: the task keeps the name under which it got that.
A lock with a session of its own (`ttl`, `max_hold`, `progress_within`) is not seen as the same task: the cluster tells tasks apart
within a session.
"""

from __future__ import annotations

import asyncio
import itertools
import weakref
from typing import Final

from holdfast import wire

NAME_BYTES_MAX: Final = 28
"""`thread ` and the digits of the largest integer, in brackets."""
NOTE_BYTES_MAX: Final = wire.CONTEXT_BYTES_MAX - NAME_BYTES_MAX
"""What is left for the user's text."""


class ThreadHolder:
    """Stands for a thread. Thread ids are used again after a thread's end; this object is not."""

    __slots__ = ("__weakref__",)


class Contexts:
    """The names that one client has given."""

    def __init__(self) -> None:
        self._names: weakref.WeakKeyDictionary[object, tuple[int, str]] = (
            weakref.WeakKeyDictionary()
        )
        self._numbers = itertools.count(1)

    def of(self, holder: object, note: str | None, *, is_holding: bool) -> str:
        """The context of a request of `holder`, which holds something already or not."""
        number, shown = self._names.get(holder, (0, ""))
        if shown and (is_holding or (note is None and shown[-1] != ")")):
            return shown
        number = number or next(self._numbers)
        kind = "task" if isinstance(holder, asyncio.Task) else "thread"
        name = f"{kind} {number}"
        shown = name if note is None else f"{note} ({name})"
        self._names[holder] = (number, shown)
        return shown


def check_note(note: str | None) -> str | None:
    """Raises `ValueError` for a text that is too long to stand before a task's name."""
    if note is not None and len(note.encode(errors="surrogatepass")) > NOTE_BYTES_MAX:
        raise ValueError(f"context has at most {NOTE_BYTES_MAX} bytes")
    return note
