"""The machine against a naive model of the same rules: lists, scans, no index, no heap.

Hypothesis invents entries (batches, repeats, gaps, newer boots, time); both must give every origin the same outcomes, show the
same locks, keep the same trail, and agree on tokens and time. After every entry the invariants hold, and a machine restored from
a snapshot of any moment goes on as though nothing had happened.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from reference.drawing import TIGHT, WIDE, sends, walk_operation
from reference.pair import Pair, Sends

from holdfast_coordinator.machine import Limits


class MachineAgainstModel(RuleBasedStateMachine):
    """Hypothesis chooses; a failure shrinks to a short story."""

    pair: Pair

    @initialize(limits=st.sampled_from((WIDE, WIDE, TIGHT)))
    def begin(self, limits: Limits) -> None:
        self.pair = Pair(limits)

    @rule(
        sends=sends,
        elapsed_ms=st.sampled_from((0, 0, 1, 40, 120, 400, 9_000)),
        term=st.sampled_from((1, 1, 1, 1, 1, 2)),
    )
    def apply(self, sends: Sends, elapsed_ms: int, term: int) -> None:
        self.pair.step(sends, elapsed_ms, term)

    @rule()
    def restore(self) -> None:
        self.pair.restore()

    @invariant()
    def agree(self) -> None:
        self.pair.agree()

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            self.pair.agree_on_reads()


TestMachineAgainstModel = MachineAgainstModel.TestCase
TestMachineAgainstModel.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


def walk(seed: int, limits: Limits) -> Counter[str]:
    """A hundred dense entries in step with the model; returns what they met with."""
    rng = random.Random(seed)  # noqa: S311 -- a reproducible walk
    pair = Pair(limits)
    term = 1
    for _ in range(100):
        steps = ("next",) * 30 + ("seen", "gap", "boot")
        sent: Sends = [
            (rng.choice(("n1", "n2")), rng.choice(steps), walk_operation(rng))
            for _ in range(rng.choice((0, 1, 1, 2, 4, 8)))
        ]
        term += rng.random() < 0.05
        pair.step(sent, rng.choice((0,) * 6 + (1, 20, 20, 20, 60, 60, 200, 9_000)), term)
        pair.agree()
        if rng.random() < 0.1:
            pair.restore()
            pair.agree_on_reads()
    pair.agree_on_reads()
    return pair.met


MET: Final = """
Cancelled released False | Cancelled released True | Checkpointed | Closed released False | Closed released True | Completed
completed, and forgotten | Detached | ForceReleased | Passed | Queued | Released | Renewed forced False | Renewed forced True
Resolved resolved False | Resolved resolved True | SessionOpened created False | SessionOpened created True
Withdrawn removed False | Withdrawn removed True
granted exclusive | granted shared | granted shared of a few | granted into a phase | granted with notes
granted with several fences | granted past the horizon | granted after released | granted after completed
granted after expired | granted after forced | granted after a floor | granted after a resolution
refused bad_request | refused no_such_session | refused session_expired | refused not_held | refused conflict | refused held
refused wait_timeout | refused closed | refused in_doubt | refused already_done | refused deadlock | refused limit_reached
ended released | ended completed | ended expired | ended forced | circle of 1 | circle of 2 | circle through a queue
limit keys_held_max | limit waiters_max | limit waiters_per_key_max | limit done_max | limit done_bytes_max
limit checkpoints_max | limit checkpoint_bytes_max | limit quota.sessions:owner o1 | limit quota.holds:a
later Granted | later Withdrawn | later Detached | later refused wait_timeout | later refused session_expired
later refused in_doubt | later refused already_done
limit quota.holds:owner o1 | limit quota.waiters:a | limit quota.waiters:owner o1
"""


@pytest.mark.parametrize("chunk", range(3))
def test_long_walks_stay_in_step_with_the_model(chunk: int) -> None:
    """Seeded walks, with and without bounds in their way: the same outcomes, locks, trail, tokens and time throughout. They meet
    with every outcome that there is: a walk that has become trivial would agree as well."""
    met: Counter[str] = Counter()
    for seed in range(1_000 * chunk, 1_000 * chunk + 14):
        met += walk(seed, WIDE)
        met += walk(seed, TIGHT)
    expected = {each.strip() for line in MET.strip().splitlines() for each in line.split("|")}
    assert expected - set(met) == set()
