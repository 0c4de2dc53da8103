"""Defects that were found by the model, each as the shortest story that shows it."""

from __future__ import annotations

from collections.abc import Iterator

from holdfast_coordinator.machine import (
    Acquire,
    Checkpoint,
    Complete,
    Completed,
    Entry,
    ForceRelease,
    ForceReleased,
    Granted,
    Limits,
    Machine,
    OpenSession,
    Operation,
    Origin,
    Outcome,
    Refused,
    Release,
    Renewed,
    RenewSession,
    Resolve,
    Terms,
    check_invariants,
)


def answers(machine: Machine, *operations: Operation) -> Iterator[Outcome]:
    """The last outcome of each, one entry an operation, from wherever this machine stands."""
    for operation in operations:
        origin = Origin("n1", 1, machine.last_sequence("n1", 1) + 1)
        outcomes = machine.apply(Entry(1, 0, ((origin, operation),)))
        check_invariants(machine)
        yield next(outcome for to, outcome in outcomes if to == origin)


def ask(machine: Machine, *operations: Operation) -> Outcome:
    *_, last = answers(machine, *operations)
    return last


def test_a_forced_end_is_told_again_after_the_next_hold_has_ended() -> None:
    """The answer to a force was lost, the next holder came and went: the repeat gets the same floor, not a refusal of what was
    done; and only for a key of that very hold."""
    machine = Machine()
    first = ask(
        machine,
        OpenSession("a", 9_000),
        Acquire(("k", "j"), "a"),
        ForceRelease("k", 1, "hung", "olga"),
    )
    assert first == ForceReleased((1,), 2)
    ask(machine, Acquire(("k",), "a"), Release("a", 3))
    for each in (machine, Machine.restore(machine.snapshot())):
        assert ask(each, ForceRelease("k", 1, "hung", "olga")) == first
        assert ask(each, ForceRelease("j", 1, "hung", "olga")) == first
        other = ask(each, ForceRelease("other", 1, "hung", "olga"))
        assert isinstance(other, Refused)
        assert other.code == "not_held"


def test_a_result_is_known_while_any_key_of_its_hold_is_closed() -> None:
    """Work on two keys is completed, the first one is resolved: the repeat of the completion says how long the rest is remembered,
    on a restored replica as on one that was there."""
    machine = Machine()
    complete = Complete("a", 1, "result", 5_000)
    ask(machine, OpenSession("a", 9_000), Acquire(("k", "j"), "a"), complete)
    ask(machine, Resolve("k", 1, "looked", "olga"))
    restored = Machine.restore(machine.snapshot())
    for each in (machine, restored):
        assert ask(each, complete) == Completed(1, 5_000)
        other = ask(each, Complete("a", 1, "another", 5_000))
        assert isinstance(other, Refused)
        assert other.code == "conflict"
        ask(each, Resolve("j", 1, "looked", "olga"))
        assert ask(each, complete) == Completed(1, 0)
    assert machine.state_hash() == restored.state_hash()


def test_a_forced_hold_can_be_let_go_of_after_its_end_was_forgotten() -> None:
    """The end is one of too many to remember, but its session still tells of it: a release puts an end to that too."""
    machine = Machine(Limits(endings_max=1))
    ask(
        machine,
        OpenSession("a", 9_000),
        Acquire(("k",), "a"),
        ForceRelease("k", 1, "hung", "olga"),
        Acquire(("k",), "a"),
        Release("a", 3),
    )
    assert ask(machine, RenewSession("a")) == Renewed(9_000, (1,))
    released = ask(machine, Release("a", 1))
    assert isinstance(released, Refused)
    assert (released.code, released.ended) == ("not_held", "forced")
    assert ask(machine, RenewSession("a")) == Renewed(9_000)


def test_a_grant_says_nothing_of_checkpoints_if_its_keys_have_none() -> None:
    """Whether somebody else's key carries one makes no difference."""
    machine = Machine()
    ask(machine, OpenSession("a", 9_000), Acquire(("k",), "a"), Checkpoint("a", 1, "half"))
    granted = ask(machine, Acquire(("other",), "a", terms=Terms("shared")))
    assert isinstance(granted, Granted)
    assert granted.checkpoints == ()
