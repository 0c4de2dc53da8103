"""Snapshots: equal states write equal bytes, a restored machine goes on as the first would, other bytes are refused whole."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_coordinator.machine import (
    Acquire,
    Cancel,
    Checkpoint,
    Complete,
    Entry,
    ForceRelease,
    Limits,
    Machine,
    OpenSession,
    Origin,
    Release,
    RenewSession,
    Resolve,
    SnapshotUnreadable,
    Terms,
    snapshot,
)

WALK = """
import random
from holdfast_coordinator.machine import *
rng, machine, last = random.Random(7), Machine(Limits(ttl_ms_min=1, previous_max=5)), 0
for _ in range(400):
    session = f"session-{rng.randrange(9)}"
    keys = tuple(rng.sample(["a", "b", "c", "d", "e", "f", "g"], rng.choice((1, 1, 3))))
    operation = rng.choice((
        OpenSession(session, 300), OpenSession(session, 300),
        Acquire(keys, session, wait_ms=rng.choice((0, 200)), request_id=rng.choice((None, 1, "x"))),
        Acquire(keys, f"i{rng.randrange(99)}", ttl_ms=90, wait_ms=rng.choice((0, 200))),
        Acquire(keys, session, wait_ms=200, context="t", terms=rng.choice((
            Terms("shared"), Terms("shared", 2), Terms(on_unclean="refuse"), Terms(on_unclean="delay", delay_ms=50),
        ))),
        Release(session, machine.last_token), CloseSession(session),
        Complete(session, machine.last_token, "result", 1_000), Checkpoint(session, machine.last_token, "note"),
        ForceRelease(keys[0], None, "hung", "olga"), Resolve(keys[0], machine.last_token, "looked", "olga"),
    ))
    last += 1
    machine.apply(Entry(1, rng.choice((0, 5, 40)), ((Origin("n1", 1, last), operation),)))
print(machine.last_token, machine.state_hash().hex())
"""


def busy_machine() -> Machine:
    machine = Machine()
    operations = (
        OpenSession("a", 10_000, "owner"),
        OpenSession("b", 10_000),
        Acquire(("k", "j"), "a", request_id=1),
        Acquire(("k",), "b", wait_ms=5_000, request_id="x"),
        Acquire(("k",), "i", ttl_ms=2_000, wait_ms=5_000),
        Acquire(("j",), "b", request_id="refused"),
        Acquire(("m",), "a", request_id=2),
        Release("a", 2),
        Cancel("b", "never seen"),
        Acquire(("s", "t"), "a", terms=Terms("shared"), context="task"),
        Acquire(("s",), "b", terms=Terms("shared", None), request_id=3),
        Release("a", 3),
        Acquire(("forced",), "a", terms=Terms(on_unclean="delay", delay_ms=9_000)),
        ForceRelease("forced", None, "hung", "olga"),
        Acquire(("done", "twice"), "a"),
        Checkpoint("a", 1, "note"),
        Complete("a", 7, "result", 9_000),
        Resolve("done", 7, "looked", "olga"),
    )
    addressed = tuple((Origin("n1", 1, n), op) for n, op in enumerate(operations, 1))
    machine.apply(Entry(1, 0, addressed))
    return machine


def test_a_restored_machine_is_the_same_machine() -> None:
    """Same bytes, same hash, and the same answers to whatever comes next."""
    machine = busy_machine()
    restored = Machine.restore(machine.snapshot())
    assert (
        machine.counts().done == machine.counts().delayed == machine.counts().checkpoints - 1 == 1
    )
    assert restored.snapshot() == machine.snapshot()
    assert restored.state_hash() == machine.state_hash()
    following = Entry(
        1,
        500,
        (
            (Origin("n2", 1, 1), Acquire(("j",), "b", request_id="refused")),
            (Origin("n2", 1, 2), Acquire(("m",), "a", request_id=2)),
            (Origin("n2", 1, 3), Release("a", 1)),
            (Origin("n2", 1, 4), Release("a", 2)),
            (Origin("n2", 1, 5), Acquire(("s",), "b", terms=Terms("shared"), request_id=3)),
            (Origin("n2", 1, 6), RenewSession("a")),
            (Origin("n2", 1, 7), ForceRelease("forced", 5, "hung", "olga")),
            (Origin("n2", 1, 8), Complete("a", 7, "result", 9_000)),
            (Origin("n2", 1, 9), Acquire(("forced",), "b")),
        ),
    )
    assert restored.apply(following) == machine.apply(following)
    assert restored.state_hash() == machine.state_hash()


def test_a_snapshot_is_read_in_steps_that_do_not_grow_with_the_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshot, "STEP_ITEMS", 10)
    machine = Machine()
    for number in range(300):
        key, session = f"k{number}", f"{number:032x}"
        operation = Acquire((key,), session, ttl_ms=10_000)
        machine.apply(Entry(1, 0, ((Origin("n1", 1, number + 1), operation),)))
    read: list[Machine] = []

    def to_the_end() -> Generator[None, None, None]:
        read.append((yield from Machine.restoring(machine.snapshot(), Limits())))

    steps = sum(1 for _ in to_the_end())
    assert steps >= 2 * 300 / 10, "sessions and holds"
    assert read[0].state_hash() == machine.state_hash()


def test_the_hash_tells_states_apart() -> None:
    """One entry that carries nothing but a millisecond makes another state."""
    machine, other = busy_machine(), busy_machine()
    assert machine.state_hash() == other.state_hash()
    other.apply(Entry(1, 1))
    assert machine.state_hash() != other.state_hash()


@given(st.data())
def test_damaged_bytes_are_refused(data: st.DataObject) -> None:
    """A snapshot cut anywhere raises SnapshotUnreadable, and so do bytes that never were one."""
    snapshot = busy_machine().snapshot()
    cut = data.draw(st.integers(0, len(snapshot) - 1))
    with pytest.raises(SnapshotUnreadable):
        Machine.restore(snapshot[:cut])
    with pytest.raises(SnapshotUnreadable):
        Machine.restore(b"\x93" + data.draw(st.binary(max_size=20)))


def test_no_order_depends_on_hash_seeds() -> None:
    """Replicas are processes with different hash seeds: the same log makes the same state in each."""
    told = set()
    for seed in ("1", "2", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", WALK]
        done = subprocess.run(  # noqa: S603 -- this interpreter, our own text
            command, env=environment, check=True, capture_output=True, text=True
        )
        told.add(done.stdout)
    assert len(told) == 1
    assert int(told.pop().split()[0]) > 20
