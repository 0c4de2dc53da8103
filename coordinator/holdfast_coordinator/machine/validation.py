"""Whether the fields of an operation are within their ranges. The HTTP layer checks first and says it better; here it is
checked again because the log must not be able to bring in what the machine cannot keep.

Rule: pure functions from an operation to a refusal or None.
"""

from __future__ import annotations

import re
from typing import Final

from holdfast import wire

from .limits import KEY_CHARS_SURELY_SHORT, Limits
from .operations import Acquire, Cancel, OpenSession
from .outcomes import Refused
from .refusals import bad_request

FORBIDDEN_CHARACTERS: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters (Unicode category Cc), and lone surrogates, which UTF-8 cannot carry."""


def check_open(operation: OpenSession, limits: Limits) -> Refused | None:
    return _check_ttl(operation.ttl_ms, limits) or _check_text(
        "owner", operation.owner, wire.OWNER_BYTES_MAX
    )


def check_acquire(operation: Acquire, limits: Limits) -> Refused | None:
    keys = operation.keys
    if not 0 < len(keys) <= limits.keys_per_acquire_max:
        return bad_request("keys", f"1 to {limits.keys_per_acquire_max} keys, not {len(keys)}")
    for key in keys:
        if refusal := check_key(key):
            return refusal
    if len(keys) > 1 and len(set(keys)) != len(keys):
        return bad_request("keys", "a key is named twice")
    if not 0 <= operation.wait_ms <= limits.wait_ms_max:
        return bad_request("wait_ms", f"0 to {limits.wait_ms_max} ms, not {operation.wait_ms}")
    if operation.ttl_ms is not None and (refusal := _check_ttl(operation.ttl_ms, limits)):
        return refusal
    if operation.request_id is not None and (refusal := _check_request_id(operation.request_id)):
        return refusal
    if operation.settled is not None and not 0 <= operation.settled <= wire.INTEGER_MAX:
        return bad_request("settled", f"0 to {wire.INTEGER_MAX}, not {operation.settled}")
    return _check_text("owner", operation.owner, wire.OWNER_BYTES_MAX) or _check_text(
        "context", operation.context, wire.CONTEXT_BYTES_MAX
    )


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
    if text is None:
        return None
    if FORBIDDEN_CHARACTERS.search(text):
        return bad_request(field, "contains a control character")
    if len(text) > bytes_max // 4 and len(text.encode()) > bytes_max:
        return bad_request(field, f"longer than {bytes_max} bytes")
    return None


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
