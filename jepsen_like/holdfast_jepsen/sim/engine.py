"""The engine of one life of a simulated node: the real kernel and journal, driven by virtual time.

Rule: as the real driver does: what has arrived is with the kernel; tick; entries leave; sync; answers leave;
wait for a message, a `wake`, or the kernel's next deadline. A sync takes time, in which the node does nothing.

It fulfils `raft.ports.EnginePort`, so that the real node runs on it unchanged.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from holdfast_coordinator import compaction
from holdfast_coordinator.raft import compactor
from holdfast_coordinator.raft.compaction import CompactionConfig, Compactor
from holdfast_coordinator.raft.datadir import DataDirectory
from holdfast_coordinator.raft.errors import EngineFailure
from holdfast_coordinator.raft.kernel import Kernel, KernelConfig
from holdfast_coordinator.raft.peers import PeerBook
from holdfast_coordinator.raft.ports import StorageStatus
from holdfast_coordinator.raft.snapshots import SnapshotInfo, SnapshotStore
from holdfast_jepsen.sim.watched_journal import WatchedJournal
from holdfast_jepsen.sim.world import SECOND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast_coordinator.raft.compactor import Job
    from holdfast_coordinator.raft.messages import Message
    from holdfast_coordinator.raft.ports import Host
    from holdfast_jepsen.sim.server import Server
    from holdfast_jepsen.sim.world import Handle

DATA_DIR = Path("/simulated")
SEGMENT_BYTES = 32 * 1024
"""Small, so that a run has several segments."""
RESERVE_BYTES = 4 * 1024
HOUSEKEEPING_SECONDS = 1.0
NEVER = 1 << 62
TIMER_SLACK = 2_000
"""Nanoseconds after a deadline; the library compares with "later than"."""


class InlineCompactor(Compactor):
    """The compactor's work is done in this process, at once, some time after it was asked for."""

    def _work(self, job: Job) -> SnapshotInfo:
        return compactor.compact(self._directory.files, job, compaction.Replayer)


