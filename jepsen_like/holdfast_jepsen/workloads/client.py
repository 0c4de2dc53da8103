"""A simulated client: a process with a clock of its own that holds sessions and asks nodes.

Rules, which are those of the real client (DESIGN, section 7):
* A request whose answer is lost is asked again under the same request id, at another node.
* A deadline counts from the moment at which the acknowledged request was SENT, on the client's own clock, less a
  margin of 1 % + 10 ms. A grant that arrives past its deadline is given back, never entered.
* A refusal that says nothing definite is never taken for one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast_coordinator.machine.operations import (
    PLAIN,
    Acquire,
    Cancel,
    CloseSession,
    Complete,
    OpenSession,
    Release,
    RenewSession,
    Terms,
)
from holdfast_coordinator.machine.outcomes import (
    Cancelled,
    Closed,
    Completed,
    Granted,
    Refused,
    Released,
    Renewed,
    SessionOpened,
)
from holdfast_jepsen.history import Belief, History, Lease, Operation, Seen
from holdfast_jepsen.sim.world import MILLISECOND, SECOND, Actor, World

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from holdfast_jepsen.sim.network import Network
    from holdfast_jepsen.sim.rng import Rng
    from holdfast_jepsen.sim.server import Server
    from holdfast_jepsen.workloads.ledger import Shop
    from holdfast_jepsen.workloads.mix import Mix

SESSION_OVER = ("session_expired", "no_such_session")
TRY_AGAIN = ("no_leader", "overloaded")
"""Definite: took no effect; the same request may be asked again."""
MARGIN_PART, MARGIN_NS = 0.01, 10 * MILLISECOND


@dataclass(slots=True)
class Session:
    """What a client knows about one session of its own."""

    id: str
    ttl_ns: int
    deadline_ns: int = 0
    """On the client's clock."""
    is_over: bool = False
    next_request: int = 1
    settled: int = 0


class Gateway:
    """The way from clients to servers: one request, one answer, or silence."""

    def __init__(self, world: World, network: Network, servers: list[Server], rng: Rng) -> None:
        self.world = world
        self.servers = servers
        self.cut: set[tuple[str, str]] = set()
        """(client, server): nothing gets through, in both directions."""
        self.slow: dict[str, int] = {}
        """By client: answers may take up to so many nanoseconds more."""
        self.shop: Shop | None = None
        """What the workers of a ledger share."""
        self._network = network
        self._rng = rng
        self._calls = 0

    def ask(
        self, client: Actor, server: Server, operation: Any, future: asyncio.Future[Any]
    ) -> int:
        """Send a request. The future gets the answer, or None when the connection breaks. Returns its number."""
        self._calls += 1
        call = self._calls
        pair = client.name, server.name

        def answer(outcome: Any) -> None:
            if pair in self.cut:
                return
            delay = self._network.one_way()
            if slow := self.slow.get(client.name, 0):
                delay += self._rng.below(slow)
            self.world.after(delay, receive, outcome, actor=client)

        def receive(outcome: Any) -> None:
            self.world.note(f"{client.name} gets {type(outcome).__name__} for {call}")
            if not future.done():
                future.set_result(outcome)

        def arrive() -> None:
            if pair in self.cut:
                return
            if server.actor is None:
                answer(None)
            else:
                # The process of the server takes it when it has time.
                life = server.actor
                self.world.at(self.world.now, server.serve, call, operation, answer, actor=life)

        self.world.after(self._network.one_way(), arrive)
        return call

    def elsewhere(
        self, client: Actor, decide: Callable[[], Any], future: asyncio.Future[Any]
    ) -> None:
        """The same to something that is no node, has no faults, and decides at once when the request arrives."""

        def arrive() -> None:
            self.world.after(self._way(client), future.set_result, decide(), actor=client)

        self.world.after(self._way(client), arrive)

    def _way(self, client: Actor) -> int:
        slow = self.slow.get(client.name, 0)
        return self._network.one_way() + (self._rng.below(slow) if slow else 0)

    def hang_up(self, client: Actor, server: Server, call: int) -> None:
        """The client closes the connection of this request."""
        if (client.name, server.name) not in self.cut and server.actor is not None:
            self.world.after(self._network.one_way(), server.hang_up, call, actor=server.actor)


