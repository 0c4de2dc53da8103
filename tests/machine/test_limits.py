"""Everything has a limit, each limit has a clear refusal, and nothing that has ended piles up."""

from __future__ import annotations

import pytest

from holdfast_coordinator.machine import (
    Acquire,
    Barrier,
    Cancel,
    Checkpoint,
    Checkpointed,
    CloseSession,
    Complete,
    Completed,
    Entry,
    ForceRelease,
    Granted,
    Limits,
    LockView,
    Machine,
    Note,
    OpenSession,
    Operation,
    Origin,
    Outcome,
    Previous,
    Queued,
    Quota,
    Refused,
    Release,
    Renewed,
    RenewSession,
    Resolve,
    SessionOpened,
    Terms,
    Withdraw,
    check_invariants,
)
from holdfast_coordinator.machine.limits import FORCED_TOLD_MAX
from holdfast_coordinator.machine.packing import pack

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
DELAY = Terms(on_unclean="delay", delay_ms=500)
REFUSE = Terms(on_unclean="refuse")
SHARED = Terms("shared")


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
        ("limit", Acquire(("k",), "a", terms=Terms(limit=2))),
        ("limit", Acquire(("k",), "a", terms=Terms("shared", 0))),
        ("limit", Acquire(("k",), "a", terms=Terms("shared", 1_000_001))),
        ("on_unclean", Acquire(("k",), "a", terms=Terms("shared", on_unclean="refuse"))),
        ("delay_ms", Acquire(("k",), "a", terms=Terms(on_unclean="delay"))),
        ("delay_ms", Acquire(("k",), "a", terms=Terms(on_unclean="delay", delay_ms=3_600_001))),
        ("delay_ms", Acquire(("k",), "a", terms=Terms(delay_ms=1))),
        ("retain_ms", Complete("a", 1, "", 999)),
        ("retain_ms", Complete("a", 1, "", 30 * 24 * 3600 * 1000 + 1)),
        ("result", Complete("a", 1, "x" * 4_097, 1_000)),
        ("result", Complete("a", 1, "é" * 2_049, 1_000)),
        ("result", Complete("a", 1, "\ud800", 1_000)),
        ("value", Checkpoint("a", 1, "x" * 4_097)),
        ("value", Checkpoint("a", 1, "\udfff")),
        ("keys", ForceRelease("", None, "why", "olga")),
        ("reason", ForceRelease("k", None, "", "olga")),
        ("reason", ForceRelease("k", None, "x" * 513, "olga")),
        ("operator", ForceRelease("k", None, "why", "")),
        ("operator", Resolve("k", 1, "why", "x" * 257)),
        ("reason", Resolve("k", 1, "a\nb", "olga")),
        ("keys", Resolve("k\n", 1, "why", "olga")),
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
    limits = Limits(previous_max=50, endings_max=50, ended_sessions_max=50, trail_blocks_max=4)
    machine = Machine(limits)
    for n in range(10_000):
        acquire = Acquire((f"payments/{n}",), f"session-{n}", ttl_ms=24 * 3600 * 1000)
        release = Release(f"session-{n}", n + 1)
        first, second = Origin("n1", 1, 2 * n + 1), Origin("n1", 1, 2 * n + 2)
        machine.apply(Entry(1, 0, ((first, acquire), (second, release))))
    check_invariants(machine)
    assert machine.last_token == 10_000
    trail = machine.trail
    written = trail.size + len(pack(trail.open))
    assert trail.last_revision == 20_000
    assert written < 100 * (trail.last_revision - trail.first_revision + 1)
    assert len(machine.snapshot()) - written < 10_000 + 100 * len(trail.blocks)
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


# --- the bounds of what is closed, noted and told ---------------------------------------------------------------------


