"""The harness looks: it finds the product with one cure or guarantee taken away.

The whole table: `python -m holdfast_jepsen scoreboard`.
"""

from __future__ import annotations

import pytest

from holdfast_jepsen.scoreboard.mutants import BY_NAME
from holdfast_jepsen.scoreboard.table import hunt

FOUND_WITHIN = {
    "answers-before-sync": 2,
    "sync-does-nothing": 2,
    "votes-forgotten": 2,
    "grants-twice": 2,
}
"""Seeds, for the mutants that are quick to find; the others are left to the whole scoreboard."""


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUND_WITHIN)
def test_a_mutant_is_found(name: str) -> None:
    """Within so many seeds a run under this mutant is invalid."""
    seed, why = hunt(BY_NAME[name], FOUND_WITHIN[name], fault_seconds=4.0)
    assert seed is not None, f"{name} survived"
    assert why
