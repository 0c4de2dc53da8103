"""Plain calls as entries of a frame, and answers of a frame as those of plain calls.

Rule: pure, and nothing is judged here. A body that an entry cannot carry exactly (an unknown field, a session that is to be made by
the node) has no entry: it travels as a plain call, and the node says what is wrong with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from holdfast import stream_wire as numbers
from holdfast import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Entry = list[Any]

_TERMS: Final = ("mode", "limit", "on_unclean", "delay_ms", "require_clean")
_TERMS_FIELDS: Final = frozenset(_TERMS)
_TERMS_DEFAULTS: Final = ("exclusive", None, "grant", None, False)
_ACQUIRE_FIELDS: Final = frozenset(
    {"session", "request_id", "key", "keys", "wait_ms", "settled", "owner", "context", *_TERMS}
)


def entry_of(path: str, body: Mapping[str, Any] | None) -> Entry | None:
    """`[kind, 0, ...]`: the number of the call is filled in when it is known. None: this goes as a plain call."""
    make = _ENTRIES.get(path)
    return None if make is None or body is None else make(body)


def _acquire(body: Mapping[str, Any]) -> Entry | None:
    if not body.keys() <= _ACQUIRE_FIELDS or ("key" in body) == ("keys" in body):
        return None
    session, request_id = body.get("session"), body.get("request_id")
    if session is None or request_id is None:
        return None
    entry = [
        numbers.ACQUIRE,
        0,
        session,
        request_id,
        body["key"] if "key" in body else body["keys"],
        body.get("wait_ms", 0),
        body.get("settled"),
        body.get("owner"),
        body.get("context"),
    ]
    if not _TERMS_FIELDS.isdisjoint(body):
        defaults = zip(_TERMS, _TERMS_DEFAULTS, strict=True)
        entry += [body.get(each, default) for each, default in defaults]
    return entry


def _plain(kind: int, *fields: str, optional: str | None = None) -> Callable[..., Entry | None]:
    """An entry with these fields in their order, and perhaps a last one."""
    needed = set(fields)
    allowed = needed | ({optional} if optional is not None else set())

    def make(body: Mapping[str, Any]) -> Entry | None:
        if not needed <= body.keys() <= allowed:
            return None
        entry = [kind, 0, *[body[name] for name in fields]]
        if optional is not None and optional in body:
            entry.append(body[optional])
        return entry

    return make


_SESSIONS: Final = f"{wire.API_PREFIX}/sessions"
_LOCKS: Final = f"{wire.API_PREFIX}/locks"
_ENTRIES: Final[dict[str, Callable[..., Entry | None]]] = {
    f"{_LOCKS}/acquire": _acquire,
    f"{_LOCKS}/release": _plain(numbers.RELEASE, "session", "token"),
    f"{_LOCKS}/cancel": _plain(numbers.CANCEL, "session", "request_id"),
    f"{_LOCKS}/complete": _plain(numbers.COMPLETE, "session", "token", "result", "retain_ms"),
    f"{_LOCKS}/checkpoint": _plain(
        numbers.CHECKPOINT, "session", "token", "value", optional="number"
    ),
    _SESSIONS: _plain(numbers.OPEN, "session", "ttl_ms", optional="owner"),
    f"{_SESSIONS}/renew": _plain(numbers.RENEW, "session"),
    f"{_SESSIONS}/close": _plain(numbers.CLOSE, "session"),
}


def answer_of(entry: Entry, body: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
    """Status and body of the plain call with `body` that the answer `entry` corresponds to. Raises `ValueError`, `LookupError` and
    `TypeError` for what is no answer."""
    return _ANSWERS[entry[0]](entry, body)


def _granted(entry: Entry, body: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
    _, _, token, remaining_ms, fence, horizon, previous, *rest = entry
    if "key" in body:
        keys = [body["key"]]
        [last] = previous
        told_previous: Any = None if last is None else _previous(last)
        told_checkpoint: Any = _checkpoint(rest[0][0]) if rest else None
    else:
        keys = list(body["keys"])
        told_previous = _by_key(keys, [_previous(each) for each in previous])
        checkpoints = rest[0] if rest else [None] * len(keys)
        told_checkpoint = _by_key(keys, [_checkpoint(each) for each in checkpoints])
    answer = {
        "token": token,
        "fence": dict(zip(keys, fence, strict=True)) if isinstance(fence, list) else fence,
        "keys": keys,
        "mode": body.get("mode", "exclusive"),
        "session": body["session"],
        "remaining_ms": remaining_ms,
        "previous": told_previous,
        "previous_horizon": horizon,
        "checkpoint": told_checkpoint,
    }
    if body.get("limit") is not None:
        answer["limit"] = body["limit"]
    return 200, answer


def _by_key(keys: list[str], values: list[Any]) -> Any:
    return values[0] if len(keys) == 1 else dict(zip(keys, values, strict=True))


def _previous(told: list[Any] | None) -> dict[str, Any] | None:
    if told is None:
        return None
    token, ended, *more = told
    previous = {"token": token, "ended": ended}
    if more:
        floor, resolved, *_ = more
        if floor is not None:
            previous["floor"] = floor
        if resolved:
            previous["resolved"] = True
    return previous


def _checkpoint(told: list[Any] | None) -> dict[str, Any] | None:
    return None if told is None else {"token": told[0], "value": told[1]}


_ANSWERS: Final[dict[int, Callable[[Entry, Mapping[str, Any]], tuple[int, Mapping[str, Any]]]]] = {
    numbers.ACQUIRE: _granted,
    numbers.RELEASE: lambda entry, _: (200, {"released": True}),
    numbers.CANCEL: lambda entry, _: (200, {"released": entry[2]}),
    numbers.COMPLETE: lambda entry, _: (200, {"completed": True, "remaining_ms": entry[2]}),
    numbers.CHECKPOINT: lambda entry, _: (200, {"written": True}),
    numbers.RENEW: lambda entry, _: (200, {"remaining_ms": entry[2], "forced": entry[3]}),
    numbers.CLOSE: lambda entry, _: (200, {"released": entry[2]}),
    numbers.OPEN: lambda entry, body: (
        201,
        {"session": body["session"], "ttl_ms": entry[2], "remaining_ms": entry[3]},
    ),
    numbers.REFUSED: lambda entry, _: (int(entry[2]), dict(entry[3])),
}
