"""What a client may believe, in numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.lease import Lease, Phase, RequestIds, deadline_after
from holdfast.retry import Failure, Policy, decide


def test_the_deadline_counts_from_the_send_less_a_margin() -> None:
    """1 % and 10 ms before the cluster may end the session, counted from when the request left."""
    assert deadline_after(100.0, 10.0) == pytest.approx(100.0 + 9.9 - 0.01)


@given(
    sent=st.floats(0, 1e6),
    travel=st.floats(0, 100),
    remaining=st.floats(0, 1e5),
    skew=st.floats(0.995, 1.005),
)
def test_no_delay_and_no_small_skew_makes_the_client_believe_too_long(
    sent: float, travel: float, remaining: float, skew: float
) -> None:
    """Whenever the cluster applied the request, its end of the session is not before the client's, on clocks within 0.5 %."""
    applied = sent + travel
    cluster_ends = applied + remaining * skew
    assert deadline_after(sent, remaining) <= cluster_ends


def test_a_lease_goes_from_good_to_at_risk_to_ended() -> None:
    """A third of the TTL before the deadline the holder is at risk; at the deadline it is over."""
    lease = Lease.opened(9.0, sent_at=0.0, remaining=9.0)
    assert lease.deadline == pytest.approx(8.9)
    assert lease.renew_at() == pytest.approx(3.0)
    assert lease.phase(5.8) is Phase.GOOD
    assert lease.phase(5.95) is Phase.AT_RISK
    assert lease.phase(8.9) is Phase.ENDED
    assert lease.remaining(100.0) == 0.0


def test_a_late_answer_never_shortens_a_lease() -> None:
    """An older request that is acknowledged after a younger one changes nothing."""
    lease = Lease.opened(10.0, sent_at=0.0, remaining=10.0)
    lease.renewed(5.0, 10.0)
    deadline = lease.deadline
    lease.renewed(3.0, 10.0)
    lease.seen(1.0, 2.0)
    assert (lease.deadline, lease.renewed_at) == (deadline, 5.0)


def test_ids_count_up_and_settle_in_order() -> None:
    """The mark stands below the oldest id that is still open, however many later ones are done."""
    ids = RequestIds()
    assert [ids.take() for _ in range(4)] == [1, 2, 3, 4]
    assert ids.settled == 0
    ids.settle(2)
    ids.settle(4)
    assert (ids.settled, ids.spread) == (0, 4)
    ids.settle(1)
    assert ids.settled == 2
    ids.settle(3)
    assert (ids.settled, ids.spread) == (4, 0)


@given(st.lists(st.integers(0, 9)))
def test_the_mark_is_the_definition(order: list[int]) -> None:
    """Every id at or below the mark is settled, and the next one is not."""
    ids = RequestIds()
    done: set[int] = set()
    for number in order:
        if number >= ids.last:
            ids.take()
        elif number + 1 not in done:
            ids.settle(number + 1)
            done.add(number + 1)
        assert all(each in done for each in range(1, ids.settled + 1))
        assert ids.settled == ids.last or ids.settled + 1 not in done


def ask(failure: Failure, attempts: int, **changes: float) -> float | None:
    at = {"now": 0.0, "give_up_at": 10.0, "draw": 0.5, "retry_after": 0.0} | changes
    return decide(Policy(), failure=failure, attempts=attempts, endpoints=3, **at)


def test_untried_endpoints_come_without_a_pause() -> None:
    """A dead endpoint costs no backoff as long as another one was not tried; a refusal for lack of a leader does."""
    assert ask(Failure.NOT_SENT, 1) == 0.0
    assert ask(Failure.UNKNOWN, 2) == 0.0
    assert ask(Failure.NOT_SENT, 3)
    assert ask(Failure.REFUSED, 1)


def test_the_pause_grows_up_to_a_ceiling_and_has_jitter() -> None:
    """Exponential, between half and all of the ceiling, never longer than a second on its own."""
    pauses = [ask(Failure.REFUSED, attempts, draw=0.999) for attempts in range(1, 12)]
    assert pauses == sorted(p for p in pauses if p is not None)
    assert pauses[-1] == pytest.approx(1.0, abs=0.01)
    assert ask(Failure.REFUSED, 11, draw=0.0) == pytest.approx(0.5)


def test_the_node_may_ask_for_a_longer_pause() -> None:
    """`retry_after_ms` counts when it is longer than our own pause."""
    assert ask(Failure.REFUSED, 1, retry_after=3.0) == 3.0


def test_it_ends_with_the_time_or_the_attempts() -> None:
    """No attempt after the budget, none that could only start after it, and never endlessly many."""
    assert ask(Failure.NOT_SENT, 1, now=10.0) is None
    assert ask(Failure.REFUSED, 1, now=9.99) is None
    assert ask(Failure.NOT_SENT, 10_000) is None
