"""The blocking face: the asynchronous client on one background thread, so that the two cannot differ.

Rules:
* Any number of threads may use one client; a lock belongs to the thread that acquired it.
* A body cannot be cancelled here. Who loses the lock is told by `on_lost`, by `grant.remaining() == 0.0`, and by `LockLost` when
  the block is left.
* After a fork the child has a fresh client under the same object: another session, no thread and no connection of the parent's,
  and none of its holds. What belongs to the parent is not even closed here, because its sockets are shared.
* An interrupted wait (KeyboardInterrupt) gives back what it may have got.
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

from holdfast.client import (
    TIMEOUT_SECONDS,
    TTL_SECONDS,
    AsyncClient,
    Ports,
    Settings,
    check_ttl,
    check_wait,
    hooks_of,
    keys_of,
    settings_of,
)
from holdfast.errors import ClientClosed, HoldfastError, LockLost
from holdfast.grant import Grant, Hooks

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine, Sequence
    from types import TracebackType

    from holdfast.transport import Encoding
    from holdfast.views import ClusterInfo, LockInfo, LockPage

log = logging.getLogger("holdfast")

T = TypeVar("T")

SHUTDOWN_SECONDS: Final = 10.0
"""For the thread to end after `aclose`, which bounds itself; only then is it left to die with the process."""


def connect_sync(
    endpoints: str | Sequence[str],
    *,
    ttl: float = TTL_SECONDS,
    owner: str | None = None,
    timeout: float = TIMEOUT_SECONDS,
    encoding: Encoding = "json",
    token: str | None = None,
    tls: ssl.SSLContext | None = None,
    on_at_risk: Callable[[Grant], object] | None = None,
    on_lost: Callable[[Grant], object] | None = None,
) -> Client:
    """A client for `with`. The arguments are those of `connect`; the callbacks run on threads of their own."""
    return Client(
        settings_of(
            endpoints,
            ttl=ttl,
            owner=owner,
            timeout=timeout,
            encoding=encoding,
            token=token,
            tls=tls,
            hooks=hooks_of(_on_a_thread(on_at_risk), _on_a_thread(on_lost)),
        )
    )


class Client:
    """The blocking client. Made by `connect_sync`; safe to use from any number of threads, and after a fork."""

    def __init__(self, settings: Settings, ports: Callable[[], Ports] = Ports) -> None:
        """`ports`: called once in each process that uses the client."""
        self._settings = settings
        self._ports = ports
        self._is_closed = False
        self._core: _Core | None = None
        self._starting = threading.Lock()
        self._local = threading.local()
        _clients.add(self)

    def lock(
        self,
        keys: str | Sequence[str],
        *,
        wait: float | None = 0.0,
        ttl: float | None = None,
        context: str | None = None,
        on_at_risk: Callable[[Grant], object] | None = None,
        on_lost: Callable[[Grant], object] | None = None,
    ) -> BlockingLock:
        """A lock for `with ... as grant`; the arguments and what entering raises are those of `AsyncClient.lock`."""
        if ttl is not None:
            check_ttl(ttl)
        return BlockingLock(
            self,
            keys_of(keys),
            wait=check_wait(wait),
            ttl=ttl,
            context=context,
            hooks=hooks_of(_on_a_thread(on_at_risk), _on_a_thread(on_lost)),
        )

    def acquire_lock(self, key: str, wait: float | None = 0.0) -> bool:
        """Whether the calling thread has the lock now; see `AsyncClient.acquire_lock`."""
        core = self._running()
        holder = self._holder()
        return core.run(
            core.client._acquire_plain(key, wait, holder),
            give_back=lambda got: core.client._release_plain(key, holder) if got else None,
        )

    def release_lock(self, key: str) -> bool:
        """Give back what the calling thread got through `acquire_lock`. False, never an exception, if it does not hold it (any
        more), or if the release is not acknowledged yet."""
        core = self._core
        if self._is_closed or core is None or core.pid != os.getpid():
            return False
        try:
            return core.run(core.client._release_plain(key, self._holder()))
        except HoldfastError as error:
            log.warning("release: %s", error)
            return False

    def grant_of(self, key: str) -> Grant | None:
        """The calling thread's grant from `acquire_lock`, for its fence; None if it does not hold the key."""
        core = self._core
        if self._is_closed or core is None or core.pid != os.getpid():
            return None
        return core.client._plain_grant(key, self._holder())

    def status(self) -> ClusterInfo:
        """The cluster, as the first node that answers sees it."""
        core = self._running()
        return core.run(core.client.status())

    def statuses(self) -> dict[str, ClusterInfo | HoldfastError]:
        """The cluster as each endpoint sees it, or why that one could not be asked."""
        core = self._running()
        return core.run(core.client.statuses())

    def read_lock(self, key: str) -> LockInfo:
        """Who holds `key` and who waits for it, linearizably."""
        core = self._running()
        return core.run(core.client.read_lock(key))

    def list_locks(
        self, prefix: str = "", *, limit: int = 100, after: str | None = None
    ) -> LockPage:
        """Locks that are held or waited for, by key, from `after` on."""
        core = self._running()
        return core.run(core.client.list_locks(prefix, limit=limit, after=after))

    def __enter__(self) -> Client:
        if self._is_closed:
            raise ClientClosed("the client was closed")
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the session, which releases everything, and end the thread. Closing twice is harmless."""
        self._is_closed = True
        with self._starting:
            core, self._core = self._core, None
        if core is not None:
            core.stop()

    def _running(self) -> _Core:
        """The core of this process, started on first use."""
        core = self._core
        if core is not None and core.pid == os.getpid() and not self._is_closed:
            return core
        with self._starting:
            if self._is_closed:
                raise ClientClosed("the client was closed")
            if self._core is None:
                self._core = _Core(self._settings, self._ports())
                # Should the client be dropped without `close`, its locks must not be renewed for ever.
                weakref.finalize(self, self._core.stop).atexit = False
            return self._core

    def _holder(self) -> object:
        """Stands for the calling thread. Thread ids are used again after a thread's end; this object is not."""
        holder: object = getattr(self._local, "holder", None)
        if holder is None:
            holder = self._local.holder = object()
        return holder

    def _forked(self) -> None:
        """In the child: forget everything of the parent's. The lock may have been held by a thread that is not here."""
        if self._core is not None:
            _parents.append(self._core)
        self._core = None
        self._starting = threading.Lock()
        self._local = threading.local()


