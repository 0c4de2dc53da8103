"""The frames of the stream: what a client may put into one, and what an outcome looks like in an answer.

Rule: pure. A frame is a msgpack array of entries, an entry an array that begins with the number of its kind and the client's
number of the call. What an entry may contain is what the body of the plain call may contain, checked by the same functions
(`requests`); only the spelling differs. msgspec decodes and checks a whole frame in C; an entry that is wrong costs a second look
at its frame, and then only that one is refused. This module knows no socket and no node.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NamedTuple, get_args

import msgspec

from holdfast import stream_wire as numbers
from holdfast_coordinator.http import requests
from holdfast_coordinator.http.bodies import refuse_invalid
from holdfast_coordinator.http.problems import Problem
from holdfast_coordinator.machine.outcomes import (
    Cancelled,
    Checkpointed,
    Closed,
    Completed,
    Granted,
    Released,
    Renewed,
    SessionOpened,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast_coordinator.machine import Limits
    from holdfast_coordinator.machine.operations import Operation
    from holdfast_coordinator.machine.outcomes import Outcome, Previous
    from holdfast_coordinator.node_types import ClusterStatus, Unknown

CALL_MAX: Final = 2**63 - 1


class Entry(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """`call` is the client's number, repeated in the answer."""

    call: int


class OpenEntry(Entry, frozen=True, tag=numbers.OPEN):
    session: str
    ttl_ms: int
    owner: str | None = None


class RenewEntry(Entry, frozen=True, tag=numbers.RENEW):
    session: str


class CloseEntry(Entry, frozen=True, tag=numbers.CLOSE):
    session: str


class AcquireEntry(Entry, frozen=True, tag=numbers.ACQUIRE):
    """`names`: one key, or an array of several. Reads like the body of the plain call."""

    session: str
    request_id: int | str
    names: str | list[str]
    wait_ms: int = 0
    settled: int | None = None
    owner: str | None = None
    context: str | None = None
    mode: Literal["exclusive", "shared"] = "exclusive"
    limit: int | None = None
    on_unclean: Literal["grant", "delay", "refuse"] = "grant"
    delay_ms: int | None = None
    require_clean: bool = False

    ttl_ms: ClassVar[None] = None
    """A session that belongs to one lock cannot be asked for again under a request id, so the stream has none."""

    @property
    def key(self) -> str | None:
        return self.names if isinstance(self.names, str) else None

    @property
    def keys(self) -> list[str] | None:
        return None if isinstance(self.names, str) else self.names


class ReleaseEntry(Entry, frozen=True, tag=numbers.RELEASE):
    session: str
    token: int


class CancelEntry(Entry, frozen=True, tag=numbers.CANCEL):
    session: str
    request_id: int | str


class CompleteEntry(Entry, frozen=True, tag=numbers.COMPLETE):
    session: str
    token: int
    result: str
    retain_ms: int


class CheckpointEntry(Entry, frozen=True, tag=numbers.CHECKPOINT):
    session: str
    token: int
    value: str
    number: int | None = None


class Watching(Entry, frozen=True):
    """What is no operation, and says something about a watch."""


class WatchEntry(Watching, frozen=True, tag=numbers.WATCH):
    prefix: str = ""
    after: int | None = None
    window: int = numbers.EVENTS_WINDOW_MAX


class MoreEntry(Watching, frozen=True, tag=numbers.EVENTS):
    """`call` is that of the watch."""

    count: int


class UnwatchEntry(Watching, frozen=True, tag=numbers.UNWATCH):
    """`call` is that of the watch."""


AnyOperation = (
    OpenEntry
    | RenewEntry
    | CloseEntry
    | AcquireEntry
    | ReleaseEntry
    | CancelEntry
    | CompleteEntry
    | CheckpointEntry
)
AnyWatch = WatchEntry | MoreEntry | UnwatchEntry
AnyEntry = AnyOperation | AnyWatch

_decode_frame = msgspec.msgpack.Decoder(list[AnyEntry]).decode
_decode_raw = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_decode_entry = msgspec.msgpack.Decoder(AnyEntry).decode
_decode_any = msgspec.msgpack.Decoder(list[Any]).decode
encode_frame: Final = msgspec.msgpack.Encoder().encode


class Wrong(NamedTuple):
    """An entry that is refused before anybody looks at what it means."""

    call: int
    problem: Problem


class Unreadable(Exception):
    """This is no frame: nobody could be answered."""


