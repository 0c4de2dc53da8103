"""Whatever arrives at a node's door, and whatever a peer says: understood, or a counted end of the connection.

Connections are driven without sockets: the bytes are given to the protocol in pieces, as a network may.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args, get_type_hints

import msgpack
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from holdfast_coordinator.raft import frames
from holdfast_coordinator.raft import messages as schema
from holdfast_coordinator.raft import transport as wire
from holdfast_coordinator.raft.messages import Message, MessageError, decode, encode
from holdfast_coordinator.raft.peers import VERDICTS

ENTRY_BYTES_MAX = 1000
CPU_SECONDS_MAX = 1.0
"""For one hostile stream of a few kilobytes; it takes about a millisecond."""
PEAK_BYTES_MAX = 8 << 20
"""While hostile bytes of at most 200 KB are parsed."""

fuzz = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


class Pipe(asyncio.Transport):
    """The end of a connection: it keeps what is written, and can be closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.is_open = True

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return not self.is_open

    def abort(self) -> None:
        self.is_open = False

    close = write_eof = abort

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


class Door:
    """Node n2 of a cluster of two, one connection of it, and what came through."""

    def __init__(self, *, dialed: str | None = None, node: str = "n2") -> None:
        self.events: list[tuple[str, Any]] = []
        self.network = wire.Network(
            wire.TransportConfig(
                "c",
                node,
                b"secret",
                {"n1": ("127.0.0.1", 1), "n2": ("127.0.0.1", 2)},
                ENTRY_BYTES_MAX,
            ),
            self,
            rng=random.Random(0),  # noqa: S311 - a seeded run
            new_nonce=bytes,
        )
        self.pipe = Pipe()
        self.connection = wire.Connection(self.network, dialed)
        self.connection.connection_made(self.pipe)
        self.key = b""
        self.most_buffered = 0

    def on_connected(self, peer: str) -> None:
        self.events.append(("connected", peer))

    def on_disconnected(self, peer: str) -> None:
        self.events.append(("disconnected", peer))

    def on_messages(self, peer: str, messages: Sequence[Message]) -> None:
        self.events += [("message", message) for message in messages]

    def on_payloads(self, peer: str, payloads: Sequence[bytes]) -> None:
        self.events += [("payload", payload) for payload in payloads]

    def on_full(self, peer: str) -> None: ...
    def on_room(self, peer: str) -> None: ...

    @property
    def delivered(self) -> list[Any]:
        return [what for kind, what in self.events if kind in ("message", "payload")]

    @property
    def rejected(self) -> dict[str, int]:
        return dict(self.network.stats.rejected)

    def feed(self, stream: bytes, cuts: Sequence[int] = ()) -> None:
        """In pieces that end at `cuts`; as a network, nothing arrives after the end."""
        edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
        for begin, end in itertools.pairwise(edges):
            if not self.pipe.is_open:
                return
            if end > begin:
                self.connection.data_received(stream[begin:end])
            self.most_buffered = max(self.most_buffered, len(self.connection._buffer))

    def shake_hands(self) -> None:
        """The rest of the stream is that of an authenticated peer."""
        mine = frames.hello("c", "n1", "n2", bytes(32))
        self.feed(framed(mine))
        theirs = bytes(self.pipe.written[4 : -frames.PROOF_BYTES])
        self.feed(framed(frames.proof(b"secret", b"dialer", mine, theirs)))
        self.key = frames.proof(b"secret", b"dialer key", mine, theirs)
        body = msgpack.packb([frames.KIND_VERDICT, "accepted", 0])
        self.feed(frames.pack_frame(self.key, frames.VERDICT_SEQUENCE, body))
        assert self.events == [("connected", "n1")]

    def end(self) -> None:
        self.connection.close()