class BlockingLock:
    """Made by `Client.lock`. May be entered again after it was left, but not twice at once."""

    def __init__(
        self,
        client: Client,
        keys: tuple[str, ...],
        *,
        wait: float,
        ttl: float | None,
        context: str | None,
        hooks: Hooks,
    ) -> None:
        self._client = client
        self._keys = keys
        self._wait = wait
        self._ttl = ttl
        self._context = context
        self._hooks = hooks
        self._in_use = threading.Lock()
        self._entered: tuple[_Core, Grant] | None = None

    def __enter__(self) -> Grant:
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError("this lock object is in use; make one for each block")
        try:
            core = self._client._running()
            grant = core.run(
                core.client._acquire(
                    self._keys,
                    wait=self._wait,
                    ttl=self._ttl,
                    context=self._context,
                    hooks=self._hooks,
                    holder=self._client._holder(),
                ),
                give_back=core.client._release,
            )
        except BaseException:
            self._in_use.release()
            raise
        self._entered = (core, grant)
        return grant

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._entered is None:
            raise RuntimeError("the lock was not entered")
        core, grant = self._entered
        self._entered = None
        self._in_use.release()
        reason = grant.lost_reason
        if core.pid == os.getpid() and not core.is_stopped:
            core.run(core.client._release(grant))
        if reason is None:
            return
        if exc is not None:
            log.warning("the lock was lost (%s), and its body ended with %r", reason, exc)
            return
        raise LockLost(
            f"the lock was lost while its body ran: {reason}",
            keys=grant.keys,
            token=grant.token,
            reason=reason,
        )


class _Core:
    """The event loop on its thread, and the client on that loop. Belongs to the process that made it."""

    def __init__(self, settings: Settings, ports: Ports) -> None:
        self.pid: Final = os.getpid()
        self.is_stopped = False
        self._loop = asyncio.new_event_loop()
        self.client = AsyncClient(settings, ports)
        # A daemon: a process that ends without `close` must not hang on it; its session ends by the TTL.
        self._thread = threading.Thread(target=self._serve, name="holdfast", daemon=True)
        self._stopping = threading.Lock()
        self._gate = threading.Lock()
        self._calls: set[_Call] | None = set()  # None: the thread has ended
        self._thread.start()
        _cores.add(self)

    def run(
        self,
        work: Coroutine[Any, Any, T],
        give_back: Callable[[T], Coroutine[Any, Any, object] | None] = lambda _: None,
    ) -> T:
        """What comes of `work` on the loop. If the caller is interrupted, `work` is cancelled, or what came of it given back."""
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("the blocking client cannot be used on its own event loop")
        if self.is_stopped:
            work.close()
            raise ClientClosed("the client was closed")
        call = _Call(work, give_back)
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

    def stop(self) -> None:
        """Close the client and end the thread. Harmless to repeat, and in a child of the process."""
        with self._stopping:
            if self.is_stopped or self.pid != os.getpid():
                return
            self.is_stopped = True
        _cores.discard(self)
        self._loop.call_soon_threadsafe(self._begin_end)
        if threading.current_thread() is not self._thread:
            self._thread.join(SHUTDOWN_SECONDS)

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


class _Call:
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


def _on_a_thread(
    callback: Callable[[Grant], object] | None,
) -> Callable[[Grant], object] | None:
    """The same callback, off the event loop, so that it may block and may use the client."""
    if callback is None:
        return None

    def call(grant: Grant) -> asyncio.Future[object]:
        return asyncio.get_running_loop().run_in_executor(None, callback, grant)

    return call


_clients: Final[weakref.WeakSet[Client]] = weakref.WeakSet()
_cores: Final[weakref.WeakSet[_Core]] = weakref.WeakSet()
_parents: Final[list[_Core]] = []
"""In a forked child: what belongs to the parent. Kept, because tidying it up would reach into shared sockets and the shared
selector."""


def _after_fork_in_child() -> None:
    for client in list(_clients):
        client._forked()


def _stop_all() -> None:
    """At the end of the process: what is still held is given back at once instead of after the TTL."""
    for core in list(_cores):
        core.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_stop_all)
