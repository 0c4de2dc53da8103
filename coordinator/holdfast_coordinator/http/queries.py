"""Query strings, read as strictly as bodies: no unknown name, none twice. Pure: text in, values or `Problem` (400) out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, cast
from urllib.parse import parse_qsl

from holdfast import wire
from holdfast_coordinator.http import bodies, fields
from holdfast_coordinator.http.problems import bad_request

if TYPE_CHECKING:
    from holdfast_coordinator.machine.outcomes import ClosedBy

Consistency = Literal["linearizable", "local"]

QUERY_FIELDS_MAX: Final = 8
"""No call takes more than six."""

NONE: Final[frozenset[str]] = frozenset()
CONSISTENCY: Final = frozenset({"consistency"})
LOCKS: Final = frozenset({"key", "prefix", "limit", "after", "consistency"})
CHECK: Final = frozenset({"key", "token", "consistency"})
CLUSTER: Final = frozenset({"state_hash"})
EXPLAIN: Final = frozenset({"key", "consistency"})
CLOSED: Final = frozenset({"prefix", "by", "limit", "after", "consistency"})
HISTORY: Final = frozenset({"key", "from_ms", "to_ms", "limit", "after", "consistency"})
EXPORT: Final = frozenset({"after"})
EVENTS: Final = frozenset({"prefix", "after"})

LAST_EVENT_ID: Final = "Last-Event-ID"

_DIGITS = re.compile(r"[0-9]{1,16}")


def parse(raw: str, allowed: frozenset[str]) -> dict[str, str]:
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
    values: dict[str, str] = {}
    for name, value in pairs:
        if name not in allowed:
            raise bad_request(name, "there is no such query parameter")
        if name in values:
            raise bad_request(name, "is given twice")
        values[name] = value
    return values


def consistency(values: dict[str, str]) -> Consistency:
    value = values.get("consistency", "linearizable")
    if value == "local":
        return "local"
    if value == "linearizable":
        return "linearizable"
    raise bad_request("consistency", "is linearizable (the default) or local")


def wants_state_hash(values: dict[str, str]) -> bool:
    value = values.get("state_hash", "false")
    if value not in ("true", "false"):
        raise bad_request("state_hash", "is true or false (the default)")
    return value == "true"


def integer(values: dict[str, str], name: str) -> int | None:
    value = values.get(name)
    return None if value is None else _integer(name, value)


def _integer(name: str, value: str) -> int:
    if not _DIGITS.fullmatch(value):
        raise bad_request(name, "is not a whole number")
    return int(value)


def required(values: dict[str, str], name: str) -> str:
    if name not in values:
        raise bad_request(name, "is required")
    return values[name]


def locks(values: dict[str, str]) -> bodies.ReadBody:
    return bodies.ReadBody(
        values.get("key"), values.get("prefix"), integer(values, "limit"), values.get("after")
    )


def check(values: dict[str, str]) -> tuple[str, int]:
    """Key and token of `GET /v1/locks/check`."""
    key = required(values, "key")
    token = _integer("token", required(values, "token"))
    return fields.key("key", key), fields.token(token)


def closed(values: dict[str, str]) -> bodies.ClosedReadBody:
    by = values.get("by")
    if by not in (None, "delay", "in_doubt", "done"):
        raise bad_request("by", "is delay, in_doubt or done")
    return bodies.ClosedReadBody(
        values.get("prefix"),
        cast("ClosedBy | None", by),
        integer(values, "limit"),
        values.get("after"),
    )


def history(values: dict[str, str]) -> bodies.HistoryBody:
    return bodies.HistoryBody(
        required(values, "key"),
        integer(values, "from_ms"),
        integer(values, "to_ms"),
        integer(values, "after"),
        integer(values, "limit"),
    )


def revision(values: dict[str, str]) -> int | None:
    """`after`: a revision."""
    after = integer(values, "after")
    if after is not None:
        fields.in_range("after", after, 0, wire.INTEGER_MAX)
    return after


def last_event_id(header: str | None) -> int | None:
    """What a reader sends that comes back: it is later than the `after` of its URL."""
    if header is None or not header:
        return None
    after = _integer(LAST_EVENT_ID, header)
    fields.in_range(LAST_EVENT_ID, after, 0, wire.INTEGER_MAX)
    return after
