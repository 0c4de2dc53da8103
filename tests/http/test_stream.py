"""The stream as a client of another kind would use it: a WebSocket, msgpack, and the numbers of docs/stream.md."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import msgpack
import pytest

from holdfast import stream_frames
from holdfast import stream_wire as numbers
from holdfast_coordinator.config import Rate
from holdfast_coordinator.http import stream
from holdfast_coordinator.http.streams import Patience
from holdfast_coordinator.machine.outcomes import Withdrawn
from holdfast_coordinator.node_types import Unknown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SESSION = "a-session-of-the-stream"
OTHER = "another-session-of-it"


class Peer:
    """One connection. `hear` is the next entry, over frames."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.frames: list[list[Any]] = []
        self._heard: list[list[Any]] = []

    async def say(self, *entries: list[Any]) -> None:
        await self.socket.send_bytes(msgpack.packb(entries))

    async def hear(self) -> list[Any]:
        while not self._heard:
            frame = msgpack.unpackb(await self.socket.receive_bytes(timeout=10.0))
            self.frames.append(frame)
            self._heard += frame
        return self._heard.pop(0)

    async def ask(self, *entry: Any) -> list[Any]:
        await self.say(list(entry))
        return await self.hear()

    async def ended(self) -> int | None:
        """The code with which the node ends the connection."""
        message = await self.socket.receive(timeout=10.0)
        assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED), message
        return self.socket.close_code


@asynccontextmanager
async def connected(caller: Any, **options: Any) -> AsyncIterator[Peer]:
    async with caller.http.ws_connect(caller.url + numbers.STREAM_PATH, **options) as socket:
        peer = Peer(socket)
        kind, call, told = await peer.hear()
        assert (kind, call, told["version"]) == (numbers.HELLO, 0, 1)
        peer.frames.clear()
        yield peer


@pytest.fixture
async def peer(caller: Any) -> AsyncIterator[Peer]:
    async with connected(caller) as one:
        yield one


def acquire(call: int, session: str, request_id: int, key: str, wait_ms: int = 0) -> list[Any]:
    return [numbers.ACQUIRE, call, session, request_id, key, wait_ms]


async def test_the_node_speaks_first_and_tells_its_bounds(caller):
    """A client need not know them in advance."""
    async with caller.http.ws_connect(caller.url + numbers.STREAM_PATH) as socket:
        (hello,) = msgpack.unpackb(await socket.receive_bytes())
    assert hello == [
        numbers.HELLO,
        0,
        {
            "version": 1,
            "node": "n1",
            "window": numbers.WINDOW,
            "frame_operations_max": numbers.FRAME_OPERATIONS_MAX,
            "frame_bytes_max": numbers.FRAME_BYTES_MAX,
        },
    ]


async def test_what_is_asked_in_one_frame_is_answered_in_one(peer):
    """Each answer repeats the number of its call."""
    await peer.say(
        [numbers.OPEN, 7, SESSION, 10_000],
        acquire(8, SESSION, 1, "k"),
        [numbers.ACQUIRE, 9, SESSION, 2, ["a", "b"]],
        acquire(10, SESSION, 3, "k"),
        [numbers.RENEW, 11, SESSION],
        [numbers.RELEASE, 12, SESSION, 1],
        [numbers.CHECKPOINT, 13, SESSION, 2, "half way"],
        [numbers.COMPLETE, 14, SESSION, 2, "done", 60_000],
        [numbers.CANCEL, 15, SESSION, 4],
        [numbers.CLOSE, 16, SESSION],
    )
    told = {call: (kind, *rest) for kind, call, *rest in [await peer.hear() for _ in range(10)]}
    assert len(peer.frames) == 1
    assert told[7] == (numbers.OPEN, 10_000, 10_000)
    assert told[8] == (numbers.ACQUIRE, 1, 10_000, 1, 0, [None])
    assert told[9] == (numbers.ACQUIRE, 2, 10_000, 2, 0, [None, None])
    assert told[10][:2] == (numbers.REFUSED, 409)
    assert told[10][2]["code"] == "held"
    assert told[11] == (numbers.RENEW, 10_000, [])
    assert told[12] == (numbers.RELEASE,)
    assert told[13] == (numbers.CHECKPOINT,)
    assert told[14] == (numbers.COMPLETE, 60_000)
    assert told[15] == (numbers.CANCEL, None)
    assert told[16] == (numbers.CLOSE, [])


