"""The client's side of the stream, against a node that does what the test says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from aiohttp import web

import holdfast
from holdfast import moves, retry, stream_connection, stream_transport
from holdfast import stream_wire as numbers
from holdfast.attempts import NoAnswer, NotSent
from holdfast.clock import BootClock
from holdfast.requests import Requester
from holdfast.stream_transport import StreamTransport
from holdfast.transport import Answer, Endpoints, HttpTransport, Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

SESSION = "a-session-of-the-test"
RENEWED = [numbers.RENEW, 0, 10_000, []]


async def until(condition: Callable[[], object]) -> None:
    """Sockets need real time; the bound only turns a hang into a failure."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)


def renewal(session: str = SESSION) -> Request:
    return Request("POST", "/v1/sessions/renew", {"session": session})


def releasing(number: int) -> Request:
    """What is answered at once, in one word."""
    return Request("POST", "/v1/locks/release", {"session": SESSION, "token": number})


def acquiring(number: int) -> Request:
    body = {"session": SESSION, "request_id": number, "key": f"k{number}", "wait_ms": 1_000}
    return Request("POST", "/v1/locks/acquire", body)


@dataclass
class Node:
    """Speaks the stream, or refuses to. `answer` makes the answers to a frame; None: silence."""

    window: int = numbers.WINDOW
    refuses_with: int = 0
    hello: Any = None
    answer: Callable[[list[Any]], Any] | None = None
    frames: list[list[Any]] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)
    sockets: list[web.WebSocketResponse] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    def __post_init__(self) -> None:
        if self.answer is None:
            self.answer = lambda entry: [entry[0], entry[1], *RENEWED[2:]]

    async def stream(self, request: web.Request) -> web.StreamResponse:
        if self.refuses_with:
            return web.Response(status=self.refuses_with)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.append(socket)
        told = {
            "version": 1,
            "node": "n1",
            "window": self.window,
            "frame_operations_max": 512,
            "frame_bytes_max": 65_536,
        }
        hello = self.hello if self.hello is not None else [[numbers.HELLO, 0, told]]
        await socket.send_bytes(msgpack.packb(hello))
        async for message in socket:
            frame = msgpack.unpackb(message.data)
            self.frames.append(frame)
            self.heard.set()
            assert self.answer is not None
            answers = [told for entry in frame if (told := self.answer(entry)) is not None]
            if answers:
                await socket.send_bytes(msgpack.packb(answers))
        return socket

    async def call(self, request: web.Request) -> web.Response:
        self.plain.append(request.path)
        return web.json_response({"remaining_ms": 10_000, "forced": []})

    async def push(self, entry: list[Any]) -> None:
        await self.sockets[-1].send_bytes(msgpack.packb([entry]))


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Node], Awaitable[Node]]]:
    runners: list[web.AppRunner] = []

    async def start(node: Node) -> Node:
        app = web.Application()
        app.router.add_get(numbers.STREAM_PATH, node.stream)
        app.router.add_post("/{path:.*}", node.call)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        node.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return node

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def transport() -> AsyncIterator[StreamTransport]:
    clock = BootClock()
    made = StreamTransport(HttpTransport(clock=clock), clock)
    yield made
    await made.aclose()


async def test_what_tasks_ask_in_one_turn_of_the_loop_leaves_in_one_frame(serve, transport):
    """And one connection serves all of them."""
    node = await serve(Node())
    await transport.attempt(node.url, renewal(), seconds=5)
    asked = [transport.attempt(node.url, renewal(f"{SESSION}-{n}"), seconds=5) for n in range(20)]
    answers = await asyncio.gather(*asked)
    assert {each.status for each in answers} == {200}
    assert [len(frame) for frame in node.frames] == [1, 20]
    assert len(node.sockets) == 1
    assert node.plain == []


