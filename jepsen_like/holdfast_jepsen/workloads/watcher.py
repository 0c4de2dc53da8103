"""Somebody who follows what happens, at whichever node answers.

Rule: as the real watcher, it remembers only the revision of the last record that it has seen, and asks any node for what
follows. It may be told that this is no longer kept; it must never be told a gap, another order, or another story than the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast_coordinator.machine import NoLongerKept, Record
from holdfast_jepsen.sim.world import MILLISECOND

if TYPE_CHECKING:
    from holdfast_jepsen.sim.cluster import Cluster
    from holdfast_jepsen.sim.rng import Rng

RECORDS_A_LOOK = 50


class Watcher:
    """See the module. `story` is shared by all watchers of a run: what each revision was."""

    def __init__(self, name: str, cluster: Cluster, rng: Rng, story: dict[int, Record]) -> None:
        self.name = name
        self.seen = 0
        self._cluster = cluster
        self._rng = rng
        self._story = story

    def start(self) -> None:
        """Look from now on."""
        self._cluster.world.after(self._pause(), self._look)

    def _pause(self) -> int:
        return self._rng.between(20, 400) * MILLISECOND * self._cluster.world.pace

    def _look(self) -> None:
        server = self._rng.choice(self._cluster.servers)
        if server.node is not None and server.actor is not None:
            trail = server.node.machine.trail
            try:
                self._take(server.name, trail.read(self.seen, RECORDS_A_LOOK))
            except NoLongerKept:
                self.seen = trail.first_revision - 1
        self._cluster.world.after(self._pause(), self._look)

    def _take(self, server: str, records: list[Record]) -> None:
        violated = self._cluster.watch.violated
        for record in records:
            if record.revision != self.seen + 1:
                violated(f"{server} told {self.name} {record.revision} after {self.seen}")
            self.seen = record.revision
            known = self._story.setdefault(record.revision, record)
            if known != record:
                violated(f"{server} says that {record.revision} was {record}, not {known}")
