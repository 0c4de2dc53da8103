"""D22: a peer 100,000 entries behind catches up in seconds, by entries or by a snapshot."""

from __future__ import annotations

import pytest
from snapshot_lives import Nodes

ENTRIES = 100_000
SECONDS_MAX = 3.0


def far_behind() -> tuple[Nodes, str, str]:
    """Two nodes have committed 100,000 entries without the third."""
    nodes = Nodes(seed=2)
    leader = nodes.elect()
    away = next(name for name in nodes.names if name != leader)
    nodes.settle(*nodes.names)
    nodes.cluster.isolate(away)
    nodes.lives[leader].host.queue.extend(b"%d" % number for number in range(ENTRIES))
    nodes.cluster.round(leader)
    nodes.cluster.run_until(lambda: not nodes.lives[leader].host.queue, within=60)
    nodes.settle(*(name for name in nodes.names if name != away), within=60)
    return nodes, leader, away


@pytest.mark.slow
@pytest.mark.parametrize("how", ["entries", "snapshot"])
def test_a_peer_far_behind_catches_up_in_seconds(how: str) -> None:
    nodes, leader, away = far_behind()
    if how == "snapshot":
        nodes.lives[leader].take_snapshot()
    begun = nodes.clock.now
    nodes.cluster.heal_all()
    nodes.settle(*nodes.names, within=60)
    assert nodes.clock.now - begun < SECONDS_MAX
    assert nodes.lives[away].host.state == nodes.lives[leader].host.state
    assert bool(nodes.lives[away].host.restored) == (how == "snapshot")