async def test_a_grant_tells_what_was_before_and_what_was_noted(peer, node):
    """As the plain call does, with the keys left out: the caller knows them."""
    await peer.ask(numbers.OPEN, 1, SESSION, 10_000)
    await peer.ask(*acquire(2, SESSION, 1, "k"))
    await peer.ask(numbers.CHECKPOINT, 3, SESSION, 1, "half way")
    node.advance(10_500)
    assert await peer.hear() == [numbers.ENDED, 0, SESSION]
    await peer.ask(numbers.OPEN, 4, OTHER, 10_000)
    granted = await peer.ask(*acquire(5, OTHER, 1, "k"))
    assert granted == [
        numbers.ACQUIRE, 5, 2, 10_000, 2, 0, [[1, "expired"]], [[1, "half way"]],
    ]  # fmt: skip


BAD = [
    ("/v1/sessions", {"session": SESSION, "ttl_ms": 1}),
    ("/v1/sessions", {"session": "short", "ttl_ms": 10_000}),
    ("/v1/sessions", {"session": OTHER, "ttl_ms": "10"}),
    ("/v1/sessions/renew", {"session": OTHER}),
    ("/v1/sessions/renew", {"session": 7}),
    ("/v1/sessions/close", {"session": "-"}),
    ("/v1/locks/acquire", {"session": SESSION, "request_id": 1, "key": ""}),
    ("/v1/locks/acquire", {"session": SESSION, "request_id": 1, "key": "a\nb"}),
    ("/v1/locks/acquire", {"session": SESSION, "request_id": 1, "keys": []}),
    ("/v1/locks/acquire", {"session": SESSION, "request_id": 1, "keys": ["a", "a"]}),
    ("/v1/locks/acquire", {"session": SESSION, "request_id": -1, "key": "a"}),
    ("/v1/locks/acquire", {"session": SESSION, "request_id": 1, "key": "a", "wait_ms": 30_001}),
    ("/v1/locks/acquire", {"session": SESSION, "request_id": 1, "key": "a", "mode": "shared", "limit": 0}),
    ("/v1/locks/acquire", {"session": SESSION, "request_id": 1, "key": "a", "limit": 2}),
    ("/v1/locks/acquire", {"session": SESSION, "request_id": 1, "key": "a", "on_unclean": "delay"}),
    ("/v1/locks/acquire", {"session": SESSION, "request_id": 1, "key": "a", "context": "x" * 129}),
    ("/v1/locks/acquire", {"session": SESSION, "request_id": 1, "key": "held"}),
    ("/v1/locks/acquire", {"session": OTHER, "request_id": 1, "key": "a"}),
    ("/v1/locks/release", {"session": SESSION, "token": 0}),
    ("/v1/locks/release", {"session": SESSION, "token": 999}),
    ("/v1/locks/complete", {"session": SESSION, "token": 1, "result": "x", "retain_ms": 1}),
    ("/v1/locks/checkpoint", {"session": SESSION, "token": 1, "value": "x" * 4_097}),
    ("/v1/locks/cancel", {"session": SESSION, "request_id": ""}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body"), BAD)
async def test_a_refusal_is_the_problem_of_the_plain_call(caller, peer, path, body):
    """Word for word, with the field that is wrong; and nothing else of its frame is refused."""
    assert (await caller.open(SESSION)).status == 201
    held = {"session": SESSION, "request_id": 100}
    assert (await caller.acquire("held", **held)).status == 200
    plain = await caller.post(path, body)
    entry = stream_frames.entry_of(path, body)
    assert entry is not None
    entry[1] = 5
    await peer.say([numbers.RENEW, 4, SESSION], entry)
    answers = {answer[1]: answer for answer in (await peer.hear(), await peer.hear())}
    assert answers[4][0] == numbers.RENEW
    kind, _, status, problem = answers[5]
    assert (kind, status, problem) == (numbers.REFUSED, plain.status, plain.body)


@pytest.mark.parametrize(
    "entry",
    [
        [numbers.ACQUIRE, 5, SESSION, 1],
        [numbers.ACQUIRE, 5, SESSION, 1, 17],
        [numbers.RELEASE, 5, SESSION, 1, "more"],
        [99, 5],
        ["acquire", 5],
    ],
)
async def test_an_entry_of_the_wrong_shape_is_refused_alone(peer, entry):
    """Under its own number."""
    await peer.say([numbers.OPEN, 4, SESSION, 10_000], entry)
    answers = {answer[1]: answer for answer in (await peer.hear(), await peer.hear())}
    assert answers[4][0] == numbers.OPEN
    assert answers[5][:1] + answers[5][2:3] == [numbers.REFUSED, 400]
    assert answers[5][3]["code"] == "bad_request"


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", msgpack.packb("no array"), msgpack.packb([[4]]), msgpack.packb([7]),
     msgpack.packb([[numbers.RENEW, 0, SESSION, "more"]]), msgpack.packb([[99, True]])],
)  # fmt: skip
async def test_a_frame_that_nobody_could_be_answered_of_ends_the_connection(peer, data):
    """1002: a protocol error. Nothing of it took effect."""
    await peer.socket.send_bytes(data)
    assert await peer.ended() == numbers.CLOSE_PROTOCOL


