"""The blocking face: the asynchronous client on one background thread, so that the two cannot differ.

Rules:
* Any number of threads may use one client; a lock belongs to the thread that acquired it.
* A body cannot be cancelled here. Who loses the lock is told by `on_lost`, by `grant.remaining() == 0.0`, by what `grant.guard` and
  `grant.progress` raise, and by `LockLost` when the block is left.
* After a fork the child has a fresh client under the same object: another session, no thread and no connection of the parent's,
  and none of its holds (`forks.py`).
* An interrupted wait (KeyboardInterrupt) gives back what it may have got.
The thread is in `core.py`.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import weakref
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, Unpack, cast, overload

from holdfast import forks
from holdfast.client import (
    TIMEOUT_SECONDS,
    TTL_SECONDS,
    Ports,
    Settings,
    settings_of,
)
from holdfast.contexts import ThreadHolder
from holdfast.core import Core
from holdfast.decorator import OnHeld, P, R, locked_blocking, wait_of
from holdfast.errors import ClientClosed, HoldfastError
from holdfast.grant import Grant
from holdfast.held import BlockingGrant, SharedGrant
from holdfast.options import (
    HoldKeywords,
    LockKeywords,
    LockOptions,
    hooks_of,
    keys_of,
    lock_options,
)
from holdfast.sync_services import BlockingServices

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from holdfast.reports import NodeReport
    from holdfast.terms import Mode, OnUnclean
    from holdfast.transport import Encoding
    from holdfast.views import ClusterInfo, LockInfo, LockPage

log: logging.Logger = logging.getLogger("holdfast")

G = TypeVar("G", bound=Grant)


def connect_sync(
    endpoints: str | Sequence[str],
    *,
    ttl: float = TTL_SECONDS,
    owner: str | None = None,
    timeout: float = TIMEOUT_SECONDS,
    encoding: Encoding = "json",
    stream: bool = True,
    token: str | None = None,
    tls: ssl.SSLContext | None = None,
    require: str | Sequence[str] = (),
    on_at_risk: Callable[[Grant, float], object] | None = None,
    on_lost: Callable[[Grant], object] | None = None,
    on_renewed: Callable[[float], object] | None = None,
) -> Client:
    """A client for `with`. The arguments are those of `connect`; the callbacks run on threads of their own."""
    return Client(
        settings_of(
            endpoints,
            ttl=ttl,
            owner=owner,
            timeout=timeout,
            encoding=encoding,
            stream=stream,
            token=token,
            tls=tls,
            require=require,
            hooks=hooks_of(on_a_thread(on_at_risk), on_a_thread(on_lost)),
            on_renewed=on_a_thread(on_renewed),
        )
    )


class Client(BlockingServices):
    """The blocking client. Made by `connect_sync`; safe to use from any number of threads, and after a fork."""

    def __init__(self, settings: Settings, ports: Callable[[], Ports] = Ports) -> None:
        """`ports`: called once in each process that uses the client."""
        self._settings = settings
        self._ports = ports
        self._is_closed = False
        self._core: Core | None = None
        self._starting = threading.Lock()
        self._local = threading.local()
        forks.on_fork(self)

    @overload
    def lock(
        self,
        keys: str | Sequence[str],
        *,
        mode: Literal["exclusive"] = "exclusive",
        **keywords: Unpack[HoldKeywords],
    ) -> BlockingLock[BlockingGrant]: ...

    @overload
    def lock(
        self,
        keys: str | Sequence[str],
        *,
        mode: Literal["shared"],
        limit: int | None = None,
        **keywords: Unpack[HoldKeywords],
    ) -> BlockingLock[SharedGrant]: ...

    def lock(
        self,
        keys: str | Sequence[str],
        *,
        wait: float | None = 0.0,
        ttl: float | None = None,
        max_hold: float | None = None,
        progress_within: float | None = None,
        context: str | None = None,
        reentrant: bool = False,
        mode: Mode = "exclusive",
        limit: int | None = None,
        on_unclean: OnUnclean = "grant",
        delay: float | None = None,
        require_clean: bool = False,
        on_at_risk: Callable[[Grant, float], object] | None = None,
        on_lost: Callable[[Grant], object] | None = None,
    ) -> BlockingLock[Any]:
        """A lock for `with ... as grant`; the arguments and what entering raises are those of `AsyncClient.lock`."""
        options = lock_options(
            wait=wait,
            ttl=ttl,
            max_hold=max_hold,
            progress_within=progress_within,
            context=context,
            reentrant=reentrant,
            mode=mode,
            limit=limit,
            on_unclean=on_unclean,
            delay=delay,
            require_clean=require_clean,
            hooks=hooks_of(on_a_thread(on_at_risk), on_a_thread(on_lost)),
        )
        return BlockingLock(self, keys_of(keys), options)

    def _lock(self, keys: str | Sequence[str], keywords: LockKeywords) -> BlockingLock[Any]:
        """The same where the keywords are not known in advance."""
        lock = cast("Callable[..., BlockingLock[Any]]", self.lock)
        return lock(keys, **keywords)

    @overload
    def locked(
        self,
        templates: str | Sequence[str],
        *,
        on_held: Literal["raise", "wait"] = "raise",
        **keywords: Unpack[LockKeywords],
    ) -> Callable[[Callable[P, R]], Callable[P, R]]: ...

    @overload
    def locked(
        self,
        templates: str | Sequence[str],
        *,
        on_held: Literal["skip"],
        **keywords: Unpack[LockKeywords],
    ) -> Callable[[Callable[P, R]], Callable[P, R | None]]: ...

    def locked(
        self,
        templates: str | Sequence[str],
        *,
        on_held: OnHeld = "raise",
        **keywords: Unpack[LockKeywords],
    ) -> Callable[[Callable[P, R]], Callable[P, Any]]:
        """A decorator for plain functions; see `AsyncClient.locked`."""
        keywords["wait"] = wait_of(on_held, keywords.get("wait", 0.0))
        self._lock("-", keywords)  # raises now for an option that cannot be

        def decorate(function: Callable[P, R]) -> Callable[P, Any]:
            return locked_blocking(
                function, templates, lambda keys: self._lock(keys, keywords), on_held
            )

        return decorate

    def acquire_lock(
        self, key: str, wait: float | None = 0.0, *, max_hold: float | None = None
    ) -> bool:
        """Whether the calling thread has the lock now; see `AsyncClient.acquire_lock`."""
        core = self._running()
        holder = self._holder()
        return core.run(
            core.client._acquire_plain(key, wait, max_hold, holder),
            give_back=lambda got: core.client._release_plain(key, holder) if got else None,
        )

    def release_lock(self, key: str) -> bool:
        """Give back what the calling thread got through `acquire_lock`. False, never an exception, if it does not hold it (any
        more), or if the release is not acknowledged yet."""
        core = self._core
        if self._is_closed or core is None or not core.is_ours:
            return False
        try:
            return core.run(core.client._release_plain(key, self._holder()))
        except HoldfastError as error:
            log.warning("release: %s", error)
            return False

    def grant_of(self, key: str) -> BlockingGrant | None:
        """The calling thread's grant from `acquire_lock`, for its fence; None if it does not hold the key."""
        core = self._core
        if self._is_closed or core is None or not core.is_ours:
            return None
        return cast("BlockingGrant | None", core.client._holds.plain(key, self._holder()))

    def status(self) -> ClusterInfo:
        """The cluster, as the first node that answers sees it."""
        core = self._running()
        return core.run(core.client.status())

    def statuses(self) -> dict[str, ClusterInfo | HoldfastError]:
        """The cluster as each endpoint sees it, or why that one could not be asked."""
        core = self._running()
        return core.run(core.client.statuses())

    def reports(self) -> dict[str, NodeReport | HoldfastError]:
        """What the node at each endpoint tells of itself, or why it could not be asked. For whoever looks after the cluster."""
        core = self._running()
        return core.run(core.client.reports())

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

    def __repr__(self) -> str:
        # Endpoints may carry credentials, and keys personal data: neither is shown.
        core = self._core
        if self._is_closed or core is None or not core.is_ours:
            state = "closed" if self._is_closed else "idle"
            return f"<Client endpoints={len(self._settings.endpoints)} {state}>"
        return f"<Client of {core.client!r}>"

    def _running(self) -> Core:
        """The core of this process, started on first use."""
        core = self._core
        if core is not None and core.is_ours and not self._is_closed:
            return core
        with self._starting:
            if self._is_closed:
                raise ClientClosed("the client was closed")
            if self._core is None:
                self._core = Core(self._settings, self._ports())
                # Should the client be dropped without `close`, its locks must not be renewed for ever.
                weakref.finalize(self, self._core.begin_stop).atexit = False
            return self._core

    def _holder(self) -> object:
        """Stands for the calling thread."""
        holder: object = getattr(self._local, "holder", None)
        if holder is None:
            holder = self._local.holder = ThreadHolder()
            # Known to the thread alone, so it goes when the thread goes.
            self._local.life = life = _Life()
            weakref.finalize(life, _thread_ended, weakref.ref(self), holder).atexit = False
        return holder

    def _forked(self) -> None:
        """In the child: forget everything of the parent's. The lock may have been held by a thread that is not here."""
        if self._core is not None:
            forks.keep_for_ever(self._core)
        self._core = None
        self._starting = threading.Lock()
        self._local = threading.local()


