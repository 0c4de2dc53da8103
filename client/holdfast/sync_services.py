"""The blocking face of `services.py`: the same calls, each waiting for the asynchronous one on the client's thread.

Rule: what is open when the process forks belongs to the parent. The child neither uses it (`ClientClosed`) nor ends it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

from holdfast import forks
from holdfast.election import Leader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from datetime import datetime
    from types import TracebackType

    from holdfast.closed import ClosedBy, ClosedPage, Forced
    from holdfast.core import Core
    from holdfast.explanation import Explanation
    from holdfast.held import BlockingGrant, SharedGrant
    from holdfast.options import HoldKeywords
    from holdfast.records import HistoryPage, Record
    from holdfast.sync import BlockingLock
    from holdfast.watch import Event, Watch

T = TypeVar("T")


class BlockingServices:
    """The part of `Client` that this module adds; never made by itself."""

    if TYPE_CHECKING:

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

        def lock(self, keys: str | Sequence[str], **keywords: Any) -> BlockingLock[Any]: ...

        def _running(self) -> Core: ...

    def shared(
        self, keys: str | Sequence[str], **keywords: Unpack[HoldKeywords]
    ) -> BlockingLock[SharedGrant]:
        """See `AsyncClient.shared`."""
        return self.lock(keys, mode="shared", **keywords)

    def semaphore(
        self, key: str, limit: int, **keywords: Unpack[HoldKeywords]
    ) -> BlockingLock[SharedGrant]:
        """See `AsyncClient.semaphore`."""
        return self.lock(key, mode="shared", limit=limit, **keywords)

    def election(self, name: str) -> BlockingElection:
        """See `AsyncClient.election`."""
        return BlockingElection(self, name)

    def watch(
        self,
        prefix: str = "",
        *,
        after: int | None = None,
        restart: bool = False,
        timeout: float | None = None,
    ) -> BlockingWatch:
        """See `AsyncClient.watch`. `timeout`: iterating ends when nothing came for so many seconds, and may be taken up again;
        None: it waits as long as it takes."""
        check_timeout(timeout)
        core = self._running()
        return BlockingWatch(core, core.client.watch(prefix, after=after, restart=restart), timeout)

    def history_page(
        self,
        key: str,
        *,
        since: datetime | float | None = None,
        until: datetime | float | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> HistoryPage:
        """See `AsyncClient.history_page`."""
        core = self._running()
        page = core.client.history_page(key, since=since, until=until, after=after, limit=limit)
        return core.run(page)

    def history(
        self,
        key: str,
        *,
        since: datetime | float | None = None,
        until: datetime | float | None = None,
    ) -> Iterator[Record]:
        """See `AsyncClient.history`."""
        core = self._running()
        return _each(core, core.client.history(key, since=since, until=until))

    def export_history(self, *, after: int = 0) -> Iterator[bytes]:
        """See `AsyncClient.export_history`."""
        core = self._running()
        return _each(core, core.client.export_history(after=after))

    def explain(self, key: str) -> Explanation:
        """See `AsyncClient.explain`."""
        core = self._running()
        return core.run(core.client.explain(key))

    def closures(
        self,
        prefix: str = "",
        *,
        by: ClosedBy | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> ClosedPage:
        """See `AsyncClient.closures`."""
        core = self._running()
        return core.run(core.client.closures(prefix, by=by, limit=limit, after=after))

    def force_release(
        self, key: str, *, reason: str, operator: str, token: int | None = None
    ) -> Forced:
        """See `AsyncClient.force_release`."""
        core = self._running()
        work = core.client.force_release(key, reason=reason, operator=operator, token=token)
        return core.run(work)

    def resolve(self, key: str, *, token: int, reason: str, operator: str) -> bool:
        """See `AsyncClient.resolve`."""
        core = self._running()
        work = core.client.resolve(key, token=token, reason=reason, operator=operator)
        return core.run(work)


class BlockingWatch:
    """Made by `Client.watch`. For one thread at a time."""

    def __init__(self, core: Core, watch: Watch, timeout: float | None) -> None:
        self._core = core
        self._watch = watch
        self._timeout = timeout
        forks.on_fork(self)

    def _forked(self) -> None:
        """In the child: its connection is the parent's."""
        forks.keep_for_ever(self._watch)

    @property
    def revision(self) -> int | None:
        """See `Watch.revision`."""
        return self._watch.revision

    def __iter__(self) -> BlockingWatch:
        return self

    def __next__(self) -> Event:
        event = self._core.run(_next_of(self._core, self._watch, self._timeout))
        if isinstance(event, _End):
            raise StopIteration
        return event

    def __enter__(self) -> BlockingWatch:
        self._core.run(self._watch.begin())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it, and its connection."""
        if self._core.is_ours and not self._core.is_stopped:
            self._core.run(self._close())

    async def _close(self) -> None:
        self._watch.close()


class BlockingElection:
    """Made by `Client.election`."""

    def __init__(self, client: BlockingServices, name: str) -> None:
        self._client = client
        self._name = name

    def campaign(self, **keywords: Unpack[HoldKeywords]) -> BlockingCampaign:
        """`with election.campaign() as leadership`; see `Election.campaign`. A body cannot be cancelled here: it asks
        `leadership.is_leader`, and `on_lost` is called."""
        keywords.setdefault("wait", None)
        return BlockingCampaign(self._client, self._client.lock(self._name, **keywords))

    def observe(self, *, timeout: float | None = None) -> Iterator[Leader | None]:
        """Who leads now, then each change; see `Election.observe`. Ends when nothing changed for `timeout` seconds (None:
        never)."""
        check_timeout(timeout)
        core = self._client._running()
        return _each(core, core.client.election(self._name).observe(), timeout)


class BlockingCampaign:
    """Made by `BlockingElection.campaign`."""

    def __init__(self, client: BlockingServices, lock: BlockingLock[BlockingGrant]) -> None:
        self._client = client
        self._lock = lock

    def __enter__(self) -> BlockingLeadership:
        return BlockingLeadership(self._client._running(), self._lock.__enter__())

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.__exit__(exc_type, exc, traceback)


class BlockingLeadership:
    """That this thread leads; see `Leadership`."""

    def __init__(self, core: Core, grant: BlockingGrant) -> None:
        self._core = core
        self.grant: BlockingGrant = grant

    @property
    def epoch(self) -> int:
        """See `Leadership.epoch`."""
        return self.grant.token

    @property
    def is_leader(self) -> bool:
        """See `Leadership.is_leader`."""
        return self.grant.remaining() > 0.0

    def resign(self) -> bool:
        """See `Leadership.resign`."""
        return self._core.run(self._core.client._release(self.grant))


def check_timeout(timeout: float | None) -> None:
    """Raises `ValueError`."""
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"timeout is a number of seconds, 0 or more, or None; not {timeout!r}")


class _End:
    """There is no further item: not None, which an observer yields where nobody leads."""


async def _next_of(core: Core, items: AsyncIterator[T], seconds: float | None) -> T | _End:
    try:
        if seconds is None:
            return await anext(items)
        async with core.client._clock.timeout(seconds):
            return await anext(items)
    except (StopAsyncIteration, TimeoutError):
        return _End()


def _each(core: Core, items: AsyncIterator[T], timeout: float | None = None) -> Iterator[T]:
    """The items of an asynchronous generator, one call each. It is closed when this one ends."""
    try:
        while not isinstance(item := core.run(_next_of(core, items, timeout)), _End):
            yield item
    finally:
        if not core.is_ours:
            forks.keep_for_ever(items)
        elif not core.is_stopped:
            core.run(_close(items))


async def _close(items: AsyncIterator[T]) -> None:
    if isinstance(items, AsyncGenerator):
        await items.aclose()