async def test_a_text_message_ends_the_connection(peer):
    """Frames are binary."""
    await peer.socket.send_str("[]")
    assert await peer.ended() == numbers.CLOSE_PROTOCOL


async def test_a_frame_of_too_many_operations_ends_the_connection(peer, node):
    """1009, and none of them is passed on."""
    many = numbers.FRAME_OPERATIONS_MAX + 1
    await peer.say(*([numbers.RENEW, number, SESSION] for number in range(1, many + 1)))
    assert await peer.ended() == numbers.CLOSE_TOO_BIG
    assert node.submitted == []


async def test_a_frame_of_too_many_bytes_ends_the_connection(peer):
    """The same."""
    await peer.socket.send_bytes(bytes(numbers.FRAME_BYTES_MAX + 1))
    assert await peer.ended() == numbers.CLOSE_TOO_BIG


async def test_a_frame_of_as_many_bytes_as_it_may_have_is_taken(peer):
    """The bound is the last that is allowed."""
    room = numbers.FRAME_BYTES_MAX - len(msgpack.packb([[numbers.RENEW, 1, "x" * 65_536]])) + 65_536
    frame = msgpack.packb([[numbers.RENEW, 1, "x" * room]])
    assert len(frame) == numbers.FRAME_BYTES_MAX
    await peer.socket.send_bytes(frame)
    assert (await peer.hear())[:3] == [numbers.REFUSED, 1, 400]


async def test_beyond_the_window_an_operation_is_overloaded(peer, monkeypatch):
    """Definite: it took no effect. Waiting acquires count."""
    monkeypatch.setattr(numbers, "WINDOW", 1)
    await peer.ask(numbers.OPEN, 1, SESSION, 10_000)
    await peer.ask(*acquire(2, SESSION, 1, "k"))
    await peer.say(acquire(3, SESSION, 2, "k", 10_000))
    kind, call, status, problem = await peer.ask(numbers.RENEW, 4, SESSION)
    assert (kind, call, status, problem["code"]) == (numbers.REFUSED, 4, 503, "overloaded")


async def test_a_frame_fills_the_window_and_goes_no_further(peer, monkeypatch):
    """The window holds within a frame as between two."""
    monkeypatch.setattr(numbers, "WINDOW", 3)
    await peer.ask(numbers.OPEN, 1, SESSION, 10_000)
    await peer.ask(*acquire(2, SESSION, 1, "k"))
    await peer.say(*(acquire(call, SESSION, call, "k", 10_000) for call in range(3, 8)))
    refused = [await peer.hear() for _ in range(2)]
    assert [(entry[1], entry[3]["code"]) for entry in refused] == [
        (6, "overloaded"),
        (7, "overloaded"),
    ]