class SimEngine:
    """See the module. One object a life; `server` outlives it."""

    def __init__(self, server: Server, host: Host) -> None:
        self.server = server
        self._opened = 0
        self.kernel: Kernel | None = None
        self.journal: WatchedJournal | None = None
        self.store: SnapshotStore | None = None
        self.failure: EngineFailure | None = None
        self.book: PeerBook | None = None
        self.epochs: dict[str, int] = {}
        self._host = host
        self._compactor: Compactor | None = None
        self._is_scheduled = False
        self._timer: Handle | None = None
        self._due = NEVER
        """True time of the next round, unless something wakes it before."""
        self._syncs = 0
        self._housekeeping_at = 0.0

    # What the node sees.

    @property
    def boot(self) -> int:
        return 0 if self.book is None else self.book.boot(self._opened)

    @property
    def is_leader(self) -> bool:
        return self.kernel is not None and self.failure is None and self.kernel.is_leader

    @property
    def term(self) -> int:
        return 0 if self.kernel is None else self.kernel.term

    @property
    def last_index(self) -> int:
        return 0 if self.kernel is None else self.kernel.last_index

    @property
    def commit_index(self) -> int:
        return 0 if self.kernel is None else self.kernel.commit_index

    @property
    def applied_index(self) -> int:
        return 0 if self.kernel is None else self.kernel.applied_index

    @property
    def leader_commit_index(self) -> int | None:
        if self.kernel is None or self.failure is not None:
            return None
        return self.kernel.leader_commit_index

    @property
    def match_index(self) -> dict[str, int]:
        return {} if self.kernel is None else self.kernel.match_index

    @property
    def connected_peers(self) -> frozenset[str]:
        return frozenset(self.epochs)

    @property
    def rejected(self) -> Counter[str]:
        return Counter() if self.kernel is None else self.kernel.stats.dropped

    @property
    def storage(self) -> StorageStatus:
        return StorageStatus()

    async def start(self) -> None:
        """Open the disk as a process does that starts. Raises EngineFailure."""
        server = self.server
        directory = DataDirectory.open(
            DATA_DIR,
            cluster="simulated",
            node=server.name,
            disk=server.disk,
            new_id=server.new_id,
        )
        self._opened = directory.boot
        self.book = PeerBook.open(
            directory.files,
            node=server.name,
            directory=directory.id,
            members=(server.name, *server.peers),
            bootstrap=not server.is_newcomer,
        )
        settings = server.settings
        self.journal = WatchedJournal(
            directory,
            server=server,
            segment_bytes=SEGMENT_BYTES,
            reserve_bytes=RESERVE_BYTES,
            clock=lambda: 0.0,
        )
        self.store = SnapshotStore(directory.files, cluster="simulated", life=directory.boot)
        self.kernel = settings.kernel_class(
            KernelConfig(
                node=server.name,
                peers=server.peers,
                heartbeat_s=settings.heartbeat_s,
                election_s=settings.election_s,
                max_uncommitted_entries=settings.uncommitted_max,
            ),
            self.journal,
            self._host,
            clock=server.clock_seconds,
            rng=cast("Any", server.rng),  # the kernel draws `random()` and nothing else
            snapshots=self.store,
            book=self.book,
        )
        self._syncs = self.journal.sync_count
        if settings.compact_after:
            self._compactor = InlineCompactor(
                CompactionConfig(
                    (),
                    compaction.parameters(settings.limits),
                    after_entries=settings.compact_after,
                    keep_entries=settings.compact_keep,
                ),
                directory=directory,
                store=self.store,
                kernel=self.kernel,
                journal=self.journal,
                clock=server.clock_seconds,
                fail=self.fail,
            )
        self.wake()

    async def stop(self) -> None:
        """Simulated processes are killed; none stops."""

    def wake(self) -> None:
        if not self._is_scheduled and self.server.actor is not None:
            self._is_scheduled = True
            self.server.world.at(self.server.world.now, self._round, actor=self.server.actor)

    def send(self, peer: str, payload: bytes) -> bool:
        if peer not in self.epochs:
            return False
        return self.server.network.send(self.server.name, peer, "application", payload)

    def take_snapshot(self) -> None:
        """Of everything applied so far, and cut the log to it, if this node takes snapshots at all."""
        actor = self.server.actor
        if self._compactor is not None and self.failure is None and actor is not None:
            actor.create_task(self._compactor.take_now())

    # What the network tells.

    def on_connected(self, peer: str, epoch: int) -> None:
        if self.kernel is None or self.failure is not None or epoch < self.epochs.get(peer, 0):
            return
        self.epochs[peer] = epoch
        self._guarded(self.kernel.peer_connected, peer)
        self._guarded(self._host.on_peer_connected, peer)
        self.wake()

    def on_disconnected(self, peer: str, epoch: int) -> None:
        if self.kernel is not None and self.epochs.get(peer) == epoch:
            del self.epochs[peer]
            self._guarded(self.kernel.peer_disconnected, peer)
            self.wake()

    def on_delivery(self, peer: str, epoch: int, kind: str, content: Any) -> None:
        if self.kernel is None or self.failure is not None or self.epochs.get(peer) != epoch:
            return
        if kind == "application":
            self._guarded(self._host.on_message, peer, content)
            return
        needs_tick = False
        try:
            for message in content:
                needs_tick |= self.kernel.receive(peer, message)
        except (EngineFailure, OSError) as error:
            self.fail(error)
            return
        self.server.watch.after_event(self.server)
        if needs_tick:
            self.wake()

    # Rounds.

    def _guarded(self, call: Any, *args: Any) -> None:
        try:
            call(*args)
        except (EngineFailure, OSError) as error:
            self.fail(error)

    def _round(self) -> None:
        self._is_scheduled = False
        kernel = self.kernel
        if kernel is None or self.failure is not None:
            return
        try:
            kernel.tick()
            kernel.release(self._deliver)
        except (EngineFailure, OSError) as error:
            self.fail(error)
            return
        if self._has_failed():
            return
        self._pay_for_syncs()
        self._disconnect_the_replaced()
        self._keep_house()
        self.server.watch.after_event(self.server)
        self._plan()

    def _has_failed(self) -> bool:
        return self.failure is not None

    def _deliver(self, peer: str, messages: Sequence[Message]) -> None:
        server = self.server
        if peer in self.epochs:
            server.pass_point("before send")
            server.watch.on_send(server, peer, messages)
            server.network.send(server.name, peer, "raft", list(messages), after=self._sync_cost())
            server.pass_point("after send")

    def _sync_cost(self) -> int:
        """How long the syncs of this round take; what leaves after them leaves so much later."""
        assert self.journal is not None
        return (
            (self.journal.sync_count - self._syncs)
            * self.server.settings.sync_ns
            * self.server.sync_slowdown
        )

    def _pay_for_syncs(self) -> None:
        cost = self._sync_cost()
        assert self.journal is not None
        self._syncs = self.journal.sync_count
        if cost and self.server.actor is not None:
            self.server.actor.pause(cost)

    def _disconnect_the_replaced(self) -> None:
        assert self.kernel is not None
        for peer in sorted(self.kernel.to_disconnect):
            self.server.network.reset(self.server.name, peer)
        self.kernel.to_disconnect.clear()

    def _keep_house(self) -> None:
        now = self.server.clock_seconds()
        if now >= self._housekeeping_at and self.journal is not None:
            self._housekeeping_at = now + HOUSEKEEPING_SECONDS * self.server.world.pace
            self._guarded(self.journal.onOneSecondTimer)
            if self._compactor is not None:
                self._compactor.consider()

    def _plan(self) -> None:
        assert self.kernel is not None
        deadline = self.kernel.next_deadline()
        if deadline is None:
            self._due = NEVER
            return
        server, world = self.server, self.server.world
        delay = int((deadline - server.clock_seconds()) * SECOND / server.rate)
        self._due = world.now + max(delay, 0) + TIMER_SLACK
        timer = self._timer
        # Nearly every round moves the deadline on: a timer that comes too early sets itself again, and few are cancelled.
        if timer is not None and timer.at > self._due:
            timer.cancel()
            timer = None
        if timer is None:
            self._timer = world.at(self._due, self._on_timer, actor=server.actor)

    def _on_timer(self) -> None:
        world = self.server.world
        self._timer = None
        if world.now >= self._due:
            self.wake()
        elif self._due < NEVER:
            self._timer = world.at(self._due, self._on_timer, actor=self.server.actor)

    def fail(self, error: Exception) -> None:
        if self.failure is None:
            failure = error if isinstance(error, EngineFailure) else EngineFailure(repr(error))
            self.failure = failure
            self.server.on_failure(failure)
