"""`async with client.lock(...) as grant`: the body runs with the lock, or not at all.

Rule (guarantee G10): entering either returns a grant that is good, or raises. If the lock is lost while the body runs, the
task is cancelled, exactly once, and that cancellation comes out as `LockLost`; a cancellation by anybody else stays what it is
(the same bookkeeping as `asyncio.timeout`). It knows the client only as the one that acquires and releases.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from types import TracebackType

    from holdfast.grant import Grant
    from holdfast.options import LockOptions

log: logging.Logger = logging.getLogger("holdfast")

G = TypeVar("G", bound="Grant")


class Acquirer(Protocol):
    """What a lock needs of its client."""

    async def _acquire(
        self, keys: tuple[str, ...], options: LockOptions, holder: object
    ) -> Grant: ...

    async def _release(self, grant: Grant) -> bool: ...


class Lock(Generic[G]):
    """Made by `AsyncClient.lock`. May be entered again after it was left, but not twice at once."""

    def __init__(self, client: Acquirer, keys: tuple[str, ...], options: LockOptions) -> None:
        self._client = client
        self._keys = keys
        self._options = options
        self._is_entered = False
        self._grant: Grant | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling_before = 0
        self._has_cancelled = False

    async def __aenter__(self) -> G:
        if self._is_entered:
            raise RuntimeError("this lock object is in use; make one for each block")
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a lock is entered in a task")
        self._is_entered = True
        self._has_cancelled = False
        try:
            grant = await self._client._acquire(self._keys, self._options, task)
        except BaseException:
            self._is_entered = False
            raise
        self._task = task
        self._cancelling_before = task.cancelling()
        self._grant = grant
        grant._cancel_bodies.append(self._cancel)
        return cast("G", grant)  # what was asked for is what `async_grant` makes

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        grant, task = self._grant, self._task
        if grant is None or task is None:
            raise RuntimeError("the lock was not entered")
        self._grant, self._task, self._is_entered = None, None, False
        grant._cancel_bodies.remove(self._cancel)
        lost = grant._lost_error()
        is_ours_alone = self._has_cancelled and task.uncancel() <= self._cancelling_before
        await self._client._release(grant)
        if lost is None:
            return
        if exc is None or (is_ours_alone and isinstance(exc, asyncio.CancelledError)):
            raise lost from exc
        log.warning("%s; and its body ended with %s", lost, type(exc).__name__)

    def __repr__(self) -> str:
        # Keys may be personal data: they are left out.
        state = "idle" if self._grant is None else repr(self._grant)
        return f"<Lock keys={len(self._keys)} {state}>"

    def _cancel(self) -> None:
        if self._task is not None and not self._has_cancelled:
            self._has_cancelled = True
            self._task.cancel("the lock was lost")
