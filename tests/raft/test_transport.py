"""Connections on loopback: who gets in, what is refused, and which connection counts."""

from __future__ import annotations

import asyncio
import hmac
import os
import pickle
import random
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_coordinator.local_cluster import free_ports
from holdfast_coordinator.raft import frames
from holdfast_coordinator.raft import transport as wire
from holdfast_coordinator.raft.messages import Message, TermNotice
from holdfast_coordinator.raft.transport import Network, TransportConfig


@dataclass
class Ears:
    """Notes everything; `news` is set by each call."""

    events: list[tuple[str, Any]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def _note(self, what: str, of: Any) -> None:
        self.events.append((what, of))
        self.news.set()

    def on_connected(self, peer: str) -> None:
        self._note("connected", peer)

    def on_disconnected(self, peer: str) -> None:
        self._note("disconnected", peer)

    def on_messages(self, peer: str, messages: Sequence[Message]) -> None:
        for message in messages:
            self._note("message", (peer, message))

    def on_payloads(self, peer: str, payloads: Sequence[bytes]) -> None:
        for payload in payloads:
            self._note("payload", (peer, payload))

    def on_full(self, peer: str) -> None:
        self._note("full", peer)

    def on_room(self, peer: str) -> None:
        self._note("room", peer)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.news.clear()
                await self.news.wait()


def network(node: str, ports: Sequence[int], **changes: Any) -> tuple[Network, Ears]:
    """A node of a cluster of two."""
    settings: dict[str, Any] = {
        "cluster": "c",
        "node": node,
        "secret": b"secret",
        "members": {"n1": ("127.0.0.1", ports[0]), "n2": ("127.0.0.1", ports[1])},
        "entry_bytes_max": 1000,
    }
    ears = Ears()
    made = Network(
        TransportConfig(**(settings | changes)),
        ears,
        rng=random.Random(0),  # noqa: S311 - a seeded run
        new_nonce=os.urandom,
    )
    return made, ears


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Network, Ears, Network, Ears]]:
    """n1 and n2, connected."""
    ports = free_ports(2)
    one, ears_one = network("n1", ports)
    two, ears_two = network("n2", ports)
    await two.start()
    await one.start()
    await ears_one.until(lambda: ("connected", "n2") in ears_one.events)
    await ears_two.until(lambda: ("connected", "n1") in ears_two.events)
    yield one, ears_one, two, ears_two
    await one.stop()
    await two.stop()


class Stranger:
    """A plain client, which speaks the handshake as far as it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, network: Network) -> Stranger:
        host, port = network.config.members[network.config.node]
        return cls(*await asyncio.open_connection(host, port))

    def write(self, data: bytes) -> None:
        self.writer.write(struct.pack("<I", len(data)) + data)

    async def read(self) -> bytes:
        async with asyncio.timeout(5):
            (length,) = struct.unpack("<I", await self.reader.readexactly(4))
            return await self.reader.readexactly(length)

    async def closed(self) -> None:
        """The other side has closed it."""
        async with asyncio.timeout(5):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionError:
                pass
        self.writer.close()

    async def shake_hands(
        self, *, name: str = "n1", secret: bytes = b"secret"
    ) -> tuple[bytes, bytes]:
        """Become a peer; gives the two keys (ours, theirs)."""
        mine = frames.hello("c", name, "n2", os.urandom(32))
        self.write(mine)
        theirs = (await self.read())[: -frames.PROOF_BYTES]
        self.write(frames.proof(secret, b"dialer", mine, theirs))
        self.writer.write(verdict(secret, mine, theirs))
        their_key = frames.proof(secret, b"acceptor key", mine, theirs)
        body = frames.open_frame(their_key, frames.VERDICT_SEQUENCE, await self.read())
        assert frames.decode_verdict(body).code == "accepted"
        return frames.proof(secret, b"dialer key", mine, theirs), their_key


def verdict(secret: bytes, mine: bytes, theirs: bytes) -> bytes:
    """A dialer's first frame: it accepts the other."""
    key = frames.proof(secret, b"dialer key", mine, theirs)
    body = msgpack.packb([frames.KIND_VERDICT, "accepted", 0])
    return frames.pack_frame(key, frames.VERDICT_SEQUENCE, body)


@pytest.fixture
async def two() -> AsyncIterator[tuple[Network, Ears]]:
    """n2 alone, waiting to be called."""
    made, ears = network("n2", free_ports(2))
    await made.start()
    yield made, ears
    await made.stop()


async def test_messages_and_payloads_arrive_in_order(
    pair: tuple[Network, Ears, Network, Ears],
) -> None:
    """Both kinds, in both directions, many at once."""
    one, ears_one, two, ears_two = pair
    one.send_messages("n2", [TermNotice(number) for number in range(100)])
    one.send_payloads("n2", [b"a", b"b"])
    two.send_payloads("n1", [b"c"])
    await ears_two.until(lambda: len(ears_two.events) == 103)
    await ears_one.until(lambda: len(ears_one.events) == 2)
    assert [e[1][1] for e in ears_two.events[1:]] == [*map(TermNotice, range(100)), b"a", b"b"]
    assert ears_one.events[1] == ("payload", ("n2", b"c"))


