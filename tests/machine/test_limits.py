"""Everything has a limit, each limit has a clear refusal, and nothing that has ended piles up."""

from __future__ import annotations

import pytest

from holdfast_coordinator.machine import (
    Acquire,
    Cancel,
    CloseSession,
    Entry,
    Granted,
    InvariantViolation,
    Limits,
    LockView,
    Machine,
    OpenSession,
    Operation,
    Origin,
    Outcome,
    Previous,
    Queued,
    Refused,
    Release,
    RenewSession,
    check_invariants,
)

SMALL = Limits(
    ttl_ms_min=10,
    sessions_max=3,
    keys_held_max=4,
    waiters_max=2,
    waiters_per_key_max=1,
    request_ids_per_session_max=2,
    previous_max=3,
    endings_max=2,
    ended_sessions_max=2,
)


class Desk:
    """One node that sends one operation an entry and hears its first answer."""

    def __init__(self, limits: Limits = SMALL) -> None:
        self.machine = Machine(limits)
        self.last = 0

    def ask(self, operation: Operation, elapsed_ms: int = 0) -> Outcome:
        self.last += 1
        origin = Origin("n1", 1, self.last)
        outcomes = self.machine.apply(Entry(1, elapsed_ms, ((origin, operation),)))
        check_invariants(self.machine)
        return next(outcome for to, outcome in outcomes if to == origin)

    def refusal(self, operation: Operation) -> Refused:
        outcome = self.ask(operation)
        assert isinstance(outcome, Refused)
        return outcome

    def open(self, *sessions: str) -> None:
        for session in sessions:
            self.ask(OpenSession(session, 1_000))


