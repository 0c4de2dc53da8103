"""Connections are counted, and none is kept by doing nothing or by doing it slowly; what others ask meanwhile is answered."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme

from holdfast_coordinator import descriptors
from holdfast_coordinator.config import HttpLimits
from holdfast_coordinator.http import HttpServer, connections, start_http
from holdfast_coordinator.http.connections import Doors, peer_of
from holdfast_coordinator.server_certificates import ServerCertificate, ServerFiles

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from ..conftest import Caller  # noqa: TID252 - tests are no package that is on the path

HERE, THERE = "127.0.0.1", "127.0.0.2"
"""Two addresses of loopback: two peers."""

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(port: int, *, peer: str = HERE) -> Ends:
    return await asyncio.open_connection(HERE, port, local_addr=(peer, 0))


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What came before the end, which is waited for."""
    with contextlib.suppress(ConnectionError):
        return await reader.read()
    return b""


async def ends_of(caller: Caller) -> dict[str, float]:
    """How many connections the node ended, by reason."""
    lines = (await caller.get("/metrics")).raw.decode().splitlines()
    found = {}
    for line in lines:
        if line.startswith("holdfast_http_connections_ended_total{"):
            found[line.split('"')[1]] = float(line.split()[-1])
    return found


async def test_a_head_that_does_not_come_ends_the_connection(
    serve: Callable[..., Any], node: Any
) -> None:
    """Nothing at all, a part of it, and a part of the second one on the same connection."""
    caller: Caller = await serve(node, http_limits=HttpLimits(head_read_ms_max=100))
    head = b"GET /healthz HTTP/1.1\r\nHost: n\r\n\r\n"
    for first in (b"", b"GET /heal", head[:-1]):
        reader, writer = await connect(caller.port)
        writer.write(first)
        assert await ended(reader) == b""
        writer.close()
    reader, writer = await connect(caller.port)
    writer.write(head)
    assert b" 200 " in await reader.readuntil(b"}")
    writer.write(head[:9])
    assert await ended(reader) == b""
    writer.close()
    assert await ends_of(caller) == {"head_read_ms_max": 4.0}


async def test_a_head_byte_by_byte_ends_the_connection(
    serve: Callable[..., Any], node: Any
) -> None:
    """Each byte is in time for itself; the head is not."""
    caller: Caller = await serve(node, http_limits=HttpLimits(head_read_ms_max=200))
    reader, writer = await connect(caller.port)
    writer.write(b"GET /healthz HTTP/1.1\r\n")
    end = asyncio.ensure_future(ended(reader))
    while not end.done():
        with contextlib.suppress(ConnectionError):
            writer.write(b"X: y\r\n")
            await writer.drain()
        await asyncio.wait({end}, timeout=0.02)
    assert b" 200 " not in end.result()
    writer.close()


async def test_who_waits_for_a_lock_or_is_idle_is_not_cut_off(
    serve: Callable[..., Any], node: Any
) -> None:
    """The bound is of a head, not of a connection: a wait, and a pause between two renewals, are longer."""
    caller: Caller = await serve(node, http_limits=HttpLimits(head_read_ms_max=50))
    await caller.acquire("k")
    waiting = asyncio.ensure_future(caller.acquire("k", wait_ms=30_000))
    await node.queued.wait()
    reader, writer = await connect(caller.port)  # its end says that more than the bound has passed
    await ended(reader)
    writer.close()
    node.advance(10_500)
    assert (await waiting).status == 200
    assert (await caller.get("/healthz")).status == 200


async def test_one_peer_gets_only_its_share(serve: Callable[..., Any], node: Any) -> None:
    """The next connection of it is reset; another peer comes in; a place that becomes free can be taken again."""
    limits = HttpLimits(connections_max=6, connections_per_peer_max=3)
    caller: Caller = await serve(node, http_limits=limits)
    held = [await connect(caller.port, peer=THERE) for _ in range(3)]
    reader, writer = await connect(caller.port, peer=THERE)
    assert await ended(reader) == b""
    writer.close()
    assert (await caller.get("/healthz")).status == 200
    held.pop()[1].close()
    for _ in range(1_000):  # until the server has noticed; each try waits for its answer
        reader, writer = await connect(caller.port, peer=THERE)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: n\r\n\r\n")
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            if b" 200 " in await reader.readuntil(b"}"):
                break
        writer.close()
    else:
        pytest.fail("the place never became free")
    for _, each in [*held, (reader, writer)]:
        each.close()


