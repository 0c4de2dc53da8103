"""Whether the fields of an operation are within their ranges. The HTTP layer checks first and says it better; here it is
checked again because the log must not be able to bring in what the machine cannot keep.

Rule: pure functions from an operation to a refusal or None.
"""

from __future__ import annotations

import re
from typing import Final

from holdfast import wire

from .limits import KEY_CHARS_SURELY_SHORT, Limits
from .operations import (
    PLAIN,
    Acquire,
    Cancel,
    Checkpoint,
    Complete,
    ForceRelease,
    OpenSession,
    Resolve,
    Terms,
)
from .outcomes import Refused
from .refusals import bad_request

FORBIDDEN_CHARACTERS: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters (Unicode category Cc), and lone surrogates, which UTF-8 cannot carry. Printable text has neither, so what is
printable and short, like nearly everything, is let through without looking further."""


def check_open(operation: OpenSession, limits: Limits) -> Refused | None:
    return _check_ttl(operation.ttl_ms, limits) or _check_text(
        "owner", operation.owner, wire.OWNER_BYTES_MAX
    )


def check_acquire(operation: Acquire, limits: Limits) -> Refused | None:
    """Keys, numbers and names in the order of the fields; what is absent (None) is not looked at."""
    keys = operation.keys
    count = len(keys)
    if not 0 < count <= limits.keys_per_acquire_max:
        return bad_request("keys", f"1 to {limits.keys_per_acquire_max} keys, not {count}")
    for key in keys:
        is_plain = 0 < len(key) <= KEY_CHARS_SURELY_SHORT and key.isprintable()
        if not is_plain and (refusal := check_key(key)):
            return refusal
    if count > 1 and len(set(keys)) != count:
        return bad_request("keys", "a key is named twice")
    if not 0 <= operation.wait_ms <= limits.wait_ms_max:
        return bad_request("wait_ms", f"0 to {limits.wait_ms_max} ms, not {operation.wait_ms}")
    if operation.ttl_ms is not None and (refusal := _check_ttl(operation.ttl_ms, limits)):
        return refusal
    if operation.request_id is not None and (refusal := _check_request_id(operation.request_id)):
        return refusal
    if operation.settled is not None and not 0 <= operation.settled <= wire.INTEGER_MAX:
        return bad_request("settled", f"0 to {wire.INTEGER_MAX}, not {operation.settled}")
    if operation.terms is not PLAIN and (refusal := _check_terms(operation.terms)):
        return refusal
    if (owner := operation.owner) is not None and (
        refusal := _check_text("owner", owner, wire.OWNER_BYTES_MAX)
    ):
        return refusal
    if (context := operation.context) is not None:
        return _check_text("context", context, wire.CONTEXT_BYTES_MAX)
    return None


def _check_terms(terms: Terms) -> Refused | None:
    if terms.limit is not None:
        if terms.mode != "shared":
            return bad_request("limit", "goes with mode shared: a semaphore of so many permits")
        if not 1 <= terms.limit <= wire.LIMIT_MAX:
            return bad_request("limit", f"1 to {wire.LIMIT_MAX}, not {terms.limit}")
    if terms.on_unclean != "grant" and terms.mode != "exclusive":
        return bad_request(
            "on_unclean", "goes with mode exclusive: shared holds leave nothing half done"
        )
    if terms.on_unclean == "delay":
        if not 1 <= terms.delay_ms <= wire.DELAY_MS_MAX:
            return bad_request("delay_ms", f"1 to {wire.DELAY_MS_MAX} ms, not {terms.delay_ms}")
    elif terms.delay_ms != 0:
        return bad_request("delay_ms", "goes with on_unclean delay")
    return None


def check_complete(operation: Complete) -> Refused | None:
    if not wire.RETAIN_MS_MIN <= operation.retain_ms <= wire.RETAIN_MS_MAX:
        bounds = f"{wire.RETAIN_MS_MIN} to {wire.RETAIN_MS_MAX} ms"
        return bad_request("retain_ms", f"{bounds}, not {operation.retain_ms}")
    return _check_value("result", operation.result, wire.RESULT_BYTES_MAX)


def check_checkpoint(operation: Checkpoint) -> Refused | None:
    number = operation.number
    if number is not None and not 1 <= number <= wire.INTEGER_MAX:
        return bad_request("number", f"1 to {wire.INTEGER_MAX}, not {number}")
    return _check_value("value", operation.value, wire.CHECKPOINT_BYTES_MAX)


def check_intervention(operation: ForceRelease | Resolve) -> Refused | None:
    """Who did it and why goes into the trail, so neither may be missing."""
    if refusal := check_key(operation.key):
        return refusal
    for field, text, maximum in (
        ("reason", operation.reason, wire.REASON_BYTES_MAX),
        ("operator", operation.operator, wire.OPERATOR_BYTES_MAX),
    ):
        if not text:
            return bad_request(field, "is empty; it goes into the history")
        if refusal := _check_text(field, text, maximum):
            return refusal
    return None


def check_cancel(operation: Cancel) -> Refused | None:
    return _check_request_id(operation.request_id)


def check_key(key: str) -> Refused | None:
    if not key:
        return bad_request("keys", "a key is empty")
    if FORBIDDEN_CHARACTERS.search(key):
        return bad_request("keys", "a key contains a control character")
    if len(key) > KEY_CHARS_SURELY_SHORT and len(key.encode()) > wire.KEY_BYTES_MAX:
        return bad_request("keys", f"a key is longer than {wire.KEY_BYTES_MAX} bytes")
    return None


def check_new_session(session: str) -> Refused | None:
    """An id that is about to be opened; one that is open has passed here before."""
    if not 0 < len(session) <= wire.SESSION_ID_CHARS_MAX:
        return bad_request("session", f"1 to {wire.SESSION_ID_CHARS_MAX} characters")
    if FORBIDDEN_CHARACTERS.search(session):
        return bad_request("session", "contains a control character")
    return None


def _check_ttl(ttl_ms: int, limits: Limits) -> Refused | None:
    if limits.ttl_ms_min <= ttl_ms <= limits.ttl_ms_max:
        return None
    return bad_request("ttl_ms", f"{limits.ttl_ms_min} to {limits.ttl_ms_max} ms, not {ttl_ms}")


def _check_text(field: str, text: str | None, bytes_max: int) -> Refused | None:
    if text is None or (len(text) <= bytes_max // 4 and text.isprintable()):
        return None
    if FORBIDDEN_CHARACTERS.search(text):
        return bad_request(field, "contains a control character")
    if len(text) > bytes_max // 4 and len(text.encode()) > bytes_max:
        return bad_request(field, f"longer than {bytes_max} bytes")
    return None


def _check_value(field: str, text: str, bytes_max: int) -> Refused | None:
    """A value is the caller's own and may have line breaks; lone surrogates cannot be carried in UTF-8."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return bad_request(field, "is not UTF-8")
    return bad_request(field, f"longer than {bytes_max} bytes") if size > bytes_max else None


def _check_request_id(request_id: int | str) -> Refused | None:
    if isinstance(request_id, int):
        if 0 <= request_id <= wire.INTEGER_MAX:
            return None
        return bad_request("request_id", f"0 to {wire.INTEGER_MAX}, not {request_id}")
    if FORBIDDEN_CHARACTERS.search(request_id):
        return bad_request("request_id", "contains a control character")
    if 0 < len(request_id) <= wire.REQUEST_ID_CHARS_MAX:
        return None
    return bad_request("request_id", f"1 to {wire.REQUEST_ID_CHARS_MAX} characters")