@pytest.mark.parametrize(
    ("field", "operation"),
    [
        ("keys", Acquire((), "a")),
        ("keys", Acquire(("",), "a")),
        ("keys", Acquire(("x" * 513,), "a")),
        ("keys", Acquire(("é" * 257,), "a")),
        ("keys", Acquire(("a\nb",), "a")),
        ("keys", Acquire(("\ud800",), "a")),
        ("keys", Acquire(("k", "k"), "a")),
        ("keys", Acquire(tuple(map(str, range(65))), "a")),
        ("wait_ms", Acquire(("k",), "a", wait_ms=-1)),
        ("wait_ms", Acquire(("k",), "a", wait_ms=30_001)),
        ("ttl_ms", Acquire(("k",), "new", ttl_ms=9)),
        ("ttl_ms", OpenSession("new", 24 * 3600 * 1000 + 1)),
        ("request_id", Acquire(("k",), "a", request_id=-1)),
        ("request_id", Acquire(("k",), "a", request_id="")),
        ("request_id", Acquire(("k",), "a", request_id="x" * 129)),
        ("request_id", Cancel("a", 2**53)),
        ("settled", Acquire(("k",), "a", settled=-1)),
        ("owner", Acquire(("k",), "a", owner="x" * 257)),
        ("owner", OpenSession("new", 1_000, "a\tb")),
        ("context", Acquire(("k",), "a", context="x" * 129)),
        ("session", OpenSession("", 1_000)),
        ("session", Acquire(("k",), "x" * 65, ttl_ms=1_000)),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, operation: Operation) -> None:
    """The refusal names the field, and the state is as before."""
    desk = Desk()
    desk.open("a")
    refusal = desk.refusal(operation)
    assert (refusal.code, refusal.field) == ("bad_request", field)
    assert desk.machine.last_token == 0
    assert desk.machine.counts().sessions == 1


def test_the_longest_key_is_allowed() -> None:
    """512 bytes of UTF-8, however many characters they are."""
    desk = Desk()
    desk.open("a")
    assert isinstance(desk.ask(Acquire(("x" * 512,), "a")), Granted)
    assert isinstance(desk.ask(Acquire(("é" * 256,), "a")), Granted)


def test_sessions_are_limited() -> None:
    """One more than allowed is `limit_reached`, open or implicit; an end makes room."""
    desk = Desk()
    desk.open("a", "b", "c")
    assert desk.refusal(OpenSession("d", 1_000)).limit == "sessions_max"
    assert desk.refusal(Acquire(("k",), "d", ttl_ms=1_000)).limit == "sessions_max"
    desk.ask(CloseSession("a"))
    assert isinstance(desk.ask(Acquire(("k",), "d", ttl_ms=1_000)), Granted)


def test_held_keys_are_limited_and_waiters_count() -> None:
    """A waiter's keys are reserved, so that its grant can never exceed the limit."""
    desk = Desk()
    desk.open("a", "b")
    desk.ask(Acquire(("k", "l"), "a"))
    assert isinstance(desk.ask(Acquire(("k",), "b", wait_ms=100)), Queued)
    assert desk.refusal(Acquire(("m", "n"), "b")).limit == "keys_held_max"
    assert desk.refusal(Acquire(("k",), "b")).code == "held"


def test_waiters_are_limited_per_key_and_in_all() -> None:
    """A queue that is too long refuses at once."""
    desk = Desk()
    desk.open("a", "b")
    desk.ask(Acquire(("k",), "a"))
    desk.ask(Acquire(("k",), "b", wait_ms=100))
    assert desk.refusal(Acquire(("k",), "b", wait_ms=100)).limit == "waiters_per_key_max"
    limits = Limits(waiters_max=1)
    desk = Desk(limits)
    desk.open("a", "b")
    desk.ask(Acquire(("k",), "a"))
    desk.ask(Acquire(("k",), "b", wait_ms=100))
    assert desk.refusal(Acquire(("k",), "b", wait_ms=100)).limit == "waiters_max"


def test_remembered_requests_are_limited_until_settled() -> None:
    """Names are kept, not dropped, so a full book refuses new ones; settling makes room."""
    desk = Desk()
    desk.open("a")
    desk.ask(Acquire(("k",), "a", request_id=1))
    desk.ask(Acquire(("l",), "a", request_id=2))
    assert desk.refusal(Acquire(("m",), "a", request_id=3)).limit == "request_ids_per_session_max"
    assert desk.refusal(Cancel("a", "x")).limit == "request_ids_per_session_max"
    assert isinstance(desk.ask(Acquire(("m",), "a", request_id=3, settled=2)), Granted)


def test_the_oldest_previous_hold_is_dropped_and_the_horizon_tells() -> None:
    """`previous` is forgotten in the order of tokens, and everything forgotten lies at or below the horizon."""
    desk = Desk(Limits(previous_max=2))
    desk.open("a")
    for key in ("k1", "k2", "k3"):
        desk.ask(Acquire((key,), "a"))
    for token in (3, 1, 2):  # not the order of the tokens
        desk.ask(Release("a", token))
    first = desk.ask(Acquire(("k1",), "a"))
    assert isinstance(first, Granted)
    assert (first.previous, first.previous_horizon) == ((None,), 1)
    second = desk.ask(Acquire(("k2",), "a"))
    assert isinstance(second, Granted)
    assert second.previous == (Previous(2, "released"),)


def test_a_release_is_repeated_as_long_as_it_is_remembered() -> None:
    """After `endings_max` further endings the repeat can only say `not_held`."""
    desk = Desk()
    desk.open("a")
    for _ in range(3):
        desk.ask(Acquire(("k",), "a"))
        desk.ask(Release("a", desk.machine.last_token))
    assert not isinstance(desk.ask(Release("a", 2)), Refused)
    forgotten = desk.refusal(Release("a", 1))
    assert (forgotten.code, forgotten.ended) == ("not_held", None)


def test_ended_sessions_are_remembered_for_a_while() -> None:
    """The oldest ended ids become unknown, and may be opened again."""
    desk = Desk()
    for session in ("a", "b", "c"):
        desk.open(session)
        desk.ask(CloseSession(session))
    assert desk.refusal(RenewSession("a")).code == "no_such_session"
    assert desk.refusal(RenewSession("b")).code == "session_expired"
    desk.open("a")
    assert not isinstance(desk.ask(RenewSession("a")), Refused)


def test_one_lock_a_payment_leaves_nothing_behind() -> None:
    """Ten thousand payments, each its own key and implicit session of a day: what remains is bounded."""
    limits = Limits(previous_max=50, endings_max=50, ended_sessions_max=50)
    machine = Machine(limits)
    for n in range(10_000):
        acquire = Acquire((f"payments/{n}",), f"session-{n}", ttl_ms=24 * 3600 * 1000)
        release = Release(f"session-{n}", n + 1)
        first, second = Origin("n1", 1, 2 * n + 1), Origin("n1", 1, 2 * n + 2)
        machine.apply(Entry(1, 0, ((first, acquire), (second, release))))
    check_invariants(machine)
    assert machine.last_token == 10_000
    assert len(machine.snapshot()) < 10_000
    assert len(machine.state.deadlines.heap) < 100
    assert len(machine.state.history.previous_heap) < 200


def test_tokens_never_run_into_the_next_incarnation() -> None:
    """The last token of an incarnation is granted; after it every acquire is refused rather than given a doubtful one."""
    desk = Desk()
    desk.open("a")
    desk.machine.state.last_token = 2**40 - 2
    assert isinstance(desk.ask(Acquire(("k",), "a")), Granted)
    assert desk.refusal(Acquire(("l",), "a")).limit == "tokens"


def test_locks_are_listed_in_the_order_of_their_bytes_page_by_page() -> None:
    """Held keys and keys that are only waited for, under a prefix, after a key, at most so many."""
    desk = Desk(Limits())
    desk.open("a", "b")
    for key in ("p/z", "p/é", "p/a", "q/a"):
        desk.ask(Acquire((key,), "a"))
    desk.ask(Acquire(("p/a", "p/m"), "b", wait_ms=100))
    page, following = desk.machine.locks("p/", None, 2)
    assert ([view.key for view in page], following) == (["p/a", "p/m"], "p/m")
    page, following = desk.machine.locks("p/", following, 2)
    assert ([view.key for view in page], following) == (["p/z", "p/é"], None)
    assert desk.machine.lock("unused") == LockView("unused", (), ())
    assert desk.machine.is_current("p/z", 1)
    assert not desk.machine.is_current("p/z", 2)


def test_the_invariants_notice_a_broken_table() -> None:
    """A check that cannot fail would prove nothing: two holds on one key are found."""
    desk = Desk()
    desk.open("a")
    desk.ask(Acquire(("k",), "a"))
    desk.ask(Acquire(("l",), "a"))
    desk.machine.state.holds[2].keys = ("k",)
    with pytest.raises(InvariantViolation, match="one hold at most"):
        check_invariants(desk.machine)