async def test_what_is_asked_while_frames_are_on_their_way_gathers(serve, transport):
    """Two frames are on their way; the rest leaves as one, as soon as one of them is answered, given up, or cancelled."""
    node = await serve(Node())
    await transport.attempt(node.url, renewal(), seconds=5)
    node.answer = lambda entry: None
    node.frames.clear()

    async def ask(number: int) -> asyncio.Task[Answer]:
        return asyncio.ensure_future(transport.attempt(node.url, releasing(number), seconds=20))

    async def frames(count: int) -> None:
        while len(node.frames) < count:
            node.heard.clear()
            await asyncio.wait_for(node.heard.wait(), 10)

    tasks = []
    for number in range(2):
        tasks.append(await ask(number))
        await frames(number + 1)
    tasks += [await ask(number) for number in range(2, 7)]
    await node.push([99, 0, "an answer to nobody"])
    await node.push([numbers.RELEASE, node.frames[0][0][1]])
    await frames(3)
    assert [len(frame) for frame in node.frames] == [1, 1, 5]
    tasks.append(await ask(7))
    tasks[1].cancel()
    await frames(4)
    assert [len(frame) for frame in node.frames] == [1, 1, 5, 1]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_has_not_left_in_time_took_no_effect(serve, transport):
    """`NotSent`, and it does not leave later: by then its caller has asked elsewhere."""
    node = await serve(Node())
    await transport.attempt(node.url, renewal(), seconds=5)
    node.answer = lambda entry: None
    node.frames.clear()
    first = []
    for number in range(2):
        node.heard.clear()
        attempt = transport.attempt(node.url, releasing(number), seconds=20)
        first.append(asyncio.ensure_future(attempt))
        await asyncio.wait_for(node.heard.wait(), 10)
    late = asyncio.ensure_future(transport.attempt(node.url, releasing(7), seconds=0.2))
    while not late.done():  # the connection goes on to speak, so it is not taken for dead
        await node.push([99, 0, "alive"])
        await asyncio.wait({late}, timeout=0.02)
    assert isinstance(late.exception(), NotSent)
    node.heard.clear()
    await node.push([numbers.RELEASE, node.frames[0][0][1]])
    assert (await first[0]).status == 200
    assert [len(frame) for frame in node.frames] == [1, 1]
    first[1].cancel()
    await asyncio.gather(*first, return_exceptions=True)


async def test_what_cannot_be_packed_is_told_to_its_caller_alone(serve, transport):
    """Others of the same moment are answered; the connection goes on."""
    node = await serve(Node())
    await transport.attempt(node.url, renewal(), seconds=5)
    bad, good = await asyncio.gather(
        transport.attempt(node.url, renewal("\ud800" * 16), seconds=5),
        transport.attempt(node.url, renewal(), seconds=5),
        return_exceptions=True,
    )
    assert isinstance(bad, ValueError)
    assert good.status == 200
    assert len(node.sockets) == 1


@pytest.mark.parametrize("behind", [False, True])
async def test_a_call_that_no_frame_can_carry_is_refused_alone(serve, transport, behind):
    """Definite, as by the plain call. A frame of it would end the connection, and leave the outcomes of all others unknown."""
    node = await serve(Node())
    await transport.attempt(node.url, renewal(), seconds=5)
    body = {"session": SESSION, "token": 1, "value": "x" * 65_536}
    checkpoint = Request("POST", "/v1/locks/checkpoint", body)
    asked = [transport.attempt(node.url, releasing(n), seconds=5) for n in range(2)]
    asked.insert(int(behind), transport.attempt(node.url, checkpoint, seconds=5))
    answers = await asyncio.gather(*asked)
    refused = answers.pop(int(behind))
    assert (refused.status, refused.body["code"]) == (413, "too_large")
    assert [each.status for each in answers] == [200, 200]
    assert max(len(msgpack.packb(frame)) for frame in node.frames) < 1_000
    assert len(node.sockets) == 1