def test_results_are_limited_in_number_and_never_forgotten_early() -> None:
    """At `done_max` a completion is refused and the hold goes on; when the time of a result has come there is room again."""
    desk = Desk(Limits(done_max=3))
    desk.ask(OpenSession("a", 60_000))
    desk.ask(Acquire(("k", "l"), "a"))
    desk.ask(Complete("a", 1, "first", 1_000))
    desk.ask(Acquire(("m", "n"), "a"))
    assert desk.refusal(Complete("a", 2, "second", 1_000)).limit == "done_max"
    assert [holder.token for holder in desk.machine.lock("m").holders] == [2]
    for _ in range(2):
        assert desk.refusal(Acquire(("k",), "a")).code == "already_done"
        desk.ask(Barrier(), elapsed_ms=499)
    desk.ask(Barrier(), elapsed_ms=2)
    assert isinstance(desk.ask(Complete("a", 2, "second", 1_000)), Completed)
    assert isinstance(desk.ask(Acquire(("k",), "a")), Granted)


def test_results_are_limited_in_bytes_of_every_key() -> None:
    """The result of two keys counts twice, in UTF-8; exactly as much as fits is kept."""
    desk = Desk(Limits(done_bytes_max=10))
    desk.open("a")
    desk.ask(Acquire(("k", "l"), "a"))
    assert desk.refusal(Complete("a", 1, "ééé", 1_000)).limit == "done_bytes_max"
    assert isinstance(desk.ask(Complete("a", 1, "12345", 1_000)), Completed)
    desk.ask(Resolve("k", 1, "why", "olga"))
    desk.ask(Acquire(("k",), "a"))
    assert isinstance(desk.ask(Complete("a", 2, "éé1", 1_000)), Completed)


def test_checkpoints_are_limited_in_number() -> None:
    """One that replaces another needs no room; a clean end makes room, an unclean one keeps the note."""
    desk = Desk(Limits(checkpoints_max=2))
    desk.open("a")
    desk.ask(Acquire(("k",), "a"))
    desk.ask(Acquire(("l", "m"), "a"))
    desk.ask(Checkpoint("a", 1, "one"))
    assert desk.refusal(Checkpoint("a", 2, "two")).limit == "checkpoints_max"
    assert desk.machine.lock("l").checkpoint is None
    assert isinstance(desk.ask(Checkpoint("a", 1, "again")), Checkpointed)
    desk.ask(ForceRelease("k", 1, "why", "olga"))
    assert desk.refusal(Checkpoint("a", 2, "two")).limit == "checkpoints_max"
    desk.ask(Acquire(("k",), "a"))
    desk.ask(Release("a", 4))
    assert isinstance(desk.ask(Checkpoint("a", 2, "two")), Checkpointed)


def test_checkpoints_are_limited_in_bytes_of_every_key() -> None:
    """What is replaced counts no more, each key counts, and a refused note leaves the one before."""
    desk = Desk(Limits(checkpoint_bytes_max=10))
    desk.open("a")
    desk.ask(Acquire(("k", "l"), "a"))
    assert desk.refusal(Checkpoint("a", 1, "ééé")).limit == "checkpoint_bytes_max"
    assert isinstance(desk.ask(Checkpoint("a", 1, "12345")), Checkpointed)
    assert isinstance(desk.ask(Checkpoint("a", 1, "éé1")), Checkpointed)
    assert desk.refusal(Checkpoint("a", 1, "123456")).limit == "checkpoint_bytes_max"
    assert desk.machine.lock("k").checkpoint == Note(1, "éé1")


def test_closed_keys_count_as_held() -> None:
    """A closed key is kept in memory like a held one, so that closures cannot exceed `keys_held_max` either."""
    desk = Desk(Limits(keys_held_max=3, ttl_ms_min=10))
    desk.open("a")
    desk.ask(OpenSession("b", 60_000))
    desk.ask(Acquire(("k", "l"), "a", terms=REFUSE))
    desk.ask(CloseSession("nobody"))
    for _ in range(2):
        desk.ask(Barrier(), elapsed_ms=500)
    assert desk.machine.counts().in_doubt == 2
    assert isinstance(desk.ask(Acquire(("m",), "b")), Granted)
    assert desk.refusal(Acquire(("n",), "b")).limit == "keys_held_max"
    desk.ask(Resolve("k", 1, "why", "olga"))
    assert isinstance(desk.ask(Acquire(("n",), "b")), Granted)


