"""The fields that bodies and queries are made of, each checked in one place.

Rule: decided here, before the node hears of it: a wrong range, length or character ends as a 400 that names the field. Pure. This
module knows values and their bounds; which call they belong to, it does not know.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from holdfast import wire
from holdfast_coordinator.http.problems import bad_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast_coordinator.machine import Limits

_SESSION_ID = re.compile(
    rf"[A-Za-z0-9._~-]{{{wire.SESSION_ID_CHARS_MIN},{wire.SESSION_ID_CHARS_MAX}}}"
)
_SESSION_RULE: Final = (
    f"{wire.SESSION_ID_CHARS_MIN} to {wire.SESSION_ID_CHARS_MAX} letters, digits, '.', '_', '~' or '-'"
    " (make it of 128 random bits: whoever knows it can act as the session)"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


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


def keys(values: Sequence[str], count_max: int) -> tuple[str, ...]:
    """The keys of one acquire: at least one, none twice."""
    if not values:
        raise bad_request("keys", "is empty")
    if len(values) > count_max:
        raise bad_request("keys", f"has more than {count_max}")
    seen: set[str] = set()
    for number, value in enumerate(values):
        field = f"keys[{number}]"
        key(field, value)
        if value in seen:
            raise bad_request(field, "is there already")
        seen.add(value)
    return tuple(values)


def prefix(value: str | None) -> str:
    """Empty, or absent: all."""
    return key("prefix", value) if value else ""


def session(value: str) -> str:
    if not _SESSION_ID.fullmatch(value):
        raise bad_request("session", f"is not {_SESSION_RULE}")
    return value


def ttl(value: int, limits: Limits) -> None:
    in_range("ttl_ms", value, limits.ttl_ms_min, limits.ttl_ms_max)


def token(value: int) -> int:
    in_range("token", value, 1, wire.INTEGER_MAX)
    return value


def request_id(value: int | str) -> None:
    if isinstance(value, int):
        in_range("request_id", value, 0, wire.INTEGER_MAX)
        return
    if not value:
        raise bad_request("request_id", "is empty")
    if len(value) > wire.REQUEST_ID_CHARS_MAX:
        raise bad_request("request_id", f"is longer than {wire.REQUEST_ID_CHARS_MAX} characters")
    if _CONTROL.search(value):
        raise bad_request("request_id", "has a control character")


def text(field: str, value: str | None, bytes_max: int) -> str | None:
    """A label for people. It will be printed in somebody's terminal, so it has no control character."""
    if value is None:
        return None
    if _CONTROL.search(value):
        raise bad_request(field, "has a control character")
    return payload(field, value, bytes_max)


def owner(value: str | None) -> str | None:
    return text("owner", value, wire.OWNER_BYTES_MAX)


def said(field: str, value: str, bytes_max: int) -> str:
    """What an operator has to say for the record: not nothing."""
    if not value.strip():
        raise bad_request(field, "is empty")
    text(field, value, bytes_max)
    return value


def payload(field: str, value: str, bytes_max: int) -> str:
    """Text that is a program's own: anything, as long as it is short enough."""
    if len(value) * 4 > bytes_max and len(value.encode()) > bytes_max:
        raise bad_request(field, f"is longer than {bytes_max} bytes of UTF-8")
    return value


def in_range(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise bad_request(field, f"is {_shown(value)}; it must be from {low} to {high}")


def page_limit(value: int | None, default: int, limit_max: int) -> int:
    """How many items a page has at most: what was asked for, else the default, never more than the configuration allows."""
    if value is None:
        return min(default, limit_max)
    in_range("limit", value, 1, limit_max)
    return value


def _shown(value: int) -> str:
    # An integer of a JSON body may have thousands of digits, and Python refuses to print those.
    return str(value) if abs(value) <= wire.INTEGER_MAX else "beyond 2^53"