async def test_there_are_never_more_than_the_node_takes(
    serve: Callable[..., Any], node: Any
) -> None:
    """Whoever is in stays in, and is answered."""
    limits = HttpLimits(connections_max=3, connections_per_peer_max=3)
    caller: Caller = await serve(node, http_limits=limits)
    assert (await caller.get("/healthz")).status == 200  # this connection stays open
    held = [await connect(caller.port, peer=THERE) for _ in range(2)]
    for peer in (THERE, "127.0.0.3"):
        reader, writer = await connect(caller.port, peer=peer)
        assert await ended(reader) == b""
        writer.close()
    assert await ends_of(caller) == {"connections_max": 2.0}
    for _, each in held:
        each.close()


async def test_renewals_of_others_go_on_in_a_flood_of_slow_connections(
    serve: Callable[..., Any], node: Any
) -> None:
    """Three hundred connections that begin a head and do not end it, made again whenever they are ended, from one address up to its
    share: a session of another is renewed all the while, over one connection and over new ones."""
    limits = HttpLimits(head_read_ms_max=1_000, connections_max=400, connections_per_peer_max=300)
    caller: Caller = await serve(node, http_limits=limits)
    session = "session-of-another"
    await caller.open(session)
    stop = asyncio.Event()
    made = 0

    async def slow() -> None:
        nonlocal made
        while not stop.is_set():
            try:
                reader, writer = await connect(caller.port, peer=THERE)
            except OSError:
                await asyncio.sleep(0)
                continue
            made += 1
            writer.write(b"POST /v1/sessions/renew HTTP/1.1\r\nHost:")
            end = asyncio.ensure_future(ended(reader))
            halt = asyncio.ensure_future(stop.wait())
            await asyncio.wait({end, halt}, return_when=asyncio.FIRST_COMPLETED)
            for each in (end, halt):
                each.cancel()
            writer.close()

    flood = [asyncio.ensure_future(slow()) for _ in range(300)]
    try:
        for number in range(100):
            renewed = await caller.post("/v1/sessions/renew", {"session": session})
            assert renewed.status == 200
            if number % 10 == 0:
                async with aiohttp.ClientSession() as fresh:
                    url = f"{caller.url}/v1/sessions/renew"
                    async with fresh.post(url, json={"session": session}) as response:
                        assert response.status == 200
        while made <= 300 or (await ends_of(caller)).get("head_read_ms_max", 0) < 100:
            assert (await caller.post("/v1/sessions/renew", {"session": session})).status == 200
    finally:
        stop.set()
        await asyncio.gather(*flood)


async def test_too_many_or_too_long_lines_of_a_head_are_refused(
    serve: Callable[..., Any], node: Any
) -> None:
    """With a problem, whatever else is in it; the bounds can be set."""
    caller: Caller = await serve(
        node, http_limits=HttpLimits(header_bytes_max=1_000, headers_max=20)
    )
    cases: list[dict[str, str]] = [
        {f"X-{number}": "y" for number in range(30)},
        {"X": "y" * 1_100},
        {"Y" * 1_100: "y"},
    ]
    for headers in cases:
        assert (await caller.send("GET", "/healthz", headers=headers)).code == "bad_request"
    assert (await caller.get("/v1/locks", key="k", after="x" * 1_100)).code == "bad_request"
    fine = {f"X-{number}": "y" * 900 for number in range(10)}
    assert (await caller.send("GET", "/healthz", headers=fine)).status == 200