def test_forced_ends_are_told_up_to_a_bound() -> None:
    """A client that never lets go is told of the last thousand, not of ever more."""
    desk = Desk(Limits())
    desk.open("a")
    for _ in range(FORCED_TOLD_MAX + 3):
        desk.ask(Acquire(("k",), "a"))
        desk.ask(ForceRelease("k", None, "why", "olga"))
    renewed = desk.ask(RenewSession("a"))
    assert isinstance(renewed, Renewed)
    assert len(renewed.forced) == FORCED_TOLD_MAX
    assert renewed.forced[-1] == desk.machine.last_token - 1


TENANTS = Limits(
    ttl_ms_min=10,
    quotas=(
        Quota(prefix="p/", holds=2, waiters=1),
        Quota(owner="o", sessions=2, holds=3, waiters=2),
    ),
)


def test_a_tenant_has_so_many_holds_by_prefix_or_owner() -> None:
    """Keys count, not requests; whoever lies outside is not touched; an end gives back."""
    desk = Desk(TENANTS)
    desk.ask(OpenSession("a", 60_000, "o"))
    desk.open("b")
    desk.ask(Acquire(("p/1", "q"), "a"))
    assert desk.refusal(Acquire(("p/2", "p/3"), "b")).limit == "quota.holds:p/"
    assert isinstance(desk.ask(Acquire(("p/2",), "b")), Granted)
    assert desk.refusal(Acquire(("p/3",), "b")).limit == "quota.holds:p/"
    assert isinstance(desk.ask(Acquire(("r",), "a")), Granted)
    assert desk.refusal(Acquire(("s",), "a")).limit == "quota.holds:owner o"
    assert isinstance(desk.ask(Acquire(("s",), "a", owner="another")), Granted)
    desk.ask(Release("a", 1))
    assert isinstance(desk.ask(Acquire(("p/3", "s2"), "a")), Granted)


def test_a_tenant_has_so_many_waiters() -> None:
    """Waited-for keys count until the wait ends, however it ends; a grant out of the queue asks no quota again."""
    desk = Desk(TENANTS)
    desk.open("a", "b")
    desk.ask(Acquire(("p/1", "p/2"), "a"))
    assert desk.refusal(Acquire(("p/1", "p/2"), "b", wait_ms=50)).limit == "quota.waiters:p/"
    ways = (
        lambda: desk.ask(Barrier(), elapsed_ms=50),
        lambda: desk.ask(Cancel("b", 2)),
        lambda: desk.ask(Withdraw("n1", 1, desk.last - 1)),
    )
    for name, ends in enumerate(ways, 1):
        assert isinstance(desk.ask(Acquire(("p/1",), "b", wait_ms=50, request_id=name)), Queued)
        assert desk.refusal(Acquire(("p/2",), "b", wait_ms=50)).limit == "quota.waiters:p/"
        ends()
        assert desk.machine.counts().waiters == 0
    desk.ask(Acquire(("p/1",), "b", wait_ms=50))
    desk.ask(Release("a", 1))
    assert [holder.session for holder in desk.machine.lock("p/1").holders] == ["b"]


def test_a_tenant_has_so_many_sessions() -> None:
    """Of one owner; an implicit session is counted by its hold."""
    desk = Desk(TENANTS)
    for session in ("a", "b"):
        assert isinstance(desk.ask(OpenSession(session, 1_000, "o")), SessionOpened)
    assert desk.refusal(OpenSession("c", 1_000, "o")).limit == "quota.sessions:owner o"
    assert isinstance(desk.ask(OpenSession("a", 1_000, "o")), SessionOpened)
    assert isinstance(desk.ask(Acquire(("k",), "i", ttl_ms=1_000, owner="o")), Granted)
    desk.ask(CloseSession("b"))
    assert isinstance(desk.ask(OpenSession("c", 1_000, "o")), SessionOpened)
