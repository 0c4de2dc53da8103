"""The simulated cluster of a test.

Rules:
* The semantics are those of the memory store, the clients are the real ones; only time and network are the test's.
* Time stands still unless the test moves it: `await cluster.advance(5)`, or `cluster.advance_sync(5)` with blocking clients.
  It moves from one instant that somebody waits for to the next, and lets everything settle in between.
* A fault is a method, and happens when it is called.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Final, Self, TypeVar

from holdfast.client import TIMEOUT_SECONDS, TTL_SECONDS, AsyncClient, Ports, Settings, settings_of
from holdfast.options import hooks_of
from holdfast.stores.base import StoreTransport
from holdfast.stores.memory import MemoryStore, Shared
from holdfast.sync import Client, on_a_thread
from holdfast.testing.clock import VirtualClock, VirtualTime
from holdfast.testing.link import PATHS, Line, Link, Loss

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from types import TracebackType

    from holdfast.grant import Grant
    from holdfast.testing.link import Call, What

T = TypeVar("T")

ENDPOINTS: Final = "http://n1.test,http://n2.test,http://n3.test"
"""Names only: there is one table behind them. Three, so that a client has somewhere to go when an answer is lost."""
SETTLE_TURNS: Final = 100
"""Turns of an event loop after which everything that is ready has run: the longest chain in the client is a tenth of it."""
RUN_SECONDS_MAX: Final = 3600.0
"""For `run`: longer than any wait that a test of a worker has a reason for."""
INSTANTS_MAX: Final = 100_000
"""In one advance: a day of renewals is a tenth of it. More is a loop that sleeps for no time."""
SETTLE_SECONDS: Final = 10.0
"""Real seconds for the loop of a blocking client to take its turns; it hangs, should it ever need them."""


class Cluster:
    """An in-memory cluster whose time and faults belong to a test."""

    def __init__(self) -> None:
        self._time = VirtualTime()
        self._clock = VirtualClock(self._time)
        self._shared = Shared()
        self._lines: dict[AsyncClient | Client, Line] = {}
        self._losses: list[Loss] = []
        self._numbers = itertools.count(1)

    # -- clients

    def connect(
        self,
        *,
        ttl: float = TTL_SECONDS,
        owner: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        on_at_risk: Callable[[Grant, float], object] | None = None,
        on_lost: Callable[[Grant], object] | None = None,
    ) -> AsyncClient:
        """A client as `holdfast.connect` makes it. Two clients are two processes: they share nothing but the cluster."""
        settings = _settings(ttl, owner, timeout, on_at_risk, on_lost)
        line = Line(VirtualClock(self._time), losses=self._losses)
        client = AsyncClient(settings, self._ports(line))
        self._lines[client] = line
        return client

    def connect_sync(
        self,
        *,
        ttl: float = TTL_SECONDS,
        owner: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        on_at_risk: Callable[[Grant, float], object] | None = None,
        on_lost: Callable[[Grant], object] | None = None,
    ) -> Client:
        """A client as `holdfast.connect_sync` makes it. A call that waits, waits until another thread moves the time."""
        hooks = on_a_thread(on_at_risk), on_a_thread(on_lost)
        settings = _settings(ttl, owner, timeout, *hooks)
        line = Line(VirtualClock(self._time), losses=self._losses)
        client = Client(settings, lambda: self._ports(line))
        self._lines[client] = line
        return client

    # -- time

    def now(self) -> float:
        """The present instant, in seconds on the cluster's own scale."""
        return self._time.now()

    async def sleep(self, seconds: float) -> None:
        """For a worker under test: `asyncio.sleep` on the cluster's time."""
        await self._clock.sleep_until(self._time.now() + seconds)

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass: renewals are sent, leases end, waits run out, each at its instant."""
        await self.settle()
        for instant in self._instants(seconds):
            self._time.move_to(instant)
            await self.settle()

    def advance_sync(self, seconds: float) -> None:
        """The same where no event loop runs: for blocking clients."""
        self._settle_others(None)
        for instant in self._instants(seconds):
            self._time.move_to(instant)
            self._settle_others(None)

    async def run(self, work: Awaitable[T], *, limit: float = RUN_SECONDS_MAX) -> T:
        """What comes of `work`. Time moves on whenever nothing can run without it; after `limit` seconds of it, `TimeoutError`."""
        task = asyncio.ensure_future(work)
        end = self._time.now() + limit
        try:
            await self.settle()
            while not task.done():
                due = self._time.next_due(end)
                if due is None:
                    raise TimeoutError(
                        f"it waits for something that {limit:g} s of time do not bring"
                    )
                self._time.move_to(due)
                await self.settle()
        finally:
            task.cancel()
        return task.result()

    async def settle(self) -> None:
        """Let everything run that can run without time passing."""
        own = asyncio.get_running_loop()
        await _turns()
        if any(loop is not own for loop in self._time.loops()):
            await asyncio.to_thread(self._settle_others, own)
            await _turns()

    # -- faults

    def expire(self, grant: Grant) -> None:
        """The cluster ends the lease of this hold now; its client has not heard of it. Raises `ValueError` if it is over."""
        with self._shared.gate:
            if not self._shared.table.expire(self._time.now(), grant.token):
                raise ValueError(f"nobody holds token {grant.token} any more")

    def pause(self, client: AsyncClient | Client) -> None:
        """The client's process stands still: it neither sends nor receives, nor notices that time passes. The code of a block
        under test goes on when the test lets it: that is the moment in which a real one wakes up, and knows of nothing."""
        self._line(client).clock.stop()

    def resume(self, client: AsyncClient | Client) -> None:
        """It wakes up, and finds out what time it is."""
        self._line(client).clock.go_on()

    def partition(self, client: AsyncClient | Client) -> None:
        """Nothing that the client sends arrives, and nothing that it is sent."""
        self._line(client).cut()

    def heal(self) -> None:
        """Every partition is over. What was lost meanwhile stays lost."""
        for line in self._lines.values():
            line.mend()

    def lose_reply(
        self, client: AsyncClient | Client | None = None, call: Call = "acquire", times: int = 1
    ) -> None:
        """The next `times` of `call` (of any client, if none is named) take effect, and their client never hears of it."""
        self._lose(client, call, "reply", times)

    def lose_request(
        self, client: AsyncClient | Client | None = None, call: Call = "acquire", times: int = 1
    ) -> None:
        """The next `times` of `call` (of any client, if none is named) never arrive; a client cannot tell which was lost."""
        self._lose(client, call, "request", times)

    # -- looking

    def held(self) -> dict[str, int]:
        """Who holds what at the cluster: key to token."""
        with self._shared.gate:
            now, table = self._time.now(), self._shared.table
            views = [table.view(now, key) for key in table.keys(now, "", None, _ALL)]
        return {each.key: each.holder.token for each in views if each.holder is not None}

    def waiting(self, key: str) -> int:
        """How many stand in the queue of a key."""
        with self._shared.gate:
            return self._shared.table.view(self._time.now(), key).queue_length

    # -- life

    def close(self) -> None:
        """Mend everything and close the blocking clients. Asynchronous ones end with their event loop; `async with` closes them."""
        self._mend_all()
        for client in list(self._lines):
            if isinstance(client, Client):
                client.close()
        self._lines.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._mend_all()
        for client in list(self._lines):
            if isinstance(client, AsyncClient):
                await client.aclose()
        await asyncio.to_thread(self.close)

    def __repr__(self) -> str:
        return f"<holdfast.testing.Cluster at {self._time.now():g}s clients={len(self._lines)} held={len(self.held())}>"

    # -- inside

    def _ports(self, line: Line) -> Ports:
        number = next(self._numbers)
        ids = itertools.count(1)
        # The table runs on the cluster's own clock, which never stands still.
        store = MemoryStore("memory://", self._clock, self._shared)
        return Ports(
            clock=line.clock,
            draw=lambda: 0.5,
            new_session_id=lambda: f"client-{number:04d}-session-{next(ids):04d}",
            transport=Link(StoreTransport(store, self._clock), line),
        )

    def _line(self, client: AsyncClient | Client) -> Line:
        line = self._lines.get(client)
        if line is None:
            raise ValueError("this client is not one of this cluster: make it with `connect`")
        return line

    def _lose(
        self, client: AsyncClient | Client | None, call: Call, what: What, times: int
    ) -> None:
        if call not in PATHS:
            raise ValueError(f"a call is one of {', '.join(PATHS)}; not {call!r}")
        line = None if client is None else self._line(client)
        self._losses += [Loss(PATHS[call], what, line)] * times

    def _instants(self, seconds: float) -> Iterable[float]:
        """Those that somebody waits for, in order, and then the end. Each is looked up when the one before has settled, because
        whoever wakes up may wait for a new one."""
        if not seconds >= 0:
            raise ValueError(f"time does not go back: {seconds!r} s")
        end = self._time.now() + seconds
        for _ in range(INSTANTS_MAX):
            due = self._time.next_due(end)
            if due is None:
                yield end
                return
            yield due
        raise RuntimeError(f"more than {INSTANTS_MAX} instants in {seconds:g} s: something spins")

    def _settle_others(self, own: asyncio.AbstractEventLoop | None) -> None:
        for loop in self._time.loops():
            if loop is not own and loop.is_running():
                asyncio.run_coroutine_threadsafe(_turns(), loop).result(SETTLE_SECONDS)

    def _mend_all(self) -> None:
        self._losses.clear()
        for line in self._lines.values():
            line.mend()
            line.clock.go_on()


_ALL: Final = 1_000_000
"""Keys that a test may hold at once."""


async def _turns() -> None:
    for _ in range(SETTLE_TURNS):
        await asyncio.sleep(0)


def _settings(
    ttl: float,
    owner: str | None,
    timeout: float,
    on_at_risk: Callable[[Grant, float], object] | None,
    on_lost: Callable[[Grant], object] | None,
) -> Settings:
    return settings_of(
        ENDPOINTS,
        ttl=ttl,
        owner=owner,
        timeout=timeout,
        encoding="json",
        token=None,
        tls=None,
        hooks=hooks_of(on_at_risk, on_lost),
    )