class Client:
    """One process of a workload; after a crash another one takes its place."""

    def __init__(
        self,
        name: str,
        *,
        world: World,
        gateway: Gateway,
        history: History,
        mix: Mix,
        rng: Rng,
        rate: float,
    ) -> None:
        self.name = name
        self.mix = mix
        self.rng = rng
        self.history = history
        self.rate = rate
        self._world = world
        self._gateway = gateway
        self._clock_base, self._clock_from = 0, world.now
        self._server = rng.below(len(gateway.servers))
        self._beliefs: list[Belief] = []
        self.done = 0
        """Operations that were answered definitely."""
        self.actor = Actor(world, name, clock=self.clock_ns, rate=rate)

    def clock_ns(self) -> int:
        """Its own clock."""
        return self._clock_base + int((self._world.now - self._clock_from) * self.rate)

    def set_rate(self, rate: float) -> None:
        """How fast its clock runs from now on; what it trusts in lasts so much longer or shorter."""
        now = self._world.now
        for belief in self._beliefs:
            if belief.ended > now:
                belief.ended = now + int((belief.ended - now) * self.rate / rate)
        self._clock_base, self._clock_from = self.clock_ns(), now
        self.rate = rate
        self.actor.set_rate(rate)

    def start(self, work: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
        """Do this work as this process."""
        self._world.at(self._world.now, self._begin, work, actor=self.actor)

    def _begin(self, work: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
        self.actor.create_task(work(self)).add_done_callback(self._worked)

    @staticmethod
    def _worked(task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    def crash(self) -> None:
        """The process is gone; it believes in nothing any more."""
        for belief in self._beliefs:
            belief.ended = min(belief.ended, self._world.now)
        self.actor.kill()

    @property
    def true_time(self) -> int:
        """For the record; no client can see it."""
        return self._world.now

    @property
    def shop(self) -> Shop | None:
        """What the workers of a ledger share."""
        return self._gateway.shop

    # Requests.

    async def ask_elsewhere(self, decide: Callable[[], Any]) -> Any:
        """What something beside the cluster decides, once the request is there; in the meantime anything may happen."""
        future: asyncio.Future[Any] = self.actor.create_future()
        self._gateway.elsewhere(self.actor, decide, future)
        return await future

    async def ask(self, operation: Any, timeout_ns: int) -> Any:
        """One attempt at the present server; None: no answer. The next attempt goes to another one."""
        server = self._gateway.servers[self._server]
        future: asyncio.Future[Any] = self.actor.create_future()
        call = self._gateway.ask(self.actor, server, operation, future)
        timer = self.actor.call_later(timeout_ns / SECOND, _give_up, future)
        try:
            outcome = await future
        finally:
            timer.cancel()
        if outcome is _NO_ANSWER:
            self._gateway.hang_up(self.actor, server, call)
        if outcome is _NO_ANSWER or outcome is None or _is_unknown(outcome):
            self._server = (self._server + 1) % len(self._gateway.servers)
            return None
        if isinstance(outcome, Refused) and outcome.code in TRY_AGAIN:
            self._server = (self._server + 1) % len(self._gateway.servers)
        return outcome

    async def ask_until(self, operation: Any, attempts: int, timeout_ns: int) -> tuple[Any, bool]:
        """Ask again until there is an answer. (outcome or None, whether an attempt without an answer may have
        taken effect)"""
        may_have = False
        for attempt in range(attempts):
            outcome = await self.ask(operation, timeout_ns)
            if outcome is None:
                may_have = True
            elif not (isinstance(outcome, Refused) and outcome.code in TRY_AGAIN):
                return outcome, may_have
            pause = 0.02 + 0.1 * attempt * self.rng.random()
            await asyncio.sleep(pause * self.mix.pace)
        return None, may_have

    # Sessions.

    async def open(self, ttl_ms: int) -> Session | None:
        """A new session; None: no answer."""
        session = Session(f"{self.name}-{self.rng.bits():016x}", ttl_ms * MILLISECOND)
        operation = OpenSession(session.id, ttl_ms, self.name)
        for _ in range(self.mix.attempts):
            sent, sent_clock = self._world.now, self.clock_ns()
            outcome = await self.ask(operation, self.mix.timeout_ns)
            if isinstance(outcome, SessionOpened):
                # An old session may have been found: what it says remains is all that can be relied on.
                lasts = min(outcome.remaining_ms, ttl_ms) * MILLISECOND
                self._renewed(session, sent, sent_clock, lasts)
                return session
            await asyncio.sleep(0.05 * self.mix.pace)
        return None

    async def renew(self, session: Session) -> None:
        """Once. An unacknowledged renewal promises nothing."""
        sent, sent_clock = self._world.now, self.clock_ns()
        outcome = await self.ask(RenewSession(session.id), self.mix.timeout_ns)
        if isinstance(outcome, Renewed):
            self._renewed(session, sent, sent_clock, outcome.remaining_ms * MILLISECOND)
        elif isinstance(outcome, Refused) and outcome.code in SESSION_OVER:
            session.is_over = True

    async def keep(self, session: Session) -> None:
        """Renew until the session is over."""
        while not session.is_over:
            await asyncio.sleep(session.ttl_ns / 3 / SECOND)
            if not session.is_over:
                await self.renew(session)

    def _renewed(self, session: Session, sent: int, sent_clock: int, lasts: int) -> None:
        self.history.leases.append(Lease(session.id, sent, lasts))
        deadline = self.deadline(sent_clock, lasts)
        session.deadline_ns = max(session.deadline_ns, deadline)
        for belief in self._beliefs:
            if belief.process == session.id and belief.ended > self._world.now:
                belief.ended = max(belief.ended, self._true_time(session.deadline_ns))

    def deadline(self, sent_clock: int, lasts: int) -> int:
        """Until when a lease can be trusted, on this client's clock."""
        return sent_clock + lasts - int(lasts * MARGIN_PART) - MARGIN_NS

    def _true_time(self, clock_ns: int) -> int:
        return self._clock_from + int((clock_ns - self._clock_base) / self.rate)

    # Locks.

    async def acquire(
        self,
        session: Session,
        keys: tuple[str, ...],
        *,
        wait_ms: int,
        implicit_ttl_ms: int | None = None,
        terms: Terms = PLAIN,
    ) -> tuple[Operation, Granted | None]:
        """Until there is an answer, or patience ends; then it is withdrawn, and its outcome is unknown."""
        request: int | None = None
        if implicit_ttl_ms is None:
            request = session.next_request
            session.next_request += 1
        asked = Acquire(
            keys,
            session.id,
            implicit_ttl_ms,
            wait_ms,
            request,
            session.settled,
            self.name,
            terms=terms,
        )
        record = Operation(
            self.name,
            "acquire",
            keys,
            session.id,
            self._world.now,
            ttl_ns=(implicit_ttl_ms or 0) * MILLISECOND,
            shared=terms.mode == "shared",
            limit=terms.limit or 0,
        )
        self.history.operations.append(record)
        attempts = self.mix.attempts if request is not None else 1
        timeout = self.mix.timeout_ns + wait_ms * MILLISECOND
        sent_clock = self.clock_ns()
        outcome, may_have = await self.ask_until(asked, attempts, timeout)
        self._settle(record, outcome, may_have)
        if record.result == "unknown" and request is not None:
            await self._cancel(session, keys, request)
        if request is not None:
            session.settled = request
        grant = outcome if isinstance(outcome, Granted) else None
        if grant is not None:
            if implicit_ttl_ms is not None:
                # The lease began at the grant, and not before the request was sent.
                lasts = implicit_ttl_ms * MILLISECOND
                session.deadline_ns = self.deadline(sent_clock, lasts)
                self.history.leases.append(Lease(session.id, record.called, lasts))
            self._believe(session, keys, grant.token, alone=not record.shared)
        return record, grant

    async def release(self, session: Session, keys: tuple[str, ...], token: int) -> Operation:
        """Give it back; it is not trusted from the first attempt on."""
        self._stop_believing(session, token)
        record = Operation(self.name, "release", keys, session.id, self._world.now, token=token)
        self.history.operations.append(record)
        asked = Release(session.id, token)
        outcome, may_have = await self.ask_until(asked, self.mix.attempts, self.mix.timeout_ns)
        self._settle(record, outcome, may_have)
        return record

    async def complete(
        self, session: Session, keys: tuple[str, ...], token: int, retain_ms: int
    ) -> Operation:
        """The work is done. As a release, and remembered."""
        self._stop_believing(session, token)
        record = Operation(
            self.name,
            "complete",
            keys,
            session.id,
            self._world.now,
            token=token,
            ttl_ns=retain_ms * MILLISECOND,
        )
        self.history.operations.append(record)
        asked = Complete(session.id, token, f"done by {token}", retain_ms)
        outcome, may_have = await self.ask_until(asked, self.mix.attempts, self.mix.timeout_ns)
        self._settle(record, outcome, may_have)
        return record

    async def close(self, session: Session) -> None:
        """End the session and all that it holds."""
        session.is_over = True
        self._stop_believing(session, 0)
        record = Operation(self.name, "end", (), session.id, self._world.now)
        self.history.operations.append(record)
        outcome, _ = await self.ask_until(
            CloseSession(session.id), self.mix.attempts, self.mix.timeout_ns
        )
        if isinstance(outcome, Closed):
            record.returned = self._world.now

    async def _cancel(self, session: Session, keys: tuple[str, ...], request: int) -> None:
        record = Operation(self.name, "end", keys, session.id, self._world.now)
        self.history.operations.append(record)
        outcome, _ = await self.ask_until(Cancel(session.id, request), 2, self.mix.timeout_ns)
        if isinstance(outcome, Cancelled):
            record.returned = self._world.now

    def _settle(self, record: Operation, outcome: Any, may_have: bool) -> None:
        record.returned = self._world.now
        self.done += outcome is not None
        if isinstance(outcome, Granted):
            record.result, record.token = "ok", outcome.token
            if record.shared and outcome.fence is not None:
                fence = outcome.fence
                record.fences = (fence,) if isinstance(fence, int) else fence
        elif isinstance(outcome, Released | Completed):
            record.result = "ok"
        elif isinstance(outcome, Refused):
            self._refused(record, outcome)
            if (
                may_have
                and record.result not in ("held", "done")
                and outcome.code != "wait_timeout"
            ):
                # What an earlier attempt did may have ended since, and nobody remembers it.
                record.result, record.returned = "unknown", None
        elif may_have:
            record.result, record.returned = "unknown", None
        else:
            record.result = "refused"

    @staticmethod
    def _refused(record: Operation, refusal: Refused) -> None:
        record.result = "refused"
        if refusal.code == "held":
            record.result = "held"
            if len(record.keys) == 1:
                record.holders = tuple(
                    Seen(each.token, each.session, each.mode == "shared", each.limit or 0)
                    for each in refusal.holders
                )
        elif refusal.code == "already_done" and refusal.closed is not None:
            # Of several keys only one is told of; what it says is of that one.
            record.result = "done" if len(record.keys) == 1 else "refused"
            record.done = refusal.closed.token
        elif refusal.code == "not_held" or refusal.code in SESSION_OVER:
            if record.kind in ("release", "complete"):
                record.result = "not_held"
            elif refusal.code == "not_held":
                # An acquire that had been granted under this name, and whose hold has ended since.
                record.result, record.returned = "unknown", None

    # Beliefs.

    def _believe(self, session: Session, keys: tuple[str, ...], token: int, *, alone: bool) -> None:
        end = self._true_time(session.deadline_ns)
        if end > self._world.now and not session.is_over:
            for key in keys:
                belief = Belief(session.id, key, token, self._world.now, end, alone)
                self._beliefs.append(belief)
                self.history.beliefs.append(belief)

    def _stop_believing(self, session: Session, token: int) -> None:
        for belief in self._beliefs:
            if belief.process == session.id and token in (0, belief.token):
                belief.ended = min(belief.ended, self._world.now)
        self._beliefs = [belief for belief in self._beliefs if belief.ended > self._world.now]

    def trusts(self, session: Session) -> bool:
        """Whether its holds are good as far as it knows."""
        return not session.is_over and self.clock_ns() < session.deadline_ns


class _NoAnswer:
    """What a future gets when its time is up."""


_NO_ANSWER = _NoAnswer()


def _give_up(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(_NO_ANSWER)


def _is_unknown(outcome: Any) -> bool:
    return type(outcome).__name__ in ("Unknown", "Detached", "Withdrawn")
