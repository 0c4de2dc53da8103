"""Leader election: one of many candidates leads, with a number that grows (`epoch`), and everybody can see who.

Rules:
* It is a lock and nothing else: the leader holds the key, its epoch is the token (and the fence), its end is the end of the hold.
* A leader that is not sure any more is none: its body is cancelled (`LockLost`), as with every lock.
* Observing follows the events of the key, and never asks on a timer. What is told may be old by the time it is read: only the
  epoch, checked by whoever is written to, tells a leader from a former one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Unpack

from holdfast.records import Restarted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from holdfast.grant import Grant
    from holdfast.held import AsyncGrant
    from holdfast.lock import Lock
    from holdfast.options import HoldKeywords
    from holdfast.records import Record
    from holdfast.views import LockInfo
    from holdfast.watch import Watch


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads. `epoch` is greater than that of every leader before."""

    owner: str | None
    epoch: int


class Elector(Protocol):
    """What an election needs of its client."""

    def lock(self, keys: str, **keywords: Unpack[HoldKeywords]) -> Lock[AsyncGrant]: ...

    def watch(
        self, prefix: str = "", *, after: int | None = None, restart: bool = False
    ) -> Watch: ...

    async def read_lock(self, key: str) -> LockInfo: ...

    async def _release(self, grant: Grant) -> bool: ...


class Election:
    """Made by `AsyncClient.election`."""

    def __init__(self, client: Elector, name: str) -> None:
        self._client = client
        self._name = name

    def campaign(self, **keywords: Unpack[HoldKeywords]) -> Campaign:
        """`async with election.campaign() as leadership`: the body runs while this task leads. The keywords are those of `lock`,
        but it waits as long as it takes unless `wait` says otherwise. Raises as `lock` does."""
        keywords.setdefault("wait", None)
        return Campaign(self._client, self._client.lock(self._name, **keywords))

    async def observe(self) -> AsyncIterator[Leader | None]:
        """Who leads now, then each change, None: nobody. Never ends by itself; raises as `watch` does."""
        # The events are followed from before the first look, so that nothing falls between the two.
        async with self._client.watch(self._name, restart=True) as watch:
            view = View()
            view.look(await self._client.read_lock(self._name))
            yield view.leader
            async for event in watch:
                before = view.leader
                if isinstance(event, Restarted):
                    view.look(await self._client.read_lock(self._name))
                elif self._name in event.keys:
                    view.follow(event)
                if view.leader != before:
                    yield view.leader


class View:
    """What an observer knows. Events may be older than what was read: their tokens tell."""

    def __init__(self) -> None:
        self.leader: Leader | None = None
        self._newest = 0

    def look(self, lock: LockInfo) -> None:
        """The present state, as read."""
        holder = lock.holders[0] if lock.holders else None
        self.leader = None if holder is None else Leader(holder.owner, holder.token)
        if holder is not None:
            self._newest = max(self._newest, holder.token)
        if lock.previous is not None:
            self._newest = max(self._newest, lock.previous.token)

    def follow(self, record: Record) -> None:
        """One event of the key."""
        if record.kind == "granted" and record.token > self._newest:
            self._newest = record.token
            self.leader = Leader(record.owner, record.token)
        elif (
            record.kind == "ended" and self.leader is not None and record.token == self.leader.epoch
        ):
            self.leader = None


class Campaign:
    """Made by `Election.campaign`."""

    def __init__(self, client: Elector, lock: Lock[AsyncGrant]) -> None:
        self._client = client
        self._lock = lock

    async def __aenter__(self) -> Leadership:
        return Leadership(self._client, await self._lock.__aenter__())

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._lock.__aexit__(exc_type, exc, traceback)


class Leadership:
    """That this task leads. Everything else of the hold is in `grant`."""

    def __init__(self, client: Elector, grant: AsyncGrant) -> None:
        self._client = client
        self.grant: AsyncGrant = grant

    @property
    def epoch(self) -> int:
        """The number of this leadership: hand it to whatever the leader writes to, which refuses a lower one."""
        return self.grant.token

    @property
    def is_leader(self) -> bool:
        """Whether that is still sure. False from the moment it is not."""
        return self.grant.remaining() > 0.0

    async def resign(self) -> bool:
        """Let another lead, now. Leaving the block afterwards is clean. Whether the cluster has acknowledged it (if not, it is
        insisted on); False also if it was over already."""
        return await self._client._release(self.grant)
