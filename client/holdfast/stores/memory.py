"""Locks in the memory of this process: for threads, event loops, tests, and the program that is still one process.

Rules:
* `memory://` is one table for the whole process, `memory://name` one for each name; clients on any thread or loop share it.
* `memory:///path/to/file` counts in the file the processes that have used it, and makes that number the upper part of every token,
  so that tokens never repeat after a restart. The file is locked while the process lives: a second process is refused, because
  it would have locks of its own and believe them to be the same.
* A forked child starts with empty tables: its parent's holds are not its business.
* The table is locked for one change at a time and never while anybody waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import threading
from typing import TYPE_CHECKING, Final

from holdfast.stores.address import memory_file
from holdfast.stores.base import Ask, Granted, LockView, Refusal, superseded
from holdfast.stores.memory_table import Hold, Table
from holdfast.stores.waiting import event_or_time

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.clock import Clock

INCARNATION_BITS: Final = 32
"""Tokens are incarnation x 2^32 + counter: four thousand million grants for one process."""
INCARNATIONS_MAX: Final = 1 << (53 - INCARNATION_BITS)
"""Two million starts; beyond that a token would not be exact in JSON any more."""
LOOK_SECONDS_MAX: Final = 60.0
"""A waiter is woken by what happens; this only bounds the sleep when the table knows no deadline."""


class Shared:
    """One table, and the lock that lets in one at a time."""

    def __init__(self, first_token: int = 1, file: int | None = None) -> None:
        self.table: Table = Table(first_token)
        self.gate: threading.Lock = threading.Lock()
        self.file: int | None = file


_tables: dict[str, Shared] = {}
_opening = threading.Lock()


def shared_of(url: str) -> Shared:
    """The table of an address. Raises `ValueError` if its file cannot be used."""
    path = memory_file(url)
    name = str(path.resolve()) if path is not None else url.partition("://")[2]
    with _opening:
        found = _tables.get(name)
        if found is None:
            found = _tables[name] = Shared() if path is None else _with_file(path)
        return found


def _with_file(path: Path) -> Shared:
    """Take the file for this process, and the next incarnation from it."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ValueError(f"{path} cannot be used: {error.strerror}") from error
    try:
        incarnation = _next_incarnation(file, path)
    except BaseException:
        os.close(file)
        raise
    return Shared(first_token=(incarnation << INCARNATION_BITS) + 1, file=file)


def _next_incarnation(file: int, path: Path) -> int:
    """Written, and on the disk, before the first token of it is given out. The first is 0."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ValueError(
            f"{path} is used by another process; locks in memory cannot be shared between processes: use sqlite:// or a cluster"
        ) from error
    text = os.read(file, 64).decode(errors="replace").strip()
    if text and not text.isdecimal():
        raise ValueError(f"{path} is not a file of a memory store: it does not hold one number")
    incarnation = int(text or 0)
    if incarnation >= INCARNATIONS_MAX:
        raise ValueError(f"{path} has been used {INCARNATIONS_MAX} times; there are no tokens left")
    # In place: the number only grows, and its new text is never shorter, so a torn write cannot make it smaller than it was
    # by more than its last digits; the padding keeps it in one sector, which disks write whole.
    os.pwrite(file, f"{incarnation + 1:020d}\n".encode(), 0)
    os.fsync(file)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the file itself may be new
    finally:
        os.close(folder)
    return incarnation


def _forget_parent() -> None:
    """In a forked child. The parent keeps its files: closing this copy does not unlock them."""
    global _opening  # noqa: PLW0603 - it may have been held by a thread that is not here
    _opening = threading.Lock()
    for each in _tables.values():
        if each.file is not None:
            os.close(each.file)
    _tables.clear()


os.register_at_fork(after_in_child=_forget_parent)


class MemoryStore:
    """One client's view of a table."""

    name = "memory"

    def __init__(self, url: str, clock: Clock, shared: Shared | None = None) -> None:
        """`shared`: a table of one's own instead of that of the address (`holdfast.testing`)."""
        self._shared = shared_of(url) if shared is None else shared
        self._clock = clock

    async def open_session(self, session: str, ttl_ms: int, owner: str | None) -> int:
        with self._shared.gate:
            left = self._shared.table.open_session(self._clock.now(), session, ttl_ms / 1000, owner)
        return int(left * 1000)

    async def renew(self, session: str) -> int:
        with self._shared.gate:
            return int(self._shared.table.renew(self._clock.now(), session) * 1000)

    async def close(self, session: str) -> list[int]:
        with self._shared.gate:
            return self._shared.table.close(self._clock.now(), session)

    async def acquire(self, ask: Ask) -> Granted:
        loop, event, table = asyncio.get_running_loop(), asyncio.Event(), self._shared.table

        def wake() -> None:
            # A loop that is closed has no waiters any more; its session ends by its lease.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(event.set)

        with self._shared.gate:
            waiter = table.acquire(self._clock.now(), ask, wake)
        if isinstance(waiter, Granted):
            return waiter
        while True:
            event.clear()
            with self._shared.gate:
                now = self._clock.now()
                table.advance(now)
                if waiter.wake is not wake:
                    raise superseded()
                if isinstance(waiter.outcome, Hold):
                    return table.granted(now, waiter.outcome)
                if isinstance(waiter.outcome, Refusal):
                    raise waiter.outcome.again()
                due = table.next_due()
            await event_or_time(event, self._clock, now + LOOK_SECONDS_MAX if due is None else due)

    async def release(self, session: str, token: int) -> None:
        with self._shared.gate:
            self._shared.table.release(self._clock.now(), session, token)

    async def cancel(self, session: str, request_id: int) -> int | None:
        with self._shared.gate:
            return self._shared.table.cancel(self._clock.now(), session, request_id)

    async def read(self, key: str) -> LockView:
        with self._shared.gate:
            return self._shared.table.view(self._clock.now(), key)

    async def locks(self, prefix: str, after: str | None, limit: int) -> list[LockView]:
        with self._shared.gate:
            now, table = self._clock.now(), self._shared.table
            return [table.view(now, key) for key in table.keys(now, prefix, after, limit)]

    async def time_ms(self) -> int:
        return int(self._clock.now() * 1000)

    async def aclose(self) -> None:
        """The table belongs to the process."""
