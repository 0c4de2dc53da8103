"""Entries and operations as bytes (msgpack), versioned.

Rule: decoding is total. The log and other nodes may hand in any bytes: an operation that cannot be read becomes `Malformed`,
which the machine refuses at its origin; an entry that cannot be read becomes an empty one, which changes nothing, on every
replica alike. Types are checked exactly here, ranges in `validation.py`. Encoding is total too: text that UTF-8 cannot carry
travels as it is and is refused by the machine.

Layout: an entry is `[version, term, elapsed_ms, [[node, boot, sequence, operation], ...], wall_ms]`; an operation is
`[tag, field, ...]`.
A new field goes to the end and older entries stay readable; a changed meaning takes a new tag.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from .operations import (
    PLAIN,
    Acquire,
    Barrier,
    Cancel,
    Checkpoint,
    CloseSession,
    Complete,
    Entry,
    ForceRelease,
    Malformed,
    Mode,
    OnUnclean,
    OpenSession,
    Operation,
    Origin,
    Release,
    RenewSession,
    Resolve,
    Terms,
    Withdraw,
)
from .packing import Unreadable, pack, unpack

ENTRY_VERSION: Final = 1
INTEGER_64_MAX: Final = 2**63 - 1
"""Integers beyond it are not ours; refused when read, so that arithmetic stays small."""
REASON_CHARS_MAX: Final = 200
"""A reason is for a human; more would only carry the damage on."""

EMPTY_ENTRY: Final = Entry(term=0, elapsed_ms=0, operations=())

OPEN, RENEW, CLOSE, ACQUIRE, RELEASE, CANCEL, WITHDRAW, BARRIER, MALFORMED = range(1, 10)
COMPLETE, CHECKPOINT, FORCE_RELEASE, RESOLVE = range(10, 14)

MODES: Final[tuple[Mode, ...]] = ("exclusive", "shared")
ON_UNCLEAN: Final[tuple[OnUnclean, ...]] = ("grant", "delay", "refuse")


def encode_entry(entry: Entry) -> bytes:
    operations = [
        [node, boot, sequence, encode_operation(operation)]
        for (node, boot, sequence), operation in entry.operations
    ]
    return pack([ENTRY_VERSION, entry.term, entry.elapsed_ms, operations, entry.wall_ms])


def decode_entry(data: bytes) -> Entry:
    try:
        version, term, elapsed_ms, raw_operations, *later = unpack(data)
        if version != ENTRY_VERSION or type(raw_operations) is not list or len(later) > 1:
            return EMPTY_ENTRY
        operations = tuple(map(_decode_addressed, raw_operations))
        wall_ms = _integer(later[0]) if later else 0
        return Entry(_integer(term), _integer(elapsed_ms), operations, wall_ms)
    except (ValueError, TypeError):
        return EMPTY_ENTRY


def encode_operation(operation: Operation) -> list[Any]:
    """Primitives that msgpack can carry."""
    match operation:
        case Acquire(keys, session, ttl_ms, wait_ms, request_id, settled, owner, context, terms):
            names = list(keys)
            raw = [ACQUIRE, names, session, ttl_ms, wait_ms, request_id, settled, owner, context]
            if terms is not PLAIN and terms != PLAIN:
                raw.append(encode_terms(terms))
            return raw
        case Release(session, token):
            return [RELEASE, session, token]
        case Complete(session, token, result, retain_ms):
            return [COMPLETE, session, token, result, retain_ms]
        case Checkpoint(session, token, value, number):
            return [CHECKPOINT, session, token, value, number]
        case ForceRelease(key, token, reason, operator):
            return [FORCE_RELEASE, key, token, reason, operator]
        case Resolve(key, token, reason, operator):
            return [RESOLVE, key, token, reason, operator]
        case RenewSession(session):
            return [RENEW, session]
        case OpenSession(session, ttl_ms, owner):
            return [OPEN, session, ttl_ms, owner]
        case CloseSession(session):
            return [CLOSE, session]
        case Cancel(session, request_id):
            return [CANCEL, session, request_id]
        case Withdraw((node, boot, sequence)):
            return [WITHDRAW, node, boot, sequence]
        case Barrier():
            return [BARRIER]
        case Malformed(reason):
            return [MALFORMED, reason]


def decode_operation(raw: object) -> Operation:
    """The operation that `encode_operation` made; `Malformed` for anything else."""
    if type(raw) is not list or not raw:
        return Malformed("an operation is a list that begins with its tag")
    decode = _DECODERS.get(raw[0]) if type(raw[0]) is int else None
    if decode is None:
        return Malformed("unknown operation")
    try:
        return decode(*raw[1:])
    except (ValueError, TypeError) as error:
        return Malformed(str(error)[:REASON_CHARS_MAX])


def encode_terms(terms: Terms) -> list[Any]:
    return [terms.mode, terms.limit, terms.on_unclean, terms.delay_ms, terms.require_clean]


def decode_terms(raw: object) -> Terms:
    if raw is None:
        return PLAIN
    if type(raw) is not list:
        raise Unreadable("terms: a list expected")
    mode, limit, on_unclean, delay_ms, require_clean = raw
    if mode not in MODES or on_unclean not in ON_UNCLEAN or type(require_clean) is not bool:
        raise Unreadable("terms: unknown mode or policy")
    terms = Terms(mode, _integer_or_none(limit), on_unclean, _integer(delay_ms), require_clean)
    return PLAIN if terms == PLAIN else terms


def _decode_addressed(raw: Any) -> tuple[Origin, Operation]:
    """An origin that cannot be read makes the whole entry unreadable: nobody could be answered, and sequences would tear."""
    node, boot, sequence, operation = raw
    return Origin(_text(node), _integer(boot), _integer(sequence)), decode_operation(operation)


def _text(value: object) -> str:
    if type(value) is not str:
        raise Unreadable(f"text expected, not {type(value).__name__}")
    return value


def _integer(value: object) -> int:
    if type(value) is not int or not -INTEGER_64_MAX <= value <= INTEGER_64_MAX:
        raise Unreadable(f"integer expected, not {type(value).__name__}")
    return value


def _text_or_none(value: object) -> str | None:
    return None if value is None else _text(value)


def _integer_or_none(value: object) -> int | None:
    return None if value is None else _integer(value)


def _request_id(value: object) -> int | str:
    return value if type(value) is str else _integer(value)


def _decode_acquire(
    keys: object,
    session: object,
    ttl_ms: object = None,
    wait_ms: object = 0,
    request_id: object = None,
    settled: object = None,
    owner: object = None,
    context: object = None,
    terms: object = None,
) -> Acquire:
    if type(keys) is not list:
        raise Unreadable("keys: a list expected")
    return Acquire(
        tuple(map(_text, keys)),
        _text(session),
        _integer_or_none(ttl_ms),
        _integer(wait_ms),
        None if request_id is None else _request_id(request_id),
        _integer_or_none(settled),
        _text_or_none(owner),
        _text_or_none(context),
        decode_terms(terms),
    )


def _decode_open(session: object, ttl_ms: object, owner: object = None) -> OpenSession:
    return OpenSession(_text(session), _integer(ttl_ms), _text_or_none(owner))


def _decode_withdraw(node: object, boot: object, sequence: object) -> Withdraw:
    return Withdraw(Origin(_text(node), _integer(boot), _integer(sequence)))


def _decode_release(session: object, token: object) -> Release:
    return Release(_text(session), _integer(token))


def _decode_complete(session: object, token: object, result: object, retain_ms: object) -> Complete:
    return Complete(_text(session), _integer(token), _text(result), _integer(retain_ms))


def _decode_checkpoint(
    session: object, token: object, value: object, number: object = None
) -> Checkpoint:
    return Checkpoint(_text(session), _integer(token), _text(value), _integer_or_none(number))


def _decode_force(key: object, token: object, reason: object, operator: object) -> ForceRelease:
    return ForceRelease(_text(key), _integer_or_none(token), _text(reason), _text(operator))


def _decode_resolve(key: object, token: object, reason: object, operator: object) -> Resolve:
    return Resolve(_text(key), _integer(token), _text(reason), _text(operator))


def _decode_cancel(session: object, request_id: object) -> Cancel:
    return Cancel(_text(session), _request_id(request_id))


_DECODERS: Final[dict[int, Callable[..., Operation]]] = {
    OPEN: _decode_open,
    RENEW: lambda session: RenewSession(_text(session)),
    CLOSE: lambda session: CloseSession(_text(session)),
    ACQUIRE: _decode_acquire,
    RELEASE: _decode_release,
    CANCEL: _decode_cancel,
    WITHDRAW: _decode_withdraw,
    BARRIER: Barrier,
    COMPLETE: _decode_complete,
    CHECKPOINT: _decode_checkpoint,
    FORCE_RELEASE: _decode_force,
    RESOLVE: _decode_resolve,
    MALFORMED: lambda reason: Malformed(_text(reason)[:REASON_CHARS_MAX]),
}
