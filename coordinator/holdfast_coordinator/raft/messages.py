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

ENTRY_ADMIT = b"\x11"
"""First byte of a log entry that gives a node another data directory (`peers`): then 16 bytes of the
directory's id, then the node's name."""

NODE_NAME_BYTES_MAX = 255
DIRECTORY_BYTES = 16
ADMISSIONS_MAX = 256
"""More than a cluster has nodes."""

NUMBER_MAX = 2**62
"""Terms, indices and stamps stay below this, so that they fit msgpack and signed 64-bit files."""

ENTRIES_PER_APPEND_MAX = 4096
"""Keeps the work for one message, and the list that a peer can make us build, bounded."""

SNAPSHOT_CHUNK_BYTES = 256 * 1024
"""A piece of a snapshot: large enough that the frame around it costs nothing, small enough that writing
and hashing it does not hold up the loop."""

SNAPSHOT_BYTES_MAX = 4 << 30
"""Far above what the machine's limits allow; an offer must not make a peer fill its disk."""

DIGEST_BYTES = 32
"""SHA-256."""


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
    """A candidate asks for a vote in `term`. `hand_over`: the leader itself has asked it to stand."""

    term: int
    last_index: int
    last_term: int
    hand_over: bool = False


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


@dataclass(frozen=True, slots=True)
class TimeoutNow:
    """The leader of `term` asks the receiver, which has its whole log, to stand for election at once."""

    term: int


@dataclass(frozen=True, slots=True)
class HandOverRequest:
    """An operator asks the leader of `term` to hand over; sent by the node that the operator asked."""

    term: int


@dataclass(frozen=True, slots=True)
class AdmitRequest:
    """An operator asks the leader to admit that node with that directory (hexadecimal)."""

    node: str
    directory: str


@dataclass(frozen=True, slots=True)
class Admissions:
    """Committed admissions: (node, index of the entry, directory). A snapshot does not tell them, so they
    are told when a connection is new, and when they are applied."""

    admitted: tuple[tuple[str, int, str], ...]


@dataclass(frozen=True, slots=True)
class SnapshotOffer:
    """A leader whose log does not reach back far enough offers its snapshot: everything up to entry
    `index` of `last_term`, `length` bytes with this SHA-256. Also a heartbeat; `stamp` as in `Append`."""

    term: int
    stamp: int
    index: int
    last_term: int
    length: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class SnapshotChunk:
    """A piece of the snapshot that was offered last, and a heartbeat."""

    term: int
    stamp: int
    index: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class SnapshotAnswer:
    """To an offer or a chunk, with its stamp: so many bytes from the beginning are here. `refused`: all
    were, but they were not what was offered, and are gone. The answer to the last chunk is an `Ack`."""

    term: int
    stamp: int
    index: int
    received: int
    refused: bool


Message = (
    Append
    | Ack
    | VoteRequest
    | Vote
    | TermNotice
    | PreVoteRequest
    | PreVote
    | TimeoutNow
    | HandOverRequest
    | AdmitRequest
    | Admissions
    | SnapshotOffer
    | SnapshotChunk
    | SnapshotAnswer
)

_APPEND, _ACK, _VOTE_REQUEST, _VOTE, _TERM_NOTICE, _PRE_VOTE_REQUEST, _PRE_VOTE = range(7)
_TIMEOUT_NOW, _HAND_OVER_REQUEST, _ADMIT_REQUEST, _ADMISSIONS = 7, 8, 9, 13
_SNAPSHOT_OFFER, _SNAPSHOT_CHUNK, _SNAPSHOT_ANSWER = 10, 11, 12


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
            return [
                _VOTE_REQUEST,
                message.term,
                message.last_index,
                message.last_term,
                message.hand_over,
            ]
        case Vote():
            return [_VOTE, message.term]
        case TermNotice():
            return [_TERM_NOTICE, message.term]
        case PreVoteRequest():
            return [_PRE_VOTE_REQUEST, message.term, message.last_index, message.last_term]
        case PreVote():
            return [_PRE_VOTE, message.term]
        case TimeoutNow():
            return [_TIMEOUT_NOW, message.term]
        case HandOverRequest():
            return [_HAND_OVER_REQUEST, message.term]
        case AdmitRequest():
            return [_ADMIT_REQUEST, message.node, message.directory]
        case Admissions():
            return [_ADMISSIONS, message.admitted]
        case SnapshotOffer(term, stamp, index, last_term, length, digest):
            return [_SNAPSHOT_OFFER, term, stamp, index, last_term, length, digest]
        case SnapshotChunk(term, stamp, index, offset, data):
            return [_SNAPSHOT_CHUNK, term, stamp, index, offset, data]
        case SnapshotAnswer(term, stamp, index, received, refused):
            return [_SNAPSHOT_ANSWER, term, stamp, index, received, refused]


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
            if len(fields) != 4 or type(fields[3]) is not bool:
                raise MessageError("a request for a vote has four fields, the last a boolean")
            term, last_index, last_term = _numbers(fields[:3])
            return VoteRequest(term, last_index, last_term, fields[3])
        case 3:
            return Vote(*_exactly(fields, 1))
        case 4:
            return TermNotice(*_exactly(fields, 1))
        case 5:
            return PreVoteRequest(*_exactly(fields, 3))
        case 6:
            return PreVote(*_exactly(fields, 1))
        case 7:
            return TimeoutNow(*_exactly(fields, 1))
        case 8:
            return HandOverRequest(*_exactly(fields, 1))
        case 9:
            if len(fields) != 2:
                raise MessageError("a request to admit has two fields")
            return AdmitRequest(_node_name(fields[0]), _directory(fields[1]))
        case 13:
            return _decode_admissions(fields)
        case 10:
            return _decode_snapshot_offer(fields)
        case 11:
            return _decode_snapshot_chunk(fields)
        case 12:
            if len(fields) != 5 or type(fields[4]) is not bool:
                raise MessageError("an answer about a snapshot has five fields, the last a boolean")
            term, stamp, index, received = _numbers(fields[:4])
            return SnapshotAnswer(term, stamp, index, received, fields[4])
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