class _Life:
    """Collected when its thread ends."""


def _thread_ended(client_ref: weakref.ref[Client], holder: object) -> None:
    client = client_ref()
    core = None if client is None else client._core
    if core is not None and core.is_ours:
        core.tell(core.client._holds.report_forgotten, holder)


class BlockingLock(Generic[G]):
    """Made by `Client.lock`. May be entered again after it was left, but not twice at once."""

    def __init__(self, client: Client, keys: tuple[str, ...], options: LockOptions) -> None:
        self._client = client
        self._keys = keys
        self._options = options
        self._in_use = threading.Lock()
        self._entered: tuple[Core, Grant] | None = None

    def __enter__(self) -> G:
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError("this lock object is in use; make one for each block")
        try:
            core = self._client._running()
            grant = core.run(
                core.client._acquire(self._keys, self._options, self._client._holder()),
                give_back=core.client._release,
            )
        except BaseException:
            self._in_use.release()
            raise
        self._entered = (core, grant)
        return cast("G", grant)  # what was asked for is what `blocking_grant` makes

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
        lost = grant._lost_error()
        if core.is_ours and not core.is_stopped:
            core.run(core.client._release(grant))
        if lost is None:
            return
        if exc is not None:
            log.warning("%s; and its body ended with %s", lost, type(exc).__name__)
            return
        raise lost

    def __repr__(self) -> str:
        # Keys may be personal data: they are left out.
        state = "idle" if self._entered is None else repr(self._entered[1])
        return f"<BlockingLock keys={len(self._keys)} {state}>"


def on_a_thread(
    callback: Callable[P, object] | None,
) -> Callable[P, object] | None:
    """The same callback, off the event loop, so that it may block and may use the client."""
    if callback is None:
        return None

    def call(*args: P.args, **kwargs: P.kwargs) -> asyncio.Future[object]:
        work = functools.partial(callback, *args, **kwargs)
        return asyncio.get_running_loop().run_in_executor(None, work)

    return call
