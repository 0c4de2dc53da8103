"""Directories that begin with a given state: a cluster is founded on them by all of their nodes, and by no others."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from snapshot_lives import ListHost, through_the_codec

from holdfast_coordinator.raft.datadir import DataDirectory
from holdfast_coordinator.raft.errors import EngineFailure
from holdfast_coordinator.raft.inmem import Cluster, VirtualClock
from holdfast_coordinator.raft.journal import Journal
from holdfast_coordinator.raft.kernel import Kernel, KernelConfig
from holdfast_coordinator.raft.memory_disk import MemoryDisk, Step
from holdfast_coordinator.raft.peers import ACCEPTED, OTHER_LIMITS, PeerBook
from holdfast_coordinator.raft.seeding import Seed, seed_all
from holdfast_coordinator.raft.snapshots import SnapshotStore

NEW = "c#1"
STATE = [[7, 3, "old"]]
SEED = Seed(NEW, 9, 4, json.dumps(STATE).encode())
THREE = ("n1", "n2", "n3")
FIVE = ("n1", "n2", "n3", "n4", "n5")


def place(name: str) -> Path:
    return Path("/data") / name


class Founding(Cluster):
    """Real journals, snapshots and peer books on disks in memory. Nodes judge each other before they connect."""

    def __init__(
        self,
        names: tuple[str, ...],
        disks: dict[str, MemoryDisk],
        members: tuple[str, ...] | None = None,
    ) -> None:
        self.disks = disks
        self.members = members or names
        self.books: dict[str, PeerBook] = {}
        self.hosts: dict[str, ListHost] = {}
        self.random = random.Random(0)  # noqa: S311 - a seeded run
        self.verdicts: set[str] = set()
        super().__init__(names, self._make, clock=VirtualClock(), carry=through_the_codec)

    def _make(self, name: str) -> Kernel:
        directory = DataDirectory.open(place(name), cluster=NEW, node=name, disk=self.disks[name])
        files = directory.files
        self.hosts[name] = ListHost()
        self.books[name] = PeerBook.open(
            files, node=name, directory=directory.id, members=self.members, bootstrap=False
        )
        return Kernel(
            KernelConfig(node=name, peers=tuple(n for n in self.members if n != name)),
            Journal(directory, segment_bytes=700, reserve_bytes=128),
            self.hosts[name],
            clock=self.clock,
            rng=random.Random(self.random.random()),  # noqa: S311 - a seeded run
            snapshots=SnapshotStore(files, cluster=NEW, life=directory.boot),
            book=self.books[name],
        )

    def _connect(self, one: str, other: str) -> None:
        if not {one, other} <= self.nodes.keys():
            return
        books = self.books[one], self.books[other]
        told = books[0].introduce(), books[1].introduce()
        verdicts = books[0].judge(other, told[1]), books[1].judge(one, told[0])
        self.verdicts |= {verdict.code for verdict in verdicts}
        if {verdict.code for verdict in verdicts} == {ACCEPTED}:
            books[0].met(other, told[1], verdicts[1])
            books[1].met(one, told[0], verdicts[0])
            super()._connect(one, other)

    def kernel(self, name: str) -> Kernel:
        node = self.nodes[name]
        assert isinstance(node, Kernel)
        return node

    def leader(self) -> str | None:
        led = (name for name in self.nodes if self.kernel(name).has_own_term_commit)
        return next(led, None)

    def elect(self) -> str:
        self.run_until(lambda: self.leader() is not None, within=10)
        return self.leader() or ""


def seeded(names: tuple[str, ...] = THREE, seed: Seed = SEED) -> dict[str, MemoryDisk]:
    """As if each were restored on its own machine."""
    disks = {name: MemoryDisk() for name in names}
    for name in names:
        seed_all(seed, {name: place(name)}, names, disk=disks[name])
    return disks


@pytest.mark.parametrize("names", [THREE, FIVE], ids=["three", "five"])
def test_a_cluster_goes_on_from_the_state_that_it_was_given(names: tuple[str, ...]) -> None:
    """However many nodes the cluster before had; and the power may fail at any time afterwards."""
    cluster = Founding(names, seeded(names))
    leader = cluster.elect()
    cluster.hosts[leader].queue.append(b"new")
    cluster.round(leader)
    cluster.run_for(1)
    for name in names:
        assert [each[2] for each in cluster.hosts[name].state] == ["old", "new"]
        assert cluster.hosts[name].state[-1][0] > SEED.index
        assert cluster.kernel(name).term > SEED.term
    after = {name: disk.after_power_cut() for name, disk in cluster.disks.items()}
    again = Founding(names, after)
    again.elect()
    again.run_for(1)
    for name in names:
        assert [each[2] for each in again.hosts[name].state] == ["old", "new"]


def test_nobody_leads_before_all_have_met() -> None:
    """Two of three are a majority, but could not tell the third from a node of the cluster before."""
    cluster = Founding(("n1", "n2"), seeded(), members=THREE)
    cluster.run_for(10)
    assert cluster.leader() is None
    cluster.names.append("n3")
    cluster.start("n3")
    cluster.elect()


def test_nodes_that_were_restored_differently_do_not_found_a_cluster() -> None:
    """From another backup, or with other options, at the same index and term: one log on two states would be two clusters."""
    disks = seeded()
    other = Seed(SEED.cluster, SEED.index, SEED.term, b"[]")
    disks["n3"] = MemoryDisk()
    seed_all(other, {"n3": place("n3")}, THREE, disk=disks["n3"])
    cluster = Founding(THREE, disks)
    cluster.run_for(10)
    assert cluster.leader() is None
    assert OTHER_LIMITS in cluster.verdicts
    assert not cluster.books["n1"].is_complete


def test_a_node_that_has_met_all_is_met_by_one_that_has_not_heard_of_it() -> None:
    """time 0: n1 has accepted n2, and n2 dies before it has noted that; time 1: n2 comes back: n1 founds nothing any more."""
    disks = seeded()
    before = disks["n2"].after_power_cut()
    cluster = Founding(THREE, disks)
    cluster.elect()
    cluster.crash("n2")
    cluster.disks["n2"] = before
    cluster.start("n2")
    assert cluster.books["n2"].is_complete
    cluster.elect()
    cluster.run_for(1)
    assert cluster.hosts["n2"].state == cluster.hosts["n1"].state


def restored_again(seed: Seed) -> Founding:
    """n3 loses its disk after the cluster was founded, and is restored alone instead of coming back empty."""
    cluster = Founding(THREE, seeded())
    cluster.elect()
    cluster.crash("n3")
    cluster.disks["n3"] = MemoryDisk()
    seed_all(seed, {"n3": place("n3")}, THREE, disk=cluster.disks["n3"])
    cluster.start("n3")
    cluster.run_for(1)
    assert ("n1", "n3") not in cluster._links, "it has forgotten what it acknowledged"
    return cluster


def test_a_node_that_was_restored_again_is_admitted_like_an_empty_one() -> None:
    cluster = restored_again(SEED)
    leader = cluster.elect()
    directory = cluster.books[leader].refused["n3"]
    assert cluster.kernel(leader).propose_admission("n3", directory)
    cluster.run_for(1)
    for other in ("n1", "n2"):
        cluster._connect(other, "n3")  # it tries again, as the transport does
    cluster.hosts[leader].queue.append(b"new")
    cluster.round(leader)
    cluster.run_for(1)
    assert [each[2] for each in cluster.hosts["n3"].state] == ["old", "new"]


def test_a_node_that_was_restored_again_in_another_way_cannot_be_admitted() -> None:
    """Its log would fit, and its state would not."""
    cluster = restored_again(Seed(SEED.cluster, SEED.index, SEED.term, b"[]"))
    assert OTHER_LIMITS in cluster.verdicts
    assert cluster.books["n1"].refused == cluster.books["n2"].refused == {}


def test_a_directory_of_the_cluster_before_is_refused_whole() -> None:
    """By the name of the cluster it does not even start, and with the new name it would be another directory."""
    disk = MemoryDisk()
    DataDirectory.open(place("n1"), cluster="c", node="n1", disk=disk).close()
    with pytest.raises(
        EngineFailure, match="belongs to node n1 of cluster c, not to node n1 of cluster c#1"
    ):
        DataDirectory.open(place("n1"), cluster=NEW, node="n1", disk=disk)


def test_a_directory_that_is_not_empty_is_refused_and_no_other_is_touched() -> None:
    disk = MemoryDisk()
    DataDirectory.open(place("n2"), cluster="c", node="n2", disk=disk).close()
    with pytest.raises(EngineFailure, match=r"data directory /data/n2 is not empty \(boot\)"):
        seed_all(SEED, {"n1": place("n1"), "n2": place("n2")}, THREE, disk=disk)
    assert set(disk.directory(place("n1")).names()) <= {"lock"}


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    """On a real disk, where the lock of another process counts."""
    running = DataDirectory.open(tmp_path, cluster="c", node="n1")
    with pytest.raises(EngineFailure, match="in use by a running node"):
        seed_all(SEED, {"n1": tmp_path}, THREE)
    running.close()


class Killed(BaseException):
    """The restore ends in the middle of a write."""


def interrupted(steps: int) -> MemoryDisk | None:
    """What is left of a restore that was killed, and lost its power, at this step of the disk; None: it has fewer."""
    disk = MemoryDisk()
    left = steps

    def count(_step: Step) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed

    disk.before = count
    try:
        seed_all(SEED, {"n1": place("n1")}, ("n1",), disk=disk)
    except Killed:
        return disk.after_power_cut()
    return None


def test_a_restore_that_was_interrupted_leaves_nothing_that_starts() -> None:
    """At whatever step: a node takes the directory for empty, or refuses it, until it is whole."""
    found = []
    while (disk := interrupted(len(found) + 1)) is not None:
        names = set(disk.directory(place("n1")).names()) - {"lock"}
        if not names:
            found.append("empty")
        elif "identity.json" in names:
            cluster = Founding(("n1",), {"n1": disk})
            assert cluster.elect() == "n1"
            assert cluster.hosts["n1"].state == STATE
            found.append("whole")
        else:
            with pytest.raises(EngineFailure, match="is not empty"):
                Founding(("n1",), {"n1": disk})
            found.append("refused")
    assert found.count("refused") > 5
    assert found == sorted(found, key=("empty", "refused", "whole").index)