def _decode_snapshot_offer(fields: list[Any]) -> SnapshotOffer:
    if len(fields) != 6 or type(fields[5]) is not bytes or len(fields[5]) != DIGEST_BYTES:
        raise MessageError("an offer of a snapshot has six fields, the last of them a SHA-256")
    term, stamp, index, last_term, length = _numbers(fields[:5])
    if index < 1 or last_term > term or not 0 < length <= SNAPSHOT_BYTES_MAX:
        raise MessageError("an offer of a snapshot that cannot be")
    return SnapshotOffer(term, stamp, index, last_term, length, fields[5])


def _decode_snapshot_chunk(fields: list[Any]) -> SnapshotChunk:
    if len(fields) != 5 or type(fields[4]) is not bytes:
        raise MessageError("a piece of a snapshot has five fields, the last of them bytes")
    if not 0 < len(fields[4]) <= SNAPSHOT_CHUNK_BYTES:
        raise MessageError("a piece of a snapshot is empty or over the limit")
    term, stamp, index, offset = _numbers(fields[:4])
    return SnapshotChunk(term, stamp, index, offset, fields[4])


def _decode_admissions(fields: list[Any]) -> Admissions:
    if len(fields) != 1 or not isinstance(fields[0], list) or len(fields[0]) > ADMISSIONS_MAX:
        raise MessageError("admissions are one list")
    admitted = []
    for item in fields[0]:
        if not isinstance(item, list) or len(item) != 3:
            raise MessageError("an admission has three fields")
        (index,) = _numbers(item[1:2])
        admitted.append((_node_name(item[0]), index, _directory(item[2])))
    return Admissions(tuple(admitted))


def _node_name(value: Any) -> str:
    if (
        type(value) is not str
        or not 0 < len(value.encode("utf-8", "replace")) <= NODE_NAME_BYTES_MAX
    ):
        raise MessageError("not the name of a node")
    return value


def _directory(value: Any) -> str:
    is_id = type(value) is str and len(value) == 2 * DIRECTORY_BYTES
    if not is_id or not set(value) <= set("0123456789abcdef"):
        raise MessageError("not the id of a data directory")
    return str(value)


def admission_command(node: str, directory: str) -> bytes:
    """The log entry that admits."""
    return ENTRY_ADMIT + bytes.fromhex(directory) + node.encode()


def parse_admission(command: bytes) -> tuple[str, str]:
    """(node, directory). Raises `MessageError`."""
    directory, name = command[1 : 1 + DIRECTORY_BYTES], command[1 + DIRECTORY_BYTES :]
    if len(directory) != DIRECTORY_BYTES or not 0 < len(name) <= NODE_NAME_BYTES_MAX:
        raise MessageError("an admission of nobody")
    try:
        return name.decode(), directory.hex()
    except UnicodeDecodeError:
        raise MessageError("not the name of a node") from None


def check_command(command: bytes, entry_bytes_max: int) -> None:
    """Refuse every log entry that is not one of ours, nor a NO_OP: pysyncobj would unpickle it."""
    if command[:1] == ENTRY_OWN:
        if len(command) > entry_bytes_max + 1:
            raise MessageError(f"an entry of {len(command)} bytes is over the limit")
    elif command[:1] == ENTRY_ADMIT:
        parse_admission(command)
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
