"""A scripted cluster on real sockets, and a clock that moves only when a test says so.

Rule: nothing here sleeps. The fake answers at once, or when a test sets an event; time passes by `clock.advance`.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from aiohttp import web

from holdfast.client import AsyncClient, Ports, Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

NODE = web.AppKey("node", int)

HTTP = {
    "held": 409,
    "wait_timeout": 409,
    "not_held": 409,
    "conflict": 409,
    "closed": 409,
    "in_doubt": 409,
    "already_done": 409,
    "deadlock": 409,
    "no_longer_kept": 410,
    "session_expired": 410,
    "no_such_session": 404,
    "no_leader": 503,
    "overloaded": 503,
    "unknown_outcome": 504,
    "bad_request": 400,
    "unauthenticated": 401,
    "limit_reached": 429,
}


PATIENCE_SECONDS = 5.0


class ManualClock:
    """Time that a test moves. Use it on one event loop."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []
        self._timeouts: list[tuple[float, asyncio.Timeout]] = []

    def now(self) -> float:
        return self._now

    async def sleep_until(self, instant: float) -> None:
        if instant <= self._now:
            return
        woken = asyncio.get_running_loop().create_future()
        self._sleepers.append((instant, woken))
        await woken

    @asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[None]:
        async with asyncio.timeout(None) as block:
            mine = (self._now + seconds, block)
            self._timeouts.append(mine)
            try:
                yield
            finally:
                self._timeouts.remove(mine)

    def advance(self, seconds: float) -> None:
        """Let time pass; whoever is due is woken."""
        self._now += seconds
        due = [each for each in self._sleepers if each[0] <= self._now or each[1].done()]
        self._sleepers = [each for each in self._sleepers if each not in due]
        for _, woken in due:
            if not woken.done():
                woken.set_result(None)
        for instant, block in list(self._timeouts):
            if instant <= self._now and not block.expired() and block.when() is None:
                block.reschedule(asyncio.get_running_loop().time())


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until it is so. The bound only turns a hang into a failure; sockets need real time."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + PATIENCE_SECONDS
    while not condition():
        assert loop.time() < give_up_at, "it never came true"
        await asyncio.sleep(0)


@dataclass
class Step:
    """What the fake does with one request instead of simply answering it."""

    node: int | None = None
    refuse: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    acts: bool = True
    loses_reply: bool = False
    gate: asyncio.Event | None = None
    raw: web.Response | None = None
    handler: Callable[[web.Request], Any] | None = None


@dataclass
class Seen:
    """One request that reached the fake."""

    node: int
    path: str
    body: dict[str, Any]
    headers: dict[str, str]


@dataclass
class FakeWaiter:
    key: str
    session: str
    request_id: int
    reply: asyncio.Future[tuple[int, dict[str, Any]]]


