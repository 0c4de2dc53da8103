"""Hypothesis draws schedules of faults and shrinks those that fail; what it found, and what anybody kept, is replayed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast_jepsen.faults import corpus
from holdfast_jepsen.faults.corpus import Kept
from holdfast_jepsen.faults.plan import KINDS, Fault
from holdfast_jepsen.scoreboard.mutants import BY_NAME
from holdfast_jepsen.sim.run import Variant, run
from holdfast_jepsen.sim.world import MILLISECOND, SECOND

CORPUS = Path(__file__).parent / "corpus"
FOUND = CORPUS / "found-by-hypothesis.json"
"""Written when the test below fails. Give it a name that tells what it was, once that is known."""
pytestmark = pytest.mark.timeout(300)
SECONDS = 4.0

FAULTS = st.builds(
    Fault,
    at=st.integers(2_000, 6_000).map(lambda ms: ms * MILLISECOND),
    kind=st.sampled_from(KINDS),
    duration=st.integers(1, 4_000).map(lambda ms: ms * MILLISECOND),
    draw=st.integers(0, 7),
)
SCHEDULES = st.lists(FAULTS, max_size=12).map(lambda faults: sorted(faults, key=lambda f: f.at))


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.json")), ids=lambda path: path.stem)
def test_a_kept_run_is_valid(path: Path) -> None:
    """What was found once, and mended, stays mended."""
    outcome = corpus.read(path).run()
    assert outcome.verdict != "invalid", outcome.reasons


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 63), schedule=SCHEDULES)
def test_drawn_schedules_are_valid(seed: int, schedule: list[Fault]) -> None:
    """No drawn schedule of faults breaks a promise. The shortest story that does is written to the corpus."""
    kept = Kept(seed, SECONDS, plan=tuple(schedule), why="found by Hypothesis")
    outcome = kept.run()
    if outcome.verdict == "invalid":
        corpus.write(kept, FOUND)  # the last one that Hypothesis tries is the shortest
    assert outcome.verdict != "invalid", outcome.reasons


def test_a_kept_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Seed, faults, workload and reason survive; a fault that does not exist is refused."""
    path = tmp_path / "kept.json"
    for kept in (
        Kept(3, 6.0, plan=(Fault(4 * SECOND, "power", SECOND, 7),), why="power"),
        Kept(4, 2.0, kinds=("kill", "pause"), workload="queue", nodes=5, pace=1, why="five"),
    ):
        corpus.write(kept, path)
        assert corpus.read(path) == kept
    path.write_text('{"seed": 1, "fault_seconds": 1.0, "kinds": ["flood"], "why": ""}')
    with pytest.raises(ValueError, match="flood"):
        corpus.read(path)


def test_a_schedule_is_what_the_run_does() -> None:
    """A listed plan takes the place of the drawn one, stretched with everything else."""
    plan = (Fault(2500 * MILLISECOND, "kill-leader", 300 * MILLISECOND, 1),)
    outcome = run(5, variant=Variant(plan=plan, pace=20), fault_seconds=2.0)
    assert [(each.kind, each.at) for each in outcome.plan] == [("kill-leader", 50 * SECOND)]
    assert outcome.fired == {"kill-leader": 1}


def test_a_broken_product_fails_under_a_schedule() -> None:
    """The control of the above: with a disk that syncs nothing, one loss of power of all nodes is found."""
    plan = (Fault(3 * SECOND, "power-all", 200 * MILLISECOND, 1),)
    around = BY_NAME["sync-does-nothing"].variant().around
    outcome = run(1, variant=Variant(plan=plan, around=around), fault_seconds=3.0)
    assert outcome.verdict == "invalid"
