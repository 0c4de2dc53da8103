"""The bodies that callers send, as types, and their decoders.

Rule: strict. No number in a string, no float for an integer, no unknown field: whatever is wrong ends as a 400 that names the
field. What a value may be is checked in `requests`; here only of what type it is.
"""

from __future__ import annotations

import re
from typing import Final, Generic, Literal, NoReturn, TypeVar

import msgspec

from holdfast_coordinator.http.problems import bad_request

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
    mode: Literal["exclusive", "shared"] = "exclusive"
    limit: int | None = None
    on_unclean: Literal["grant", "delay", "refuse"] = "grant"
    delay_ms: int | None = None
    require_clean: bool = False
    request_id: int | str | None = None
    settled: int | None = None
    owner: str | None = None
    context: str | None = None


class ReleaseBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    token: int
    session: str


class CompleteBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    session: str
    token: int
    result: str
    retain_ms: int


class CheckpointBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    session: str
    token: int
    value: str
    number: int | None = None


class ForceReleaseBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    key: str
    reason: str
    operator: str
    token: int | None = None


class ResolveBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    key: str
    token: int
    reason: str
    operator: str


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


class ExplainBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    key: str


class ClosedReadBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    prefix: str | None = None
    by: Literal["delay", "in_doubt", "done"] | None = None
    limit: int | None = None
    after: str | None = None


class HistoryBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    key: str
    from_ms: int | None = None
    to_ms: int | None = None
    after: int | None = None
    limit: int | None = None


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
            refuse_invalid(str(error))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            kind = "msgpack" if msgpack else "JSON"
            detail = "it is empty" if not data else str(error)
            raise bad_request(BODY, f"not valid {kind}: {detail}") from None


def refuse_invalid(message: str) -> NoReturn:
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
decode_complete: Final = Decoder(CompleteBody).decode
decode_checkpoint: Final = Decoder(CheckpointBody).decode
decode_force_release: Final = Decoder(ForceReleaseBody).decode
decode_resolve: Final = Decoder(ResolveBody).decode
decode_cancel: Final = Decoder(CancelBody).decode
decode_replace: Final = Decoder(ReplaceBody).decode
decode_read: Final = Decoder(ReadBody).decode
decode_explain: Final = Decoder(ExplainBody).decode
decode_closed: Final = Decoder(ClosedReadBody).decode
decode_history: Final = Decoder(HistoryBody).decode
