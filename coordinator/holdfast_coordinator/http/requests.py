"""What a caller may send: the bodies and queries of the API, and how each becomes an operation of the machine.

Rule: decided here, completely, before the node hears of it: every wrong type, range, length and unknown field ends as a
400 that names the field. Pure: bytes and text in, operations or `Problem` out; no request object, no node, no clock. The
decoders are made once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, Literal, NoReturn, TypeVar
from urllib.parse import parse_qsl

import msgspec

from holdfast import wire
from holdfast.wire import Code
from holdfast_coordinator.http.problems import Problem, bad_request
from holdfast_coordinator.machine.operations import (
    Acquire,
    Cancel,
    CloseSession,
    OpenSession,
    Release,
    RenewSession,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_coordinator.machine import Limits

Consistency = Literal["linearizable", "local"]

LIST_LIMIT_DEFAULT: Final = 100
QUERY_FIELDS_MAX: Final = 8
"""No call takes more than four."""

_SESSION_ID = re.compile(
    rf"[A-Za-z0-9._~-]{{{wire.SESSION_ID_CHARS_MIN},{wire.SESSION_ID_CHARS_MAX}}}"
)
_SESSION_RULE: Final = (
    f"{wire.SESSION_ID_CHARS_MIN} to {wire.SESSION_ID_CHARS_MAX} letters, digits, '.', '_', '~' or '-'"
    " (make it of 128 random bits: whoever knows it can act as the session)"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DIGITS = re.compile(r"[0-9]{1,16}")

# msgspec's messages are its own; `tests/http` fails if one of these three shapes changes.
_PATH = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>.*)`$", re.DOTALL)

BODY: Final = "body"
"""The `field` of a problem with the body as a whole."""


class OpenBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    ttl_ms: int
    session: str | None = None
    owner: str | None = None


class SessionBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Renew and close."""

    session: str


class AcquireBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    key: str | None = None
    keys: list[str] | None = None
    session: str | None = None
    ttl_ms: int | None = None
    wait_ms: int = 0
    mode: str = "exclusive"
    limit: int | None = None
    request_id: int | str | None = None
    settled: int | None = None
    owner: str | None = None
    context: str | None = None


class ReleaseBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    token: int
    session: str


class CancelBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    session: str
    request_id: int | str


class ReplaceBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Name of the node whose data directory is another one from now on."""

    node: str


class ReadBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    key: str | None = None
    prefix: str | None = None
    limit: int | None = None
    after: str | None = None


@dataclass(frozen=True, slots=True)
class ReadOne:
    key: str


@dataclass(frozen=True, slots=True)
class ReadPage:
    prefix: str
    after: str | None
    limit: int


T = TypeVar("T")


class Decoder(Generic[T]):
    """One body type, from JSON and from msgpack, strictly: no number in a string, no float for an integer."""

    __slots__ = ("_json", "_msgpack")

    def __init__(self, body: type[T]) -> None:
        self._json = msgspec.json.Decoder(body).decode
        self._msgpack = msgspec.msgpack.Decoder(body).decode

    def decode(self, data: bytes, *, msgpack: bool) -> T:
        """Raises `Problem` (400) that names the field."""
        try:
            return self._msgpack(data) if msgpack else self._json(data)
        except msgspec.ValidationError as error:
            _refuse_invalid(str(error))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            kind = "msgpack" if msgpack else "JSON"
            detail = "it is empty" if not data else str(error)
            raise bad_request(BODY, f"not valid {kind}: {detail}") from None


def _refuse_invalid(message: str) -> NoReturn:
    """msgspec's message, turned into a problem that names the field."""
    match = _PATH.match(message)
    what, path = (match["what"], match["path"] or "") if match else (message, "")
    for pattern, detail in ((_UNKNOWN, "there is no such field"), (_MISSING, "is required")):
        named = pattern.match(what)
        if named is not None:
            name = named["name"]
            raise bad_request(f"{path}.{name}" if path else name, detail)
    raise bad_request(path or BODY, what)


decode_open: Final = Decoder(OpenBody).decode
decode_session: Final = Decoder(SessionBody).decode
decode_acquire: Final = Decoder(AcquireBody).decode
decode_release: Final = Decoder(ReleaseBody).decode
decode_cancel: Final = Decoder(CancelBody).decode
decode_replace: Final = Decoder(ReplaceBody).decode
decode_read: Final = Decoder(ReadBody).decode


# -- bodies to operations --------------------------------------------------------------------------------------------------


def open_session(body: OpenBody, new_session: Callable[[], str], limits: Limits) -> OpenSession:
    """`new_session` makes the id if the caller brings none."""
    session = new_session() if body.session is None else _session(body.session)
    _ttl(body.ttl_ms, limits)
    return OpenSession(session, body.ttl_ms, _owner(body.owner))