def framed(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def at_a_door(scene: Callable[[Door], None], **how: Any) -> None:
    """Run it where a connection finds its loop, and see that it costs little."""

    async def run() -> None:
        door = Door(**how)
        begun = time.process_time()
        try:
            scene(door)
        finally:
            door.end()
        assert time.process_time() - begun < CPU_SECONDS_MAX

    asyncio.run(run())


HELLO = frames.hello("c", "n1", "n2", bytes(32))

_noise = st.binary(max_size=300)
_frames_of_strangers = st.one_of(
    _noise,
    _noise.map(framed),
    st.integers(0, 2**32 - 1).map(lambda length: struct.pack("<I", length)),
    st.just(framed(HELLO)),
    st.tuples(st.integers(0, len(HELLO) - 1), st.integers(1, 255)).map(
        lambda at: framed(HELLO[: at[0]] + bytes([HELLO[at[0]] ^ at[1]]) + HELLO[at[0] + 1 :])
    ),
    st.binary(min_size=32, max_size=32).map(framed),
)
_cuts = st.lists(st.integers(0, 2000), max_size=8)


@fuzz
@given(st.lists(_frames_of_strangers, max_size=6).map(b"".join), _cuts, st.booleans())
def test_whatever_a_stranger_sends_is_rejected_cleanly(
    stream: bytes, cuts: list[int], dials: bool
) -> None:
    """To who waits for a call and to who made one: nothing comes through, little is kept, and one reason is counted."""

    def scene(door: Door) -> None:
        door.feed(stream, cuts)
        assert door.events == []
        assert sum(door.rejected.values()) == (0 if door.pipe.is_open else 1)
        if door.pipe.is_open:
            assert len(door.connection._buffer) < frames.HELLO_BYTES_MAX + 4

    if dials:
        at_a_door(scene, dialed="n2", node="n1")
    else:
        at_a_door(scene)


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=40)
    | st.text(max_size=5)
    | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=20,
)
_number = st.integers(0, schema.NUMBER_MAX - 1) | st.integers(0, 4)
_index = st.integers(1, 2**40) | st.integers(1, 4)
_name = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
_directory = st.binary(min_size=16, max_size=16).map(bytes.hex)
_command = st.one_of(
    st.just(schema.ENTRY_NO_OP),
    st.binary(max_size=ENTRY_BYTES_MAX).map(lambda rest: schema.ENTRY_OWN + rest),
    st.tuples(_name, _directory).map(lambda given: schema.admission_command(*given)),
)


@st.composite
def _appends(draw: st.DrawFn) -> schema.Append:
    terms = sorted(draw(st.lists(_number, min_size=2, max_size=6)))
    entries = tuple((term, draw(_command)) for term in terms[1:-1])
    return schema.Append(terms[-1], draw(_number), draw(_index), terms[0], draw(_number), entries)


@st.composite
def _offers(draw: st.DrawFn) -> schema.SnapshotOffer:
    last_term, term = sorted((draw(_number), draw(_number)))
    length = draw(st.integers(1, schema.SNAPSHOT_BYTES_MAX))
    digest = draw(st.binary(min_size=32, max_size=32))
    return schema.SnapshotOffer(term, draw(_number), draw(_index), last_term, length, digest)


_acks = st.builds(
    schema.Ack, _number, _index, st.just(value=False), st.booleans(), _number
) | st.builds(schema.Ack, _number, _index, st.just(value=True), st.just(value=False), _number)
_messages: st.SearchStrategy[Message] = st.one_of(
    _appends(),
    _offers(),
    _acks,
    st.builds(schema.VoteRequest, _number, _number, _number, st.booleans()),
    st.builds(schema.Vote, _number),
    st.builds(schema.TermNotice, _number),
    st.builds(schema.PreVoteRequest, _number, _number, _number),
    st.builds(schema.PreVote, _number),
    st.builds(schema.TimeoutNow, _number),
    st.builds(schema.HandOverRequest, _number),
    st.builds(schema.AdmitRequest, _name, _directory),
    st.builds(
        schema.Admissions,
        st.lists(st.tuples(_name, _number, _directory), max_size=3).map(tuple),
    ),
    st.builds(
        schema.SnapshotChunk, _number, _number, _number, _number, st.binary(min_size=1, max_size=40)
    ),
    st.builds(schema.SnapshotAnswer, _number, _number, _number, _number, st.booleans()),
)