async def test_a_wait_is_answered_when_it_ends_and_holds_up_nobody(caller, peer):
    """The grant comes by itself; other calls of the connection go on meanwhile."""
    await peer.ask(numbers.OPEN, 1, SESSION, 10_000)
    await peer.ask(*acquire(2, SESSION, 1, "k"))
    async with connected(caller) as other:
        await other.ask(numbers.OPEN, 1, OTHER, 10_000)
        await other.say(acquire(2, OTHER, 1, "k", 10_000))
        assert (await other.ask(numbers.RENEW, 3, OTHER))[:2] == [numbers.RENEW, 3]
        await peer.ask(numbers.RELEASE, 3, SESSION, 1)
        granted = await other.hear()
        assert granted[:3] == [numbers.ACQUIRE, 2, 2]
        assert granted[6] == [[1, "released"]]


async def test_a_lost_lease_is_pushed(caller, peer, node):
    """To every connection that has used the session, and once."""
    async with connected(caller) as second, connected(caller) as stranger:
        await peer.ask(numbers.OPEN, 1, SESSION, 10_000)
        await second.ask(numbers.RENEW, 1, SESSION)
        await stranger.ask(numbers.OPEN, 1, OTHER, 60_000)
        node.advance(10_500)
        assert await peer.hear() == [numbers.ENDED, 0, SESSION]
        assert await second.hear() == [numbers.ENDED, 0, SESSION]
        assert (await stranger.ask(numbers.RENEW, 2, OTHER))[:2] == [numbers.RENEW, 2]


async def test_a_session_that_was_closed_makes_room_for_another(peer, node, monkeypatch):
    """A client may have many, one after the other."""
    monkeypatch.setattr(stream, "SESSIONS_TOLD_MAX", 1)
    await peer.ask(numbers.OPEN, 1, SESSION, 60_000)
    await peer.ask(numbers.CLOSE, 2, SESSION)
    await peer.ask(numbers.OPEN, 3, OTHER, 10_000)
    node.advance(10_500)
    assert await peer.hear() == [numbers.ENDED, 0, OTHER]


async def test_a_hold_that_an_operator_ends_is_pushed(caller, peer):
    """With its token, once."""
    await peer.ask(numbers.OPEN, 1, SESSION, 10_000)
    await peer.ask(*acquire(2, SESSION, 1, "k"))
    force = {"key": "k", "reason": "stuck", "operator": "olga"}
    assert (await caller.post("/v1/locks/force-release", force)).status == 200
    assert await peer.hear() == [numbers.FORCED, 0, SESSION, [1]]
    assert await peer.ask(numbers.RENEW, 3, SESSION) == [numbers.RENEW, 3, 10_000, [1]]


async def happen(peer: Peer, key: str, request_id: int) -> int:
    """A lock cycle: two events. The token."""
    token: int = (await peer.ask(*acquire(1_000 + request_id, SESSION, request_id, key)))[2]
    await peer.ask(numbers.RELEASE, 2_000 + request_id, SESSION, token)
    return token


async def test_a_watch_tells_what_happens_under_its_prefix(caller, peer):
    """In the order of the log, with the revisions by which it can be resumed; on a connection that goes on with its calls."""
    await peer.ask(numbers.OPEN, 1, SESSION, 60_000)
    async with connected(caller) as watcher:
        assert await watcher.ask(numbers.WATCH, 7, "a/") == [numbers.WATCH, 7, 0, 1]
        await happen(peer, "b/1", 1)
        token = await happen(peer, "a/1", 2)
        heard: list[Any] = []
        while len(heard) < 2:
            kind, call, events = await watcher.hear()
            assert (kind, call) == (numbers.EVENTS, 7)
            heard += events
        assert [(each["revision"], each["kind"], each["token"]) for each in heard] == [
            (3, "granted", token),
            (4, "ended", token),
        ]
        assert await watcher.ask(numbers.UNWATCH, 7) == [numbers.UNWATCH, 7]
        assert (await watcher.ask(*acquire(8, SESSION, 9, "a/2")))[:2] == [numbers.ACQUIRE, 8]
        resumed = await watcher.ask(numbers.WATCH, 9, "a/", 3)
        assert resumed == [numbers.WATCH, 9, 3, 1]
        kind, call, events = await watcher.hear()
        assert [each["revision"] for each in events] == [4, 5]


