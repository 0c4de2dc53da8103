"""A refused request leaves no trace: of two replicas, one is asked what must be refused, the other nothing; they stay the same.

What differs by design is allowed for by name: the sequence of the origin (the other replica is asked for a barrier), the count
of deadlocks found, and what a client said besides (`settled`, the letting go of a forced hold).
"""

from __future__ import annotations

import pytest

from holdfast_coordinator.machine import (
    Acquire,
    Barrier,
    Cancel,
    Checkpoint,
    CloseSession,
    Complete,
    Entry,
    ForceRelease,
    Limits,
    Machine,
    Malformed,
    OpenSession,
    Operation,
    Origin,
    Quota,
    Refused,
    Release,
    RenewSession,
    Resolve,
    Terms,
)

LIMITS = Limits(
    keys_held_max=24,
    waiters_per_key_max=2,
    done_max=2,
    done_bytes_max=20,
    checkpoints_max=2,
    checkpoint_bytes_max=20,
    request_ids_per_session_max=2,
    quotas=(Quota(prefix="q/", holds=1, waiters=1), Quota(owner="tenant", sessions=1)),
)
SHARED, SEMAPHORE = Terms("shared"), Terms("shared", 2)


def scene() -> Machine:
    """Something of everything: held, shared, waited for, delayed, in doubt, done, noted, forced, remembered."""
    machine = Machine(LIMITS)
    entries: list[tuple[int, tuple[Operation, ...]]] = [
        (
            0,
            (
                OpenSession("a", 60_000),
                OpenSession("b", 60_000, "tenant"),
                OpenSession("dies", 1_000),
                OpenSession("full", 60_000),
                OpenSession("gone", 1_000),
                Acquire(("held",), "a", context="t"),  # 1
                Acquire(("mine",), "b", context="t"),  # 2
                Acquire(("shared",), "a", terms=SHARED, context="t"),  # 3
                Acquire(("permits",), "a", terms=SEMAPHORE),  # 4
                Acquire(
                    ("delayed",), "dies", terms=Terms(on_unclean="delay", delay_ms=30_000)
                ),  # 5
                Acquire(("doubt",), "dies", terms=Terms(on_unclean="refuse")),  # 6
                Acquire(("unclean",), "dies"),  # 7
                Acquire(("done",), "a"),  # 8
                Complete("a", 8, "result-of-ten", 60_000),
                Acquire(("q/held",), "a"),  # 9
                Acquire(("two", "keys"), "a"),  # 10
                Checkpoint("a", 1, "twelve bytes"),
                Acquire(("forced",), "a"),  # 11
                ForceRelease("forced", None, "hung", "olga"),  # 12
                Acquire(("mine",), "a", wait_ms=30_000, context="t", request_id=1),
                Acquire(("mine",), "implicit", ttl_ms=60_000, wait_ms=30_000),
                CloseSession("gone"),
                Acquire(("x1",), "full", request_id=1),  # 13
                Acquire(("x2",), "full", request_id=2),  # 14
            ),
        ),
        *((500, ()) for _ in range(3)),
        (0, (Acquire(("open",), "a"), Release("a", 15))),
    ]
    last = 0
    for elapsed_ms, operations in entries:
        addressed = tuple(
            (Origin("n1", 1, n), operation) for n, operation in enumerate(operations, last + 1)
        )
        last += len(operations)
        for _, outcome in machine.apply(Entry(1, elapsed_ms, addressed)):
            assert not isinstance(outcome, Refused)
    return machine


