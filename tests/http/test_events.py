"""The stream of events: in order, without gaps, resumable; bounded for every watcher; ended with a reason."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import structlog.testing
from aiohttp import ClientPayloadError
from aiohttp.web import StreamResponse

from holdfast_coordinator.config import HttpLimits
from holdfast_coordinator.http import Metrics, start_http
from holdfast_coordinator.http.streams import TCP_USER_TIMEOUT, Patience
from holdfast_coordinator.http.watchers import WOKEN_TOGETHER, Watchers
from holdfast_coordinator.machine import Acquire, Limits, Machine, OpenSession, Release
from holdfast_coordinator.machine.limits import TRAIL_BLOCK_RECORDS
from holdfast_coordinator.machine.trail import Trail

from .openapi import validator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from .conftest import Caller, FakeNode

ALICE = "alice-0123456789abcdef"
WAIT_SECONDS = 10.0
"""For what happens at once; nothing waits so long unless it fails."""


class Event(NamedTuple):
    id: str | None
    kind: str | None
    data: Any


class Watch:
    """Reads a stream as a browser does."""

    def __init__(self, response: Any) -> None:
        self.response = response
        self.comments = 0
        self.last_id = ""

    async def next(self) -> Event | None:
        """The next event, None at the end of the stream. Checks it against `openapi.yaml`."""
        fields: dict[str, str] = {}
        while line := (
            await asyncio.wait_for(self.response.content.readline(), WAIT_SECONDS)
        ).decode():
            if line.startswith(":"):
                self.comments += 1
            elif line != "\n":
                name, _, value = line.rstrip("\n").partition(": ")
                fields[name] = value
            elif fields:
                self.last_id = fields.get("id", self.last_id)
                if "data" in fields:
                    return self._event(fields)
                fields = {}
        return None

    @staticmethod
    def _event(fields: dict[str, str]) -> Event:
        validator("Event").validate(fields)
        data = json.loads(fields["data"])
        schema = {"at": "EventAt", "gone": "EventGone"}.get(fields["event"], "Record")
        validator(schema).validate(data)
        return Event(fields.get("id"), fields["event"], data)

    async def ids(self, last: int) -> list[int]:
        """Of all events up to revision `last`; only those are looked at."""
        ids: list[int] = []
        while not ids or ids[-1] != last:
            line = await asyncio.wait_for(self.response.content.readline(), WAIT_SECONDS)
            if line.startswith(b"id: "):
                ids.append(int(line[4:]))
        return ids

    async def take(self, count: int) -> list[Event]:
        events = [await self.next() for _ in range(count)]
        assert None not in events
        return [event for event in events if event is not None]


@contextlib.asynccontextmanager
async def watching(
    caller: Caller, last_id: int | None = None, **query: Any
) -> AsyncIterator[Watch]:
    headers = {} if last_id is None else {"Last-Event-ID": str(last_id)}
    url = caller.url + "/v1/events"
    async with caller.http.get(url, params=query, headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        yield Watch(response)


async def _cycle(node: FakeNode, *keys: str) -> None:
    """One hold of these keys: two records."""
    token = node.machine.last_token + 1
    await node.submit(Acquire(keys or ("k",), ALICE))
    await node.submit(Release(ALICE, token))


class Observed(Metrics):
    """Says when a stream has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[str] = []
        self.told = asyncio.Event()
        self.left = asyncio.Event()

    def count_watch_ended(self, reason: str) -> None:
        super().count_watch_ended(reason)
        self.ended.append(reason)
        self.told.set()

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        super().observe_request(route, method, status, seconds)
        if route == "/v1/events":
            self.left.set()

    @property
    def watchers(self) -> float | None:
        return self.registry.get_sample_value("holdfast_watchers")


@pytest.fixture
async def node(make_node: Callable[..., FakeNode]) -> FakeNode:
    node = make_node()
    await node.submit(OpenSession(ALICE, 600_000))
    return node


async def test_a_stream_begins_with_where_it_is_and_tells_what_happens_in_order(caller, node):
    """From now on: what was before is not told. An id is the revision."""
    await _cycle(node)
    async with watching(caller) as watch:
        assert await watch.next() == Event(
            "2", "at", {"revision": 2, "first_revision": 1, "node": "n1"}
        )
        await caller.acquire("k", session=ALICE, owner="worker 7")
        granted = await watch.next()
        await caller.post("/v1/locks/release", {"session": ALICE, "token": 2})
        ended = await watch.next()
    assert (granted.id, granted.kind) == ("3", "granted")
    assert granted.data == {
        "revision": 3,
        "kind": "granted",
        "cluster_ms": 0,
        "wall_ms": node.wall_ms,
        "token": 2,
        "keys": ["k"],
        "owner": "worker 7",
        "mode": "exclusive",
        "waited_ms": 0,
    }
    assert (ended.id, ended.kind, ended.data["ended"]) == ("4", "ended", "released")