def on_the_wire(message: Message) -> Any:
    return msgpack.unpackb(msgpack.packb(encode(message)))


def lookalikes(value: Any) -> list[Any]:
    """What Python takes for equal, and is of another type: `True == 1 == 1.0`."""
    if type(value) is bool:
        return [int(value), float(value)]
    if type(value) is not int:
        return [value]
    return [float(value), *([bool(value)] if value in (0, 1) else [])]


@st.composite
def _almost_messages(draw: st.DrawFn) -> Any:
    """A message with one field changed, missing, too many, or almost the same."""
    raw = on_the_wire(draw(_messages))
    at = draw(st.integers(0, len(raw) - 1))
    match draw(st.sampled_from(["change", "drop", "add", "disguise"])):
        case "change":
            raw[at] = draw(_values)
        case "disguise":
            inside, place = raw, at
            while type(inside[place]) is list and inside[place]:
                inside, place = inside[place], draw(st.integers(0, len(inside[place]) - 1))
            inside[place] = draw(st.sampled_from(lookalikes(inside[place])))
        case "drop":
            del raw[at]
        case _:
            raw.insert(at, draw(_values))
    return raw


def test_every_kind_of_message_is_generated_here() -> None:
    """A new one must be added to these tests."""
    kinds = set(schema.Message.__args__)
    assert len(schema.Message.__args__) == 14, kinds
    assert {type(each) for each in OF_ZEROS_AND_ONES} == kinds


@fuzz
@given(_messages)
def test_a_message_is_the_same_after_the_journey(message: Message) -> None:
    assert decode(on_the_wire(message), entry_bytes_max=ENTRY_BYTES_MAX) == message


@fuzz
@given(_almost_messages() | _values)
def test_what_is_almost_a_message_is_refused_or_means_exactly_what_it_says(raw: Any) -> None:
    """The schema is closed: what is accepted has the types that the schema names, and would be written in the same way, to the
    byte."""
    try:
        message = decode(raw, entry_bytes_max=ENTRY_BYTES_MAX)
    except MessageError:
        return
    for name, hint in get_type_hints(type(message)).items():
        assert is_exactly(getattr(message, name), hint), (name, message)
    assert msgpack.packb(encode(message)) == msgpack.packb(raw)


def is_exactly(value: Any, hint: Any) -> bool:
    """Of this very type; a bool is no int."""
    inner = get_args(hint)
    if not inner:
        return type(value) is hint
    if inner[-1] is Ellipsis:
        return type(value) is tuple and all(is_exactly(each, inner[0]) for each in value)
    return type(value) is tuple and all(map(is_exactly, value, inner))


OF_ZEROS_AND_ONES: list[Message] = [
    schema.Append(1, 0, 1, 0, 0, ((0, schema.ENTRY_NO_OP), (1, schema.ENTRY_NO_OP))),
    schema.Ack(1, 1, success=False, reset=True, stamp=0),
    schema.VoteRequest(1, 1, 0, hand_over=True),
    schema.Vote(1),
    schema.TermNotice(0),
    schema.PreVoteRequest(1, 1, 0),
    schema.PreVote(1),
    schema.TimeoutNow(1),
    schema.HandOverRequest(1),
    schema.AdmitRequest("n1", "00" * 16),
    schema.Admissions((("n1", 1, "00" * 16),)),
    schema.SnapshotOffer(1, 0, 1, 0, 1, bytes(32)),
    schema.SnapshotChunk(1, 0, 1, 0, b"x"),
    schema.SnapshotAnswer(1, 0, 1, 0, refused=False),
]


