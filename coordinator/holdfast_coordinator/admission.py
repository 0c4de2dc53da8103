"""How much a node takes on at once, and when whoever was refused shall ask again.

Rule: what is admitted is done soon. If the oldest operation has been on its way for longer than `QUEUE_MS_MAX` although the log
goes on, this node has more than it can take, and admits from then on only what it does in that time; every look at an easy queue
lets in more, if there is more. A crowd that is told to come back at once comes back at once, and refusing it would be all that
the node does. So whoever is refused gets an appointment: one after the other, as many a second as this node has been taking on.

What ends something, or keeps a session alive, is admitted beyond that, up to a bound of its own: refusing a release prolongs what
the others wait for, and a refused renewal loses a session that did nothing wrong.

It knows neither the clock nor the network: the node tells it four times a second what it sees.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from .machine.operations import (
    Cancel,
    CloseSession,
    Complete,
    Operation,
    Release,
    RenewSession,
    Withdraw,
)

IN_FLIGHT_MAX: Final = 4_096
"""Operations admitted here and not yet applied, at the most. Beyond it the answer is `overloaded`, before a number is given out."""

IN_FLIGHT_AT_ONCE: Final = 1_024
"""What may come in at once, out of nothing: a slow machine does so much in a second. More is let in step by step, while it is done
in time and there is somebody to use it."""

IN_FLIGHT_MIN: Final = 256
"""Never fewer: it fills an entry at any rate, and a single slow sync must not send everybody away."""

EASING_IN_FLIGHT_MAX: Final = 4_096
"""What keeps or ends something may be as many again."""

WAITING_MAX: Final = 50_000
"""Acquires of callers of this node that wait in a queue of the machine."""

QUEUE_MS_MAX: Final = 500
"""From admission to apply. Well below a client's patience for one attempt (3 s), or what was done would be asked for again."""

GROWTH: Final = 1.25
"""Of what is admitted, at each look at an easy queue: from what comes in at once to the most in under two seconds."""

LOOKS_PER_RATE: Final = 4
"""The rate is that of the last second: entries come in lumps."""

APPOINTMENTS_PER_SECOND_MIN: Final = 100
"""However little is done at the moment: so many refusals cost next to nothing."""

APPOINTMENTS_OF_RATE: Final = 0.5
"""Every acquire is followed by a release."""

RETRY_AFTER_MS_MIN: Final = 100
"""A few batches' time; what filled the queue has drained by then, or the next refusal says so again."""

RETRY_AFTER_MS_MAX: Final = 5_000
"""Below the time for which a client goes on asking (15 s), so that it gets several attempts."""

EASING: Final = (RenewSession, CloseSession, Release, Complete, Cancel, Withdraw)


class Admission:
    """See the module."""

    def __init__(self) -> None:
        self.in_flight_max = IN_FLIGHT_AT_ONCE
        self._in_flight_seen = 0
        self._between_ns = 1_000_000_000 // APPOINTMENTS_PER_SECOND_MIN
        self._appointment_ns = 0
        self._settled: deque[tuple[int, int]] = deque(maxlen=LOOKS_PER_RATE + 1)
        """(when, how many had been settled until then), the oldest first."""

    def admits(self, operation: Operation, *, in_flight: int, waiting: int) -> bool:
        """Whether one more may come in."""
        self._in_flight_seen = max(self._in_flight_seen, in_flight)
        if in_flight < self.in_flight_max and waiting < WAITING_MAX:
            return True
        return isinstance(operation, EASING) and in_flight < IN_FLIGHT_MAX + EASING_IN_FLIGHT_MAX

    def appointment(self, now_ns: int) -> int:
        """In how many milliseconds one that was refused shall ask again."""
        earliest_ns = now_ns + RETRY_AFTER_MS_MIN * 1_000_000
        latest_ns = now_ns + RETRY_AFTER_MS_MAX * 1_000_000
        following_ns = max(earliest_ns, self._appointment_ns + self._between_ns)
        self._appointment_ns = min(following_ns, latest_ns)
        return (self._appointment_ns - now_ns) // 1_000_000

    def look(self, now_ns: int, *, settled: int, oldest_ns: int | None) -> None:
        """`settled`: operations applied here so far; `oldest_ns`: when the oldest that is not was admitted."""
        looks = self._settled
        looks.append((now_ns, settled))
        seconds = (now_ns - looks[0][0]) / 1e9
        if seconds <= 0:
            return
        goes_on = settled > looks[-2][1]
        per_second = (settled - looks[0][1]) / seconds
        is_late = oldest_ns is not None and now_ns - oldest_ns > QUEUE_MS_MAX * 1_000_000
        if is_late and goes_on:
            in_time = int(per_second * QUEUE_MS_MAX / 1000)
            self.in_flight_max = max(IN_FLIGHT_MIN, min(in_time, IN_FLIGHT_MAX))
        elif not is_late:
            self._ease()
        # Late, and nothing is applied: that is an election, for which callers wait. It says nothing about the load.
        appointments = max(APPOINTMENTS_PER_SECOND_MIN, per_second * APPOINTMENTS_OF_RATE)
        self._between_ns = int(1e9 / appointments)
        self._in_flight_seen = 0

    def _ease(self) -> None:
        """More for those who use it; what nobody uses is taken back, so that the next crowd does not come in all at once."""
        now = self.in_flight_max
        if now < IN_FLIGHT_AT_ONCE or 2 * self._in_flight_seen > now:
            self.in_flight_max = min(IN_FLIGHT_MAX, int(now * GROWTH))
        else:
            self.in_flight_max = max(IN_FLIGHT_AT_ONCE, int(now / GROWTH))
