"""The calls of a client beyond `lock`: shared locks and semaphores, elections, watching, history, and what an operator does.

Rule: thin. Each is a way to ask; what it means is decided by the cluster, and how it is asked by the modules named here. An
operator's calls name the hold that is meant by its token, so that asking again never strikes the next holder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, Unpack, overload

from holdfast import wire
from holdfast.closed import Forced, closed_page_of
from holdfast.election import Election
from holdfast.errors import HoldfastError, Refused, UnknownOutcome
from holdfast.explanation import explanation_of
from holdfast.export import export
from holdfast.records import history_page_of, wall_ms
from holdfast.requests import refusal
from holdfast.transport import Endpoints, Request
from holdfast.watch import Source, Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime

    from holdfast.client import Ports, Settings
    from holdfast.closed import ClosedBy, ClosedPage
    from holdfast.explanation import Explanation
    from holdfast.grant import Grant
    from holdfast.held import AsyncGrant, SharedGrant
    from holdfast.lock import Lock
    from holdfast.options import HoldKeywords
    from holdfast.records import HistoryPage, Record
    from holdfast.requests import Conclusion, Requester
    from holdfast.transport import Transport
    from holdfast.views import LockInfo

HISTORY_PAGE: Final = 500
"""Records in one call: a fraction of a megabyte."""


class Services:
    """The part of `AsyncClient` that this module adds; never made by itself."""

    if TYPE_CHECKING:
        _settings: Settings
        _ports: Ports
        _transport: Transport
        _requester: Requester

        @overload
        def lock(
            self,
            keys: str | Sequence[str],
            *,
            mode: Literal["exclusive"] = "exclusive",
            **keywords: Unpack[HoldKeywords],
        ) -> Lock[AsyncGrant]: ...

        @overload
        def lock(
            self,
            keys: str | Sequence[str],
            *,
            mode: Literal["shared"],
            limit: int | None = None,
            **keywords: Unpack[HoldKeywords],
        ) -> Lock[SharedGrant]: ...

        def lock(self, keys: str | Sequence[str], **keywords: Any) -> Lock[Any]: ...

        async def _release(self, grant: Grant) -> bool: ...

        def _check_open(self) -> None: ...

        async def _read(self, request: Request) -> Any: ...

        async def read_lock(self, key: str) -> LockInfo: ...

    # -- more than one holder

    def shared(
        self, keys: str | Sequence[str], **keywords: Unpack[HoldKeywords]
    ) -> Lock[SharedGrant]:
        """A shared lock, for readers: any number of them at once, and no exclusive holder meanwhile. Nobody overtakes: who asks
        while a writer waits, waits behind it. All readers of one phase have the same `fence`. The keywords are those of `lock`."""
        return self.lock(keys, mode="shared", **keywords)

    def semaphore(
        self, key: str, limit: int, **keywords: Unpack[HoldKeywords]
    ) -> Lock[SharedGrant]:
        """One of `limit` permits of `key`. The limit belongs to the key while it is in use: a request with another one is refused
        (`Refused`, code `conflict`). There is no fence: `grant.fence` is None. The keywords are those of `lock`."""
        return self.lock(key, mode="shared", limit=limit, **keywords)

    def election(self, name: str) -> Election:
        """An election under the key `name`: `campaign` to lead, `observe` to see who does."""
        return Election(self, name)

    # -- what happened

    def watch(self, prefix: str = "", *, after: int | None = None, restart: bool = False) -> Watch:
        """What happens to keys that begin with `prefix`: `async with client.watch("payments/") as watch`, then `async for event in
        watch`. Entering is the moment from which on nothing is missed; iterating without it enters at the first event.

        `after`: a revision to go on from (`watch.revision` of an earlier one). The watch goes on through other nodes by itself.
        `restart`: where the cluster has dropped what follows, begin anew with a `Restarted` instead of raising `NoLongerKept`.
        """
        if after is not None and after < 0:
            raise ValueError(f"after is a revision, 0 or more; not {after!r}")
        self._check_open()
        return Watch(self._source(), prefix, after=after, restart=restart)

    async def history_page(
        self,
        key: str,
        *,
        since: datetime | float | None = None,
        until: datetime | float | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> HistoryPage:
        """What happened to `key`, oldest first, as far back as the cluster keeps it. `since`, `until`: times of day (aware
        datetimes or Unix seconds), both inclusive; `after`: the `next` of the page before."""
        bounds = {"from_ms": wall_ms(since), "to_ms": wall_ms(until)}
        body: dict[str, Any] = {"key": key, "after": after, "limit": limit}
        body |= {name: moment for name, moment in bounds.items() if moment is not None}
        request = Request("POST", f"{wire.API_PREFIX}/history/read", body)
        return history_page_of(await self._read(request))

    async def history(
        self,
        key: str,
        *,
        since: datetime | float | None = None,
        until: datetime | float | None = None,
    ) -> AsyncIterator[Record]:
        """All records of `key` between two times of day, page by page; see `history_page`."""
        after: int | None = 0
        while after is not None:
            page = await self.history_page(
                key, since=since, until=until, after=after, limit=HISTORY_PAGE
            )
            for record in page.records:
                yield record
            after = page.next

    def export_history(self, *, after: int = 0) -> AsyncIterator[bytes]:
        """Everything that is kept, as JSON Lines in pieces, for `holdfast.verifying`: write them to a file one after the other.
        `after`: leave out the blocks up to this revision. Raises `NoLongerKept`, `Unreachable` (also when it breaks in the
        middle: the file has no `end` then)."""
        self._check_open()
        return export(self._source(), after)

    # -- looking

    async def explain(self, key: str) -> Explanation:
        """Who holds `key`, who waits, for whom each waits, and how long its grants have taken."""
        request = Request("POST", f"{wire.API_PREFIX}/locks/explain", {"key": key})
        return explanation_of(await self._read(request))

    async def closures(
        self,
        prefix: str = "",
        *,
        by: ClosedBy | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> ClosedPage:
        """The keys that nobody holds and nobody gets, by key: `by` delay, in_doubt or done (None: all)."""
        body: dict[str, Any] = {"prefix": prefix, "limit": limit}
        more = {"by": by, "after": after}
        body |= {name: value for name, value in more.items() if value is not None}
        return closed_page_of(
            await self._read(Request("POST", f"{wire.API_PREFIX}/closed/read", body))
        )

    # -- an operator

    async def force_release(
        self, key: str, *, reason: str, operator: str, token: int | None = None
    ) -> Forced:
        """End the hold of `key` although its holder has not. The answer has the `floor`: a fresh token, which the resource ought
        to know, so that the old holder is refused there (`raise_floor`). The old holder is told with its next renewal.

        `token`: only if that hold is the one. None: whoever holds it now. The hold that is meant is always named to the cluster,
        so that a repeat after a lost answer gets the same floor, and never strikes the next holder. All readers of a shared lock
        go at once; of a semaphore without `token` all holders that have not ended by themselves meanwhile. Raises `Refused` (code
        `not_held`) if nobody holds it (so), `UnknownOutcome` also if only some could be ended: call it again.
        """
        tokens = [token] if token is not None else await self._tokens_to_force(key)
        ended: list[int] = []
        floor = 0
        by_itself: Refused | None = None
        for each in tokens:
            body = {"key": key, "token": each, "reason": reason, "operator": operator}
            try:
                answer = (await self._act("force-release", body)).answer
            except HoldfastError as error:
                if isinstance(error, Refused) and error.code == wire.Code.NOT_HELD:
                    by_itself = error
                    continue
                if ended:  # no refusal any more
                    raise UnknownOutcome(f"some were ended ({ended}), and then: {error}") from error
                raise
            ended += map(int, answer.body["released"])
            floor = max(floor, int(answer.body["floor"]))
        if by_itself is not None and not ended:
            raise by_itself
        return Forced(tuple(ended), floor)

    async def _tokens_to_force(self, key: str) -> list[int]:
        holders = (await self.read_lock(key)).holders
        if not holders:
            raise Refused("not_held: nobody holds it", code="not_held", status=409)
        tokens = [each.token for each in holders]
        return tokens if holders[0].limit is not None else tokens[:1]

    async def resolve(self, key: str, *, token: int, reason: str, operator: str) -> bool:
        """Open a key that the hold of `token` left closed: in doubt, delayed, or done. False: nothing was closed under that
        token (any more); after an answer that was lost, that may be so because this very call has opened it."""
        body = {"key": key, "token": token, "reason": reason, "operator": operator}
        return bool((await self._act("resolve", body)).answer.body["resolved"])

    async def _act(self, what: str, body: dict[str, Any]) -> Conclusion:
        """A call that may be repeated. Raises the refusals, `Unreachable`, `UnknownOutcome`."""
        self._check_open()
        request = Request("POST", f"{wire.API_PREFIX}/locks/{what}", body)
        give_up_at = self._requester.clock.now() + self._settings.timeout
        conclusion = await self._requester.ask(request, give_up_at=give_up_at)
        if conclusion.answer.status >= 400:
            raise refusal(conclusion.answer)
        return conclusion

    def _source(self) -> Source:
        endpoints = Endpoints(self._settings.endpoints, self._ports.draw)
        clock, draw = self._ports.clock, self._ports.draw
        return Source(self._transport, endpoints, clock, draw, self._settings.timeout)