async def test_a_watch_sends_no_more_than_its_client_has_room_for(caller, peer):
    """The rest stays in the trail, and comes when the client says so."""
    await peer.ask(numbers.OPEN, 1, SESSION, 60_000)
    for number in range(1, 4):
        await happen(peer, "k", number)
    async with connected(caller) as watcher:
        assert (await watcher.ask(numbers.WATCH, 7, "", 0, 2))[:2] == [numbers.WATCH, 7]
        assert [each["revision"] for each in (await watcher.hear())[2]] == [1, 2]
        assert (await watcher.ask(numbers.RENEW, 8, SESSION))[1] == 8  # and no third event
        await watcher.say([numbers.EVENTS, 7, 1])
        assert [each["revision"] for each in (await watcher.hear())[2]] == [3]
        await watcher.say([numbers.EVENTS, 7, 1_000])
        assert [each["revision"] for each in (await watcher.hear())[2]] == [4, 5, 6]


async def test_a_watch_that_ends_while_nothing_is_taken_ends_nothing_else(
    caller, peer, monkeypatch
):
    """The other watch and the connection wait on until there is room for what is on its way, and then go on."""
    waiting: asyncio.Queue[Any] = asyncio.Queue()

    protocols: list[Any] = []

    class Observed(stream._Connection):
        async def run(self) -> None:
            protocols.append(self._request.protocol)
            await super().run()

        async def _drained(self) -> bool:
            waiting.put_nowait(self)
            return await super()._drained()

    monkeypatch.setattr(stream, "_Connection", Observed)
    monkeypatch.setattr(stream, "UNSENT_HIGH_BYTES", 0)
    await peer.ask(numbers.OPEN, 1, SESSION, 60_000)
    async with connected(caller) as watcher:
        for call in (7, 8):
            assert (await watcher.ask(numbers.WATCH, call))[:2] == [numbers.WATCH, call]
        [protocol] = protocols
        protocol.pause_writing()
        await happen(peer, "k", 1)
        for _ in range(2):  # both watches wait
            await asyncio.wait_for(waiting.get(), 10.0)
        assert {(await watcher.hear())[1] for _ in range(2)} == {7, 8}
        await watcher.say([numbers.UNWATCH, 7])
        assert await watcher.hear() == [numbers.UNWATCH, 7]
        await asyncio.wait_for(waiting.get(), 10.0)  # and so does what reads from the connection
        protocol.resume_writing()
        await watcher.say([numbers.RENEW, 9, SESSION])
        token = await happen(peer, "k", 2)
        is_answered, told = False, set()
        while not is_answered or token not in told:
            kind, call, *rest = await watcher.hear()
            assert (kind, call) in ((numbers.RENEW, 9), (numbers.EVENTS, 8))
            is_answered |= kind == numbers.RENEW
            told |= {each["token"] for each in rest[0]} if kind == numbers.EVENTS else set()


async def test_what_is_no_longer_kept_is_told_to_a_watch(peer, node):
    """Then it is over: the locks have to be read anew."""
    node.machine.trail.open_first = 100
    kind, call, status, problem = await peer.ask(numbers.WATCH, 7, "", 5)
    assert (kind, call, status, problem["code"]) == (numbers.REFUSED, 7, 410, "no_longer_kept")
    assert problem["first_revision"] == 100


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ([numbers.WATCH, 7, "a\nb"], "prefix"),
        ([numbers.WATCH, 7, "", 10**6], "after"),
        ([numbers.WATCH, 7, "", None, 0], "window"),
        ([numbers.WATCH, 7, "", None, numbers.EVENTS_WINDOW_MAX + 1], "window"),
    ],
)
async def test_a_watch_that_makes_no_sense_is_refused_by_name(peer, entry, field):
    """As everything is."""
    kind, call, status, problem = await peer.ask(*entry)
    assert (kind, call, status, problem["field"]) == (numbers.REFUSED, 7, 400, field)


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ([numbers.EVENTS, 7, numbers.EVENTS_WINDOW_MAX], "count"),
        ([numbers.EVENTS, 7, "many"], "count"),
        ([numbers.WATCH, 7], "call"),
    ],
)
async def test_a_refusal_with_the_number_of_a_watch_ends_it(caller, peer, entry, field):
    """Its client cannot tell it from any other end; so no event follows, and the number of its watches is one less."""
    await peer.ask(numbers.OPEN, 1, SESSION, 60_000)
    async with connected(caller) as watcher:
        assert (await watcher.ask(numbers.WATCH, 7, "", None, 1))[:2] == [numbers.WATCH, 7]
        assert (await watcher.ask(numbers.WATCH, 8))[:2] == [numbers.WATCH, 8]
        kind, call, status, problem = await watcher.ask(*entry)
        assert (kind, call, status, problem["field"]) == (numbers.REFUSED, 7, 400, field)
        await happen(peer, "k", 1)
        heard = 0
        while heard < 2:
            kind, call, events = await watcher.hear()
            assert (kind, call) == (numbers.EVENTS, 8)
            heard += len(events)
        assert "holdfast_watchers 1.0" in (await caller.get("/metrics")).raw.decode()


