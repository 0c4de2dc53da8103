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
    st.builds(Withdraw, origins),
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
    """The primitives of an operation survive msgpack between two nodes."""
    packed = msgpack.packb(encode_operation(operation), unicode_errors="surrogatepass")  # type: ignore[arg-type]
    raw = msgpack.unpackb(packed, unicode_errors="surrogatepass")
    assert decode_operation(raw) == operation


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
    decode_operation(raw)
    packed = msgpack.packb([1, 1, 0, [["n", 1, 1, raw]]], unicode_errors="surrogatepass")
    entry = decode_entry(packed)
    Machine().apply(entry)
    decode_entry(msgpack.packb([1, 1, raw, raw], unicode_errors="surrogatepass"))
    decode_entry(msgpack.packb(raw, unicode_errors="surrogatepass"))


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
        [4, ["k"], "s", None, 0, None, None, None, None, []],
        [4, ["k"], "s", None, 0, None, None, None, None, ["exclusive", None, "grant", 0]],
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
    good = encode_operation(Barrier())
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
    assert encode_operation(plain) == acquire
    shortest = decode_entry(msgpack.packb([1, 7, 0, [["n", 1, 1, [4, ["k"], "s"]]]]))
    assert shortest.operations[0][1] == Acquire(("k",), "s")


@pytest.mark.parametrize(
    "raw",
    [
        [1, 7, 250, [], "now"],
        [1, 7, 250, [], None],
        [1, 7, 250, [], 0, 0],
        [1, 7, 250, [], 2**63],
        [2, 7, 250, [], 0],
        [1, 7, 250],
    ],
)
def test_an_entry_with_a_tail_that_is_not_ours_is_an_empty_one(raw: object) -> None:
    """A wall time that is no integer, or more fields than there are: nothing of the entry is taken."""
    assert decode_entry(msgpack.packb(raw)) == Entry(0, 0)


def test_plain_terms_are_told_apart_by_value_only() -> None:
    """Terms that say what is the default cost no bytes, and come back as the plain ones."""
    spelled_out = Acquire(("k",), "s", terms=Terms("exclusive", None, "grant", 0, False))
    assert encode_operation(spelled_out) == encode_operation(Acquire(("k",), "s"))
    raw = [*encode_operation(spelled_out), ["exclusive", None, "grant", 0, False]]
    assert decode_operation(raw) == Acquire(("k",), "s")