async def test_renewals_gather_but_hold_up_nothing_else(serve, transport):
    """A node gathers them too, for 50 ms, and answers at once when something else comes."""
    node = await serve(Node())
    await transport.attempt(node.url, renewal(), seconds=5)
    node.answer = lambda entry: None
    node.frames.clear()
    tasks = []

    async def ask(request: Request, frames: int) -> None:
        node.heard.clear()
        tasks.append(asyncio.ensure_future(transport.attempt(node.url, request, seconds=20)))
        while len(node.frames) < frames:
            await asyncio.wait_for(node.heard.wait(), 10)
            node.heard.clear()

    await ask(renewal(f"{SESSION}-0"), 1)
    await ask(renewal(f"{SESSION}-1"), 2)
    await ask(renewal(f"{SESSION}-2"), 2)
    await ask(renewal(f"{SESSION}-3"), 2)
    await ask(acquiring(4), 3)
    await ask(releasing(5), 4)
    await ask(renewal(f"{SESSION}-6"), 4)
    await node.push([numbers.RENEW, node.frames[0][0][1], 10_000, []])
    await node.push([numbers.RENEW, node.frames[1][0][1], 10_000, []])
    await node.push([numbers.RENEW, node.frames[2][0][1], 10_000, []])
    await until(lambda: len(node.frames) == 5)
    kinds = [[entry[0] for entry in frame] for frame in node.frames]
    renew, acquire, release = numbers.RENEW, numbers.ACQUIRE, numbers.RELEASE
    assert kinds == [[renew], [renew], [renew, renew, acquire], [release], [renew]]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_acquires_that_wait_hold_up_no_frame(serve, transport):
    """They are answered when somebody lets go, which may be long."""
    node = await serve(Node(answer=lambda entry: None))
    asked = []
    for number in range(4):
        node.heard.clear()
        attempt = transport.attempt(node.url, acquiring(number), seconds=20)
        asked.append(asyncio.ensure_future(attempt))
        await asyncio.wait_for(node.heard.wait(), 10)
    for each in asked:
        each.cancel()
    await asyncio.gather(*asked, return_exceptions=True)


async def test_each_answer_finds_who_asked(serve, transport):
    """In whatever order they come."""
    node = await serve(Node(answer=lambda entry: None))
    asked = [
        asyncio.ensure_future(transport.attempt(node.url, acquiring(n), seconds=5))
        for n in range(3)
    ]
    while sum(map(len, node.frames)) < 3:
        node.heard.clear()
        await asyncio.wait_for(node.heard.wait(), 10)
    for entry in reversed([entry for frame in node.frames for entry in frame]):
        token = 100 + entry[3]
        await node.push([numbers.ACQUIRE, entry[1], token, 10_000, token, 0, [None]])
    answers = await asyncio.gather(*asked)
    assert [each.body["token"] for each in answers] == [100, 101, 102]
    assert answers[0].body == {
        "token": 100,
        "fence": 100,
        "keys": ["k0"],
        "mode": "exclusive",
        "session": SESSION,
        "remaining_ms": 10_000,
        "previous": None,
        "previous_horizon": 0,
        "checkpoint": None,
    }


@pytest.mark.parametrize("status", [404, 426, 403, 502])
async def test_where_there_is_no_stream_plain_calls_do_it(serve, transport, monkeypatch, status):
    """An old node, or a proxy that lets no WebSocket through. It is tried again later."""
    node = await serve(Node(refuses_with=status))
    for _ in range(3):
        assert (await transport.attempt(node.url, renewal(), seconds=5)).status == 200
    assert node.plain == ["/v1/sessions/renew"] * 3
    node.refuses_with = 0
    transport._refused_until.clear()  # the minute is over
    assert (await transport.attempt(node.url, renewal(), seconds=5)).status == 200
    assert len(node.plain) == 3
    assert len(node.frames) == 1


@pytest.mark.parametrize(
    "hello", [[], "?", [[numbers.HELLO, 0, {"version": 2}]], [[numbers.HELLO, 0, {}]]]
)
async def test_a_node_that_speaks_another_stream_is_asked_by_plain_calls(serve, transport, hello):
    """A version that this client does not know, or something else altogether."""
    node = await serve(Node(hello=hello))
    assert (await transport.attempt(node.url, renewal(), seconds=5)).status == 200
    assert node.plain == ["/v1/sessions/renew"]