ONE = {"wait_ms": 100}
REFUSED: list[tuple[str, Operation]] = [
    ("bad_request", Malformed("noise")),
    ("bad_request", OpenSession("new", 1)),
    ("conflict", OpenSession("a", 50_000)),
    ("conflict", OpenSession("implicit", 60_000)),
    ("session_expired", OpenSession("gone", 60_000)),
    ("limit_reached", OpenSession("new", 60_000, "tenant")),
    ("no_such_session", RenewSession("nobody")),
    ("session_expired", RenewSession("dies")),
    ("no_such_session", CloseSession("nobody")),
    ("session_expired", CloseSession("dies")),
    ("bad_request", Acquire((), "a")),
    ("bad_request", Acquire(("new",), "a", terms=Terms(limit=2))),
    ("no_such_session", Acquire(("new",), "nobody")),
    ("session_expired", Acquire(("new",), "dies")),
    ("session_expired", Acquire(("new",), "gone", ttl_ms=60_000)),
    ("conflict", Acquire(("new",), "a", ttl_ms=60_000)),
    ("conflict", Acquire(("other",), "a", request_id=1)),
    ("held", Acquire(("held",), "b")),
    ("held", Acquire(("new", "held"), "new", ttl_ms=60_000)),
    ("held", Acquire(("shared",), "b")),
    ("conflict", Acquire(("shared",), "b", terms=SEMAPHORE, **ONE)),
    ("conflict", Acquire(("permits",), "b", terms=Terms("shared", 3), **ONE)),
    ("closed", Acquire(("delayed",), "a")),
    ("in_doubt", Acquire(("new", "doubt"), "a", **ONE)),
    ("in_doubt", Acquire(("unclean",), "a", terms=Terms(require_clean=True), **ONE)),
    ("already_done", Acquire(("done",), "new", ttl_ms=60_000, **ONE)),
    ("deadlock", Acquire(("held",), "b", context="t", **ONE)),
    ("limit_reached", Acquire(tuple(f"many-{n}" for n in range(12)), "a")),
    ("limit_reached", Acquire(("q/new",), "a")),
    ("limit_reached", Acquire(("q/held", "q/two"), "a", **ONE)),
    ("limit_reached", Acquire(("mine",), "a", **ONE)),
    ("limit_reached", Acquire(("new",), "full", request_id=3)),
    ("not_held", Release("a", 2)),
    ("not_held", Release("a", 8)),
    ("not_held", Release("dies", 7)),
    ("not_held", Release("a", 99)),
    ("bad_request", Complete("a", 1, "", 1)),
    ("not_held", Complete("b", 1, "", 1_000)),
    ("not_held", Complete("dies", 7, "", 1_000)),
    ("conflict", Complete("a", 3, "", 1_000)),
    ("conflict", Complete("a", 8, "another", 1_000)),
    ("limit_reached", Complete("a", 10, "", 1_000)),
    ("limit_reached", Complete("a", 1, "twelve bytes", 1_000)),
    ("bad_request", Checkpoint("a", 1, "x" * 5_000)),
    ("bad_request", Checkpoint("a", 1, "", 0)),
    ("not_held", Checkpoint("b", 1, "")),
    ("conflict", Checkpoint("a", 3, "")),
    ("limit_reached", Checkpoint("a", 10, "")),
    ("limit_reached", Checkpoint("a", 9, "twelve bytes")),
    ("bad_request", ForceRelease("held", None, "", "olga")),
    ("not_held", ForceRelease("new", None, "why", "olga")),
    ("not_held", ForceRelease("held", 2, "why", "olga")),
    ("not_held", ForceRelease("done", None, "why", "olga")),
    ("not_held", ForceRelease("unclean", 7, "why", "olga")),
    ("bad_request", Resolve("doubt", 6, "why", "")),
    ("bad_request", Cancel("a", -1)),
    ("no_such_session", Cancel("nobody", 1)),
    ("limit_reached", Cancel("full", 3)),
]


@pytest.mark.parametrize(("code", "operation"), REFUSED, ids=lambda each: str(each)[:50])
def test_a_refused_request_leaves_no_trace(code: str, operation: Operation) -> None:
    """The refusal has this code, and the state is, byte for byte, as though it had not been asked."""
    asked, unasked = scene(), scene()
    origin = Origin("n2", 1, 1)
    ((to, outcome),) = asked.apply(Entry(1, 0, ((origin, operation),)))
    unasked.apply(Entry(1, 0, ((origin, Barrier()),)))
    assert isinstance(outcome, Refused)
    assert (to, outcome.code) == (origin, code)
    if code == "deadlock":
        assert asked.state.totals.deadlocks == unasked.state.totals.deadlocks + 1
        unasked.state.totals.deadlocks += 1
    assert asked.state_hash() == unasked.state_hash()


def test_every_refusal_of_the_machine_is_in_the_list() -> None:
    """All codes that the machine gives at once (a wait that ended is another thing), and every limit that stands in LIMITS."""
    codes = {code for code, _ in REFUSED}
    assert codes == {
        "bad_request",
        "no_such_session",
        "session_expired",
        "conflict",
        "held",
        "closed",
        "in_doubt",
        "already_done",
        "deadlock",
        "limit_reached",
        "not_held",
    }
    told = set()
    for code, operation in REFUSED:
        if code == "limit_reached":
            ((_, outcome),) = scene().apply(Entry(1, 0, ((Origin("n2", 1, 1), operation),)))
            assert isinstance(outcome, Refused)
            told.add(outcome.limit)
    assert told == {
        "keys_held_max",
        "waiters_per_key_max",
        "request_ids_per_session_max",
        "done_max",
        "done_bytes_max",
        "checkpoints_max",
        "checkpoint_bytes_max",
        "quota.sessions:owner tenant",
        "quota.holds:q/",
        "quota.waiters:q/",
    }
