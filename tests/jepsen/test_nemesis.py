"""A fault is counted when it has hit something, and what it put in place stays until its own end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from holdfast_coordinator.raft.memory_disk import Step
from holdfast_jepsen.faults import plan
from holdfast_jepsen.faults.nemesis import Nemesis
from holdfast_jepsen.faults.plan import Fault
from holdfast_jepsen.sim import disks
from holdfast_jepsen.sim.network import Network
from holdfast_jepsen.sim.rng import Rng
from holdfast_jepsen.sim.run import Outcome, Variant, run
from holdfast_jepsen.sim.world import MILLISECOND, SECOND, Actor, World

NAMES = ("n1", "n2", "n3")


class Machine:
    """As much of a server as these faults need."""

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.peers = tuple(other for other in NAMES if other != name)
        self.actor: Actor | None = Actor(world, name, clock=lambda: world.now, rate=1.0)
        self.sync_slowdown = 1
        self.has_step_fault = False
        self.trap: Any = None

    def pause(self, duration: int) -> None:
        assert self.actor is not None
        self.actor.pause(duration)

    def set_trap(self, trap: Any) -> None:
        self.trap = trap

    def set_rate(self, rate: float) -> None:
        self.rate = rate

    def on_connected(self, peer: str, epoch: int) -> None: ...

    def on_disconnected(self, peer: str, epoch: int) -> None: ...

    def on_delivery(self, peer: str, epoch: int, kind: str, content: Any) -> None: ...


def nemesis_of(*faults: Fault, connects: bool = False) -> tuple[Nemesis, Any]:
    """On three machines that run; those that `connects` have connections by the first second."""
    world = World()
    network = Network(world, Rng(1, "network"))
    network.introduce = lambda one, other: connects
    servers = [Machine(name, world) for name in NAMES]
    for server in servers:
        network.add(server)
    cluster = SimpleNamespace(
        world=world, network=network, servers=servers, names=NAMES, leader=None, done=0
    )
    return Nemesis(cluster, faults), cluster  # type: ignore[arg-type]


def fault(kind: str, at: float, duration: float, draw: int = 1) -> Fault:
    """In seconds."""
    return Fault(int(at * SECOND), kind, int(duration * SECOND), draw)


@pytest.mark.parametrize(
    ("kind", "read"),
    [
        ("losses", lambda cluster: cluster.network.losses),
        ("duplicates", lambda cluster: cluster.network.duplicates),
        ("corrupt", lambda cluster: cluster.network.corruption),
        ("slow-disk", lambda cluster: max(each.sync_slowdown for each in cluster.servers) - 1),
        ("slow-links", lambda cluster: sum(cluster.network._delays.values())),
        ("isolate", lambda cluster: len(cluster.network._blocked)),
        ("swizzle", lambda cluster: len(cluster.network._blocked)),
    ],
)  # fmt: skip
def test_the_first_fault_that_ends_leaves_the_other_in_place(kind: str, read: Any) -> None:
    """Two of a kind overlap: what they put in place is there until the second ends too, and then it is gone."""
    _, cluster = nemesis_of(fault(kind, 2, 3), fault(kind, 4, 3))
    cluster.world.run(5 * SECOND + 3 * SECOND // 2)
    assert read(cluster)
    cluster.world.run(15 * SECOND)
    assert not read(cluster)


@pytest.mark.parametrize("kind", ["reset", "supersede"])
def test_a_connection_that_is_not_there_is_not_hit(kind: str) -> None:
    """It counts where there is one to break, and only there."""
    for connects, times in ((False, 0), (True, 1)):
        nemesis, cluster = nemesis_of(fault(kind, 2, 1), connects=connects)
        cluster.world.run(3 * SECOND)
        assert nemesis.fired[kind] == times


def test_a_fault_of_messages_that_hit_none_before_its_end_has_not_fired() -> None:
    """The next one that hits a message counts for itself alone."""
    faults = fault("slow-links", 2, 1), fault("slow-links", 5, 5)
    nemesis, cluster = nemesis_of(*faults, connects=True)
    cluster.world.run(6 * SECOND)
    assert nemesis.fired["slow-links"] == 0
    for one in NAMES:
        for other in NAMES:
            cluster.network.send(one, other, "raft", [])
    assert nemesis.fired["slow-links"] == 1


@pytest.mark.parametrize(("kind", "hit"), [("minority", 1), ("majority", 2), ("all", 3)])
def test_several_machines_stand_still_together(kind: str, hit: int) -> None:
    """As many as the kind says."""
    _, cluster = nemesis_of(fault(f"pause-{kind}", 2, 3))
    cluster.world.run(4 * SECOND)
    assert sum(each.actor.is_paused for each in cluster.servers) == hit


def test_a_majority_seldom_fails_before_the_cluster_has_recovered() -> None:
    """Of many outages within which nothing is answered most are left out."""
    nemesis, cluster = nemesis_of(*(fault("pause-all", 2 + n, 0.5, draw=n) for n in range(50)))
    cluster.world.run(60 * SECOND)
    assert 1 < nemesis.fired["pause-all"] < 25


def test_wider_faults_come_in_place_of_narrow_ones() -> None:
    """Where the seed draws the kinds, all are drawn by one or another; where they are given, they are these."""
    drawn = [each for seed in range(99) for each in plan.draw(Rng(seed), begin=0, end=SECOND * 20)]
    assert {each.kind for each in drawn} == set(plan.KINDS)
    given = plan.draw(Rng(1), begin=0, end=SECOND * 200, kinds=("kill", "pause"))
    assert {each.kind for each in given} == {"kill", "pause"}


@pytest.mark.parametrize("kind", ["pause", "skew", "strobe", "wall-jump", "slow-disk", "kill"])
def test_a_machine_that_is_down_is_not_hit(kind: str) -> None:
    """What happens to a process that does not run is nothing."""
    nemesis, cluster = nemesis_of(fault(kind, 2, 1))
    for server in cluster.servers:
        server.actor = None
    cluster.world.run(4 * SECOND)
    assert nemesis.fired[kind] == 0


def test_who_is_paused_is_not_paused_again() -> None:
    """A pause within another one changes nothing, and is not counted."""
    nemesis, cluster = nemesis_of(fault("pause", 2, 3), fault("pause", 3, 1))
    cluster.world.run(6 * SECOND)
    assert nemesis.fired["pause"] == 1


def test_a_trap_that_has_not_sprung_stays() -> None:
    """Another one is not laid over it."""
    _, cluster = nemesis_of(fault("kill-at-point", 2, 1), fault("kill-at-point", 3, 1))
    cluster.world.run(2 * SECOND)
    (first,) = [each.trap for each in cluster.servers if each.trap is not None]
    cluster.world.run(4 * SECOND)
    assert [each.trap for each in cluster.servers if each.trap is not None] == [first]


def test_a_full_disk_counts_once() -> None:
    """However many calls it refuses."""
    told: list[None] = []
    error = disks.full(lambda: told.append(None))
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            error.before(Step("write", "a"))
    assert len(told) == 1


def test_a_crash_at_a_step_counts_when_it_comes_to_that_step() -> None:
    """Planned for a node that has nothing to write any more, it has not fired; among nodes at work it has."""
    told: list[None] = []
    crash = disks.crash(2, lambda: told.append(None))
    crash.before(Step("write", "a"))
    assert not told
    with pytest.raises(OSError, match="error"):
        crash.before(Step("sync", "a"))
    assert told

    def run_with(at_ms: int) -> Outcome:
        faults = (Fault(at_ms * MILLISECOND, "crash-at-step", SECOND // 5, 1),)
        return run(1, variant=Variant(plan=faults, pace=1), fault_seconds=3.0)

    assert run_with(3000).fired == {"crash-at-step": 1}
    assert run_with(4999).fired == {}