async def test_a_proxy_that_swallows_the_upgrade_delays_one_call(serve, transport, monkeypatch):
    """Then plain calls go on at once."""
    monkeypatch.setattr(stream_transport, "CONNECT_SECONDS_MAX", 0.05)
    never = asyncio.Event()

    async def swallow(request: web.Request) -> web.Response:
        await never.wait()
        return web.Response()

    node = Node()
    node.stream = swallow
    await serve(node)
    assert (await transport.attempt(node.url, renewal(), seconds=5)).status == 200
    assert node.plain == ["/v1/sessions/renew"]
    never.set()


async def test_what_an_entry_cannot_carry_goes_as_a_plain_call(serve, transport):
    """So that the node itself says what is wrong with it."""
    node = await serve(Node())
    for body in ({"session": SESSION, "more": 1}, {}):
        request = Request("POST", "/v1/sessions/renew", body)
        await transport.attempt(node.url, request, seconds=5)
    nameless = Request("POST", "/v1/locks/acquire", {"session": SESSION, "key": "k"})
    await transport.attempt(node.url, nameless, seconds=5)
    assert len(node.plain) == 3
    assert node.frames == []


async def test_a_node_that_is_not_there_took_nothing(transport):
    """`NotSent`: the caller may say that nothing happened."""
    with pytest.raises(NotSent):
        await transport.attempt("http://127.0.0.1:1", renewal(), seconds=5)


async def test_a_connection_that_breaks_leaves_outcomes_unknown(serve, transport):
    """`NoAnswer`, for each that was on its way; the next call connects anew."""
    node = await serve(Node(answer=lambda entry: None))
    asked = [
        asyncio.ensure_future(transport.attempt(node.url, acquiring(n), seconds=5)) for n in (1, 2)
    ]
    await asyncio.wait_for(node.heard.wait(), 10)
    transport_of_node = node.sockets[0]._req.transport
    transport_of_node.abort()
    for outcome in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(outcome, NoAnswer)
    node.answer = lambda entry: [numbers.RENEW, entry[1], 10_000, []]
    assert (await transport.attempt(node.url, renewal(), seconds=5)).status == 200
    assert len(node.sockets) == 2


async def test_a_node_that_says_nothing_is_given_up(serve, transport):
    """A frozen node: the call has no answer in its time, and the connection is not used again."""
    node = await serve(Node(answer=lambda entry: None))
    with pytest.raises(NoAnswer, match="did not answer within"):
        await transport.attempt(node.url, renewal(), seconds=0.05)
    node.answer = lambda entry: [numbers.RENEW, entry[1], 10_000, []]
    assert (await transport.attempt(node.url, renewal(), seconds=5)).status == 200
    assert len(node.sockets) == 2


async def test_one_late_answer_does_not_end_a_connection_that_speaks(serve, transport):
    """Others are answered on it meanwhile."""
    node = await serve(
        Node(answer=lambda entry: None if entry[2].endswith("late") else [2, entry[1], 10_000, []])
    )
    late = asyncio.ensure_future(
        transport.attempt(node.url, renewal(f"{SESSION}-late"), seconds=0.3)
    )
    while not late.done():
        assert (await transport.attempt(node.url, renewal(), seconds=5)).status == 200
    assert isinstance(late.exception(), NoAnswer)
    assert (await transport.attempt(node.url, renewal(), seconds=5)).status == 200
    assert len(node.sockets) == 1


