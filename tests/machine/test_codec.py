"""The codec: what goes in comes out; what is not ours becomes a refusal or nothing, never an exception."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_coordinator.machine import (
    Acquire,
    Barrier,
    Cancel,
    Checkpoint,
    CloseSession,
    Complete,
    Entry,
    ForceRelease,
    Machine,
    Malformed,
    OpenSession,
    Origin,
    Refused,
    Release,
    RenewSession,
    Resolve,
    Terms,
    Withdraw,
    check_invariants,
    decode_entry,
    decode_operation,
    encode_entry,
    encode_operation,
)
from holdfast_coordinator.machine.codec import Encoded, _piece_by_piece, encode_batch, readable

texts = st.text(st.characters(), max_size=8)
integers = st.integers(-(2**53), 2**53)
names = st.one_of(texts, integers)
origins = st.builds(Origin, texts, integers, integers)
terms = st.builds(
    Terms,
    st.sampled_from(("exclusive", "shared")),
    st.none() | integers,
    st.sampled_from(("grant", "delay", "refuse")),
    integers,
    st.booleans(),
)
operations = st.one_of(
    st.builds(OpenSession, texts, integers, st.none() | texts),
    st.builds(RenewSession, texts),
    st.builds(CloseSession, texts),
    st.builds(
        Acquire,
        st.lists(texts, max_size=4).map(tuple),
        texts,
        st.none() | integers,
        integers,
        st.none() | names,
        st.none() | integers,
        st.none() | texts,
        st.none() | texts,
        st.just(Terms()) | terms,
    ),
    st.builds(Release, texts, integers),
    st.builds(Complete, texts, integers, texts, integers),
    st.builds(Checkpoint, texts, integers, texts),
    st.builds(ForceRelease, texts, st.none() | integers, texts, texts),
    st.builds(Resolve, texts, integers, texts, texts),
    st.builds(Cancel, texts, names),
    st.builds(Withdraw, texts, integers, integers),
    st.just(Barrier()),
    st.builds(Malformed, texts),
)
addressed = st.lists(st.tuples(origins, operations), max_size=5).map(tuple)
entries = st.builds(Entry, integers, integers, addressed, integers)
primitives = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | texts
    | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)


@given(entries)
def test_an_entry_survives_the_round_trip(entry: Entry) -> None:
    """Encoding and decoding give an equal entry, whatever its values."""
    assert decode_entry(encode_entry(entry)) == entry


@given(operations)
def test_an_operation_survives_forwarding(operation: object) -> None:
    """What a node encoded is what the leader copies and every node reads."""
    encoded = encode_operation(operation)  # type: ignore[arg-type]
    assert decode_operation(encoded) == operation
    assert decode_operation(readable(encoded)) == operation


@given(entries)
def test_the_machine_survives_any_entry(entry: Entry) -> None:
    """Whatever an entry of the right types says, apply answers, and its invariants hold."""
    machine = Machine()
    machine.apply(entry)
    live = tuple((Origin("n", 1, i + 1), op) for i, (_, op) in enumerate(entry.operations))
    outcomes = machine.apply(Entry(1, 0, live))
    assert {origin for origin, _ in live} <= {origin for origin, _ in outcomes}
    check_invariants(machine)


@given(st.binary(max_size=60))
def test_bytes_that_are_no_entry_are_an_empty_one(data: bytes) -> None:
    """Decoding any bytes gives an entry."""
    assert isinstance(decode_entry(data), Entry)


@given(primitives)
def test_values_that_are_no_operation_are_malformed(raw: object) -> None:
    """Decoding any msgpack value gives an operation, and any entry made of such values an entry."""
    packed = msgpack.packb(raw, unicode_errors="surrogatepass")
    decode_operation(packed)
    _readable_by_all(packed)
    packed = msgpack.packb([1, 1, 0, [["n", 1, 1, raw]]], unicode_errors="surrogatepass")
    entry = decode_entry(packed)
    Machine().apply(entry)
    decode_entry(msgpack.packb([1, 1, raw, raw], unicode_errors="surrogatepass"))
    decode_entry(msgpack.packb(raw, unicode_errors="surrogatepass"))


def _readable_by_all(packed: bytes) -> None:
    """What the leader makes of these bytes leaves the entry whole, and is what it reads itself."""
    encoded = readable(Encoded(packed))
    entry = decode_entry(encode_batch(1, 1, 0, [("n", 1, 1, encoded)], 0))
    assert entry.operations == ((Origin("n", 1, 1), decode_operation(packed)),)


@given(st.binary(max_size=40))
def test_bytes_that_are_no_operation_do_not_spoil_the_entry_that_carries_them(data: bytes) -> None:
    """A leader appends what other nodes forward: were it unreadable, every replica would stop at that entry."""
    _readable_by_all(data)


@pytest.mark.parametrize("data", [b"\x91" * 100_000, b"\x93\x05\xa1\xff\x01", b"", b"\x91\x08\x08"])
def test_bytes_that_end_a_decoder_early_are_malformed(data: bytes) -> None:
    assert isinstance(decode_operation(data), Malformed)
    _readable_by_all(data)


@given(entries, st.data())
def test_an_entry_is_the_same_in_one_step_and_piece_by_piece(
    entry: Entry, data: st.DataObject
) -> None:
    """Also when it was damaged: whatever the one step accepts, the other reads alike."""
    encoded = bytearray(encode_entry(entry))
    for _ in range(data.draw(st.integers(0, 2))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(encoded)
    assert decode_entry(damaged) == _piece_by_piece(damaged)


@given(entries, st.data())
def test_a_damaged_entry_still_decodes(entry: Entry, data: st.DataObject) -> None:
    """Cut or changed at any byte, it decodes to something that the machine survives."""
    encoded = bytearray(encode_entry(entry))
    at = data.draw(st.integers(0, len(encoded) - 1))
    Machine().apply(decode_entry(bytes(encoded[:at])))
    encoded[at] = data.draw(st.integers(0, 255))
    Machine().apply(decode_entry(bytes(encoded)))


@pytest.mark.parametrize(
    "raw",
    [
        [4, ["k"], "s", True],  # a bool is no number
        [4, "k", "s"],
        [4, [1], "s"],
        [4, ["k"]],
        [4, ["k"], "s", None, 0, None, None, None, None, "no terms"],
        [4, ["k"], "s", None, 0, None, None, None, None, None, "one too many"],
        [4, ["k"], "s", None, 0, None, None, None, None, ["exclusive", None, "grant", 0, False, 0]],
        [4, ["k"], "s", None, 0, None, None, None, None, ["alone", None, "grant", 0, False]],
        [4, ["k"], "s", None, 0, None, None, None, None, [["shared"], None, "grant", 0, False]],
        [4, ["k"], "s", None, 0, None, None, None, None, ["shared", True, "grant", 0, False]],
        [4, ["k"], "s", None, 0, None, None, None, None, ["shared", None, "never", 0, False]],
        [4, ["k"], "s", None, 0, None, None, None, None, ["shared", None, "grant", None, False]],
        [4, ["k"], "s", None, 0, None, None, None, None, ["shared", None, "grant", 0, 1]],
        [10, "s", 1, "result"],
        [10, "s", 1, b"result", 1_000],
        [10, "s", "1", "result", 1_000],
        [11, "s", 1, None],
        [11, "s", True, "value"],
        [12, "k", "17", "why", "olga"],
        [12, "k", None, None, "olga"],
        [12, "k", None, "why"],
        [13, "k", None, "why", "olga"],
        [13, "k", 2**63, "why", "olga"],
        [6, "s", None],
        [8, "a barrier takes nothing"],
        [99],
        [],
        None,
    ],
)
def test_an_unreadable_operation_is_refused_at_its_origin(raw: object) -> None:
    """One bad operation does not take the others of its entry with it."""
    good = [8]
    entry = decode_entry(msgpack.packb([1, 1, 0, [["n", 1, 1, raw], ["n", 1, 2, good]]]))
    (first, refusal), (second, _) = Machine().apply(entry)
    assert (first.sequence, second.sequence) == (1, 2)
    assert isinstance(refusal, Refused)
    assert refusal.code == "bad_request"


def test_entries_of_an_older_version_stay_readable() -> None:
    """Entries of four elements have no wall time, and acquires of eight fields ask for a plain exclusive lock."""
    acquire = [4, ["k"], "s", None, 5, 1, None, "owner", "context"]
    old = decode_entry(msgpack.packb([1, 7, 250, [["n", 1, 1, acquire]]]))
    plain = Acquire(("k",), "s", None, 5, 1, None, "owner", "context")
    assert old == Entry(7, 250, ((Origin("n", 1, 1), plain),), 0)
    assert bytes(encode_operation(plain)) == msgpack.packb(acquire)
    shortest = decode_entry(msgpack.packb([1, 7, 0, [["n", 1, 1, [4, ["k"], "s"]]]]))
    assert shortest.operations[0][1] == Acquire(("k",), "s")


@pytest.mark.parametrize(
    "raw",
    [
        [1, 7, 250, [], "now"],
        [1, 7, 250, [], None],
        [1, 7, 250, [], 0, 0],
        [1, 7, 250, [], 2**63],
        [3, 7, 250, [], 0],
        [1, 7, 250],
    ],
)
def test_an_entry_with_a_tail_that_is_not_ours_is_an_empty_one(raw: object) -> None:
    """A wall time that is no integer, or more fields than there are: nothing of the entry is taken."""
    assert decode_entry(msgpack.packb(raw)) == Entry(0, 0)


def test_plain_terms_are_told_apart_by_value_only() -> None:
    """Terms that say what is the default cost no bytes, and come back as the plain ones."""
    spelled_out = Acquire(("k",), "s", terms=Terms("exclusive", None, "grant", 0, False))
    plain = [4, ["k"], "s", None, 0, None, None, None, None]
    assert bytes(encode_operation(spelled_out)) == msgpack.packb(plain)
    raw = [*plain, ["exclusive", None, "grant", 0, False]]
    assert decode_operation(msgpack.packb(raw)) == Acquire(("k",), "s")
