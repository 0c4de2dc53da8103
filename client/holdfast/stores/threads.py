"""A few threads for calls that block, for one client.

Rules: their number is fixed, and so is the length of the line before them; at the limit a call is refused at once (`overloaded`),
having done nothing. They are daemons: a server that hangs must not keep a process from ending. A caller that is cancelled leaves a
call that has begun to itself; one that has not begun is dropped.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import TYPE_CHECKING, Any, Final, TypeVar

from holdfast.errors import ClientClosed
from holdfast.stores.base import overloaded

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

LINE_MAX: Final = 1_000
"""As many acquires as the HTTP transport has connections for."""


class Threads:
    """`await threads.run(work)` on one of `count` threads, which are started with the first call."""

    def __init__(self, name: str, count: int, at_end: Callable[[], object]) -> None:
        """`at_end`: called once after `close`, on the last thread when it ends (or at once, if none was ever needed)."""
        self._name = name
        self._count = count
        self._at_end = at_end
        self._running = 0
        self._counting = threading.Lock()
        self._line: queue.Queue[tuple[Callable[[], Any], asyncio.Future[Any]] | None]
        self._line = queue.Queue(LINE_MAX)
        self._started = 0
        self._is_closed = False

    async def run(self, work: Callable[[], T]) -> T:
        """What comes of `work`. Raises what it raises; `Refusal` when the line is full; `ClientClosed`."""
        if self._is_closed:
            raise ClientClosed("the client was closed")
        if self._started < self._count:
            self._started += 1
            with self._counting:
                self._running += 1
            name = f"holdfast: {self._name} {self._started}"
            threading.Thread(target=self._serve, name=name, daemon=True).start()
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        try:
            self._line.put_nowait((work, done))
        except queue.Full:
            raise overloaded(f"{LINE_MAX} calls of this client are waiting for the store") from None
        return await done

    def close(self) -> None:
        """The threads end after what is in the line. Does not wait for them."""
        if not self._is_closed:
            self._is_closed = True
            if self._started == 0:
                self._at_end()
            for _ in range(self._started):
                try:
                    self._line.put_nowait(None)
                except queue.Full:  # hung threads behind a full line: they die with the process
                    return

    def _serve(self) -> None:
        _work_off(self._line)
        with self._counting:
            self._running -= 1
            is_last = self._running == 0
        if is_last:
            self._at_end()


def _work_off(line: queue.Queue[tuple[Callable[[], Any], asyncio.Future[Any]] | None]) -> None:
    while (item := line.get()) is not None:
        work, done = item
        if done.cancelled():
            continue
        try:
            result, error = work(), None
        except BaseException as caught:  # noqa: BLE001 - handed to the caller, whatever it is
            result, error = None, caught
        try:
            done.get_loop().call_soon_threadsafe(_tell, done, result, error)
        except RuntimeError:
            continue  # the loop is closed: nobody waits any more
        finally:
            del item, work, done, result, error


def _tell(done: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
