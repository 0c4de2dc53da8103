"""How much a node takes on: as much as it does in time, and those whom it refuses come back later the more they are."""

from __future__ import annotations

import pytest

from holdfast_coordinator.admission import (
    APPOINTMENTS_PER_SECOND_MIN,
    IN_FLIGHT_AT_ONCE,
    IN_FLIGHT_MAX,
    IN_FLIGHT_MIN,
    QUEUE_MS_MAX,
    RETRY_AFTER_MS_MAX,
    RETRY_AFTER_MS_MIN,
    WAITING_MAX,
    Admission,
)
from holdfast_coordinator.machine.operations import Acquire, RenewSession

ACQUIRE = Acquire(("k",), "s" * 32)
LOOK_MS = 250


class Watched:
    """An admission, and the clock at which it is told what the node sees."""

    def __init__(self) -> None:
        self.admission = Admission()
        self.now_ms = 0
        self.settled = 0
        self.look()

    def look(self, *, done: int = 0, oldest_ms: int | None = None) -> None:
        """A quarter of a second later: so many more were applied; the oldest that was not has been on its way for `oldest_ms`."""
        self.now_ms += LOOK_MS
        self.settled += done
        since = None if oldest_ms is None else (self.now_ms - oldest_ms) * 1_000_000
        self.admission.look(self.now_ms * 1_000_000, settled=self.settled, oldest_ns=since)

    def admits(self, in_flight: int) -> bool:
        return self.admission.admits(ACQUIRE, in_flight=in_flight, waiting=0)

    def appointments(self, count: int) -> list[int]:
        """What so many are told who are refused now."""
        return [self.admission.appointment(self.now_ms * 1_000_000) for _ in range(count)]


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_a_late_queue_is_cut_to_what_is_done_in_time(watched: Watched) -> None:
    """2,000 operations a second, and half a second for each: 1,000 at a time."""
    for _ in range(8):
        watched.look(done=500, oldest_ms=2 * QUEUE_MS_MAX)
    assert watched.admission.in_flight_max == 2_000 * QUEUE_MS_MAX // 1000
    assert not watched.admission.admits(ACQUIRE, in_flight=1_000, waiting=0)
    assert watched.admission.admits(ACQUIRE, in_flight=999, waiting=0)


def test_an_easy_queue_lets_more_in_step_by_step(watched: Watched) -> None:
    watched.look(done=1, oldest_ms=2 * QUEUE_MS_MAX)
    assert watched.admission.in_flight_max == IN_FLIGHT_MIN
    for _ in range(20):
        assert watched.admits(watched.admission.in_flight_max - 1)
        watched.look(done=100, oldest_ms=QUEUE_MS_MAX)
    assert watched.admission.in_flight_max == IN_FLIGHT_MAX


def test_what_nobody_uses_is_taken_back(watched: Watched) -> None:
    """The next crowd would come in all at once, and be late all together."""
    for _ in range(20):
        watched.admits(watched.admission.in_flight_max - 1)
        watched.look(done=100)
    for _ in range(20):
        watched.admits(10)
        watched.look(done=100)
    assert watched.admission.in_flight_max == IN_FLIGHT_AT_ONCE


def test_an_election_is_no_overload(watched: Watched) -> None:
    """Nothing is applied and everything is late: callers wait for the new leader, as many as before."""
    watched.look(done=500)
    for each in range(1, 12):
        watched.look(oldest_ms=each * LOOK_MS)
    assert watched.admission.in_flight_max == IN_FLIGHT_AT_ONCE


def test_a_renewal_is_admitted_where_an_acquire_is_not_but_not_without_a_bound(
    watched: Watched,
) -> None:
    admits = watched.admission.admits
    assert not admits(ACQUIRE, in_flight=IN_FLIGHT_AT_ONCE, waiting=0)
    assert admits(RenewSession("s" * 32), in_flight=IN_FLIGHT_MAX, waiting=0)
    assert admits(RenewSession("s" * 32), in_flight=0, waiting=WAITING_MAX)
    assert not admits(RenewSession("s" * 32), in_flight=2 * IN_FLIGHT_MAX, waiting=0)
    assert not admits(ACQUIRE, in_flight=0, waiting=WAITING_MAX)


def test_those_who_are_refused_are_asked_to_come_back_one_after_the_other(watched: Watched) -> None:
    """At 2,000 operations a second, which are 1,000 locks taken and given back: the next thousand is to come within a second."""
    for _ in range(8):
        watched.look(done=500, oldest_ms=2 * QUEUE_MS_MAX)
    told = watched.appointments(1_000)
    assert told[0] == RETRY_AFTER_MS_MIN
    assert told == sorted(told)
    assert told[-1] == RETRY_AFTER_MS_MIN + 999


def test_nobody_is_sent_away_for_longer_than_it_goes_on_asking(watched: Watched) -> None:
    told = watched.appointments(10 * RETRY_AFTER_MS_MAX * APPOINTMENTS_PER_SECOND_MIN // 1000)
    assert max(told) == told[-1] == RETRY_AFTER_MS_MAX


def test_an_appointment_of_the_past_delays_nobody(watched: Watched) -> None:
    watched.appointments(1_000)
    for _ in range(100):
        watched.look()
    assert watched.appointments(1) == [RETRY_AFTER_MS_MIN]