def renew_session(body: SessionBody) -> RenewSession:
    return RenewSession(_session(body.session))


def close_session(body: SessionBody) -> CloseSession:
    return CloseSession(_session(body.session))


def acquire(body: AcquireBody, new_session: Callable[[], str], limits: Limits) -> Acquire:
    """`new_session` makes the id of the implicit session, if the caller brings none."""
    keys = _keys(body, limits.keys_per_acquire_max)
    if body.session is None and body.ttl_ms is None:
        raise bad_request("session", "is required, or ttl_ms for a session of this lock alone")
    session = new_session() if body.session is None else _session(body.session)
    if body.ttl_ms is not None:
        _ttl(body.ttl_ms, limits)
    _in_range("wait_ms", body.wait_ms, 0, limits.wait_ms_max)
    _refuse_unsupported(body)
    _check_request_id(body)
    return Acquire(
        keys=keys,
        session=session,
        ttl_ms=body.ttl_ms,
        wait_ms=body.wait_ms,
        request_id=body.request_id,
        settled=body.settled,
        owner=_owner(body.owner),
        context=_text("context", body.context, wire.CONTEXT_BYTES_MAX),
    )


def _refuse_unsupported(body: AcquireBody) -> None:
    if body.mode != "exclusive":
        detail = "shared locks are not yet supported" if body.mode == "shared" else "no such mode"
        raise bad_request("mode", f"{detail}; use exclusive")
    if body.limit is not None:
        raise bad_request("limit", "a limit of several holders is not yet supported")


def _check_request_id(body: AcquireBody) -> None:
    if body.request_id is not None:
        if body.session is None:
            raise bad_request("request_id", "needs session: it names a request within one")
        _request_id(body.request_id)
    if body.settled is not None:
        if body.session is None:
            raise bad_request("settled", "needs session")
        _in_range("settled", body.settled, 0, wire.INTEGER_MAX)


def release(body: ReleaseBody) -> Release:
    _in_range("token", body.token, 1, wire.INTEGER_MAX)
    return Release(_session(body.session), body.token)


def cancel(body: CancelBody) -> Cancel:
    _request_id(body.request_id)
    return Cancel(_session(body.session), body.request_id)


def read(body: ReadBody, limit_max: int) -> ReadOne | ReadPage:
    if body.key is not None:
        for name in ("prefix", "limit", "after"):
            if getattr(body, name) is not None:
                raise bad_request(name, "does not go with key")
        return ReadOne(key("key", body.key))
    prefix = body.prefix or ""
    if prefix:
        key("prefix", prefix)
    after = None if body.after is None else key("after", body.after)
    limit = min(LIST_LIMIT_DEFAULT, limit_max) if body.limit is None else body.limit
    _in_range("limit", limit, 1, limit_max)
    return ReadPage(prefix, after, limit)


# -- queries ---------------------------------------------------------------------------------------------------------------


def query(raw: str, allowed: frozenset[str]) -> dict[str, str]:
    """The query string as a mapping. Raises `Problem` for an unknown or repeated name, and for bytes that are not UTF-8."""
    if not raw:
        return {}
    try:
        pairs = parse_qsl(
            raw, keep_blank_values=True, errors="strict", max_num_fields=QUERY_FIELDS_MAX
        )
    except UnicodeDecodeError:
        raise bad_request("query", "is not percent-encoded UTF-8") from None
    except ValueError:
        raise bad_request("query", f"has more than {QUERY_FIELDS_MAX} parameters") from None
    fields: dict[str, str] = {}
    for name, value in pairs:
        if name not in allowed:
            raise bad_request(name, "there is no such query parameter")
        if name in fields:
            raise bad_request(name, "is given twice")
        fields[name] = value
    return fields


def consistency(fields: dict[str, str]) -> Consistency:
    value = fields.get("consistency", "linearizable")
    if value == "local":
        return "local"
    if value == "linearizable":
        return "linearizable"
    raise bad_request("consistency", "is linearizable (the default) or local")


def wants_state_hash(fields: dict[str, str]) -> bool:
    value = fields.get("state_hash", "false")
    if value not in ("true", "false"):
        raise bad_request("state_hash", "is true or false (the default)")
    return value == "true"


def query_integer(fields: dict[str, str], name: str) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if not _DIGITS.fullmatch(value):
        raise bad_request(name, "is not a whole number")
    return int(value)


def check(fields: dict[str, str]) -> tuple[str, int]:
    """Key and token of `GET /v1/locks/check`."""
    if "key" not in fields:
        raise bad_request("key", "is required")
    token = query_integer(fields, "token")
    if token is None:
        raise bad_request("token", "is required")
    _in_range("token", token, 1, wire.INTEGER_MAX)
    return key("key", fields["key"]), token


