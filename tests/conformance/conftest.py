"""One suite, every store: what a test gets, and the table that is printed at the end (store by store, test by test).

Rule: a test speaks to a store only through the client, or through the client's transport where a call has to be repeated or left
unfinished. Each has keys of its own, so the stores that are shared by the whole run need not be emptied.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

import holdfast
from holdfast import wire
from holdfast.stores.address import capabilities_of
from holdfast.transport import Answer, Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from holdfast.stores.capabilities import Capabilities

STORES = ("memory", "sqlite", "postgres", "redis", "cluster", "plain")
"""`cluster` is asked over the stream, as by default; `plain` is the same cluster, asked by a request for each call."""
NETWORKED = ("postgres", "redis", "cluster", "plain")
CLUSTERS = ("cluster", "plain")
PATIENCE_SECONDS = 20.0
TTL_SECONDS = 1.0
"""The shortest that there is: whoever waits for a lease to end waits for so long."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "store" not in metafunc.fixturenames:
        return
    names = NETWORKED if "proxied" in metafunc.fixturenames else STORES
    marks: dict[str, Any] = {each: [pytest.mark.cluster] for each in CLUSTERS}
    metafunc.parametrize(
        "store", [pytest.param(each, marks=marks.get(each, [])) for each in names], scope="function"
    )


@pytest.fixture
def address(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What `connect` takes."""
    if store == "memory":
        return f"memory://{secrets.token_hex(4)}"
    if store == "sqlite":
        return f"sqlite:///{tmp_path / 'locks.db'}"
    name = {"postgres": "postgres_url", "redis": "redis_url"}.get(store, "cluster_endpoints")
    found: str = request.getfixturevalue(name)
    return found


@pytest.fixture
def promised(address: str) -> Capabilities:
    return capabilities_of(address)


@pytest.fixture
def key() -> str:
    """A key of the test's own."""
    return f"conformance/{secrets.token_hex(6)}"


@pytest.fixture
async def clients(address: str, store: str) -> AsyncIterator[Callable[..., holdfast.AsyncClient]]:
    """`clients(ttl=..)` makes another client of the store under test; all are closed at the end."""
    made: list[holdfast.AsyncClient] = []

    def client(where: str = address, **settings: Any) -> holdfast.AsyncClient:
        usual = {"timeout": PATIENCE_SECONDS, "stream": store != "plain"}
        made.append(holdfast.connect(where, **usual | settings))
        return made[-1]

    yield client
    await asyncio.gather(*(each.aclose() for each in made))


@dataclass
class Raw:
    """Calls below the client: nobody renews, nobody repeats. `session` is a new one's id."""

    client: holdfast.AsyncClient
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    async def call(self, path: str, **body: Any) -> Answer:
        endpoint = self.client._settings.endpoints[0]
        request = Request("POST", wire.API_PREFIX + path, body)
        return await self.client._transport.attempt(endpoint, request, seconds=PATIENCE_SECONDS)

    async def session(self, ttl: float = 60.0) -> str:
        session = secrets.token_hex(16)
        answer = await self.call("/sessions", session=session, ttl_ms=int(ttl * 1000))
        assert answer.status == 201, answer
        return session

    async def acquire(
        self, session: str, *keys: str, request_id: int | None = None, **more: Any
    ) -> Answer:
        named = {"key": keys[0]} if len(keys) == 1 else {"keys": list(keys)}
        number = next(self.numbers) if request_id is None else request_id
        return await self.call(
            "/locks/acquire", session=session, request_id=number, **named, **more
        )

    async def release(self, session: str, token: int) -> Answer:
        return await self.call("/locks/release", session=session, token=token)

    async def cancel(self, session: str, request_id: int) -> Answer:
        return await self.call("/locks/cancel", session=session, request_id=request_id)


@pytest.fixture
def raw(clients: Callable[..., holdfast.AsyncClient]) -> Raw:
    return Raw(clients())


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Ask another process until it is so; each round is a call to the store. Bounded."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + PATIENCE_SECONDS
    while not await condition():
        assert loop.time() < give_up_at, "it never came true"


@pytest.fixture
def queue_is(clients: Callable[..., holdfast.AsyncClient]) -> Callable[[str, int], Awaitable[None]]:
    """`await queue_is(key, n)`: return when so many wait for the key."""
    looker: list[holdfast.AsyncClient] = []

    async def wait(key: str, length: int) -> None:
        if not looker:
            looker.append(clients())

        async def is_so() -> bool:
            return (await looker[0].read_lock(key)).queue_length == length

        await until(is_so)

    return wait


@pytest.fixture
def is_free(clients: Callable[..., holdfast.AsyncClient]) -> Callable[[str], Awaitable[None]]:
    """`await is_free(key)`: return when nobody holds it and nobody waits."""
    looker: list[holdfast.AsyncClient] = []

    async def wait(key: str) -> None:
        if not looker:
            looker.append(clients())

        async def is_so() -> bool:
            lock = await looker[0].read_lock(key)
            return not lock.holders and not lock.queue_length

        await until(is_so)

    return wait


# -- the table

_NAME = re.compile(r"tests/conformance/.*::(?P<test>[^\[]+)\[(?P<store>[a-z]+)")
_outcomes: dict[str, dict[str, str]] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    match = _NAME.search(report.nodeid)
    if match is None or (report.when != "call" and report.passed):
        return
    row = _outcomes.setdefault(match["test"], {})
    word = {"passed": "pass", "failed": "FAIL", "skipped": "not run"}[report.outcome]
    if row.get(match["store"]) != "FAIL":
        row[match["store"]] = word


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _outcomes:
        return
    terminalreporter.section("conformance, store by store")
    width = max(map(len, _outcomes)) - len("test_")
    head = "".join(f"{each:>10}" for each in STORES)
    terminalreporter.write_line(f"{'':{width}}{head}")
    for test, row in _outcomes.items():
        cells = "".join(f"{row.get(each, '-'):>10}" for each in STORES)
        name = test.removeprefix("test_").replace("_", " ")
        terminalreporter.write_line(f"{name:{width}}{cells}")
    terminalreporter.write_line("-: the store has no network between it and the client")