class FakeCluster:
    """Three nodes with one lock table. Time is the test's: nothing expires unless `expire` is called."""

    def __init__(self) -> None:
        self.sessions: dict[str, int] = {}
        self.gone: set[str] = set()
        self.holds: dict[str, tuple[int, str]] = {}
        self.outcomes: dict[tuple[str, int], tuple[int, dict[str, Any]]] = {}
        self.waiters: list[FakeWaiter] = []
        self.last_token = 0
        self.seen: list[Seen] = []
        self.urls: list[str] = []
        self._steps: dict[str, deque[Step]] = {}
        self._runners: list[web.AppRunner] = []
        self._gates: list[asyncio.Event] = []

    # -- for tests

    def script(self, call: str, *steps: Step) -> None:
        """What happens to the next requests of `call` ("locks/acquire", ...)."""
        self._steps.setdefault(call, deque()).extend(steps)

    def gate(self) -> asyncio.Event:
        """An event to hold a request with; opened at the end of the test in any case."""
        self._gates.append(asyncio.Event())
        return self._gates[-1]

    def calls(self, call: str) -> list[Seen]:
        return [each for each in self.seen if each.path == call]

    def expire(self, session: str | None = None) -> None:
        """The cluster ends a session (all of them)."""
        for each in [session] if session else list(self.sessions):
            self._end_session(each)

    def time_out(self, waiter: FakeWaiter) -> None:
        """The wait ends in vain."""
        self.waiters.remove(waiter)
        self._settle(waiter, _problem("wait_timeout"))

    def take(self, key: str) -> int:
        """Somebody else gets the lock."""
        self.last_token += 1
        self.holds[key] = (self.last_token, "somebody-else")
        return self.last_token

    def give(self, key: str) -> None:
        """Whoever holds it, releases it."""
        del self.holds[key]
        self._promote()

    async def start(self, nodes: int = 3) -> None:
        for node in range(nodes):
            app = web.Application()
            app[NODE] = node
            app.router.add_route("*", "/v1/{call:.*}", self._handle)
            runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.0)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self._runners.append(runner)
            self.urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}")

    async def stop(self) -> None:
        for gate in self._gates:
            gate.set()
        for waiter in self.waiters:
            waiter.reply.cancel()
        for runner in self._runners:
            await runner.cleanup()

    # -- the nodes

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        call, node = request.match_info["call"], request.app[NODE]
        raw = await request.read()
        is_msgpack = request.content_type == "application/msgpack"
        body = (msgpack.unpackb(raw) if is_msgpack else await request.json()) if raw else {}
        self.seen.append(Seen(node, call, body, dict(request.headers)))
        step = self._next_step(call, node)
        if step.gate is not None and not step.acts:
            await step.gate.wait()
        if step.raw is not None:
            return step.raw
        if step.handler is not None:
            answered: web.StreamResponse = await step.handler(request)
            return answered
        if step.refuse is not None:
            status, answer = _problem(step.refuse, **step.extra)
            return _reply(request, status, answer)
        if step.acts:
            status, answer = await self._act(call, body)
            answer = answer | step.extra
            if step.gate is not None:
                await step.gate.wait()
        if step.loses_reply or not step.acts:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return _reply(request, status, answer)

    def _next_step(self, call: str, node: int) -> Step:
        steps = self._steps.get(call)
        if steps and steps[0].node in (None, node):
            return steps.popleft()
        return Step()

    async def _act(self, call: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        session = body.get("session", "")
        if call == "cluster":
            return 200, CLUSTER
        if call == "locks/read":
            return self._read(body)
        if call == "sessions":
            if session in self.gone:
                return _problem("session_expired")
            self.sessions[session] = body["ttl_ms"]
            left = body["ttl_ms"]
            return 201, {"session": session, "ttl_ms": left, "remaining_ms": left}
        if session not in self.sessions:
            return _problem("session_expired" if session in self.gone else "no_such_session")
        if call == "sessions/renew":
            return 200, {"remaining_ms": self.sessions[session]}
        if call == "sessions/close":
            released = [token for token, owner in self.holds.values() if owner == session]
            self._end_session(session)
            return 200, {"released": released}
        if call == "locks/release":
            return self._release(session, body["token"])
        if call == "locks/cancel":
            return self._cancel(session, body["request_id"])
        assert call == "locks/acquire", call
        return await self._acquire(session, body)

    async def _acquire(self, session: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name = (session, body["request_id"])
        if name in self.outcomes:
            return self.outcomes[name]
        reply: asyncio.Future[tuple[int, dict[str, Any]]] = (
            asyncio.get_running_loop().create_future()
        )
        for waiter in self.waiters:
            if (waiter.session, waiter.request_id) == name:
                waiter.reply.set_result(_problem("unknown_outcome"))
                waiter.reply = reply
                return await reply
        keys = body.get("keys") or [body["key"]]
        if any(key in self.holds for key in keys):
            if not body["wait_ms"]:
                others = [
                    {"token": self.holds[key][0], "session_ref": "r", "owner": "other"}
                    for key in keys
                    if key in self.holds
                ]
                self.outcomes[name] = _problem("held", holders=others, queue_length=2)
                return self.outcomes[name]
            self.waiters.append(FakeWaiter(keys[0], session, body["request_id"], reply))
            return await reply
        self.outcomes[name] = self._grant(session, keys)
        return self.outcomes[name]

    def _grant(self, session: str, keys: list[str]) -> tuple[int, dict[str, Any]]:
        self.last_token += 1
        for key in keys:
            self.holds[key] = (self.last_token, session)
        one = {"token": 7, "ended": "expired"}
        return 200, {
            "token": self.last_token,
            "fence": self.last_token,
            "keys": keys,
            "mode": "exclusive",
            "session": session,
            "remaining_ms": self.sessions[session],
            "previous": one if len(keys) == 1 else {keys[0]: one, keys[1]: None},
            "previous_horizon": 0,
        }

    def _promote(self) -> None:
        for waiter in list(self.waiters):
            if waiter.key not in self.holds:
                self.waiters.remove(waiter)
                self._settle(waiter, self._grant(waiter.session, [waiter.key]))

    def _settle(self, waiter: FakeWaiter, outcome: tuple[int, dict[str, Any]]) -> None:
        self.outcomes[(waiter.session, waiter.request_id)] = outcome
        if not waiter.reply.done():
            waiter.reply.set_result(outcome)

    def _release(self, session: str, token: int) -> tuple[int, dict[str, Any]]:
        mine = [key for key, hold in self.holds.items() if hold == (token, session)]
        for key in mine:
            del self.holds[key]
        self._promote()
        return 200, {"released": True}

    def _cancel(self, session: str, request_id: int) -> tuple[int, dict[str, Any]]:
        for waiter in list(self.waiters):
            if (waiter.session, waiter.request_id) == (session, request_id):
                self.time_out(waiter)
        status, body = self.outcomes.setdefault((session, request_id), _problem("wait_timeout"))
        if status == 200:
            self._release(session, body["token"])
        return 200, {"released": body.get("token")}

    def _end_session(self, session: str) -> None:
        self.sessions.pop(session, None)
        self.gone.add(session)
        self.holds = {key: hold for key, hold in self.holds.items() if hold[1] != session}
        for waiter in [each for each in self.waiters if each.session == session]:
            self.waiters.remove(waiter)
            self._settle(waiter, _problem("session_expired"))
        self._promote()

    def _read(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        def view(key: str) -> dict[str, Any]:
            token, _ = self.holds[key]
            holder = {"token": token, "session_ref": "r", "owner": None, "remaining_ms": 1500}
            return {"key": key, "holders": [holder], "waiters": [], "queue_length": 0}

        if "key" in body:
            empty = {"key": body["key"], "holders": [], "waiters": [], "queue_length": 0}
            return 200, view(body["key"]) if body["key"] in self.holds else empty
        keys = sorted(key for key in self.holds if key.startswith(body["prefix"]))
        return 200, {"locks": [view(key) for key in keys], "next": None}


CLUSTER = {
    "cluster": "c",
    "node": "n1",
    "leader": "n1",
    "term": 3,
    "nodes": [{"name": "n1", "http": "h", "raft": "r", "state": "leader", "match_index": 9}],
    "commit_index": 9,
    "applied_index": 9,
    "cluster_time_ms": 1500,
    "a_field_of_tomorrow": 1,
}


def _problem(code: str, **extra: Any) -> tuple[int, dict[str, Any]]:
    return HTTP[code], {"code": code, "status": HTTP[code], "detail": f"it is {code}", **extra}


def _reply(request: web.Request, status: int, body: dict[str, Any]) -> web.Response:
    if status >= 400:
        return web.json_response(body, status=status, content_type="application/problem+json")
    if request.headers.get("Accept") == "application/msgpack":
        packed = msgpack.packb(body)
        return web.Response(body=packed, status=status, content_type="application/msgpack")
    return web.json_response(body, status=status)


@dataclass
class Kit:
    """What most tests need: a cluster, a clock, and clients of them."""

    cluster: FakeCluster
    clock: ManualClock
    clients: list[AsyncClient] = field(default_factory=list)

    async def drive(self, condition: Callable[[], object], by: float = 0.05) -> None:
        """Let time pass in small pieces until it is so."""

        def passes() -> object:
            if condition():
                return True
            self.clock.advance(by)
            return False

        await until(passes)

    def client(self, *, urls: list[str] | None = None, **settings: Any) -> AsyncClient:
        endpoints = tuple(urls or self.cluster.urls)
        ids, number = iter(range(1, 1000)), len(self.clients)
        ports = Ports(
            clock=self.clock,
            draw=lambda: 0.0,
            new_session_id=lambda: f"session-number-{number}-{next(ids)}",
        )
        client = AsyncClient(Settings(endpoints, **settings), ports)
        self.clients.append(client)
        return client


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    fake = FakeCluster()
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def kit(cluster: FakeCluster, clock: ManualClock) -> AsyncIterator[Kit]:
    kit = Kit(cluster, clock)
    yield kit
    for gate in cluster._gates:
        gate.set()
    for client in kit.clients:
        await client.aclose()


@pytest.fixture
def threaded_cluster() -> Iterator[FakeCluster]:
    """The same cluster on a thread of its own, for blocking callers. Its state may be read from any thread."""
    fake = FakeCluster()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(fake.start(), loop).result()
    yield fake
    asyncio.run_coroutine_threadsafe(fake.stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def step() -> type[Step]:
    return Step


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], Any]:
    return until
