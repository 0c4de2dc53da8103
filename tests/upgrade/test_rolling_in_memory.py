"""An upgrade under load, node by node, on virtual time: real nodes, kernels, journals and snapshots; a simulated network."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.errors import HoldfastError
from holdfast_coordinator.machine import Levels, check_invariants
from holdfast_coordinator.node import Node
from holdfast_jepsen.checker import linearizability, orders
from holdfast_jepsen.sim.client import SimClient
from holdfast_jepsen.sim.cluster import Cluster
from holdfast_jepsen.sim.rng import Rng
from holdfast_jepsen.sim.server import Settings
from holdfast_jepsen.sim.world import MILLISECOND, SECOND, World
from holdfast_jepsen.workloads import mix as workloads

NAMES = ("n1", "n2", "n3")
OLD, NEW = Levels(highest=1), Levels(highest=2)
AWAY = 700 * MILLISECOND
"""Longer than an election, so that each restart of the leader costs one."""
WITHIN = 20 * SECOND
KEPT_KEY = "held through it all"
SNAPSHOT_VERSIONS = {1: 2, 2: 3}


def node_class(versions: dict[str, Levels]) -> type[Node]:
    """Nodes of the version that each machine has installed when its process starts."""

    class Installed(Node):
        def __init__(self, name: str, engine_factory: Any, **given: Any) -> None:
            members = dict.fromkeys(NAMES, ("", ""))
            super().__init__(
                name, engine_factory, **{**given, "members": members, "levels": versions[name]}
            )

    return Installed


class Upgrade:
    def __init__(self, seed: int, workload: str) -> None:
        self.world = World()
        self.versions = dict.fromkeys(NAMES, OLD)
        self.cluster = Cluster(
            self.world,
            seed,
            size=3,
            settings=Settings(
                compact_after=40, compact_keep=5, node_class=node_class(self.versions)
            ),
            mix=workloads.make(workload, Rng(seed, "mix")),
            carry=None,
        )
        self.held: list[int] = []
        self.cluster.start()
        self.holder = self.cluster.new_client()
        self.holder.start(self.hold)

    async def hold(self, client: SimClient) -> None:
        """One lock, for the whole time, of a session that is renewed as any other."""
        library = client.connect(4_000)
        while not self.held:
            with contextlib.suppress(HoldfastError):
                async with library.lock(KEPT_KEY) as grant:
                    self.held.append(grant.token)
                    await asyncio.Event().wait()  # until it is lost
        self.held.clear()

    def until(self, condition: Callable[[], bool]) -> None:
        end = self.world.now + WITHIN
        while not condition():
            assert self.world.now < end, "not so within the time"
            self.world.run(self.world.now + 20 * MILLISECOND)

    @property
    def nodes(self) -> list[Node]:
        return [server.node for server in self.cluster.servers if server.node is not None]

    def all_caught_up(self) -> bool:
        leader = self.cluster.leader
        return leader is not None and len(self.nodes) == 3 and all(n.is_ready for n in self.nodes)

    def restart(self, name: str, known: Levels) -> None:
        """Killed, and started with another version; the cluster has recovered when this returns."""
        server = next(each for each in self.cluster.servers if each.name == name)
        server.kill()
        self.world.run(self.world.now + AWAY)
        self.versions[name] = known
        server.start()
        self.until(self.all_caught_up)

    def order(self) -> list[str]:
        """The followers first, and the leader of the beginning last."""
        leader = self.cluster.leader
        assert leader is not None
        return [*(name for name in NAMES if name != leader.name), leader.name]

    def check(self, level: int) -> None:
        """No lock was lost, no replica has parted, and each writes what the others read."""
        assert self.cluster.watch.violations == []
        assert {node.machine.level for node in self.nodes} == {level}
        for node in self.nodes:
            check_invariants(node.machine)
            assert node.machine.snapshot()[1] == SNAPSHOT_VERSIONS[level]
            if node.is_ready:
                assert [h.token for h in node.machine.lock(KEPT_KEY).holders] == self.held
        history = self.cluster.history
        history.finish()
        assert orders.token_order(history) == []
        assert orders.beliefs(history) == []
        assert [v.why for v in linearizability.check(history) if v.answer == "illegal"] == []


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "workload"), [(1, "hot-key"), (2, "queue"), (3, "several-keys")])
def test_an_upgrade_under_load_loses_no_lock_and_then_raises_the_level(
    seed: int, workload: str
) -> None:
    """Every node is restarted with the new version, the leader among them. In between, old and new nodes replicate, forward, elect,
    and bring each other up to date with snapshots; then, and not before, the level rises on all."""
    upgrade = Upgrade(seed, workload)
    upgrade.until(lambda: bool(upgrade.held) and upgrade.all_caught_up())
    done = upgrade.cluster.done
    for name in upgrade.order():
        assert {node.machine.level for node in upgrade.nodes} == {1}
        upgrade.restart(name, NEW)
        upgrade.until(lambda done=done: upgrade.cluster.done > done)  # type: ignore[misc]
        done = upgrade.cluster.done
    upgrade.until(lambda: {node.machine.level for node in upgrade.nodes} == {2})
    upgrade.until(lambda: upgrade.cluster.done > done + 20)
    upgrade.check(2)
    assert upgrade.held


@pytest.mark.slow
def test_an_upgrade_that_is_taken_back_half_way_loses_nothing() -> None:
    """Two nodes are upgraded, and go back to the version before: nothing that they wrote is strange to it."""
    upgrade = Upgrade(5, "hot-key")
    upgrade.until(lambda: bool(upgrade.held) and upgrade.all_caught_up())
    first, second, _ = upgrade.order()
    for name, known in ((first, NEW), (second, NEW), (first, OLD), (second, OLD)):
        upgrade.restart(name, known)
    upgrade.check(1)
    assert upgrade.held


@pytest.mark.slow
def test_a_node_that_goes_back_after_the_level_was_raised_stops_itself() -> None:
    """On its own journal or snapshot, with a sentence; the others go on."""
    upgrade = Upgrade(7, "hot-key")
    for name in NAMES:
        upgrade.versions[name] = NEW
    for server in upgrade.cluster.servers:
        server.kill()
        server.start()
    upgrade.until(lambda: {node.machine.level for node in upgrade.nodes} == {2})
    victim = upgrade.order()[0]
    server = next(each for each in upgrade.cluster.servers if each.name == victim)
    server.kill()
    upgrade.versions[victim] = OLD
    server.start()
    upgrade.until(lambda: server.failure is not None)
    assert "knows levels up to 1; start the newer version" in str(server.failure)
    done = upgrade.cluster.done
    upgrade.until(lambda: upgrade.cluster.done > done)
