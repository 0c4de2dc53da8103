"""The vocabulary that the client and the coordinator share: paths, media types, error codes, limits of a request.

Rule: constants only. This module imports nothing but the standard library and knows neither HTTP library nor machine, so that
the base install (the client) and the server can both depend on it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

API_PREFIX: Final = "/v1"
MEDIA_JSON: Final = "application/json"
MEDIA_MSGPACK: Final = "application/msgpack"
MEDIA_PROBLEM: Final = "application/problem+json"

MS_PER_SECOND: Final = 1000.0
KEY_BYTES_MAX: Final = 512
KEYS_PER_ACQUIRE_MAX: Final = 64
SESSION_ID_CHARS_MIN: Final = 16
SESSION_ID_CHARS_MAX: Final = 64
REQUEST_ID_CHARS_MAX: Final = 128
OWNER_BYTES_MAX: Final = 256
CONTEXT_BYTES_MAX: Final = 128
CHECKPOINT_BYTES_MAX: Final = 4_096
RESULT_BYTES_MAX: Final = 4_096
REASON_BYTES_MAX: Final = 512
OPERATOR_BYTES_MAX: Final = 256
LIMIT_MAX: Final = 1_000_000
"""Permits of one semaphore."""
DELAY_MS_MAX: Final = 3_600_000
RETAIN_MS_MIN: Final = 1_000
RETAIN_MS_MAX: Final = 30 * 24 * 3600 * 1000
WAIT_MS_MAX: Final = 30_000
TTL_MS_MIN: Final = 1_000
TTL_MS_MAX: Final = 24 * 3600 * 1000
BODY_BYTES_MAX: Final = 64 * 1024
LIST_LIMIT_MAX: Final = 1_000
INTEGER_MAX: Final = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly."""


class Code(StrEnum):
    """The machine-readable `code` of an answer that is not a success. What a caller should do stands beside each."""

    BAD_REQUEST = "bad_request"  # 400: mend the field that the answer names
    UNAUTHENTICATED = "unauthenticated"  # 401: present a credential
    FORBIDDEN = "forbidden"  # 403: ask for the right
    NOT_FOUND = "not_found"  # 404: no such path
    NO_SUCH_SESSION = "no_such_session"  # 404: open a session
    METHOD_NOT_ALLOWED = "method_not_allowed"  # 405
    HELD = "held"  # 409: somebody else works on it; leave it or wait
    WAIT_TIMEOUT = "wait_timeout"  # 409: waited in vain; ask again under a new request id
    NOT_HELD = "not_held"  # 409: the hold has ended; `ended` says how
    DEADLOCK = (
        "deadlock"  # 409: waiting would close a circle; `cycle` shows it: release something first
    )
    CLOSED = "closed"  # 409: nobody holds it, and it stays closed for a while after an unclean end; `closed` says how long
    IN_DOUBT = "in_doubt"  # 409: its last hold ended uncleanly; look, then resolve it
    ALREADY_DONE = "already_done"  # 409: the work was completed; `closed.result` is its result
    NO_LONGER_KEPT = (
        "no_longer_kept"  # 410: events before the oldest that is kept were asked for; read anew
    )
    CONFLICT = "conflict"  # 409: the same id was used with another body
    SESSION_EXPIRED = "session_expired"  # 410: everything the session held has ended
    TOO_LARGE = "too_large"  # 413: send less
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"  # 415: JSON or msgpack
    UPGRADE_REQUIRED = "upgrade_required"  # 426: this path speaks WebSocket
    LIMIT_REACHED = "limit_reached"  # 429: a named limit; later
    INTERNAL = "internal"  # 500: a fault of the server, which has logged it; may have taken effect
    NO_LEADER = "no_leader"  # 503: took no effect; try again, or another node
    OVERLOADED = "overloaded"  # 503: took no effect; try again after `retry_after_ms`
    UNKNOWN_OUTCOME = (
        "unknown_outcome"  # 504: may have taken effect; ask again with the same request id
    )


HTTP_STATUS: Final[dict[Code, int]] = {
    Code.BAD_REQUEST: 400,
    Code.UNAUTHENTICATED: 401,
    Code.FORBIDDEN: 403,
    Code.NOT_FOUND: 404,
    Code.NO_SUCH_SESSION: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.HELD: 409,
    Code.WAIT_TIMEOUT: 409,
    Code.NOT_HELD: 409,
    Code.DEADLOCK: 409,
    Code.CLOSED: 409,
    Code.IN_DOUBT: 409,
    Code.ALREADY_DONE: 409,
    Code.NO_LONGER_KEPT: 410,
    Code.CONFLICT: 409,
    Code.SESSION_EXPIRED: 410,
    Code.TOO_LARGE: 413,
    Code.UNSUPPORTED_MEDIA_TYPE: 415,
    Code.UPGRADE_REQUIRED: 426,
    Code.LIMIT_REACHED: 429,
    Code.INTERNAL: 500,
    Code.NO_LEADER: 503,
    Code.OVERLOADED: 503,
    Code.UNKNOWN_OUTCOME: 504,
}