def leaves(raw: list[Any], path: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """Where the fields are."""
    for at, value in enumerate(raw):
        if type(value) is list:
            yield from leaves(value, (*path, at))
        else:
            yield (*path, at)


@pytest.mark.parametrize("message", OF_ZEROS_AND_ONES, ids=lambda message: type(message).__name__)
def test_no_field_of_any_message_takes_what_only_equals_it(message: Message) -> None:
    """Each number as a float and as a boolean, each boolean as a number: all are refused."""
    assert decode(on_the_wire(message), entry_bytes_max=ENTRY_BYTES_MAX) == message
    for path in leaves(on_the_wire(message)):
        raw = inside = on_the_wire(message)
        for at in path[:-1]:
            inside = inside[at]
        value = inside[path[-1]]
        for other in lookalikes(value):
            if type(other) is not type(value):
                inside[path[-1]] = other
                with pytest.raises(MessageError):
                    decode(raw, entry_bytes_max=ENTRY_BYTES_MAX)


_kinds = st.sampled_from([0, 1, 2, 3, False, True, 0.0, 1.0, 2.0, -0.0, None, b"", ""])


@fuzz
@given(
    _kinds,
    st.lists(_messages.map(on_the_wire), max_size=2) | st.lists(st.binary(max_size=4), max_size=2),
)
@example(False, [])
@example(0.0, [])
@example(True, [b"payload"])
@example(1.0, [b"payload"])
def test_a_frame_is_taken_for_what_it_says_and_nothing_that_equals_it(
    kind: Any, items: list[Any]
) -> None:
    """Its kind is an int: neither false nor 0.0 is a 0."""
    body = msgpack.packb([kind, items])
    try:
        said, taken = frames.decode_body(body, ENTRY_BYTES_MAX)
    except frames.Rejected:
        return
    again = [encode(item) if said == frames.KIND_RAFT else item for item in taken]
    assert msgpack.packb([said, again]) == body


@fuzz
@given(
    _kinds,
    st.sampled_from(sorted(VERDICTS)) | _values,
    _number | st.booleans() | st.floats(allow_nan=False),
)
@example(2.0, "accepted", 0)
@example(2, "accepted", False)
@example(2, "accepted", True)
@example(2, "accepted", 1.0)
def test_a_verdict_means_exactly_what_it_says(kind: Any, code: Any, admission: Any) -> None:
    """True is no index of an admission, nor is 1.0."""
    body = msgpack.packb([kind, code, admission])
    try:
        verdict = frames.decode_verdict(body)
    except frames.Rejected:
        return
    assert msgpack.packb([frames.KIND_VERDICT, verdict.code, verdict.admission]) == body


_bodies = st.one_of(
    _noise,
    _values.map(msgpack.packb),
    st.lists(_almost_messages() | _messages.map(on_the_wire), max_size=4).map(
        lambda items: msgpack.packb([0, items])
    ),
    st.lists(_messages.map(on_the_wire), max_size=4).map(lambda items: msgpack.packb([0, items])),
    st.lists(st.binary(max_size=40), max_size=4).map(lambda items: msgpack.packb([1, items])),
)


@fuzz
@given(st.lists(_bodies, max_size=5), _cuts)
@example([b"\x91" * 5000], [])
@example([b"\xdd\xff\xff\xff\xff"], [])
@example([msgpack.packb([0, [[0] * 5000]])], [3])
def test_whatever_a_peer_sends_is_delivered_or_rejected(
    bodies: list[bytes], cuts: list[int]
) -> None:
    """It has the secret, and is broken or hostile all the same. What came before the first bad frame is delivered, in order;
    nothing behind it is."""

    def scene(door: Door) -> None:
        door.shake_hands()
        stream = [frames.pack_frame(door.key, number, body) for number, body in enumerate(bodies)]
        expected: list[Any] = []
        is_good = True
        for body in bodies:
            if not body:
                continue  # a ping
            try:
                expected += frames.decode_body(body, ENTRY_BYTES_MAX)[1]
            except frames.Rejected:
                is_good = False
                break
        door.feed(b"".join(stream), cuts)
        assert door.delivered == expected
        assert door.pipe.is_open == is_good
        assert sum(door.rejected.values()) == (not is_good)

    at_a_door(scene)


@fuzz
@given(
    st.integers(1, 6),
    st.sampled_from(["twice", "swapped", "left out", "changed", "of another connection"]),
    st.randoms(use_true_random=False),
    _cuts,
)
def test_a_replayed_or_reordered_frame_closes_the_connection_and_is_counted(
    count: int, fault: str, chance: random.Random, cuts: list[int]
) -> None:
    """Also one that is left out, or changed in any bit. Everything before it was delivered; nothing behind it ever is."""

    def scene(door: Door) -> None:
        door.shake_hands()
        payloads = [b"payload %d" % number for number in range(count + 2)]
        stream = [
            frames.pack_frame(door.key, number, msgpack.packb([1, [payload]]))
            for number, payload in enumerate(payloads)
        ]
        at = chance.randrange(count)
        good = at
        match fault:
            case "twice":
                stream.insert(at + 1, stream[at])
                good = at + 1
            case "swapped":
                stream[at], stream[at + 1] = stream[at + 1], stream[at]
            case "left out":
                del stream[at]
            case "changed":
                frame = bytearray(stream[at])
                frame[chance.randrange(4, len(frame))] ^= 1 << chance.randrange(8)
                stream[at] = bytes(frame)
            case _:
                body = msgpack.packb([1, [payloads[at]]])
                stream[at] = frames.pack_frame(bytes(32), at, body)
        door.feed(b"".join(stream), cuts)
        assert door.delivered == payloads[:good]
        assert not door.pipe.is_open
        assert door.rejected == {"frame code": 1}

    at_a_door(scene)


@pytest.mark.parametrize("is_peer", [False, True])
def test_a_length_beyond_the_limit_ends_it_before_anything_is_collected(is_peer: bool) -> None:
    """For a peer the limit is that of a frame, for a stranger that of a hello."""

    def scene(door: Door) -> None:
        limit = frames.HELLO_BYTES_MAX
        if is_peer:
            door.shake_hands()
            limit = door.network.config.frame_bytes_max
        door.feed(struct.pack("<I", limit) + b"x")
        assert door.pipe.is_open
        door.connection._buffer.clear()
        door.feed(struct.pack("<I", limit + 1))
        assert not door.pipe.is_open
        assert door.rejected == {"frame too large": 1}
        assert not door.connection._buffer

    at_a_door(scene)


def test_after_the_end_nothing_is_kept() -> None:
    """Should a loop still deliver what it has read."""

    def scene(door: Door) -> None:
        door.feed(framed(b"no hello"))
        door.connection.data_received(bytes(100_000))
        assert not door.connection._buffer
        assert door.rejected == {"not a peer": 1}

    at_a_door(scene)


def hostile_bodies() -> Iterator[tuple[str, bytes]]:
    yield "an array of four thousand million", b"\xdd\xff\xff\xff\xff"
    yield "a map of as many", b"\xdf\xff\xff\xff\xff"
    yield "bytes of as many", b"\xc6\xff\xff\xff\xff"
    yield "an extension of as many", b"\xc9\xff\xff\xff\xff\x00"
    yield "arrays in arrays", b"\x91" * 200_000
    yield "maps in arrays", b"\x91\x81\xa1a" * 50_000
    yield "many messages of nothing", msgpack.packb([0, [0] * 200_000])
    yield "many entries of nothing", msgpack.packb([0, [[0, 1, 1, 1, 1, 1, [0] * 190_000]]])


@pytest.mark.parametrize(("what", "body"), list(hostile_bodies()))
def test_hostile_bodies_cost_little_memory_and_time(what: str, body: bytes) -> None:
    """What they announce is not believed; what they contain is bounded by the frame."""
    begun = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(frames.Rejected):
            frames.decode_body(body, ENTRY_BYTES_MAX)
        with pytest.raises(frames.Rejected):
            frames.decode_verdict(body)
        assert tracemalloc.get_traced_memory()[1] < PEAK_BYTES_MAX, what
    finally:
        tracemalloc.stop()
    assert time.process_time() - begun < CPU_SECONDS_MAX, what
