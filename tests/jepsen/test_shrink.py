"""Of the faults of an invalid run those are left that it takes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

from holdfast_jepsen.sim import shrink as shrinking
from holdfast_jepsen.sim.run import Variant, run
from holdfast_jepsen.sim.shrink import shrink

if TYPE_CHECKING:
    import pytest

COUNT = 20


def test_what_the_violation_does_not_need_is_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is invalid whenever faults 3 and 17 are in it shrinks to these two, within the bound of runs."""
    tried: list[tuple[int, ...]] = []

    def pretend(seed: int, *, variant: Variant, fault_seconds: float) -> SimpleNamespace:
        del seed, fault_seconds
        left = tuple(range(COUNT)) if variant.only is None else variant.only
        tried.append(left)
        return SimpleNamespace(
            plan=list(left), verdict="invalid" if {3, 17} <= set(left) else "valid"
        )

    monkeypatch.setattr(shrinking, "run", pretend)
    assert shrink(1) == (3, 17)
    assert len(tried) <= shrinking.RUNS_MAX + 1
    tried.clear()
    shrink(1, runs_max=4)
    assert len(tried) == 5  # the first one counts the faults


def test_a_run_can_be_made_with_some_of_its_faults_alone() -> None:
    """`only` keeps the faults as the seed drew them, each with its time and its own draw, and makes no others."""
    paused = Variant(kinds=("pause",))
    whole = run(11, variant=paused, fault_seconds=3.0).plan
    part = run(11, variant=replace(paused, only=(1,)), fault_seconds=3.0).plan
    assert part == whole[1:2]
    assert len(whole) > 2