async def test_a_reader_resumes_where_it_was_without_gap_or_repeat_on_any_node(
    caller, node, serve, make_node
):
    """Revisions are those of the log, so another node goes on where the first one stopped. The header is later than the URL."""
    for _ in range(3):
        await _cycle(node)
    async with watching(caller, after=0) as watch:
        first = await watch.take(4)
    assert [event.id for event in first] == ["0", "1", "2", "3"]
    other = make_node()
    other.machine = Machine.restore(node.machine.snapshot())
    async with watching(await serve(other), last_id=3, after=0) as watch:
        at, *rest = await watch.take(4)
        assert (at.kind, at.data["revision"]) == ("at", 3)
        assert [event.id for event in rest] == ["4", "5", "6"]


async def test_a_burst_of_thousands_arrives_whole_and_in_order(caller, node):
    """More than one step reads, over several blocks of the trail, while it grows."""
    async with watching(caller, after=0) as watch:
        await watch.next()
        growing = asyncio.ensure_future(_cycles(node, 1_500))
        ids = await watch.ids(3_000)
        await growing
    assert ids == list(range(1, 3_001))


async def _cycles(node: FakeNode, count: int) -> None:
    for number in range(count):
        await _cycle(node, f"k/{number}")
        if number % 100 == 0:
            await asyncio.sleep(0)


async def test_a_watcher_of_a_prefix_sees_the_keys_under_it_and_no_others(caller, node):
    """Not even beside one of its own, in a hold of several keys."""
    async with watching(caller, prefix="pay/") as watch:
        await watch.next()
        await _cycle(node, "secret/1")
        await _cycle(node, "secret/2", "pay/1", "pay/2")
        granted, ended = await watch.take(2)
    assert granted.data["keys"] == ended.data["keys"] == ["pay/1", "pay/2"]
    assert (granted.id, ended.id) == ("3", "4")


async def test_a_quiet_stream_shows_that_it_is_alive_and_where(serve, node):
    """Its comment carries an id: a reader of a quiet prefix resumes after what happened elsewhere."""
    caller = await serve(node, patience=Patience(heartbeat_seconds=0.01))
    async with watching(caller, prefix="quiet/") as watch:
        await watch.next()
        await _cycle(node, "loud/1")
        reading = asyncio.ensure_future(watch.next())
        while not (watch.comments and watch.last_id == "2"):  # bounded: reading fails after a while
            await asyncio.wait([reading], timeout=0.005)
            assert not reading.done()
        reading.cancel()
        await asyncio.wait([reading])


async def test_events_that_are_no_longer_kept_are_a_clear_410(serve, make_node):
    """It says which is the oldest. The one right before that is still a place to begin."""
    limits = Limits(trail_blocks_max=1)
    node = make_node(limits)
    await node.submit(OpenSession(ALICE, 600_000))
    await _cycles(node, TRAIL_BLOCK_RECORDS)
    caller = await serve(node, machine_limits=limits)
    oldest = TRAIL_BLOCK_RECORDS + 1
    for query, headers in (({"after": oldest - 2}, {}), ({}, {"Last-Event-ID": str(oldest - 2)})):
        gone = await caller.send("GET", "/v1/events", params=query, headers=headers)
        assert (gone.status, gone.code) == (410, "no_longer_kept")
        assert gone.body["first_revision"] == oldest
    async with watching(caller, after=oldest - 1) as watch:
        at, first = await watch.take(2)
        assert at.data["first_revision"] == int(first.id or 0) == oldest


async def test_a_watcher_that_was_overtaken_is_told_and_let_go(serve, make_node):
    """time 0: a watcher has seen revision 2. time 1: its node takes over a state whose trail begins later: there is a gap, and the
    stream says so rather than going on behind it."""
    limits = Limits(trail_blocks_max=1)
    node, ahead = make_node(limits), make_node(limits)
    for each in (node, ahead):
        await each.submit(OpenSession(ALICE, 600_000))
    metrics = Observed()
    caller = await serve(node, machine_limits=limits, metrics=metrics)
    await _cycle(node)
    await _cycles(ahead, TRAIL_BLOCK_RECORDS)
    async with watching(caller) as watch:
        await watch.next()
        node.machine = Machine.restore(ahead.machine.snapshot(), limits)
        node.tell()
        gone = await watch.next()
        assert (gone.kind, gone.data["reason"]) == ("gone", "no_longer_kept")
        assert gone.data["first_revision"] == TRAIL_BLOCK_RECORDS + 1
        assert await watch.next() is None
    assert metrics.ended == ["no_longer_kept"]
    assert metrics.watchers == 0


