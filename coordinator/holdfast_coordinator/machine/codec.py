"""Entries and operations as bytes (msgpack), versioned.

Rule: decoding is total. The log and other nodes may hand in any bytes: an operation that cannot be read becomes `Malformed`,
which the machine refuses at its origin; an entry that cannot be read becomes an empty one, which changes nothing, on every
replica alike. Types and the ranges of integers are those of the structs in `operations.py`, every other bound is in
`validation.py`. Encoding is total too: text that UTF-8 cannot carry travels as it is and is refused by the machine.

Layout: an entry is `[level, term, elapsed_ms, [[node, boot, sequence, operation], ...], wall_ms]`; an operation is
`[tag, field, ...]`. The level is the format level at which the entry was written (`levels.py`): one of a level that this version
does not know cannot be read by it.
A new field goes to the end and older entries stay readable; a changed meaning takes a new tag, and a new level.

Every operation is encoded once, by the node at which it came in, and decoded once by each node that applies it: between the two it
is `Encoded`, bytes that the leader checks and copies. An entry of which everything is in order is decoded in one step in C;
where anything is not, each of its operations is looked at for itself. Both ways read the same structs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec

from .levels import HIGHEST, LEVEL_MAX, LOWEST
from .operations import (
    PLAIN,
    REASON_CHARS_MAX,
    Acquire,
    Entry,
    Integer,
    Malformed,
    Operation,
    Origin,
    Terms,
)
from .packing import Unreadable, pack, unpack

EMPTY_ENTRY: Final = Entry(term=0, elapsed_ms=0, operations=())

Encoded = msgspec.Raw
"""The bytes of one operation, in the order in which it travels."""


Addressed = tuple[str, int, int, Encoded]
"""Node, boot and sequence, and the operation."""

T = TypeVar("T")


class _Entry(msgspec.Struct, Generic[T], array_like=True, forbid_unknown_fields=True):
    level: Annotated[int, msgspec.Meta(ge=LOWEST, le=HIGHEST)]
    term: Integer
    elapsed_ms: Integer
    operations: list[tuple[str, Integer, Integer, T]]
    wall_ms: Integer = 0


_encode: Final = msgspec.msgpack.Encoder().encode
_decode_whole: Final = msgspec.msgpack.Decoder(_Entry[Operation]).decode
_decode_operation: Final[Callable[[Encoded | bytes], Operation]] = msgspec.msgpack.Decoder(
    Operation
).decode


_UNREADABLE: Final = (ValueError, RecursionError)
"""What msgspec raises of bytes that are not what was expected; wrong UTF-8 among it."""


# --- operations -------------------------------------------------------------------------------------------------------


def encode_operation(operation: Operation) -> Encoded:
    """The bytes of an operation; plain terms take none."""
    fields = _plain_fields(operation) if type(operation) is Acquire else operation
    try:
        return Encoded(_encode(fields))
    except UnicodeEncodeError:
        return Encoded(pack(msgspec.to_builtins(fields)))


def _plain_fields(acquire: Acquire) -> object:
    """What an exclusive lock and nothing else needs: everything but the terms."""
    if acquire.terms is not PLAIN and acquire.terms != PLAIN:
        return acquire
    return (
        _ACQUIRE,
        acquire.keys,
        acquire.session,
        acquire.ttl_ms,
        acquire.wait_ms,
        acquire.request_id,
        acquire.settled,
        acquire.owner,
        acquire.context,
    )


_ACQUIRE: Final = Acquire.__struct_config__.tag


def decode_operation(encoded: Encoded | bytes) -> Operation:
    """The operation that `encode_operation` made; `Malformed` for anything else."""
    try:
        return _decode_operation(encoded)
    except _UNREADABLE:
        return _from_any(encoded)


def readable(encoded: Encoded) -> Encoded:
    """These bytes if they are an operation, else the refusal of them: what a leader appends can be read by all."""
    try:
        _decode_operation(encoded)
    except _UNREADABLE:
        return encode_operation(_from_any(encoded))
    return encoded


def _from_any(encoded: Encoded | bytes) -> Operation:
    try:
        return _from_primitives(unpack(bytes(encoded)))
    except Unreadable as error:
        return Malformed(str(error)[:REASON_CHARS_MAX])


def _from_primitives(raw: Any) -> Operation:
    try:
        operation: Operation = msgspec.convert(raw, Operation)
    except _UNREADABLE as error:
        return Malformed(str(error)[:REASON_CHARS_MAX])
    return operation


def encode_terms(terms: Terms) -> list[Any]:
    primitives: list[Any] = msgspec.to_builtins(terms)
    return primitives


def decode_terms(raw: object) -> Terms:
    """Raises `Unreadable`."""
    try:
        terms = PLAIN if raw is None else msgspec.convert(raw, Terms)
    except _UNREADABLE as error:
        raise Unreadable(f"terms: {error}") from error
    return PLAIN if terms == PLAIN else terms


# --- entries ----------------------------------------------------------------------------------------------------------


def encode_entry(entry: Entry) -> bytes:
    addressed = [
        (node, boot, sequence, encode_operation(operation))
        for (node, boot, sequence), operation in entry.operations
    ]
    return encode_batch(entry.level, entry.term, entry.elapsed_ms, addressed, entry.wall_ms)


def encode_batch(
    level: int, term: int, elapsed_ms: int, addressed: list[Addressed], wall_ms: int
) -> bytes:
    """An entry of operations that are bytes already, each behind its node, boot and sequence."""
    whole = (level, term, elapsed_ms, addressed, wall_ms)
    try:
        return _encode(whole)
    except UnicodeEncodeError:
        return pack(
            [*whole[:3], [[*origin, unpack(bytes(raw))] for *origin, raw in addressed], wall_ms]
        )


def decode_entry(data: bytes) -> Entry:
    try:
        whole = _decode_whole(data)
    except _UNREADABLE:
        return _piece_by_piece(data)
    operations = tuple(
        [
            (Origin(node, boot, sequence), operation)
            for node, boot, sequence, operation in whole.operations
        ]
    )
    return Entry(whole.term, whole.elapsed_ms, operations, whole.wall_ms, whole.level)


def _piece_by_piece(data: bytes) -> Entry:
    """One bad operation does not take the others of its entry with it. An origin that cannot be read makes the whole entry
    unreadable: nobody could be answered, and sequences would tear."""
    try:
        pieces = msgspec.convert(unpack(data), _Entry[Any])
    except _UNREADABLE:
        return EMPTY_ENTRY
    operations = tuple(
        [
            (Origin(node, boot, sequence), _from_primitives(raw))
            for node, boot, sequence, raw in pieces.operations
        ]
    )
    return Entry(pieces.term, pieces.elapsed_ms, operations, pieces.wall_ms, pieces.level)


def level_of(data: bytes) -> int | None:
    """At which level an entry was written, whether or not this version knows it. None: this is no entry."""
    # An array of four to fifteen elements, and a small number: nothing else has to be read, and a start asks this of every entry.
    is_entry = len(data) > 1 and 0x94 <= data[0] <= 0x9F and 1 <= data[1] <= LEVEL_MAX
    return data[1] if is_entry else None
