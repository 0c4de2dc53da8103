"""Whether to ask again, and when. Pure: the caller brings the time and one random draw.

A lock client may not retry blindly. What may be repeated is decided elsewhere (by the request id, or because the call is
idempotent); here it is only decided how long to go on: bounded by the total time and by the number of attempts, with
exponential backoff and jitter, so that an election does not end in a stampede.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

ATTEMPTS_MAX: Final = 10_000
"""Only a backstop against a mistake in the arithmetic of time; the budget ends every call long before."""


LAST_ATTEMPT_SECONDS_MIN: Final = 0.01
"""An attempt that starts with no time to be answered gains nothing, and turns a definite `Unreachable` into an unknown outcome."""


class Failure(Enum):
    """Why an attempt has no final answer."""

    NOT_SENT = "not_sent"  # no connection: took no effect
    REFUSED = "refused"  # no_leader, overloaded: took no effect
    UNKNOWN = "unknown"  # sent, and no usable answer: may have taken effect


@dataclass(frozen=True, slots=True)
class Policy:
    """How eagerly to ask again. Seconds."""

    backoff_first: float = 0.05
    backoff_max: float = 1.0
    attempts_max: int = ATTEMPTS_MAX


def decide(
    policy: Policy,
    *,
    failure: Failure,
    attempts: int,
    endpoints: int,
    now: float,
    give_up_at: float,
    draw: float,
    retry_after: float = 0.0,
) -> float | None:
    """Seconds to wait before the next attempt, or None: give up.

    `attempts`: how many were made; `draw`: uniform in [0, 1); `retry_after`: what the node asked for. As long as there is an
    endpoint that was not tried, a dead or silent one costs no backoff.
    """
    if attempts >= policy.attempts_max or now >= give_up_at:
        return None
    if failure is not Failure.REFUSED and attempts < endpoints:
        return 0.0
    doublings = min(max(attempts - 1, 0), 16)
    ceiling = min(policy.backoff_max, policy.backoff_first * 2.0**doublings)
    delay = max(retry_after, ceiling * (0.5 + draw / 2))
    return None if now + delay + LAST_ATTEMPT_SECONDS_MIN >= give_up_at else delay