async def test_a_node_that_is_behind_the_reader_catches_up_first(caller, node, make_node):
    """The reader has seen more on another node. A revision that nobody has seen is refused instead of waited for in vain."""
    ahead = make_node()
    await ahead.submit(OpenSession(ALICE, 600_000))
    await _cycle(ahead)
    beyond = await caller.get("/v1/events", after=2)
    assert (beyond.status, beyond.code, beyond.body["field"]) == (400, "bad_request", "after")

    async def catch_up() -> None:
        node.machine = ahead.machine

    node.barrier = catch_up
    async with watching(caller, after=2) as watch:
        at = await watch.next()
        assert at.data["revision"] == 2


async def test_as_many_watchers_as_the_configuration_allows_and_room_again_when_one_leaves(
    serve, node
):
    metrics = Observed()
    caller = await serve(node, http_limits=HttpLimits(watchers_max=1), metrics=metrics)
    async with watching(caller) as watch:
        await watch.next()
        assert metrics.watchers == 1
        refused = await caller.get("/v1/events")
        assert (refused.status, refused.code) == (429, "limit_reached")
        assert refused.body["limit"] == "watchers_max"
        metrics.left.clear()
    await asyncio.wait_for(metrics.left.wait(), WAIT_SECONDS)
    assert metrics.watchers == 0
    async with watching(caller) as watch:
        assert (await watch.next()).kind == "at"


async def test_many_watchers_are_all_woken_although_a_turn_of_the_loop_wakes_only_some(
    serve, node, monkeypatch
):
    """Each has both events, however many groups they are woken in."""
    monkeypatch.setattr("holdfast_coordinator.http.watchers.WOKEN_TOGETHER", 10)
    caller = await serve(node)
    async with contextlib.AsyncExitStack() as streams:
        watches = [await streams.enter_async_context(watching(caller)) for _ in range(25)]
        for watch in watches:
            await watch.next()
        await _cycle(node)
        ids = [[event.id for event in await watch.take(2)] for watch in watches]
    assert ids == [["1", "2"]] * len(watches)


async def test_a_crowd_that_is_far_behind_is_read_to_one_at_a_time(caller, node, monkeypatch):
    """Blocks that have been packed take a moment each to read: one in a turn of the loop. Nobody is forgotten."""
    await _cycles(node, 2 * TRAIL_BLOCK_RECORDS)
    last = node.machine.trail.last_revision
    turn, reads = 0, Counter()
    read = Trail.read

    def counted(self: Trail, after: int, limit: int) -> Any:
        reads[turn] += after + 1 < self.open_first
        return read(self, after, limit)

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(Trail, "read", counted)
    counting = asyncio.ensure_future(count_turns())
    async with contextlib.AsyncExitStack() as streams:
        watches = [await streams.enter_async_context(watching(caller, after=0)) for _ in range(4)]
        ids = await asyncio.gather(*(watch.ids(last) for watch in watches))
    counting.cancel()
    assert ids == [list(range(last + 1))] * 4
    assert max(reads.values()) == 1
    assert reads.total() == 4 * 4


async def test_who_waits_in_vain_is_not_remembered(node):
    """A quiet cluster for a year: nothing grows with each comment line that is sent meanwhile."""
    watchers = Watchers(node)
    watchers.enter()
    last = node.machine.trail.last_revision
    waiting = [asyncio.ensure_future(watchers.grown(last)) for _ in range(WOKEN_TOGETHER + 1)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.wait([waiting[0]])
    assert len(watchers._waiting) == WOKEN_TOGETHER
    watchers.stop()
    await asyncio.wait_for(asyncio.gather(*waiting[1:]), WAIT_SECONDS)
    assert not watchers._waiting


async def test_a_node_that_stops_ends_its_streams_with_the_reason_and_at_once(node):
    """The reader goes on with another node; the node does not wait for it."""
    server = await start_http(node, "127.0.0.1", 0, shutdown_grace_seconds=60)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"event: at")
    await asyncio.wait_for(server.close(), WAIT_SECONDS)
    rest = (await reader.read()).decode()
    writer.close()
    assert 'event: gone\ndata: {"reason":"stopping"' in rest
    assert rest.endswith("0\r\n\r\n")
    node.tell()  # nobody listens any more, and nothing happens


async def test_a_stream_is_got_and_not_asked_for_by_head(caller):
    assert (await caller.send("HEAD", "/v1/events")).status == 405


# -- readers that do not read ----------------------------------------------------------------------------------------------

LONG_KEYS = [f"{number:03d}" + "x" * 500 for number in range(60)]
"""A hold of them is a record of 30 KiB."""
CYCLES_THAT_FILL = 200
"""12 MiB of events: more than the kernel keeps for a connection."""