# -- fields ----------------------------------------------------------------------------------------------------------------


def key(field: str, value: str) -> str:
    """A key, or a prefix or the place in a listing, which are made of the same stuff."""
    if not value:
        raise bad_request(field, "is empty")
    # A character is at most 4 bytes: what is short enough in characters need not be encoded to be known to be short enough.
    if len(value) * 4 > wire.KEY_BYTES_MAX and len(value.encode()) > wire.KEY_BYTES_MAX:
        raise bad_request(field, f"is longer than {wire.KEY_BYTES_MAX} bytes of UTF-8")
    if _CONTROL.search(value):
        raise bad_request(field, "has a control character")
    return value


def _keys(body: AcquireBody, count_max: int) -> tuple[str, ...]:
    if body.keys is None:
        if body.key is None:
            raise bad_request("key", "is required, or keys for several")
        return (key("key", body.key),)
    if body.key is not None:
        raise bad_request("keys", "does not go with key: give one of them")
    if not body.keys:
        raise bad_request("keys", "is empty")
    if len(body.keys) > count_max:
        raise bad_request("keys", f"has more than {count_max}")
    seen: set[str] = set()
    for number, value in enumerate(body.keys):
        field = f"keys[{number}]"
        key(field, value)
        if value in seen:
            raise bad_request(field, "is there already")
        seen.add(value)
    return tuple(body.keys)


def _session(value: str) -> str:
    if not _SESSION_ID.fullmatch(value):
        raise bad_request("session", f"is not {_SESSION_RULE}")
    return value


def _ttl(value: int, limits: Limits) -> None:
    _in_range("ttl_ms", value, limits.ttl_ms_min, limits.ttl_ms_max)


def _request_id(value: int | str) -> None:
    if isinstance(value, int):
        _in_range("request_id", value, 0, wire.INTEGER_MAX)
        return
    if not value:
        raise bad_request("request_id", "is empty")
    if len(value) > wire.REQUEST_ID_CHARS_MAX:
        raise bad_request("request_id", f"is longer than {wire.REQUEST_ID_CHARS_MAX} characters")
    if _CONTROL.search(value):
        raise bad_request("request_id", "has a control character")


def _owner(value: str | None) -> str | None:
    return _text("owner", value, wire.OWNER_BYTES_MAX)


def _text(field: str, value: str | None, bytes_max: int) -> str | None:
    if value is None:
        return None
    if len(value.encode()) > bytes_max:
        raise bad_request(field, f"is longer than {bytes_max} bytes of UTF-8")
    # It will be printed in somebody's terminal.
    if _CONTROL.search(value):
        raise bad_request(field, "has a control character")
    return value


def _in_range(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise bad_request(field, f"is {_shown(value)}; it must be from {low} to {high}")


def _shown(value: int) -> str:
    # An integer of a JSON body may have thousands of digits, and Python refuses to print those.
    return str(value) if abs(value) <= wire.INTEGER_MAX else "beyond 2^53"


def media_type_is_msgpack(header: str | None) -> bool:
    """Whether a body with this Content-Type is msgpack. Without one it is JSON. Raises `Problem` (415) for anything else."""
    if header is None or header == wire.MEDIA_JSON:
        return False
    if header == wire.MEDIA_MSGPACK:
        return True
    media, _, parameters = header.partition(";")
    media = media.strip().lower()
    parameters = parameters.strip().lower().replace('"', "").replace(" ", "")
    if media == wire.MEDIA_JSON and parameters in ("", "charset=utf-8", "charset=utf8"):
        return False
    if media == wire.MEDIA_MSGPACK and not parameters:
        return True
    raise Problem(
        Code.UNSUPPORTED_MEDIA_TYPE,
        f"send Content-Type: {wire.MEDIA_JSON} in UTF-8 (curl: --json), or {wire.MEDIA_MSGPACK}",
        headers={"Accept-Post": f"{wire.MEDIA_JSON}, {wire.MEDIA_MSGPACK}"},
    )


def wants_msgpack(accept: str | None) -> bool:
    """Whether the answer is to be msgpack: only if the caller names it, and does not like JSON better (RFC 9110, 12.5.1)."""
    if accept is None or accept in ("*/*", wire.MEDIA_JSON) or "msgpack" not in accept:
        return False
    if accept == wire.MEDIA_MSGPACK:
        return True
    quality = {"json": 0.0, "msgpack": 0.0}
    for part in accept.split(","):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if media in (wire.MEDIA_JSON, wire.MEDIA_MSGPACK):
            name = "json" if media == wire.MEDIA_JSON else "msgpack"
            quality[name] = max(quality[name], _quality(parameters))
    return quality["msgpack"] > 0 and quality["msgpack"] >= quality["json"]


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