async def test_waiting_acquires_never_stand_in_the_way_of_a_renewal(serve, transport):
    """The window is full of acquires: one more waits in the client, and a renewal does not."""
    room = 3
    node = await serve(
        Node(
            window=stream_connection.WINDOW_RESERVE + room,
            answer=lambda entry: [2, entry[1], 10_000, []] if entry[0] == numbers.RENEW else None,
        )
    )
    await transport.attempt(node.url, renewal(), seconds=5)
    asked = [
        asyncio.ensure_future(transport.attempt(node.url, acquiring(n), seconds=20))
        for n in range(room + 1)
    ]
    node.heard.clear()
    await asyncio.wait_for(node.heard.wait(), 10)
    assert (await transport.attempt(node.url, renewal(), seconds=5)).status == 200
    sent = [entry for frame in node.frames for entry in frame if entry[0] == numbers.ACQUIRE]
    assert [entry[3] for entry in sent] == [0, 1, 2], node.frames
    node.heard.clear()
    await node.push([numbers.ACQUIRE, sent[0][1], 7, 10_000, 7, 0, [None]])
    await asyncio.wait_for(node.heard.wait(), 10)
    assert node.frames[-1][0][3] == 3
    for each in asked:
        each.cancel()
    await asyncio.gather(*asked, return_exceptions=True)


async def test_closing_ends_what_is_on_its_way(serve, transport):
    """Nobody waits for an answer that cannot come."""
    node = await serve(Node(answer=lambda entry: None))
    asked = asyncio.ensure_future(transport.attempt(node.url, acquiring(1), seconds=20))
    await asyncio.wait_for(node.heard.wait(), 10)
    await transport.aclose()
    assert isinstance((await asyncio.gather(asked, return_exceptions=True))[0], NoAnswer)
    with pytest.raises(holdfast.ClientClosed):
        await transport.attempt(node.url, renewal(), seconds=5)


@pytest.mark.parametrize("push", ["ended", "forced"])
async def test_a_lost_lease_that_is_pushed_ends_the_body_at_once(serve, push):
    """Long before a renewal would tell it (never, in the time of this test)."""
    entries: list[list[Any]] = []

    def answer(entry: list[Any]) -> list[Any] | None:
        entries.append(entry)
        kind, call = entry[:2]
        if kind == numbers.OPEN:
            return [kind, call, 3_600_000, 3_600_000]
        if kind == numbers.ACQUIRE:
            return [kind, call, 17, 3_600_000, 17, 0, [None]]
        if kind == numbers.RELEASE:
            problem = {"code": "not_held", "ended": "forced", "status": 409, "detail": "forced"}
            return [numbers.REFUSED, call, 409, problem]
        return [kind, call, []]

    async def lose(forced: bool) -> None:
        session = entries[0][2]
        await node.push([99, 0, "of a later version"])
        await node.push(
            [numbers.FORCED, 0, session, [17]] if forced else [numbers.ENDED, 0, session]
        )
        await asyncio.Event().wait()

    node = await serve(Node(answer=answer))
    async with holdfast.connect(node.url, ttl=3_600.0) as hf:
        with pytest.raises(holdfast.LockLost) as lost:
            async with hf.lock("k"):
                await lose(push == "forced")
    assert lost.value.code == ("forced" if push == "forced" else "session_ended")


async def test_a_client_may_do_without(serve):
    """`stream=False`: a request for each call."""
    node = await serve(Node())
    hf = holdfast.connect(node.url, stream=False)
    answer = await hf._transport.attempt(node.url, renewal(), seconds=5)
    assert isinstance(answer, Answer)
    assert node.plain == ["/v1/sessions/renew"]
    assert node.frames == []
    await hf.aclose()


async def test_the_credential_is_shown_at_the_handshake(serve):
    """The connection is its client's from then on."""
    node = Node()
    shown: list[str | None] = []
    speak = node.stream

    async def look(request: web.Request) -> web.StreamResponse:
        shown.append(request.headers.get("Authorization"))
        return await speak(request)

    node.stream = look
    await serve(node)
    hf = holdfast.connect(node.url, token="secret")  # noqa: S106 - a word
    await hf._transport.attempt(node.url, renewal(), seconds=5)
    await hf.aclose()
    assert shown == ["Bearer secret"]