@contextlib.asynccontextmanager
async def _deaf(caller: Caller) -> AsyncIterator[socket.socket]:
    """A reader that takes the first event, and no other."""
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        await loop.sock_connect(connection, ("127.0.0.1", caller.port))
        await loop.sock_sendall(
            connection, b"GET /v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        begun = b""
        while not begun.endswith(b"\n\n\r\n"):  # the chunk of the event `at`
            begun += await asyncio.wait_for(loop.sock_recv(connection, 1024), WAIT_SECONDS)
        yield connection


async def _read_to_the_end(connection: socket.socket) -> bytes:
    data = bytearray()
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):
        while piece := await asyncio.wait_for(loop.sock_recv(connection, 1 << 20), WAIT_SECONDS):
            data += piece
    return bytes(data)


async def _fill(node: FakeNode, metrics: Observed) -> None:
    for _ in range(CYCLES_THAT_FILL):
        await _cycle(node, *LONG_KEYS)
        await asyncio.sleep(0)
    await asyncio.wait_for(metrics.told.wait(), WAIT_SECONDS)
    assert metrics.ended == ["slow_reader"]


async def test_a_reader_that_is_too_slow_is_told_so_when_it_reads_at_last(serve, node):
    """What it was sent before is whole and in order; then comes the reason, and the end."""
    metrics = Observed()
    patience = Patience(slow_reader_seconds=1.5)
    caller = await serve(node, metrics=metrics, patience=patience)
    async with _deaf(caller) as connection:
        await _fill(node, metrics)
        data = await _read_to_the_end(connection)
    assert data.endswith(b"0\r\n\r\n")
    assert b'event: gone\ndata: {"reason":"slow_reader"' in data[-300:]
    ids = [int(line[4:]) for line in data.split(b"\n") if line.startswith(b"id: ")]
    assert ids == list(range(1, len(ids) + 1))
    assert 0 < len(ids) < 2 * CYCLES_THAT_FILL
    await asyncio.wait_for(metrics.left.wait(), WAIT_SECONDS)
    assert metrics.watchers == 0


async def test_a_reader_that_never_reads_is_cut_off_and_costs_nothing_more(serve, node):
    """It does not even take the reason. Its connection, and what is buffered for it, do not stay."""
    metrics = Observed()
    caller = await serve(node, metrics=metrics, patience=Patience(slow_reader_seconds=0.05))
    async with _deaf(caller) as connection:
        await _fill(node, metrics)
        await asyncio.wait_for(metrics.left.wait(), WAIT_SECONDS)
        assert metrics.watchers == 0
        assert not (await _read_to_the_end(connection)).endswith(b"0\r\n\r\n")


@pytest.mark.skipif(TCP_USER_TIMEOUT is None, reason="this system has no such option")
async def test_a_reader_whose_machine_is_gone_is_noticed_by_the_kernel(caller, monkeypatch):
    """It acknowledges nothing any more; three times the patience is enough."""
    timeouts = []
    prepare = StreamResponse.prepare

    async def observed(self: StreamResponse, request: Any) -> Any:
        connection = request.transport.get_extra_info("socket")
        timeouts.append(connection.getsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT))
        return await prepare(self, request)

    monkeypatch.setattr(StreamResponse, "prepare", observed)
    async with watching(caller) as watch:
        await watch.next()
    assert timeouts == [30_000]


async def test_a_slow_reader_holds_up_nobody(serve, node):
    """Others have every event long before the slow one is given up."""
    caller = await serve(node, patience=Patience(slow_reader_seconds=3_600))
    async with _deaf(caller), watching(caller) as watch:
        await watch.next()
        filling = asyncio.ensure_future(_cycles_of_long_keys(node))
        ids = await watch.ids(2 * CYCLES_THAT_FILL)
        await filling
    assert ids == list(range(1, 2 * CYCLES_THAT_FILL + 1))


async def _cycles_of_long_keys(node: FakeNode) -> None:
    for _ in range(CYCLES_THAT_FILL):
        await _cycle(node, *LONG_KEYS)
        await asyncio.sleep(0)


async def test_a_fault_of_ours_ends_the_stream_in_the_middle_and_is_logged(
    caller, node, monkeypatch
):
    """A second answer in the same connection would be taken for a part of the first."""

    text = "customers/4711"

    def broken(*_: object) -> None:
        raise KeyError(text)

    monkeypatch.setattr("holdfast_coordinator.http.events.record_view", broken)
    async with watching(caller) as watch:
        await watch.next()
        with structlog.testing.capture_logs() as logs:
            await _cycle(node, "customers/4711")
            with pytest.raises(ClientPayloadError):
                await watch.next()
    assert [(log["error"], log["route"]) for log in logs] == [("KeyError", "/v1/events")]
    assert "4711" not in repr(logs)
