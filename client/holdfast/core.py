"""The event loop of the blocking face: its thread, and the calls that are handed to it from other threads.

Rules:
* It belongs to the process that made it; a forked child does not touch it.
* Whoever waits for a call is woken: by its outcome, or because the loop has ended. A caller that is interrupted leaves nothing
  behind: its call is cancelled, or what came of it is given back.
* Nothing here waits without a bound when the process ends; a collector does not wait at all.
It knows the client only as what it closes in the end.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, TypeVar

from holdfast.client import AsyncClient
from holdfast.clock import BootClock
from holdfast.errors import ClientClosed, HoldfastError
from holdfast.held import blocking_grant

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from holdfast.client import Ports, Settings

log: logging.Logger = logging.getLogger("holdfast")

T = TypeVar("T")

SHUTDOWN_SECONDS: Final = 10.0
"""For the thread to end after `aclose`, which bounds itself; only then is it left to die with the process."""


class Core:
    """The event loop on its thread, and the client on that loop. Belongs to the process that made it."""

    def __init__(self, settings: Settings, ports: Ports) -> None:
        self._pid = os.getpid()
        self.is_stopped: bool = False
        self._loop = asyncio.new_event_loop()
        self.client: AsyncClient = AsyncClient(settings, ports)
        self.client._make_grant = blocking_grant(self)
        # A daemon: a process that ends without `close` must not hang on it; its session ends by the TTL.
        self._thread = threading.Thread(target=self._serve, name="holdfast", daemon=True)
        self._stopping = threading.RLock()  # a collector may come by while it is held
        self._gate = threading.Lock()
        self._calls: set[Call] | None = set()  # None: the thread has ended
        self._thread.start()
        _cores.add(self)

    def run(
        self,
        work: Coroutine[Any, Any, T],
        give_back: Callable[[T], Coroutine[Any, Any, object] | None] = lambda _: None,
    ) -> T:
        """What comes of `work` on the loop. If the caller is interrupted, `work` is cancelled, or what came of it given back.
        Raises `ClientClosed` in a forked child, where there is no thread that could do it."""
        if not self.is_ours:
            work.close()
            raise ClientClosed("this belongs to the process that this one was forked from")
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("the blocking client cannot be used on its own event loop")
        if self.is_stopped:
            work.close()
            raise ClientClosed("the client was closed")
        call = Call(work, give_back)
        with self._gate:
            if self._calls is None:
                work.close()
                raise ClientClosed("the client was closed")
            self._calls.add(call)
            self._loop.call_soon_threadsafe(call.start)
        try:
            outcome: T = call.done.result()
        except concurrent.futures.CancelledError as error:
            raise ClientClosed("the client was closed") from error
        except HoldfastError:
            raise
        except BaseException:
            with self._gate:
                if self._calls is not None:
                    self._loop.call_soon_threadsafe(call.abandon)
            raise
        finally:
            with self._gate:
                if self._calls is not None:
                    self._calls.discard(call)
        return outcome

    @property
    def is_ours(self) -> bool:
        """Whether this process made it: a forked child leaves it as it is."""
        return self._pid == os.getpid()

    def tell(self, what: Callable[[T], object], value: T) -> None:
        """Run `what(value)` on the loop soon, if there still is one. Never waits."""
        try:
            self._loop.call_soon_threadsafe(what, value)
        except RuntimeError:
            log.debug("something was told to an event loop that had ended")

    def stop(self, seconds: float = SHUTDOWN_SECONDS) -> None:
        """Close the client and end the thread, within `seconds`. Harmless to repeat, and in a child of the process."""
        if self.begin_stop() and threading.current_thread() is not self._thread:
            self._thread.join(seconds)

    def begin_stop(self) -> bool:
        """The same without waiting, for a collector, which may come by on any thread. False: another process's."""
        if not self.is_ours:
            return False
        with self._stopping:
            if self.is_stopped:
                return True
            self.is_stopped = True
        try:
            self._loop.call_soon_threadsafe(self._begin_end)
        except RuntimeError:  # the loop ended by itself, and has told all who waited
            log.debug("a client was stopped after its event loop had ended")
        return True

    def _begin_end(self) -> None:
        self._ending = self._loop.create_task(self.client.aclose(), name="holdfast: close")
        self._ending.add_done_callback(lambda _: self._loop.stop())

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            rest = asyncio.all_tasks(self._loop)
            for task in rest:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            with self._gate:
                rest_calls, self._calls = self._calls or set(), None
            for call in rest_calls:  # came after the last turn of the loop: nobody else wakes them
                call.drop()
            self._loop.close()


class Call:
    """One call from a thread. Everything but `done` is touched on the loop only, so that nothing can fall between finishing and
    abandoning."""

    def __init__(
        self,
        work: Coroutine[Any, Any, Any],
        give_back: Callable[[Any], Coroutine[Any, Any, object] | None],
    ) -> None:
        self.done: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._work = work
        self._give_back = give_back
        self._task: asyncio.Task[Any] | None = None
        self._returning: asyncio.Task[object] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._work, name="holdfast: call")
        self._task.add_done_callback(self._finished)

    def abandon(self) -> None:
        """The thread has gone: cancel, or give back what has come meanwhile."""
        task = self._task
        if task is None or task.cancel() or task.cancelled() or task.exception() is not None:
            return
        work = self._give_back(task.result())
        if work is not None:
            self._returning = asyncio.get_running_loop().create_task(work)

    def drop(self) -> None:
        """The loop is over: whoever waits is told so."""
        if self._task is None:
            self._work.close()
        self.done.cancel()

    def _finished(self, task: asyncio.Task[Any]) -> None:
        if self.done.done():
            return
        if task.cancelled():
            self.done.cancel()
        elif (error := task.exception()) is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(task.result())


_cores: Final[weakref.WeakSet[Core]] = weakref.WeakSet()
"""Also those that are ending: a process that ends just then waits for them, or what they hold would be given back by no one."""


def _stop_all() -> None:
    """At the end of the process: what is still held is given back at once instead of after the TTL. All at once, so that ten
    clients of a cluster that does not answer take no longer than one."""
    cores = list(_cores)
    clock = BootClock()
    give_up_at = clock.now() + SHUTDOWN_SECONDS
    for core in cores:
        core.begin_stop()
    for core in cores:
        core.stop(max(give_up_at - clock.now(), 0.0))


atexit.register(_stop_all)