def decode_frame(data: bytes) -> Sequence[AnyEntry | Wrong]:
    """The entries in their order; in place of one that is wrong, what is wrong with it. Raises `Unreadable`."""
    try:
        return _decode_frame(data)
    except msgspec.ValidationError:
        return [_one(raw) for raw in _raws(data)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable("not msgpack") from error


def _raws(data: bytes) -> list[msgspec.Raw]:
    try:
        return _decode_raw(data)
    except msgspec.ValidationError as error:
        raise Unreadable("not an array") from error


def _one(raw: msgspec.Raw) -> AnyEntry | Wrong:
    try:
        entry: AnyEntry = _decode_entry(raw)
    except msgspec.ValidationError as error:
        message = str(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable("not msgpack") from error
    else:
        return entry
    try:
        kind, call, *_ = _decode_any(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise Unreadable("an entry without a call") from error
    if type(call) is not int or not 0 < call <= CALL_MAX:
        raise Unreadable("an entry without a call")
    try:
        refuse_invalid(_with_names(kind, message))
    except Problem as problem:
        return Wrong(call, problem)


def _with_names(kind: object, message: str) -> str:
    """msgspec tells the place in the array; callers know the field by its name."""
    place = _PLACE.search(message)
    if place is None or type(kind) is not int or kind not in FIELDS:
        return message
    name = FIELDS[kind][int(place[1]) - 1]
    return message.replace(place[0], "`$." + {"names": "keys"}.get(name, name))


_PLACE: Final = re.compile(r"`\$\[(\d+)\]")
FIELDS: Final = {
    struct.__struct_config__.tag: struct.__struct_fields__ for struct in get_args(AnyEntry)
}


def call_of(entry: AnyOperation) -> str:
    """The plain call that asks the same, as `rights.CALLS` names it."""
    return _CALLS[type(entry)]


def keys_of(entry: AnyOperation) -> Sequence[str] | None:
    """Those that it names; None: it names a session instead."""
    if type(entry) is not AcquireEntry:
        return None
    return (entry.names,) if isinstance(entry.names, str) else entry.names


_CALLS: Final[dict[type, str]] = {
    OpenEntry: "POST /v1/sessions",
    RenewEntry: "POST /v1/sessions/renew",
    CloseEntry: "POST /v1/sessions/close",
    AcquireEntry: "POST /v1/locks/acquire",
    ReleaseEntry: "POST /v1/locks/release",
    CancelEntry: "POST /v1/locks/cancel",
    CompleteEntry: "POST /v1/locks/complete",
    CheckpointEntry: "POST /v1/locks/checkpoint",
}


def operation_of(entry: AnyOperation, limits: Limits) -> Operation:
    """What the machine is asked. Raises `Problem` that names the field."""
    return _OPERATIONS[type(entry)](entry, limits)


def _no_new_session() -> str:
    raise AssertionError("an entry brings its session")


_OPERATIONS: Final[dict[type, Callable[[Any, Limits], Operation]]] = {
    OpenEntry: lambda entry, limits: requests.open_session(entry, _no_new_session, limits),
    RenewEntry: lambda entry, _: requests.renew_session(entry),
    CloseEntry: lambda entry, _: requests.close_session(entry),
    AcquireEntry: lambda entry, limits: requests.acquire(entry, _no_new_session, limits),
    ReleaseEntry: lambda entry, _: requests.release(entry),
    CancelEntry: lambda entry, _: requests.cancel(entry),
    CompleteEntry: lambda entry, _: requests.complete(entry),
    CheckpointEntry: lambda entry, _: requests.checkpoint(entry),
}


# -- answers ---------------------------------------------------------------------------------------------------------------


def hello(node: str) -> list[Any]:
    told = {
        "version": numbers.STREAM_VERSION,
        "node": node,
        "window": numbers.WINDOW,
        "frame_operations_max": numbers.FRAME_OPERATIONS_MAX,
        "frame_bytes_max": numbers.FRAME_BYTES_MAX,
    }
    return [numbers.HELLO, 0, told]


def leader(status: ClusterStatus) -> tuple[Any, ...] | None:
    """None: this node itself leads, or it knows no leader."""
    for node in status.nodes:
        if node.name == status.leader != status.node:
            return (numbers.LEADER, 0, node.name, node.http)
    return None


def answer_of(call: int, outcome: Outcome | Unknown) -> tuple[Any, ...] | None:
    """The entry that tells a success; None: it is none."""
    make = _ANSWERS.get(type(outcome))
    return None if make is None else make(call, outcome)


def refused(call: int, problem: Problem) -> tuple[Any, ...]:
    return (numbers.REFUSED, call, problem.status, problem.body())


def ended(session: str) -> tuple[Any, ...]:
    return (numbers.ENDED, 0, session)


def forced(session: str, tokens: tuple[int, ...]) -> tuple[Any, ...]:
    return (numbers.FORCED, 0, session, tokens)


def _granted(call: int, granted: Granted) -> tuple[Any, ...]:
    """The keys and the mode are those that were asked for: the caller knows them. `previous` and `checkpoints` in their order."""
    previous = granted.previous
    told = (
        numbers.ACQUIRE,
        call,
        granted.token,
        granted.remaining_ms,
        granted.fence,
        granted.previous_horizon,
        # Of nearly every grant: one key that nobody held before, or one whose last hold was released.
        [None] if previous == (None,) else [_previous(each) for each in previous],
    )
    checkpoints = granted.checkpoints
    if not checkpoints:
        return told
    return (*told, [None if each is None else (each.token, each.value) for each in checkpoints])


def _previous(previous: Previous | None) -> tuple[Any, ...] | None:
    if previous is None:
        return None
    if previous.floor is None and not previous.resolved:
        return (previous.token, previous.ended)
    return (previous.token, previous.ended, previous.floor, previous.resolved)


def _opened(call: int, opened: SessionOpened) -> tuple[Any, ...]:
    return (numbers.OPEN, call, opened.ttl_ms, opened.remaining_ms)


_ANSWERS: Final[dict[type, Callable[[int, Any], tuple[Any, ...]]]] = {
    Granted: _granted,
    Released: lambda call, _: (numbers.RELEASE, call),
    Renewed: lambda call, renewed: (numbers.RENEW, call, renewed.remaining_ms, renewed.forced),
    SessionOpened: _opened,
    Closed: lambda call, closed: (numbers.CLOSE, call, closed.released),
    Cancelled: lambda call, cancelled: (numbers.CANCEL, call, cancelled.released),
    Completed: lambda call, completed: (numbers.COMPLETE, call, completed.remaining_ms),
    Checkpointed: lambda call, _: (numbers.CHECKPOINT, call),
}