async def test_a_lost_connection_is_made_again(pair: tuple[Network, Ears, Network, Ears]) -> None:
    """The one with the lower name dials until it is there."""
    _, ears_one, two, ears_two = pair
    two._live["n1"].close()
    await ears_two.until(lambda: ears_two.events.count(("connected", "n1")) == 2)
    await ears_one.until(lambda: ears_one.events.count(("connected", "n2")) == 2)
    assert ears_two.events[:3] == [
        ("connected", "n1"),
        ("disconnected", "n1"),
        ("connected", "n1"),
    ]


async def test_d4_the_newest_connection_counts_alone(two: tuple[Network, Ears]) -> None:
    """A peer connects again while its older connection still holds unread frames: they are never
    delivered, though their codes are right."""
    network, ears = two
    older = await Stranger.connect(network)
    older_key, _ = await older.shake_hands()
    await ears.until(lambda: len(ears.events) == 1)
    newer = await Stranger.connect(network)
    newer_key, _ = await newer.shake_hands()
    await ears.until(lambda: len(ears.events) == 3)
    body = msgpack.packb([1, [b"from the past"]])
    older.writer.write(frames.pack_frame(older_key, 0, body))
    newer.writer.write(frames.pack_frame(newer_key, 0, msgpack.packb([1, [b"now"]])))
    await ears.until(lambda: len(ears.events) == 4)
    await older.closed()
    assert ears.events[1:] == [
        ("disconnected", "n1"),
        ("connected", "n1"),
        ("payload", ("n1", b"now")),
    ]
    newer.writer.close()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"secret": b"another"}, "wrong secret"),
        ({"cluster": "d"}, "another cluster"),
    ],
)
async def test_a_node_of_another_cluster_or_secret_is_no_peer(
    change: dict[str, Any], reason: str
) -> None:
    """Both sides refuse, and neither delivers anything."""
    ports = free_ports(2)
    one, ears_one = network("n1", ports, **change)
    two, ears_two = network("n2", ports)
    await two.start()
    await one.start()
    async with asyncio.timeout(5):
        while not (one.stats.rejected[reason] or two.stats.rejected[reason]):  # noqa: ASYNC110 - one round of the loop at a time
            await asyncio.sleep(0)
    await one.stop()
    await two.stop()
    assert ears_one.events == ears_two.events == []


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (pickle.dumps("n1"), "not a peer"),
        (b"", "not a peer"),
        (frames.MAGIC + b"\x01c\x02n1", "malformed hello"),
        (frames.MAGIC + b"\x01c\x02n1\x02n2short", "malformed hello"),
        (
            frames.hello(
                "c", "\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), "n2", bytes(32)
            ),
            "another node",
        ),
        (frames.hello("c", "n9", "n2", bytes(32)), "another node"),
        (frames.hello("c", "n2", "n2", bytes(32)), "another node"),
        (frames.hello("c", "n1", "n3", bytes(32)), "another node"),
        (frames.hello("x", "n1", "n2", bytes(32)), "another cluster"),
        (bytes(5000), "frame too large"),
    ],
)
async def test_d18_strangers_are_closed_and_counted(
    two: tuple[Network, Ears], first: bytes, reason: str
) -> None:
    """Nothing of what they send is looked at beyond the hello."""
    network, ears = two
    stranger = await Stranger.connect(network)
    stranger.write(first)
    await stranger.closed()
    assert network.stats.rejected == {reason: 1}
    assert ears.events == []


async def test_a_proof_is_good_for_one_connection_only(two: tuple[Network, Ears]) -> None:
    """A recorded handshake does not work again, because the acceptor's nonce is another."""
    network, ears = two
    mine = frames.hello("c", "n1", "n2", bytes(32))
    first = await Stranger.connect(network)
    first.write(mine)
    theirs = (await first.read())[: -frames.PROOF_BYTES]
    recorded = frames.proof(b"secret", b"dialer", mine, theirs)
    first.write(recorded)
    first.writer.write(verdict(b"secret", mine, theirs))
    await ears.until(lambda: len(ears.events) == 1)
    again = await Stranger.connect(network)
    again.write(mine)
    await again.read()
    again.write(recorded)
    await again.closed()
    assert network.stats.rejected == {"wrong secret": 1}
    first.writer.close()


async def test_an_acceptors_proof_does_not_serve_a_dialer(two: tuple[Network, Ears]) -> None:
    """Reflecting what the node itself said does not open it."""
    network, _ = two
    stranger = await Stranger.connect(network)
    stranger.write(frames.hello("c", "n1", "n2", bytes(32)))
    stranger.write((await stranger.read())[-frames.PROOF_BYTES :])
    await stranger.closed()
    assert network.stats.rejected == {"wrong secret": 1}


