"""One process of a workload: it holds locks through the client library, as an application does, and what came of it is recorded.

Rules:
* Sessions, renewals, repeats, deadlines and givings-back are the library's (`holdfast.AsyncClient`), none of them ours.
* The history is written by a transport around the library's (`recorder`); here only what the library's user sees: what it was told,
  and from when to when it trusted in a hold.
* Time and network come in. It does not know whether they are simulated.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from holdfast.client import AsyncClient, Ports, Settings
from holdfast.errors import HoldfastError, UnknownOutcome, Unreachable
from holdfast.lease import deadline_after
from holdfast.requests import BUSY_CODES
from holdfast.transport import NoAnswer, NotSent, Request
from holdfast.wire import MS_PER_SECOND
from holdfast_coordinator.machine import PLAIN, Terms
from holdfast_jepsen.history import Belief, History, Lease
from holdfast_jepsen.sim.rng import Rng
from holdfast_jepsen.sim.world import MILLISECOND, SECOND
from holdfast_jepsen.workloads import recorder
from holdfast_jepsen.workloads.recorder import Recorder

if TYPE_CHECKING:
    from holdfast.clock import Clock
    from holdfast.grant import Grant
    from holdfast.held import AsyncGrant
    from holdfast.transport import Transport
    from holdfast_jepsen.history import Operation
    from holdfast_jepsen.workloads.ledger import Shop
    from holdfast_jepsen.workloads.mix import Mix


EVERY_KEY_WAIT_SECONDS, EVERY_KEY_PAUSE_SECONDS = 2.0, 0.05
"""Of the library's clock: in a queue, and after what brought no answer."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A lock that a process has. `trusts`: whether it is good as far as the process knows. `complete`: the work is done (for so
    many milliseconds), which ends it. `release`: to be called where leaving the body does not give it back."""

    token: int
    trusts: Callable[[], bool]
    complete: Callable[[int], Awaitable[None]] | None = None
    release: Callable[[], Awaitable[None]] | None = None


class Client:
    """See the module. `clock`, `transport` and `endpoints` are given to the library; a second of `clock` is `mix.pace` seconds of
    the history. `now`: true time in nanoseconds, for the record only."""

    rate = 1.0
    """How fast its clock runs."""

    def __init__(
        self,
        name: str,
        *,
        mix: Mix,
        rng: Rng,
        history: History,
        endpoints: tuple[str, ...],
        clock: Clock,
        transport: Transport,
        now: Callable[[], int],
        ref: Callable[[str], str],
        shop: Shop | None = None,
        before_sending: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.mix = mix
        self.rng = rng
        self.shop = shop
        """What the workers of a ledger share."""
        self._library_rng = Rng(rng.bits(), name)
        self._history = history
        self._endpoints = endpoints
        self._clock = clock
        self._now = now
        self._ref = ref
        self._notes = 0
        self._trusted: list[tuple[Belief, Callable[[], float]]] = []
        """And when, on `clock`, each of them ends."""
        self._recorder = Recorder(
            transport,
            history,
            name,
            now=now,
            ref=ref,
            millisecond_ns=MILLISECOND * mix.pace,
            before_sending=before_sending,
        )

    @property
    def done(self) -> int:
        """Operations that were answered definitely."""
        return self._recorder.done

    @property
    def true_time(self) -> int:
        """For the record; nothing that is done depends on it."""
        return self._now()

    async def ask_elsewhere(self, decide: Callable[[], Any]) -> Any:
        """What something beside the cluster decides, once the request is there; in the meantime anything may happen."""
        raise NotImplementedError

    def connect(self, ttl_ms: int) -> AsyncClient:
        """The library, with sessions of this length."""
        mix = self.mix
        return AsyncClient(
            Settings(
                endpoints=self._endpoints,
                ttl=self._seconds(ttl_ms),
                owner=self.name,
                timeout=mix.attempts * mix.timeout_ns / SECOND / mix.pace,
            ),
            Ports(
                clock=self._clock,
                draw=self._library_rng.random,
                new_session_id=self._new_session_id,
                transport=self._recorder,
            ),
        )

    def _new_session_id(self) -> str:
        return f"{self.name}-{self._library_rng.bits():016x}"

    def _seconds(self, ms: float) -> float:
        """Of the library's clock."""
        return ms / MS_PER_SECOND / self.mix.pace

    # Locks.

    async def hold(
        self,
        library: AsyncClient,
        keys: tuple[str, ...],
        body: Callable[[Hold], Awaitable[None]],
        *,
        wait_ms: int,
        terms: Terms = PLAIN,
        max_hold_ms: int | None = None,
    ) -> bool:
        """Whether `body` was begun: `async with library.lock(...)`, with whatever may come of it."""
        note = self._new_note()
        lock = library.lock(
            keys[0] if len(keys) == 1 else keys,
            context=note,
            wait=self._seconds(wait_ms),
            max_hold=None if max_hold_ms is None else self._seconds(max_hold_ms),
            mode=cast("Any", terms.mode),  # which kind of grant comes of it is of no matter here
            limit=terms.limit,
        )
        is_begun = False
        try:
            async with lock as grant:
                is_begun = True
                self._trust_grant(grant, note)
                try:
                    await body(self._of_grant(grant))
                finally:
                    self.trust_no_more(grant.token)
        except Unreachable:
            if not is_begun:
                self._told_refused(note)
        except HoldfastError:
            pass  # refused, unknown, or lost while it was held: it is in the history
        finally:
            self._recorder.asked.pop(note, None)
        return is_begun

    async def get_every_key(self, missing: list[str], ttl_ms: int) -> None:
        """Acquire each of them and give it back, until that was acknowledged of all; what was is taken from the list."""
        library = self.connect(ttl_ms)
        while missing:
            key = missing[0]
            try:
                if await library.acquire_lock(key, EVERY_KEY_WAIT_SECONDS) and (
                    await library.release_lock(key)
                ):
                    missing.remove(key)
            except HoldfastError:
                await self._clock.sleep_until(self._clock.now() + EVERY_KEY_PAUSE_SECONDS)
        await library.aclose()

    def _new_note(self) -> str:
        self._notes += 1
        return str(self._notes)

    def _of_grant(self, grant: Grant) -> Hold:
        async def complete(retain_ms: int) -> None:
            self.trust_no_more(grant.token)
            exclusive = cast("AsyncGrant", grant)
            await exclusive.complete(f"done by {grant.token}", retain=self._seconds(retain_ms))

        return Hold(grant.token, lambda: grant.remaining() > 0.0, complete)

    def _told_refused(self, note: str) -> None:
        """The library has said that nothing of this took effect."""
        for operation in self._recorder.asked.get(note, ()):
            if operation.result == "pending":
                operation.result, operation.returned = "refused", self._now()

    def _trust_grant(self, grant: Grant, note: str) -> None:
        [granted] = (each for each in self._recorder.asked[note] if each.token == grant.token)

        def ends_at() -> float:
            bound = grant._bound
            return min(grant._lease.deadline, math.inf if bound is None else bound.ends_at())

        self._trust(granted, ends_at)

    def _trust(self, granted: Operation, ends_at: Callable[[], float]) -> None:
        begun, ended = self._now(), self._true_time_of(ends_at())
        if ended > begun:
            for key in granted.keys:
                belief = Belief(
                    granted.session, key, granted.token, begun, ended, not granted.shared
                )
                self._trusted.append((belief, ends_at))
                self._history.beliefs.append(belief)

    def trust_no_more(self, token: int) -> None:
        """What it holds under this token is about to be given back, or was lost."""
        self.look_at_beliefs()
        for belief, _ in self._trusted:
            if belief.token == token:
                belief.ended = min(belief.ended, self._now())
        self._trusted = [each for each in self._trusted if each[0].token != token]

    def look_at_beliefs(self) -> None:
        """Until when each lasts, as far as is known now: what is renewed lasts longer."""
        now = self._now()
        for belief, ends_at in self._trusted:
            belief.ended = self._true_time_of(ends_at())
        self._trusted = [each for each in self._trusted if each[0].ended > now]

    def is_gone(self) -> None:
        """It believes in nothing and asks for nothing any more."""
        self._recorder.is_over = True
        for token in {belief.token for belief, _ in self._trusted}:
            self.trust_no_more(token)

    def _true_time_of(self, instant: float) -> int:
        """When `clock` will show `instant`, as it runs now."""
        left = (instant - self._clock.now()) * self.mix.pace
        return self._now() + int(left * SECOND / self.rate)

    # What the library does not do: a lock with a lease of its own, that nobody can ask for again.

    async def hold_unnamed(
        self,
        library: AsyncClient,
        key: str,
        body: Callable[[Hold], Awaitable[None]],
        *,
        ttl_ms: int,
        wait_ms: int,
        terms: Terms = PLAIN,
    ) -> None:
        """As a script with curl would: one request. `body` releases it, or does not."""
        pace = self.mix.pace
        asked: dict[str, Any] = {
            "key": key,
            "session": self._new_session_id(),
            "ttl_ms": ttl_ms // pace,
            "wait_ms": wait_ms // pace,
            "mode": terms.mode,
            "owner": self.name,
        }
        if terms.limit is not None:
            asked["limit"] = terms.limit
        note = asked["context"] = self._new_note()
        seconds = self.mix.timeout_ns / SECOND / pace + self._seconds(wait_ms)
        try:
            answer = await self._recorder.attempt(
                self.rng.choice(self._endpoints),
                Request("POST", recorder.ACQUIRE, asked),
                seconds=seconds,
            )
        except NotSent:
            return self._told_refused(note)
        except NoAnswer:
            return None
        if answer.status >= 400:
            return self._told_refused(note) if answer.body.get("code") in BUSY_CODES else None
        [granted] = self._recorder.asked.pop(note)
        # The lease began at the grant, and not before the request was sent.
        self._history.leases.append(Lease(granted.session, granted.called, granted.ttl_ns))
        ends_at = deadline_after(answer.sent_at, asked["ttl_ms"] / MS_PER_SECOND)
        self._trust(granted, lambda: ends_at)

        async def release() -> None:
            self.trust_no_more(granted.token)
            about = {"session": asked["session"], "token": granted.token}
            give_up_at = self._clock.now() + library._settings.timeout
            with contextlib.suppress(Unreachable, UnknownOutcome):
                await library._requester.ask(
                    Request("POST", recorder.RELEASE, about), give_up_at=give_up_at
                )

        await body(Hold(granted.token, lambda: self._clock.now() < ends_at, release=release))