@pytest.fixture
def endpoints(transport, monkeypatch) -> Callable[..., Endpoints]:
    """Those that the transport may choose among; it moves at once."""
    monkeypatch.setattr(moves, "MOVES_APART_SECONDS", 0.01)

    def steered(*urls: str) -> Endpoints:
        made = Endpoints(urls, lambda: 0.0)
        transport.steer(made)
        return made

    return steered


async def test_a_client_goes_to_the_leader(serve, transport, endpoints):
    """Once it has a stream there. What waits on the old one is answered on it, and then that is over."""
    node, leader = await serve(Node(answer=lambda entry: None)), await serve(Node())
    chosen = endpoints(node.url, leader.url)
    waiting = asyncio.ensure_future(transport.attempt(node.url, acquiring(1), seconds=20))
    await asyncio.wait_for(node.heard.wait(), 10)
    await node.push([numbers.LEADER, 0, "n2", leader.url])
    await until(lambda: chosen.current == leader.url)
    assert (await transport.attempt(leader.url, renewal(), seconds=5)).status == 200
    assert not waiting.done()
    await node.push([numbers.ACQUIRE, node.frames[0][0][1], 7, 10_000, 7, 0, [None]])
    assert (await waiting).body["token"] == 7
    await until(lambda: node.sockets[0].closed)
    assert node.sockets[0].close_code == 1000
    assert not leader.sockets[0].closed


async def test_a_client_that_is_told_at_the_beginning_goes_too(serve, transport, endpoints):
    """What a node says of the leader stands behind its first entry."""
    leader = await serve(Node())
    told = {"version": 1, "node": "n1", "window": 1_000, "frame_operations_max": 512, "frame_bytes_max": 65_536}  # fmt: skip
    hello = [[numbers.HELLO, 0, told], [numbers.LEADER, 0, "n2", leader.url]]
    node = await serve(Node(hello=hello))
    chosen = endpoints(node.url, leader.url)
    assert (await transport.attempt(node.url, renewal(), seconds=5)).status == 200
    await until(lambda: chosen.current == leader.url)
    await until(lambda: node.sockets[0].closed)


async def test_a_client_goes_nowhere_but_to_its_own_endpoints(serve, transport, endpoints):
    """It would show its credential there."""
    node, stranger = await serve(Node()), await serve(Node())
    chosen = endpoints(node.url)
    await transport.attempt(node.url, renewal(), seconds=5)
    await node.push([numbers.LEADER, 0, "n2", stranger.url])
    await transport.attempt(node.url, renewal(), seconds=5)
    assert transport._moves._moving is None
    assert chosen.current == node.url
    assert stranger.sockets == []


@pytest.mark.parametrize("refuses_with", [404, 503, None])
async def test_a_client_stays_while_the_leader_takes_no_stream(
    serve, transport, endpoints, refuses_with
):
    """Nothing that works is given up for it."""
    node = await serve(Node())
    url = "http://127.0.0.1:1"
    if refuses_with is not None:
        url = (await serve(Node(refuses_with=refuses_with))).url
    chosen = endpoints(node.url, url)
    await transport.attempt(node.url, renewal(), seconds=5)
    asked, can_stream = [], transport._moves._open_at
    transport._moves._open_at = lambda endpoint: asked.append(endpoint) or can_stream(endpoint)
    await node.push([numbers.LEADER, 0, "n2", url])
    await until(lambda: len(asked) > 1)
    assert chosen.current == node.url
    assert (await transport.attempt(node.url, renewal(), seconds=5)).status == 200
    assert len(node.sockets) == 1


async def test_nodes_that_point_at_each_other_move_a_client_seldom(clock):
    """Whatever they say, there is one move in ten seconds."""
    chosen = Endpoints(("a", "b"), lambda: 0.0)
    left: list[str] = []

    async def opened(endpoint: str) -> bool:
        return True

    made = moves.Moves(clock, opened, left.append)
    made.steer(chosen)
    for _ in range(300):
        made.heard(chosen.after(chosen.current))  # "not me, the other one"
        clock.advance(0.1)
        for _ in range(5):
            await asyncio.sleep(0)
    assert left == ["a", "b", "a"]
    await made.aclose()