async def test_watches_are_few_and_end_with_their_connection(caller, peer, node):
    """A connection has a bound of its own, a node another."""
    async with connected(caller) as watcher:
        for number in range(1, numbers.WATCHES_MAX + 1):
            assert (await watcher.ask(numbers.WATCH, number))[0] == numbers.WATCH
        refused = await watcher.ask(numbers.WATCH, 99)
        assert (refused[2], refused[3]["code"]) == (429, "limit_reached")
        assert (
            f"holdfast_watchers {numbers.WATCHES_MAX}.0"
            in (await caller.get("/metrics")).raw.decode()
        )
    told = ""
    while "holdfast_watchers 0.0" not in told:
        told = (await caller.get("/metrics")).raw.decode()


async def test_who_comes_back_stands_where_it_stood(caller, peer, node):
    """A connection breaks while an acquire waits; asked for again on another one, under the same request id, it has its place."""
    await peer.ask(numbers.OPEN, 1, SESSION, 60_000)
    await peer.ask(*acquire(2, SESSION, 1, "k"))
    async with connected(caller) as first:
        await first.ask(numbers.OPEN, 1, OTHER, 60_000)
        await first.say(acquire(2, OTHER, 1, "k", 10_000))
        await first.ask(numbers.RENEW, 3, OTHER)
    await peer.say(acquire(3, SESSION, 2, "k", 10_000))  # stands behind the one that broke
    async with connected(caller) as again:
        await again.say(acquire(1, OTHER, 1, "k", 10_000))
        await again.ask(numbers.RENEW, 2, OTHER)
        await peer.ask(numbers.RELEASE, 4, SESSION, 1)
        assert (await again.hear())[:3] == [numbers.ACQUIRE, 1, 2]
    assert node.withdrawn == []


async def test_who_does_not_come_back_is_withdrawn(caller, peer, node, monkeypatch):
    """After a while that is short beside a lease, so that nobody is granted to a dead client for long."""
    monkeypatch.setattr(stream, "RESUME_SECONDS", 0.0)
    await peer.ask(numbers.OPEN, 1, SESSION, 60_000)
    await peer.ask(*acquire(2, SESSION, 1, "k"))
    async with connected(caller) as other:
        await other.ask(numbers.OPEN, 1, OTHER, 60_000)
        await other.say(acquire(2, OTHER, 1, "k", 10_000))
        await other.ask(numbers.RENEW, 3, OTHER)
    await asyncio.wait_for(node.withdrew.wait(), 10.0)
    assert node.machine.counts().waiters == 0


@pytest.mark.parametrize(
    ("outcome", "status", "code"),
    [(Unknown("too late"), 504, "unknown_outcome"), (Withdrawn(True), 503, "no_leader")],
)
async def test_an_unknown_outcome_is_never_a_refusal(peer, node, outcome, status, code):
    """The codes are those of the plain call."""
    node.answers.append(outcome)
    kind, _, told, problem = await peer.ask(numbers.RENEW, 1, SESSION)
    assert (kind, told, problem["code"]) == (numbers.REFUSED, status, code)


async def test_a_node_that_stops_says_so(caller, node, serve):
    """1001: go on with another node."""
    other = await serve(node)
    async with connected(other) as peer:
        await other.server.close()
        assert await peer.ended() == numbers.CLOSE_GOING_AWAY


