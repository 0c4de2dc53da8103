"""A check that cannot fail would prove nothing: every way of breaking a sound table is noticed, by its own sentence."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from holdfast_coordinator.machine import (
    Acquire,
    Checkpoint,
    Complete,
    Entry,
    ForceRelease,
    InvariantViolation,
    Limits,
    Machine,
    Note,
    OpenSession,
    Operation,
    Origin,
    Quota,
    Refused,
    Terms,
    check_invariants,
)
from holdfast_coordinator.machine.state import Closure, Hold, Phase, State

LIMITS = Limits(quotas=(Quota(prefix="", holds=100, waiters=100), Quota(owner="o", sessions=9)))


def sound() -> Machine:
    """Something of everything. Holds 1 to 4 stand; 5 was forced, 7 completed; two wait."""
    machine = Machine(LIMITS)
    shared = Terms("shared")
    operations: tuple[Operation, ...] = (
        OpenSession("a", 60_000, "o"),
        OpenSession("b", 60_000),
        Acquire(("k", "l"), "a", context="t", request_id=1),
        Acquire(("m",), "a"),
        Acquire(("p",), "a", terms=shared, context="t"),
        Acquire(("p",), "b", terms=shared),
        Acquire(("doubt",), "b", terms=Terms(on_unclean="refuse")),
        ForceRelease("doubt", None, "why", "olga"),
        Acquire(("done",), "b"),
        Complete("b", 7, "result", 5_000),
        Checkpoint("a", 2, "note"),
        Acquire(("k", "p"), "b", wait_ms=9_000, request_id=2),
        Acquire(("k",), "i", ttl_ms=9_000, wait_ms=9_000),
    )
    addressed = tuple((Origin("n1", 1, n), op) for n, op in enumerate(operations, 1))
    for _, outcome in machine.apply(Entry(1, 0, addressed)):
        assert not isinstance(outcome, Refused)
    check_invariants(machine)
    return machine


def phase(state: State) -> Phase:
    stands = state.standing["p"]
    assert isinstance(stands, Phase)
    return stands


def moved(state: State) -> None:
    state.holds[2].keys = ("k",)


def two_on_a_key(state: State) -> None:
    state.standing["k"] = state.holds[2]


def empty_phase(state: State) -> None:
    state.standing["q"] = Phase(1, None)


def too_many_permits(state: State) -> None:
    stands = phase(state)
    stands.limit = 1
    for hold in stands.holds.values():
        hold.terms = Terms("shared", 1)


def another_limit(state: State) -> None:
    phase(state).limit = 5


def late_fence(state: State) -> None:
    phase(state).fence = 4


def exclusive_in_a_phase(state: State) -> None:
    phase(state).holds[9] = state.holds[2]


def ghost_hold(state: State) -> None:
    state.standing["x"] = Hold(9, "a", ("x",), None, Terms(), None, 0)


def ghost_closure(state: State) -> None:
    state.standing["x"] = Closure("x", "delay", 1, "expired", 500)


def timeless_delay(state: State) -> None:
    state.closures["doubt"].by = "delay"


def overdue_closure(state: State) -> None:
    state.closures["done"].deadline_ms = 0


def clean_doubt(state: State) -> None:
    state.closures["doubt"].ended = "released"


def unclean_done(state: State) -> None:
    state.closures["done"].ended = "expired"


def lost_result(state: State) -> None:
    state.done.clear()


def waits_for_doubt(state: State) -> None:
    state.queues["doubt"] = state.queues.pop("k")


def note_of_the_future(state: State) -> None:
    state.checkpoints["m"] = Note(99, "note")


def uncounted_note(state: State) -> None:
    state.checkpoints["l"] = Note(1, "more")


def stranded(state: State) -> None:
    waiter = state.waiters[1]
    waiter.keys = ("free",)
    for key in ("k", "p"):
        del state.queues[key][1]
    del state.queues["p"]
    state.queues["free"] = type(state.queues["k"])({1: waiter})
    state.tally.keys_waited -= 1


def another_limit_in_the_queue(state: State) -> None:
    state.waiters[2].terms = Terms("shared", 3)


def wrong_order(state: State) -> None:
    state.queues["k"].move_to_end(1)


def forgotten_task(state: State) -> None:
    tasks = state.sessions["a"].tasks
    assert tasks is not None
    tasks["t"] = 1


def miscounted(name: str) -> Callable[[State], None]:
    def spoil(state: State) -> None:
        value = getattr(state.tally, name)
        if isinstance(value, int):
            setattr(state.tally, name, value + 1)
        elif isinstance(value, list):
            value[-1] += 1
        else:
            value["done"] += 1

    return spoil


def lost_floor(state: State) -> None:
    state.history.forced.clear()


def lost_deadline(state: State) -> None:
    state.deadlines.heap = [item for item in state.deadlines.heap if item[2] != "done"]


def lost_record(state: State) -> None:
    state.trail.open_first += 1
    state.trail.blocks = []
    state.trail.size = 1


def uncounted_keys(state: State) -> None:
    state.trail.open_keys += 1


BROKEN: list[tuple[Callable[[State], None], str]] = [
    (moved, "stands alone on its keys"),
    (two_on_a_key, "stands alone on its keys"),
    (empty_phase, "an empty phase is dropped"),
    (too_many_permits, "within its limit"),
    (another_limit, "one limit belongs to a key"),
    (late_fence, "opened by its first hold"),
    (exclusive_in_a_phase, "of living shared holds"),
    (ghost_hold, "what stands on a key is held"),
    (ghost_closure, "a closure is known by its key"),
    (timeless_delay, "doubt has no deadline"),
    (overdue_closure, "a closure has time left"),
    (clean_doubt, "ended uncleanly"),
    (unclean_done, "what is done was completed"),
    (lost_result, "every result is found by its token"),
    (waits_for_doubt, "nobody waits for what time alone does not open"),
    (note_of_the_future, "written by a holder"),
    (uncounted_note, "bytes of checkpoints"),
    (stranded, "waits for something"),
    (another_limit_in_the_queue, "one limit belongs to a key in use"),
    (wrong_order, "in the order of the log"),
    (forgotten_task, "counts the holds of its tasks"),
    (miscounted("keys_waited"), "queues hold living waiters only"),
    (miscounted("waiters_of_several"), "waiters of several keys are counted"),
    (miscounted("closed"), "closures are counted by kind"),
    (miscounted("done_bytes"), "bytes of results"),
    (miscounted("checkpoint_bytes"), "bytes of checkpoints"),
    (miscounted("quota_sessions"), "quotas are counted"),
    (miscounted("quota_holds"), "quotas are counted"),
    (miscounted("quota_waiters"), "quotas are counted"),
    (lost_floor, "the floor of a forced hold"),
    (lost_deadline, "has a deadline in the heap"),
    (lost_record, "its size is counted"),
    (uncounted_keys, "the keys of the open block"),
]


@pytest.mark.parametrize(("spoil", "sentence"), BROKEN, ids=[sentence for _, sentence in BROKEN])
def test_a_broken_table_is_noticed(spoil: Callable[[State], None], sentence: str) -> None:
    """The violation names what is not as it must be."""
    machine = sound()
    spoil(machine.state)
    with pytest.raises(InvariantViolation, match=sentence):
        check_invariants(machine)