@pytest.mark.parametrize("fault", ["replayed", "altered", "skipped", "too large", "malformed"])
async def test_a_bad_frame_of_a_peer_closes_its_connection(
    two: tuple[Network, Ears], fault: str
) -> None:
    """It is counted, and what follows it is not read."""
    network, ears = two
    peer = await Stranger.connect(network)
    key, _ = await peer.shake_hands()
    body = msgpack.packb([1, [b"x"]])
    good = frames.pack_frame(key, 0, body)
    peer.writer.write(good)
    match fault:
        case "replayed":
            peer.writer.write(good)
        case "altered":
            peer.writer.write(frames.pack_frame(key, 1, body)[:-1] + b"y")
        case "skipped":
            peer.writer.write(frames.pack_frame(key, 2, body))
        case "too large":
            peer.writer.write(struct.pack("<I", 2**31))
        case "malformed":
            peer.writer.write(frames.pack_frame(key, 1, msgpack.packb([0, [[9, 9]]])))
    peer.writer.write(frames.pack_frame(key, 2, body))
    await peer.closed()
    assert sum(network.stats.rejected.values()) == 1
    assert [event for event in ears.events if event[0] == "payload"] == [("payload", ("n1", b"x"))]


async def test_strangers_are_few_and_short_lived(
    two: tuple[Network, Ears], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond a number of them the one that has waited longest goes, and silence is not waited for long."""
    network, _ = two
    monkeypatch.setattr(wire, "STRANGERS_MAX", 2)
    monkeypatch.setattr(wire, "HANDSHAKE_SECONDS", 0.05)
    strangers = [await Stranger.connect(network) for _ in range(3)]
    for stranger in strangers:
        await stranger.closed()
    assert network.stats.rejected == {"too many strangers": 1, "handshake timeout": 2}


async def test_a_door_full_of_strangers_keeps_no_peer_out(two: tuple[Network, Ears]) -> None:
    """They hold every place and say nothing; a peer comes in at once all the same."""
    network, ears = two
    strangers = [await Stranger.connect(network) for _ in range(wire.STRANGERS_MAX)]
    peer = await Stranger.connect(network)
    await peer.shake_hands()
    await ears.until(lambda: ears.events == [("connected", "n1")])
    await strangers[0].closed()
    assert network.stats.rejected == {"too many strangers": 1}
    for stranger in (*strangers[1:], peer):
        stranger.writer.close()


async def test_a_peer_that_does_not_read_is_cut_off(
    two: tuple[Network, Ears], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its buffer never grows beyond the limit."""
    network, ears = two
    monkeypatch.setattr(wire, "SEND_BUFFER_MAX_BYTES", 20 * 2**20)
    peer = await Stranger.connect(network)
    await peer.shake_hands()
    await ears.until(lambda: len(ears.events) == 1)
    for _ in range(100):
        network.send_payloads("n1", [bytes(2**20)])
    await ears.until(lambda: ("disconnected", "n1") in ears.events)
    assert ("full", "n1") in ears.events
    assert network.stats.rejected == {"send buffer overflow": 1}
    assert network.connected == frozenset()
    peer.writer.close()


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_hello_or_rejected(data: bytes) -> None:
    """The parser of what strangers send raises nothing else."""
    for candidate in (data, frames.MAGIC + data):
        try:
            cluster, sender, receiver, nonce = frames.parse_hello(candidate)
        except frames.Rejected:
            continue
        assert frames.hello(cluster, sender, receiver, nonce) == candidate


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=20)
    | st.text(max_size=5)
    | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=30,
)


@settings(max_examples=50, deadline=None)
@given(
    st.binary(max_size=200)
    | _values.map(msgpack.packb)
    | st.lists(st.lists(_values, max_size=8), max_size=4).map(
        lambda items: msgpack.packb([0, items])
    )
)
def test_any_body_is_messages_or_rejected(body: bytes) -> None:
    """The parser of what peers send raises nothing else."""
    try:
        kind, items = frames.decode_body(body, 1000)
    except frames.Rejected:
        return
    assert kind in (frames.KIND_RAFT, frames.KIND_APPLICATION)
    assert isinstance(items, list)


def test_a_frames_code_covers_its_place_and_content() -> None:
    """And is keyed."""
    frame = frames.pack_frame(b"k" * 32, 3, b"body")[4:]
    assert frames.open_frame(b"k" * 32, 3, frame) == b"body"
    for key, sequence, changed in (
        (b"x" * 32, 3, frame),
        (b"k" * 32, 4, frame),
        (b"k" * 32, 3, frame + b"z"),
    ):
        with pytest.raises(frames.Rejected):
            frames.open_frame(key, sequence, changed)
    assert len(hmac.digest(b"", b"", "sha256")) == frames.PROOF_BYTES
