"""The closed schema of what two engines say to each other, and its form on the wire.

Rule: whatever comes from a peer is turned into one of the types below, fully checked, or refused
with a `MessageError`. Nothing else reaches the kernel, and never anything that would be unpickled.
Not known here: sockets, frames, authentication (`transport`), and what a message means (`kernel`).

On the wire a message is a msgpack array: its kind (a small integer), then its fields in order.
Entries carry no index: entry number i of an `Append` is at `prev_index + 1 + i`, so that a gap
cannot even be written down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class MessageError(Exception):
    """A peer sent something outside the schema. Close its connection and count it."""


ENTRY_OWN = b"\x10"
"""First byte of a log entry that is ours: the rest are raw bytes for the host. Outside the values
0 to 3 that pysyncobj gives a meaning to (and unpickles)."""

ENTRY_NO_OP = b"\x01"
"""The entry that a new leader appends. pysyncobj writes it; it carries nothing."""

NUMBER_MAX = 2**62
"""Terms, indices and stamps stay below this, so that they fit msgpack and signed 64-bit files."""

ENTRIES_PER_APPEND_MAX = 4096
"""Keeps the work for one message, and the list that a peer can make us build, bounded."""


@dataclass(frozen=True, slots=True)
class Append:
    """AppendEntries. `stamp` is the sender's clock in microseconds, strictly rising; it comes back
    in the `Ack`, so that a leader knows how old the news in an acknowledgement is."""

    term: int
    commit_index: int
    prev_index: int
    prev_term: int
    stamp: int
    entries: tuple[tuple[int, bytes], ...]
    """(term, command) of each entry."""


@dataclass(frozen=True, slots=True)
class Ack:
    """The answer to an `Append`: everything below `next_index` matches and is durable (`success`),
    or the leader should go on from there (`reset`). `term` is the term in which it was said."""

    term: int
    next_index: int
    success: bool
    reset: bool
    stamp: int


@dataclass(frozen=True, slots=True)
class VoteRequest:
    """A candidate asks for a vote in `term`."""

    term: int
    last_index: int
    last_term: int


@dataclass(frozen=True, slots=True)
class Vote:
    """A vote for the receiver in `term`."""

    term: int


@dataclass(frozen=True, slots=True)
class TermNotice:
    """The sender's term is higher than that of a message which it therefore ignored."""

    term: int


@dataclass(frozen=True, slots=True)
class PreVoteRequest:
    """Would the receiver vote for the sender in `term`? Asking changes nothing at the receiver."""

    term: int
    last_index: int
    last_term: int


@dataclass(frozen=True, slots=True)
class PreVote:
    """The receiver would get a vote in `term`."""

    term: int


Message = Append | Ack | VoteRequest | Vote | TermNotice | PreVoteRequest | PreVote

_APPEND, _ACK, _VOTE_REQUEST, _VOTE, _TERM_NOTICE, _PRE_VOTE_REQUEST, _PRE_VOTE = range(7)


def encode(message: Message) -> list[Any]:
    """The msgpack-able form of a message."""
    match message:
        case Append():
            return [
                _APPEND,
                message.term,
                message.commit_index,
                message.prev_index,
                message.prev_term,
                message.stamp,
                message.entries,
            ]
        case Ack():
            return [
                _ACK,
                message.term,
                message.next_index,
                message.success,
                message.reset,
                message.stamp,
            ]
        case VoteRequest():
            return [_VOTE_REQUEST, message.term, message.last_index, message.last_term]
        case Vote():
            return [_VOTE, message.term]
        case TermNotice():
            return [_TERM_NOTICE, message.term]
        case PreVoteRequest():
            return [_PRE_VOTE_REQUEST, message.term, message.last_index, message.last_term]
        case PreVote():
            return [_PRE_VOTE, message.term]


def decode(raw: object, *, entry_bytes_max: int) -> Message:
    """Check one unpacked array and give its message. Raises `MessageError` for anything else."""
    if not isinstance(raw, list) or not raw or type(raw[0]) is not int:
        raise MessageError("a message must be an array that starts with its kind")
    kind, fields = raw[0], raw[1:]
    match kind:
        case 0:
            return _decode_append(fields, entry_bytes_max)
        case 1:
            if len(fields) != 5 or type(fields[2]) is not bool or type(fields[3]) is not bool:
                raise MessageError("an acknowledgement has five fields, two of them booleans")
            term, next_index, stamp = _numbers([fields[0], fields[1], fields[4]])
            if next_index < 1 or (fields[2] and fields[3]):
                raise MessageError("an acknowledgement contradicts itself")
            return Ack(term, next_index, fields[2], fields[3], stamp)
        case 2:
            return VoteRequest(*_exactly(fields, 3))
        case 3:
            return Vote(*_exactly(fields, 1))
        case 4:
            return TermNotice(*_exactly(fields, 1))
        case 5:
            return PreVoteRequest(*_exactly(fields, 3))
        case 6:
            return PreVote(*_exactly(fields, 1))
    raise MessageError(f"no message kind {kind}")


def _decode_append(fields: list[Any], entry_bytes_max: int) -> Append:
    if len(fields) != 6 or not isinstance(fields[5], list):
        raise MessageError("an append has six fields, the last of them an array")
    term, commit_index, prev_index, prev_term, stamp = _numbers(fields[:5])
    if len(fields[5]) > ENTRIES_PER_APPEND_MAX:
        raise MessageError("too many entries in one append")
    if prev_index < 1 or prev_term > term:
        raise MessageError("an append must follow an entry of its own term or an older one")
    entries = []
    floor = prev_term
    for item in fields[5]:
        if not isinstance(item, list) or len(item) != 2 or type(item[1]) is not bytes:
            raise MessageError("an entry is its term and its bytes")
        (entry_term,) = _numbers(item[:1])
        if not floor <= entry_term <= term:
            raise MessageError("terms of entries must not fall, nor exceed that of the append")
        check_command(item[1], entry_bytes_max)
        entries.append((entry_term, item[1]))
        floor = entry_term
    return Append(term, commit_index, prev_index, prev_term, stamp, tuple(entries))


def check_command(command: bytes, entry_bytes_max: int) -> None:
    """Refuse every log entry that is neither ours nor a NO_OP: pysyncobj would unpickle it."""
    if command[:1] == ENTRY_OWN:
        if len(command) > entry_bytes_max + 1:
            raise MessageError(f"an entry of {len(command)} bytes is over the limit")
    elif command != ENTRY_NO_OP:
        raise MessageError("a log entry of an unknown type")


def _exactly(fields: list[Any], count: int) -> list[int]:
    if len(fields) != count:
        raise MessageError(f"expected {count} fields, got {len(fields)}")
    return _numbers(fields)


def _numbers(fields: list[Any]) -> list[int]:
    for value in fields:
        if type(value) is not int or not 0 <= value < NUMBER_MAX:
            raise MessageError("a number is missing or out of range")
    return fields