async def test_an_answer_that_is_not_taken_ends_the_connection(
    serve: Callable[..., Any], node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on its way to a caller that reads nothing does not stay in the memory of the node."""
    monkeypatch.setattr(connections, "ANSWER_SECONDS_MAX", 0.1)
    caller: Caller = await serve(node)
    for number in range(500):
        await caller.acquire(f"{number:03}" + "k" * 500, owner="o" * 200)
    with socket.socket() as narrow:
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        narrow.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(narrow, (HERE, caller.port))
        get = b"GET /v1/locks?limit=500 HTTP/1.1\r\nHost: n\r\n\r\n"
        await loop.sock_sendall(narrow, get * 20)
        for _ in range(1_000):
            if (await ends_of(caller)).get("answer_not_taken"):
                break
            await asyncio.sleep(0.01)
        assert (await ends_of(caller))["answer_not_taken"] == 1.0


# -- with TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def secure(node: Any, tmp_path: Path) -> AsyncIterator[tuple[HttpServer, ssl.SSLContext]]:
    ca = trustme.CA()
    leaf = ca.issue_cert(HERE)
    files = ServerFiles(tmp_path / "c.pem", tmp_path / "c.key")
    leaf.cert_chain_pems[0].write_to_path(files.certificate)
    leaf.private_key_pem.write_to_path(files.key)
    limits = HttpLimits(connections_max=6, connections_per_peer_max=3)
    certificate = ServerCertificate(files, "n1")
    server = await start_http(node, HERE, 0, http_limits=limits, certificate=certificate)
    context = ssl.create_default_context()
    ca.configure_trust(context)
    yield server, context
    await server.close()


async def test_what_never_gets_through_tls_counts_and_is_ended(
    secure: tuple[HttpServer, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a place of its peer, for as long as a handshake may take, and none of anybody else."""
    monkeypatch.setattr(connections, "TLS_SECONDS_MAX", 0.5)
    server, context = secure
    silent = [await connect(server.port, peer=THERE) for _ in range(3)]
    reader, writer = await connect(server.port, peer=THERE)
    assert await ended(reader) == b""
    writer.close()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http:
        async with http.get(f"https://{HERE}:{server.port}/healthz") as response:
            assert response.status == 200
        for reader, writer in silent:
            assert await ended(reader) == b""
            writer.close()
        async with http.get(f"https://{HERE}:{server.port}/metrics") as response:
            text = await response.text()
    assert 'connections_ended_total{reason="tls_failed"} 3.0' in text
    assert 'connections_ended_total{reason="connections_per_peer_max"} 1.0' in text
    assert "holdfast_http_connections 1.0" in text


async def test_what_is_no_tls_leaves_its_place(
    secure: tuple[HttpServer, ssl.SSLContext],
) -> None:
    """Again and again: the places do not run out."""
    server, context = secure
    for said in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 70_000, b"\0") * 4:
        reader, writer = await connect(server.port, peer=THERE)
        writer.write(said)
        if said == b"\0":
            writer.close()  # in the middle
        else:
            await ended(reader)
            writer.close()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http:
        for _ in range(1_000):
            async with http.get(f"https://{HERE}:{server.port}/metrics") as response:
                if "holdfast_http_connections 1.0" in await response.text():
                    return
    pytest.fail("a place was never left")


# -- pure ------------------------------------------------------------------------------------------------------------------


def test_the_doors_count_right() -> None:
    """Whatever comes and goes, in whatever order: never more than the bounds, and nothing is remembered of who has left."""
    chance = random.Random(1)  # noqa: S311
    refused: list[str] = []
    doors = Doors(20, 8, refused.append)
    inside: list[str] = []
    for _ in range(5_000):
        if inside and chance.random() < 0.45:
            peer = inside.pop(chance.randrange(len(inside)))
            doors.leave(peer)
        else:
            peer = f"peer {chance.randrange(5)}"
            may = len(inside) < 20 and inside.count(peer) < 8
            assert doors.enter(peer) == may
            if may:
                inside.append(peer)
        assert doors.count == len(inside)
    assert set(refused) == {"connections_max", "connections_per_peer_max"}
    for peer in inside:
        doors.leave(peer)
    assert (doors.count, doors._by_peer) == (0, {})


def test_a_network_of_ipv6_is_one_peer() -> None:
    """Whoever has one address of it has them all."""
    assert peer_of(("2001:db8:1:2::1", 1, 0, 0)) == peer_of(("2001:db8:1:2:ffff::9", 2, 0, 0))
    assert peer_of(("2001:db8:1:2::1", 1, 0, 0)) != peer_of(("2001:db8:1:3::1", 1, 0, 0))
    assert peer_of(("::ffff:10.0.0.1", 1, 0, 0)) == peer_of(("10.0.0.1", 7)) == "10.0.0.1"
    assert peer_of(("fe80::1%eth0", 1, 0, 2)) == "fe80::/64"
    assert peer_of(None) == peer_of("") == ""


def test_callers_do_not_take_the_descriptors_of_the_node() -> None:
    """With few of them there are fewer connections, and one address gets half of those."""
    limits = HttpLimits()
    assert descriptors.within(limits, 100_000) == limits
    few = descriptors.within(limits, 1_024)
    assert (few.connections_max, few.connections_per_peer_max) == (768, 384)
    assert descriptors.within(limits, 10).connections_max == 1
    assert descriptors.raise_limit() > 0
