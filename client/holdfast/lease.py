"""What a client may believe about its session and for how long, and how long a hold may go on being renewed.

Pure: no clock, no I/O; every instant is passed in.

The rule (guarantee G3): an acknowledged request was applied after it was SENT, so the cluster cannot end the session before
`sent + remaining`. Counting from the receipt instead would go wrong:

    0.0 s   the renewal is sent, applied at once: the cluster may end the session at 10.0 s
    4.0 s   the answer arrives late; counted from here the client would believe itself safe until 14.0 s
    10.0 s  the cluster ends the session, the next holder starts; two holders for four seconds

The margin covers two clocks that do not run at quite the same rate.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

MARGIN_FRACTION: Final = 0.01
"""1 %: a hundred times what a healthy quartz drifts, and what a slewed one may."""
MARGIN_SECONDS: Final = 0.010
"""10 ms: the cluster counts whole milliseconds, and a thread needs time to act on what it has read."""
RENEW_FRACTION: Final = 1 / 3
"""Renew after a third of the TTL: an election fits twice into what is left."""
RISK_FRACTION: Final = 1 / 3
"""With a third of the TTL left, renewal has been failing for a third: time to warn."""


def deadline_after(sent_at: float, remaining: float) -> float:
    """The instant up to which an answer to a request sent at `sent_at` can be relied on."""
    return sent_at + remaining * (1 - MARGIN_FRACTION) - MARGIN_SECONDS


class Phase(Enum):
    """Where a lease stands."""

    GOOD = "good"
    AT_RISK = "at_risk"
    ENDED = "ended"


@dataclass(slots=True)
class Lease:
    """The lease of one session, as its client may believe it. The deadline only ever moves later."""

    ttl: float
    renewed_at: float
    deadline: float
    renewals_failed: int = 0
    """Attempts to renew that failed since the last one that was acknowledged."""

    @classmethod
    def opened(cls, ttl: float, sent_at: float, remaining: float) -> Lease:
        """The lease of a session whose opening was acknowledged."""
        return cls(ttl, renewed_at=sent_at, deadline=deadline_after(sent_at, remaining))

    def renewed(self, sent_at: float, remaining: float) -> None:
        """A renewal sent at `sent_at` was acknowledged."""
        self.renewed_at = max(self.renewed_at, sent_at)
        self.renewals_failed = 0
        self.seen(sent_at, remaining)

    def seen(self, sent_at: float, remaining: float) -> None:
        """Any answer that tells how long the session is still good."""
        self.deadline = max(self.deadline, deadline_after(sent_at, remaining))

    def remaining(self, now: float) -> float:
        """Seconds for which the session is surely alive; 0.0 when that is no longer sure."""
        return max(0.0, self.deadline - now)

    def renew_at(self) -> float:
        """When the next renewal is due."""
        return self.renewed_at + self.ttl * RENEW_FRACTION

    def risk_at(self) -> float:
        """When the holders ought to be warned, should no renewal succeed until then."""
        return self.deadline - self.ttl * RISK_FRACTION

    def phase(self, now: float) -> Phase:
        """Good, at risk, or ended."""
        if now >= self.deadline:
            return Phase.ENDED
        return Phase.AT_RISK if now >= self.risk_at() else Phase.GOOD


@dataclass(slots=True)
class Bound:
    """How long one hold may last, however well its session is renewed: a worker that hangs keeps no lock for ever.

    `max_hold`: seconds in all. `progress_within`: seconds from one sign of progress to the next. Infinity: no such bound.
    """

    granted_at: float
    max_hold: float = math.inf
    progress_within: float = math.inf
    progressed_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.progressed_at = self.granted_at

    def progressed(self, now: float) -> None:
        """The worker is alive. One assignment, so that any thread may say so."""
        self.progressed_at = now

    def ends_at(self) -> float:
        """When the hold is over for its client. Only ever moves later."""
        return min(self.granted_at + self.max_hold, self.progressed_at + self.progress_within)

    def risk_at(self, ttl: float) -> float:
        """When to warn: as long before the end as a failing renewal warns, or sooner where the bound itself is short."""
        return self.ends_at() - min(ttl, self.max_hold, self.progress_within) * RISK_FRACTION

    def is_out_of_time(self, now: float) -> bool:
        """Whether it is `max_hold` that has passed, rather than `progress_within`."""
        return now >= self.granted_at + self.max_hold


@dataclass(slots=True)
class RequestIds:
    """The names of one session's acquires: 1, 2, 3, ... and the mark up to which all of them are settled.

    An id is settled when this client will never ask under it again: its outcome is known, or its withdrawal was acknowledged.
    The cluster forgets settled outcomes, and never executes a settled id, however late an old packet arrives.
    """

    last: int = 0
    _open: deque[int] = field(default_factory=deque)
    _done: set[int] = field(default_factory=set)

    def take(self) -> int:
        """A new id."""
        self.last += 1
        self._open.append(self.last)
        return self.last

    def settle(self, request_id: int) -> None:
        """Nobody will ask under this id again."""
        if self._open and self._open[0] == request_id and not self._done:
            self._open.popleft()  # most are settled in their order
            return
        self._done.add(request_id)
        while self._open and self._open[0] in self._done:
            self._done.discard(self._open.popleft())

    @property
    def settled(self) -> int:
        """Every id at or below this one is settled."""
        return self._open[0] - 1 if self._open else self.last

    @property
    def spread(self) -> int:
        """How many outcomes the cluster has to remember because of the oldest unsettled id."""
        return self.last - self.settled