@dataclass
class Opening:
    """Opens a stream when the test says how that ends."""

    asked: list[str] = field(default_factory=list)
    ends: asyncio.Queue[bool] = field(default_factory=asyncio.Queue)
    left: list[str] = field(default_factory=list)

    async def at(self, endpoint: str) -> bool:
        self.asked.append(endpoint)
        return await self.ends.get()


@pytest.fixture
async def opening(clock) -> AsyncIterator[tuple[Opening, moves.Moves, Endpoints]]:
    chosen, one = Endpoints(("a", "b", "c"), lambda: 0.0), Opening()
    made = moves.Moves(clock, one.at, one.left.append)
    made.steer(chosen)
    yield one, made, chosen
    await made.aclose()


async def test_a_leader_that_is_heard_of_while_the_last_one_is_tried_is_not_forgotten(
    opening, clock
):
    """Whatever comes of the attempt at the last one."""
    one, made, chosen = opening
    made.heard("b")
    await until(lambda: one.asked == ["b"])
    made.heard("c")
    one.ends.put_nowait(False)
    one.ends.put_nowait(True)
    await until(lambda: made._not_before > clock.now())
    clock.advance(moves.MOVES_APART_SECONDS)
    await until(lambda: chosen.current == "c")
    assert (one.asked, one.left) == (["b", "c"], ["a"])


async def test_a_leader_that_took_no_stream_is_tried_again(opening, clock):
    """Nobody says again that it leads; one attempt in ten seconds."""
    one, made, chosen = opening
    made.heard("b")
    for attempt in range(1, 4):
        await until(lambda count=attempt: len(one.asked) == count and one.ends.empty())
        assert chosen.current == "a"
        one.ends.put_nowait(attempt == 3)
        await until(lambda: one.ends.empty() and (clock._sleepers or chosen.current == "b"))
        clock.advance(moves.MOVES_APART_SECONDS)
    assert (one.asked, one.left) == (["b"] * 3, ["a"])


async def test_a_client_that_leaves_a_leader_for_overload_comes_back(opening, clock):
    """Although nobody says anything, for the streams to all nodes are open. Not sooner than ten seconds after the last time."""
    one, made, chosen = opening
    for _ in range(3):
        one.ends.put_nowait(True)
    made.heard("a")  # where the client is already
    chosen.overloaded("a")
    await until(lambda: one.left == ["b"])
    assert chosen.current == "a"
    chosen.overloaded("a")
    await until(lambda: clock._sleepers)
    clock.advance(moves.MOVES_APART_SECONDS - 1)
    chosen.overloaded("b")
    assert chosen.current == "c"
    clock.advance(1)
    await until(lambda: one.left == ["b", "c"])
    assert chosen.current == "a"
    chosen.failed("a")  # it does not answer: nothing is tried there unasked
    assert made._moving is None or made._moving.done()


@pytest.mark.parametrize(("code", "comes_back"), [("overloaded", True), ("no_leader", False)])
async def test_who_is_told_that_a_node_is_overloaded_may_come_back(clock, code, comes_back):
    """A node without a leader is not where the client should be."""
    refusal = Answer(503, {"code": code}, 0.0, "a")

    class Refusing:
        async def attempt(self, endpoint: str, request: Request, *, seconds: float) -> Answer:
            return refusal if endpoint == "a" else Answer(200, {}, 0.0, endpoint)

        async def aclose(self) -> None: ...

    chosen = Endpoints(("a", "b"), lambda: 0.0)
    told: list[bool] = []
    chosen.on_overloaded = lambda: told.append(True)
    policy = retry.Policy(backoff_first=0.0)
    requester = Requester(Refusing(), chosen, clock, lambda: 0.0, policy)
    conclusion = await requester.ask(renewal(), give_up_at=clock.now() + 5)
    assert (conclusion.answer.endpoint, chosen.current) == ("b", "b")
    assert told == [True] * comes_back