async def test_a_client_that_reads_nothing_is_cut_off(node, serve):
    """What is on its way to it is bounded, and so is the time that it gets."""
    caller = await serve(node, patience=Patience(slow_reader_seconds=0.05))
    _reader, writer = await asyncio.open_connection("127.0.0.1", caller.port, limit=1024)
    handshake = (
        f"GET {numbers.STREAM_PATH} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    )
    writer.write(handshake.encode())
    frame = msgpack.packb([[numbers.RENEW, number, OTHER] for number in range(1, 513)])
    head = b"\x82\xfe" + len(frame).to_bytes(2, "big") + bytes(4)  # a mask of zeros
    try:
        for _ in range(
            1_000
        ):  # 170 KB of refusals each: the buffers of the kernel are full long before
            writer.write(head + frame)
            await writer.drain()
        pytest.fail("the node took everything")
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()


async def test_what_is_no_websocket_is_told_so(caller):
    """426, with the protocol that is needed."""
    refused = await caller.get(numbers.STREAM_PATH)
    assert (refused.status, refused.code) == (426, "upgrade_required")
    assert refused.headers["Upgrade"] == "websocket"


async def test_a_page_of_another_origin_may_not_connect(caller):
    """A browser would let it, to the loopback of whoever looks at that page."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await caller.http.ws_connect(
            caller.url + numbers.STREAM_PATH, headers={"Origin": "http://evil.example"}
        )
    assert refused.value.status == 403
    async with connected(caller, headers={"Origin": caller.url}):
        pass


async def test_rates_hold_on_the_stream_too(node, serve):
    """A quota's rate is asked for each new acquire, and not for its repeats."""
    caller = await serve(node, rates=[Rate("k", None, 1)])
    async with connected(caller) as peer:
        await peer.ask(numbers.OPEN, 1, SESSION, 10_000)
        assert (await peer.ask(*acquire(2, SESSION, 1, "k1")))[0] == numbers.ACQUIRE
        kind, _, status, problem = await peer.ask(*acquire(3, SESSION, 2, "k2"))
        assert (kind, status, problem["code"]) == (numbers.REFUSED, 429, "limit_reached")
        assert (await peer.ask(*acquire(4, SESSION, 1, "k1")))[:3] == [numbers.ACQUIRE, 4, 1]


async def test_the_metrics_count_what_comes_over_the_stream(caller, peer):
    """Acquires by their outcome, refusals by their code, connections."""
    await peer.ask(numbers.OPEN, 1, SESSION, 10_000)
    await peer.ask(*acquire(2, SESSION, 1, "k"))
    await peer.ask(*acquire(3, SESSION, 2, "k"))
    told = (await caller.get("/metrics")).raw.decode()
    assert 'holdfast_acquire_wait_seconds_count{outcome="granted"} 1.0' in told
    assert 'holdfast_acquire_wait_seconds_count{outcome="held"} 1.0' in told
    assert 'holdfast_rejected_total{reason="held"} 1.0' in told
    assert "holdfast_streams 1.0" in told


async def test_a_node_says_who_leads_if_it_is_another(caller, node):
    """At the beginning, and when there is a new leader; so that its clients may go there. The leader says nothing of it."""
    node.leader = "n2"
    there = [numbers.LEADER, 0, "n2", "http://127.0.0.1:7602"]
    async with caller.http.ws_connect(caller.url + numbers.STREAM_PATH) as socket:
        peer = Peer(socket)
        assert (await peer.hear())[0] == numbers.HELLO
        assert await peer.hear() == there
        assert len(peer.frames) == 1
        for leader in (None, "n1", None, "n2"):
            node.leader = leader
            node.tell()
        assert await peer.hear() == there
        node.tell()
        await peer.say([numbers.OPEN, 1, SESSION, 10_000])
        assert (await peer.hear())[0] == numbers.OPEN


async def test_who_comes_while_there_is_no_leader_is_told_of_the_next(caller, node):
    """Also if that is the one that there was before."""
    node.leader = "n2"
    node.tell()
    node.leader = None
    async with connected(caller) as peer:
        node.leader = "n2"
        node.tell()
        assert await peer.hear() == [numbers.LEADER, 0, "n2", "http://127.0.0.1:7602"]
