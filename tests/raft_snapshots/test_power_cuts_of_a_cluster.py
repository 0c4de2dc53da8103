"""Whole clusters on disks that lose what was not synced: real journals, real snapshots, virtual time.

The power fails at any step of any write, of one node or of all of them at once, and any part of what was not
synced survives, torn or whole. Everything comes from the seed.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from snapshot_lives import Life, Nodes

from holdfast_coordinator.raft.kernel import Kernel
from holdfast_coordinator.raft.memory_disk import Effect, MemoryDisk, Step, Write

STEPS_MAX = 150
"""Steps of disks until the next cut; a proposal costs two on each node, and a start ten or more."""
ALL_AT_ONCE = 0.7
SEGMENT_BYTES = 2000


class PowerCut(BaseException):
    """Ends the node in the middle of what it was writing."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Unreliable(Nodes):
    """A cluster whose power fails. What any node has applied was promised to somebody."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - a schedule, not a secret
        self.steps_left = 10**9
        self.promised: dict[int, list[Any]] = {}
        self.cuts = self.all_cuts = self.torn = 0
        super().__init__(3, seed=seed)

    def _make(self, name: str) -> Kernel:
        disk = self.disks[name]
        disk.before = lambda _step: self._count(name, _step)
        self.lives[name] = Life(
            disk,
            name=name,
            peers=tuple(each for each in self.names if each != name),
            clock=self.clock,
            seed=self._random.randrange(2**30),
            segment_bytes=SEGMENT_BYTES,
        )
        return self.lives[name].kernel

    def _count(self, name: str, _step: Step) -> None:
        self.steps_left -= 1
        if self.steps_left <= 0:
            raise PowerCut(name)

    def note_promises(self) -> None:
        """Whatever is applied anywhere never changes, and is never applied elsewhere as something else."""
        for life in self.lives.values():
            for item in life.host.state:
                assert self.promised.setdefault(item[0], item) == item

    def cut_power(self, name: str) -> None:
        """Of this node, or of all; then they start, which may be interrupted as well."""
        self.note_promises()
        victims = self.names if self.chance.random() < ALL_AT_ONCE else [name]
        while True:
            self.cuts += 1
            self.all_cuts += len(victims) == len(self.names)
            for victim in victims:
                if victim in self.cluster.nodes:
                    self.cluster.crash(victim)
                self.lives.pop(victim, None)
                self.disks[victim] = self._what_is_left(self.disks[victim])
            self.steps_left = self.chance.randint(1, STEPS_MAX)
            try:
                for each in self.names:
                    if each not in self.cluster.nodes:
                        self.cluster.start(each)
            except PowerCut as again:
                victims = sorted(
                    {again.name, *(n for n in self.names if n not in self.cluster.nodes)}
                )
            else:
                return

    def _what_is_left(self, disk: MemoryDisk) -> MemoryDisk:
        survivors: list[Effect] = []
        for effect in disk.unsynced:
            dice = self.chance.random()
            if dice < 0.3:
                survivors.append(effect)
            elif dice < 0.6 and isinstance(effect, Write) and len(effect.data) > 1:
                at = self.chance.randrange(1, len(effect.data))
                survivors.append(
                    replace(effect, data=effect.data[:at])
                    if self.chance.random() < 0.5
                    else replace(effect, offset=effect.offset + at, data=effect.data[at:])
                )
                self.torn += 1
        return disk.after_power_cut(survivors)

    def live(self, number: int) -> None:
        """A little of everything that a cluster does."""
        leader = self.leader()
        if leader is not None:
            for each in range(self.chance.randint(1, 4)):
                self.propose(leader, b"%d.%d" % (number, each))
        dice = self.chance.random()
        one, other = self.chance.sample(self.names, 2)
        if dice < 0.15:
            self._take_snapshot(one)
        elif dice < 0.2:
            self.cluster.cut(one, other)
        elif dice < 0.4:
            self.cluster.heal_all()
        self.cluster.run_for(self.chance.choice((0.005, 0.05, 0.5)))

    def _take_snapshot(self, name: str) -> None:
        life = self.lives[name]
        base = 0 if life.store.newest is None else life.store.newest.index
        if min(life.kernel.applied_index, life.journal.durable_index) > base:
            life.take_snapshot()


def run(seed: int, *, rounds: int = 120) -> Unreliable:
    """Checks while it runs, and at the end that the cluster recovers with everything that it promised."""
    nodes = Unreliable(seed)
    nodes.steps_left = STEPS_MAX
    for number in range(rounds):
        try:
            nodes.live(number)
        except PowerCut as cut:
            nodes.cut_power(cut.name)
        nodes.note_promises()
    nodes.steps_left = 10**9
    nodes.cluster.heal_all()
    leader = nodes.elect()
    nodes.propose(leader, b"last")
    nodes.settle(*nodes.names)
    nodes.note_promises()
    states = [nodes.lives[name].host.state for name in nodes.names]
    assert states[0] == states[1] == states[2]
    assert [item for _, item in sorted(nodes.promised.items())] == states[0]
    assert states[0][-1][2] == "last"
    return nodes


@pytest.mark.parametrize("seed", range(16))
def test_the_power_of_all_nodes_fails_again_and_again(seed: int) -> None:
    """Everything that any node had applied is there afterwards, on all of them, at the same index."""
    nodes = run(seed)
    assert nodes.all_cuts > 2
    assert len(nodes.promised) > 20


def test_the_same_seed_gives_the_same_run() -> None:
    """So that a failure can be looked at again."""
    one, two = run(3), run(3)
    assert (one.promised, one.cuts, one.torn, one.clock.now) == (
        two.promised,
        two.cuts,
        two.torn,
        two.clock.now,
    )


def test_the_runs_are_worth_their_name() -> None:
    """Between them they tear writes, interrupt starts, and go on from snapshots."""
    runs = [run(seed, rounds=60) for seed in range(100, 108)]
    assert sum(nodes.torn for nodes in runs) > 3
    assert sum(nodes.cuts for nodes in runs) > 15
    assert any(life.host.restored for nodes in runs for life in nodes.lives.values())


def test_a_disk_that_lies_about_its_syncs_is_caught_by_these_checks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The checks can fail: without syncs, what was promised is lost."""
    monkeypatch.setattr("holdfast_coordinator.raft.memory_disk.MemoryFile.sync", lambda _self: None)

    def run_them() -> None:
        for seed in range(10):
            run(seed)

    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whichever check notices it first
        run_them()
    assert not isinstance(caught.value, PowerCut)
