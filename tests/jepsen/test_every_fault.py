"""Every kind of fault that the simulator knows can have an effect, and those that need something to be hit find it."""

from __future__ import annotations

import pytest

from holdfast_coordinator import batcher
from holdfast_coordinator.raft import messages, snapshot_transfer
from holdfast_jepsen.faults.plan import KINDS
from holdfast_jepsen.sim import sizes
from holdfast_jepsen.sim.rng import Rng
from holdfast_jepsen.sim.run import Outcome, Variant, run
from holdfast_jepsen.workloads.mix import NAMES

pytestmark = pytest.mark.timeout(300)
SEEDS = range(20)
"""Tried until everything has fired, which one to three mostly do: what a seed draws is chance, and changes with the code."""
TOGETHER = 7
"""Kinds of one run: few enough that each has its turn."""


def run_with(kinds: tuple[str, ...], seed: int, workload: str = "") -> Outcome:
    return run(seed, variant=Variant(kinds=kinds, workload=workload), fault_seconds=8.0)


def fires(kinds: tuple[str, ...], workload: str = "") -> set[str]:
    """Those that had an effect within the seeds. No run says anything but valid, or that nothing has hit it."""
    fired: set[str] = set()
    for seed in SEEDS:
        outcome = run_with(kinds, seed, workload)
        assert outcome.verdict == "valid" or outcome.reasons == ["no fault fired"]
        fired |= set(outcome.fired)
        if fired >= set(kinds):
            break
    return fired


@pytest.mark.slow
@pytest.mark.parametrize("group", range(0, len(KINDS), TOGETHER))
def test_every_kind_has_an_effect_within_a_few_seeds(group: int) -> None:
    """A kind that never fires is a fault of which nothing is known; and no run is anything but valid under it."""
    kinds = KINDS[group : group + TOGETHER]
    assert fires(kinds) == set(kinds)


@pytest.mark.slow
@pytest.mark.parametrize("workload", NAMES)
def test_pieces_of_snapshots_are_lost_under_every_workload(workload: str) -> None:
    """Whatever clients do, a node that comes back needs a snapshot, and loses some of its pieces on the way."""
    assert fires(("lost-chunks",), workload) == {"lost-chunks"}


@pytest.mark.slow
def test_a_cluster_of_two_versions_is_upgraded_node_by_node() -> None:
    """Nodes of the older version are replaced while others die; the run ends at the highest level, or it is not valid."""
    assert fires(("upgrade", "kill")) == {"upgrade", "kill"}


def test_sizes_are_drawn_and_given_back() -> None:
    """Within a run the product's own sizes are those of the seed; after it they are as shipped."""
    with sizes.cut((128, 1, sizes.SHIPPED, 2, 100)):
        assert snapshot_transfer.SNAPSHOT_CHUNK_BYTES == 128
        assert batcher.OPERATIONS_PER_ENTRY_MAX == 1
    assert snapshot_transfer.SNAPSHOT_CHUNK_BYTES == messages.SNAPSHOT_CHUNK_BYTES
    assert batcher.OPERATIONS_PER_ENTRY_MAX > 3
    drawn = {sizes.draw(Rng(seed, "sizes")) for seed in range(300)}
    for place, (_, _, choices) in enumerate(sizes.SIZES):
        assert {each[place] for each in drawn} == set(choices)
