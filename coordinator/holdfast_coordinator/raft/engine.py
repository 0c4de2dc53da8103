"""The driver of one node's replicated log: rounds in the event loop that join kernel, journal and network.

Rule: one thread, and one order in each round: what has arrived is with the kernel; tick; sync; then
answers leave. A round is made in the turn of the loop after a message or a `wake`, and at the kernel's next
deadline; nothing polls. An error of the disk, of the host, or of safety stops the engine for good (`failed`).

Not known here: what an entry means (the host), what a message means (the kernel), and how bytes
travel (the network) or are kept (the journal).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast_coordinator.certificates import CertificateError, CertificateFiles, Certificates
from holdfast_coordinator.raft.compaction import CompactionConfig, CompactionStats, Compactor
from holdfast_coordinator.raft.datadir import DataDirectory, check_limits
from holdfast_coordinator.raft.errors import AdminRefused, EngineFailure
from holdfast_coordinator.raft.frames import NAME_BYTES_MAX
from holdfast_coordinator.raft.journal import Journal
from holdfast_coordinator.raft.kernel import Kernel, KernelConfig, KernelStats
from holdfast_coordinator.raft.library import check_seams
from holdfast_coordinator.raft.messages import ENTRY_OWN, AdmitRequest, HandOverRequest
from holdfast_coordinator.raft.peers import (
    ACCEPTED,
    DIGEST_BYTES,
    NEW_DIRECTORY,
    NEWCOMER,
    Introduction,
    PeerBook,
    Verdict,
    advice,
)
from holdfast_coordinator.raft.ports import StorageStatus
from holdfast_coordinator.raft.snapshots import (
    Header,
    SnapshotInfo,
    SnapshotReader,
    SnapshotStore,
    encode_header,
)
from holdfast_coordinator.raft.transport import (
    FRAME_TARGET_BYTES,
    SEND_BUFFER_HIGH_BYTES,
    Network,
    TransportConfig,
    TransportStats,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from holdfast_coordinator.raft.messages import Message
    from holdfast_coordinator.raft.ports import Host

JOURNAL_TIMER_SECONDS = 1.0
"""How often the journal gets a moment for its housekeeping."""

STALL_PART = 0.5
"""Part of the shortest election time by which a round may be late before it counts as a stall."""

READ_ROUNDS = 3
"""Rounds of the event loop after a stall: one to notice what is readable, one to read it, and one
for what arrived behind a full read buffer."""

POSTPONEMENTS_MAX = 3
"""Stalls in a row that put off an election; a node that always stalls must still take part."""

STEP_DOWN_SECONDS = 2.0
"""How long whoever asked for another leader waits for it: a hand-over, or else one election."""

ADMIT_SECONDS = 3.0
"""How long whoever replaces a node waits for a majority to have it in their logs."""

BACKUP_ATTEMPTS = 3
"""One snapshot may be under way already, of less than is asked for; the next one holds all of it."""

LISTEN_ATTEMPTS_HINT = "stop the program that uses it, or change the address in the configuration"

log = logging.getLogger(__name__)


_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_clock() -> float:
    """Seconds since the machine started, also those spent in suspend (D30)."""
    return time.clock_gettime(_BOOT_CLOCK)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """One node of one cluster.

    node, cluster: names, at most 255 bytes each. secret: shared by all nodes. members: name to
    (host, port) of every node, this one included. heartbeat_ms: a leader speaks at least this often;
    below a third of the shortest election time. election_ms: a follower that hears nothing starts an
    election after a random time between the two. bootstrap: a data directory that is new founds the cluster,
    together with those of all other nodes; without it the others must admit it (peers.py); of no meaning for
    a directory that was used before. limits_digest: nodes with another one refuse each other.
    max_entry_bytes: of one payload of the host.
    max_uncommitted_entries: the leader asks the host for no more while so many are on their way.
    certificates: the connections between nodes are TLS, and each must name its node; None: they are not encrypted.
    compaction: how snapshots are taken; None: never, the journal grows (snapshots of leaders are installed
    all the same). why_not_readable: says of a payload in the journal why the host could not apply it; then the
    node does not start. None: every payload is.
    """

    node: str
    cluster: str
    secret: bytes
    members: dict[str, tuple[str, int]]
    data_dir: Path
    heartbeat_ms: int = 100
    election_ms: tuple[int, int] = (400, 800)
    bootstrap: bool = False
    limits_digest: bytes = bytes(DIGEST_BYTES)
    max_entry_bytes: int = 512 * 1024
    max_uncommitted_entries: int = 1024
    certificates: CertificateFiles | None = None
    compaction: CompactionConfig | None = None
    why_not_readable: Callable[[bytes], str | None] | None = None

    def check(self) -> None:
        """Raises `EngineFailure` with a sentence."""
        shortest, longest = self.election_ms
        if self.node not in self.members:
            raise EngineFailure(f"node {self.node} is not among the members of {self.cluster}")
        if not 0 < self.heartbeat_ms * 3 < shortest < longest:
            raise EngineFailure(
                f"heartbeat_ms ({self.heartbeat_ms}) must be below a third of the shortest election "
                f"time, and election times must rise ({shortest} to {longest})"
            )
        for name in (self.cluster, *self.members):
            if not 0 < len(name.encode()) <= NAME_BYTES_MAX:
                raise EngineFailure(f"the name {name!r} is empty or over {NAME_BYTES_MAX} bytes")


class EngineStats:
    """What the metrics show. Counters since the start; read-only."""

    def __init__(self, kernel: KernelStats, transport: TransportStats, journal: Any) -> None:
        self.kernel = kernel
        self.transport = transport
        self.stalls = 0
        self.snapshots = CompactionStats()
        self._journal = journal

    @property
    def fsync_count(self) -> int:
        """Syncs of the journal."""
        return int(self._journal.sync_count)

    @property
    def fsync_observer(self) -> Callable[[float], None] | None:
        """Called with the seconds of each sync."""
        observer: Callable[[float], None] | None = self._journal.sync_observer
        return observer

    @fsync_observer.setter
    def fsync_observer(self, observer: Callable[[float], None] | None) -> None:
        self._journal.sync_observer = observer

    @property
    def leader_changes(self) -> int:
        """How often another leader became known."""
        return self.kernel.leader_changes

    @property
    def frames_rejected(self) -> Counter[str]:
        """Connections closed because of what came from them, by reason."""
        return self.transport.rejected

    @property
    def messages_dropped(self) -> Counter[str]:
        """Messages of peers that the shield kept from the library, by reason."""
        return self.kernel.dropped


class Engine:
    """See the module's docstring; the interface is `ports.EnginePort`.

    Everything belongs to one event loop. `start`, then any calls, then `stop`; not to be started
    again. `clock` gives seconds and runs on in suspend.
    """

    failed: asyncio.Future[None]
    """Made by `start`; gets an `EngineFailure` when the engine has stopped itself."""
    stats: EngineStats
    """Made by `start`."""

    def __init__(
        self,
        config: EngineConfig,
        host: Host,
        *,
        clock: Callable[[], float] = boot_clock,
        rng: random.Random | None = None,
        new_nonce: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.config = config
        self.node = config.node
        self._host = host
        self._clock = clock
        # Election times need no secrecy, only to differ between nodes.
        self._rng = rng if rng is not None else random.Random(os.urandom(16))  # noqa: S311  # nosec B311
        self._new_nonce = new_nonce
        self._payloads: dict[str, list[bytes]] = {}
        self._payload_bytes: Counter[str] = Counter()
        self._flush_scheduled = False
        self._directory: DataDirectory | None = None
        self._journal: Journal | None = None
        self._kernel: Kernel | None = None
        self._network: Network | None = None
        self._snapshots: SnapshotStore | None = None
        self._book: PeerBook | None = None
        self._compactor: Compactor | None = None
        self._is_driven = False
        """Between `start` and `stop`: rounds are made."""
        self._is_round_due = False
        """The loop is about to make one."""
        self._rounds_to_read = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = self._due_at = 0.0
        """When a round is made without any news; the timer may be set for an earlier moment."""
        self._alive_at = 0.0
        self._planned_wait = 0.0
        self._postponements = 0
        self._journal_timer_at = 0.0
        self._watchers: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    # What the host sees.

    @property
    def _running(self) -> Kernel | None:
        """The kernel, unless the engine has stopped: then nobody leads as far as it knows."""
        return self._kernel if self._is_driven and not self.failed.done() else None

    @property
    def boot(self) -> int:
        """See `PeerBook.boot`; 0 before the start."""
        directory, book = self._directory, self._book
        return 0 if directory is None or book is None else book.boot(directory.boot)

    @property
    def is_leader(self) -> bool:
        """Whether this node believes so; a deposed leader may, for up to an election time."""
        return self._running is not None and self._running.is_leader

    @property
    def leader(self) -> str | None:
        """Name of the known leader."""
        return None if self._running is None else self._running.leader

    @property
    def silent_seconds(self) -> float:
        """How long ago the driver began its last round. It makes one a second at least, so more means that it hangs."""
        return self._clock() - self._alive_at

    @property
    def term(self) -> int:
        """The present term."""
        return 0 if self._kernel is None else self._kernel.term

    @property
    def commit_index(self) -> int:
        """Index of the last entry known to be committed."""
        return 0 if self._kernel is None else self._kernel.commit_index

    @property
    def applied_index(self) -> int:
        """Index of the last entry that was given to `Host.apply` or skipped as not ours."""
        return 0 if self._kernel is None else self._kernel.applied_index

    @property
    def leader_commit_index(self) -> int | None:
        """How far the leader says that the log is committed; None: it has not said so yet (kernel.py)."""
        return None if self._running is None else self._running.leader_commit_index

    @property
    def last_index(self) -> int:
        """Index of the last entry of the log."""
        return 0 if self._kernel is None else self._kernel.last_index

    @property
    def match_index(self) -> dict[str, int]:
        """What each peer is known to have on disk; empty unless this node leads."""
        return {} if self._kernel is None else self._kernel.match_index

    @property
    def has_own_term_commit(self) -> bool:
        """A leader of which an entry of its own term is committed: it knows all that is."""
        return self._running is not None and self._running.has_own_term_commit

    @property
    def connected_peers(self) -> frozenset[str]:
        """Peers with a live, authenticated connection."""
        return frozenset() if self._network is None else self._network.connected

    @property
    def rejected(self) -> Counter[str]:
        """What peers sent and was refused, by reason: frames (their connection was closed) and messages (dropped)."""
        if self._network is None:
            return Counter()
        return self.stats.frames_rejected + self.stats.messages_dropped

    @property
    def storage(self) -> StorageStatus:
        """What is on the disk; all zero before `start` and after `stop`."""
        journal, kernel, store = self._journal, self._kernel, self._snapshots
        if journal is None or kernel is None or store is None:
            return StorageStatus()
        newest = store.newest
        return StorageStatus(
            journal_bytes=journal.disk_bytes,
            journal_segments=journal.segment_count,
            log_entries=len(journal),
            snapshot_index=0 if newest is None else newest.index,
            snapshot_bytes=0 if newest is None else newest.length,
            snapshots=self.stats.snapshots.outcomes(),
            snapshots_sent=kernel.stats.snapshots_sent,
            snapshots_installed=kernel.stats.snapshots_installed,
        )

    def wake(self) -> None:
        """There may be something to propose."""
        if not self._is_round_due and self._is_driven:
            self._is_round_due = True
            asyncio.get_running_loop().call_soon(self._round)

    def send(self, peer: str, payload: bytes) -> bool:
        """An application message, in order with those before it on this connection.

        False: not sent, because the peer is not connected or its buffer is full. Raises ValueError
        for a payload over `max_entry_bytes`.
        """
        if len(payload) > self.config.max_entry_bytes:
            raise ValueError(f"a message of {len(payload)} bytes is over the limit")
        network = self._network
        if network is None or peer not in network.connected:
            return False
        waiting = network.unsent_bytes(peer) + self._payload_bytes[peer]
        if waiting + len(payload) > SEND_BUFFER_HIGH_BYTES:
            return False
        self._payloads.setdefault(peer, []).append(payload)
        self._payload_bytes[peer] += len(payload)
        if not self._flush_scheduled:
            # What is sent in one round of the loop travels in one frame.
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush_payloads)
        return True

    async def start(self) -> None:
        """Open the data directory, listen, dial. Raises `EngineFailure` with a sentence."""
        check_seams()
        self.config.check()
        self.failed = asyncio.get_running_loop().create_future()
        config = self.config
        self._directory = DataDirectory.open(
            config.data_dir, cluster=config.cluster, node=config.node
        )
        try:
            check_limits(self._directory.files, config.limits_digest)
            self._open_kernel()
            await self._open_network()
        except BaseException:
            await self._close()
            raise
        self._open_compactor()
        self._alive_at = self._clock()
        self._journal_timer_at = self._alive_at + JOURNAL_TIMER_SECONDS
        self._is_driven = True
        self.wake()

    async def step_down(self) -> str:
        """Have the leader, this node or another, hand over; the new leader's name. Raises `AdminRefused`.

        What callers want meanwhile waits; nothing is refused for it.
        """
        kernel, before = self._running, self.leader
        if kernel is None or before is None:
            raise AdminRefused("no_leader", "there is no leader that could step down")
        if kernel.is_leader:
            if not kernel.hand_over():
                raise AdminRefused("conflict", "no other node is connected that could lead")
        elif before in self.connected_peers and self._network is not None:
            self._network.send_messages(before, [HandOverRequest(kernel.term)])
        else:
            raise AdminRefused("no_leader", f"the leader, {before}, cannot be reached")
        self.wake()
        if not await self._until(lambda: self.leader not in (None, before), STEP_DOWN_SECONDS):
            raise AdminRefused("unknown", f"{before} was asked, but no other leader was seen yet")
        return self.leader or ""

    async def replace_node(self, name: str) -> None:
        """Admit the data directory with which `name` has come, in place of the one that the cluster knows
        (D37); returns when this node has applied it. Raises `AdminRefused`."""
        kernel, book, leader = self._running, self._book, self.leader
        if kernel is None or book is None or leader is None:
            raise AdminRefused("no_leader", "there is no leader that could admit it")
        if name == self.node or name in self.connected_peers:
            raise AdminRefused(
                "conflict",
                f"{name} runs with the data directory that the cluster knows; there is nothing to replace",
            )
        directory = book.refused.get(name)
        if directory is None:
            raise AdminRefused(
                "conflict",
                f"{name} has not come with another data directory since {self.node} was started; start "
                f"{name} with its new directory first, then ask again",
            )
        if not kernel.propose_admission(name, directory):
            if leader not in self.connected_peers or self._network is None:
                raise AdminRefused("no_leader", f"the leader, {leader}, cannot be reached")
            self._network.send_messages(leader, [AdmitRequest(name, directory)])
        self.wake()

        def admitted() -> bool:
            known = book.known.get(name)
            return known is not None and known.directory == directory

        if not await self._until(admitted, ADMIT_SECONDS):
            raise AdminRefused(
                "unknown",
                f"{name} is not admitted yet: that needs a majority without it. Ask again in a moment",
            )

    async def leave_leadership(self, seconds: float) -> bool:
        """Before this node stops: hand over, if it leads. Whether another leads, or may; False after so many
        seconds, or if there is nobody."""
        kernel = self._running
        if kernel is None or not kernel.is_leader:
            return True
        if not kernel.hand_over():
            return False
        self.wake()
        return (
            await self._until(
                lambda: self.leader not in (None, self.node) or not kernel.is_handing_over, seconds
            )
            and not kernel.is_leader
        )

    async def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether it became so in time; looked at after every round of the loop."""
        if condition():
            return True
        watcher = condition, asyncio.get_running_loop().create_future()
        self._watchers.append(watcher)
        try:
            async with asyncio.timeout(seconds):
                await watcher[1]
        except TimeoutError:
            return False
        finally:
            self._watchers.remove(watcher)
        return True

    def _tell_watchers(self) -> None:
        for condition, future in self._watchers:
            if not future.done() and condition():
                future.set_result(None)

    async def stop(self) -> None:
        """Close everything, and leave files that a new start finds whole. Never raises for what
        `failed` already says."""
        compactor, self._compactor = self._compactor, None
        if compactor is not None:
            await compactor.stop()
        self._is_driven = False
        if self._timer is not None:
            self._timer.cancel()
        await self._close()

    @property
    def snapshot_index(self) -> int:
        """The last entry that the newest snapshot on this node's disk holds; 0: there is none."""
        newest = None if self._snapshots is None else self._snapshots.newest
        return 0 if newest is None else newest.index

    async def take_snapshot(self) -> SnapshotInfo | None:
        """Take a snapshot of everything applied so far, now, and cut the journal. None: nothing is new since
        the last one, it failed (the log says why), or snapshots are not configured."""
        return None if self._compactor is None else await self._compactor.take_now()

    def move_peer(self, name: str, address: tuple[str, int]) -> None:
        """Another node has another address from now on. Which nodes there are, and whose votes count, does not change by it."""
        if self._network is not None:
            self._network.move(name, address)

    async def open_backup(self) -> tuple[bytes, SnapshotReader]:
        """The state after an entry that is no earlier than all that is applied now: the head of a file, and its payload in pieces
        (to be closed by the caller). A process of its own makes it. Raises `AdminRefused`."""
        store, journal, wanted = self._snapshots, self._journal, self.applied_index
        if self._running is None or store is None or journal is None:
            raise AdminRefused("no_leader", f"{self.node} is not running")
        await self._until(lambda: journal.durable_index >= wanted, ADMIT_SECONDS)
        for _ in range(BACKUP_ATTEMPTS):
            if self.snapshot_index >= wanted:
                break
            await self.take_snapshot()
        if (info := store.newest) is None or info.index < wanted:
            detail = (
                f"{self.node} could not take a snapshot, and its log says why; ask another node"
            )
            raise AdminRefused("conflict", detail)
        header = Header(info, self.config.cluster, installed=False)
        return encode_header(header), store.open(info)

    # Opening and closing.

    def _open_kernel(self) -> None:
        config = self.config
        assert self._directory is not None  # noqa: S101
        self._book = PeerBook.open(
            self._directory.files,
            node=config.node,
            directory=self._directory.id,
            members=tuple(config.members),
            limits=config.limits_digest,
            bootstrap=config.bootstrap,
        )
        if self._book.introduce().state == NEWCOMER:
            log.warning(
                "data directory %s is new, and %s",
                config.data_dir,
                advice(self.node, NEW_DIRECTORY),
            )
        self._journal = Journal(self._directory)
        self._check_entries(self._journal)
        self._snapshots = SnapshotStore(
            self._directory.files, cluster=config.cluster, life=self._directory.boot
        )
        self._kernel = Kernel(
            KernelConfig(
                node=config.node,
                peers=tuple(sorted(set(config.members) - {config.node})),
                heartbeat_s=config.heartbeat_ms / 1000,
                election_s=(config.election_ms[0] / 1000, config.election_ms[1] / 1000),
                max_entry_bytes=config.max_entry_bytes,
                max_uncommitted_entries=config.max_uncommitted_entries,
            ),
            self._journal,
            self._host,
            clock=self._clock,
            rng=self._rng,
            snapshots=self._snapshots,
            book=self._book,
        )

    def _check_entries(self, journal: Journal) -> None:
        """Before anything listens, rather than at the entry, some seconds later: another version wrote it."""
        why_not_readable = self.config.why_not_readable
        if why_not_readable is None:
            return
        for command, index, _ in journal[:]:
            why_not = why_not_readable(command[1:]) if command[:1] == ENTRY_OWN else None
            if why_not is not None:
                raise EngineFailure(f"log entry {index} in {self.config.data_dir} {why_not}")

    def _open_compactor(self) -> None:
        if self.config.compaction is None:
            return
        assert self._directory is not None  # noqa: S101
        assert self._snapshots is not None  # noqa: S101
        assert self._kernel is not None  # noqa: S101
        self._compactor = Compactor(
            self.config.compaction,
            directory=self._directory,
            store=self._snapshots,
            kernel=self._kernel,
            journal=self._journal,
            clock=self._clock,
            fail=self._fail,
        )
        self.stats.snapshots = self._compactor.stats

    async def _open_network(self) -> None:
        config = self.config
        assert self._book is not None  # noqa: S101
        try:
            files = config.certificates
            certificates = None if files is None else Certificates(files, config.node)
        except CertificateError as error:
            raise EngineFailure(f"the certificate of node {config.node}: {error}") from error
        self._network = Network(
            TransportConfig(
                cluster=config.cluster,
                node=config.node,
                secret=config.secret,
                members=config.members,
                entry_bytes_max=config.max_entry_bytes,
            ),
            _Ears(self),
            rng=self._rng,
            new_nonce=self._new_nonce,
            gate=_Gate(self, self._book),
            certificates=certificates,
        )
        assert self._kernel is not None  # noqa: S101
        self.stats = EngineStats(self._kernel.stats, self._network.stats, self._journal)
        try:
            await self._network.start()
        except OSError as error:
            host, port = config.members[config.node]
            raise EngineFailure(
                f"node {config.node} cannot listen on {host}:{port} ({error.strerror or error}); "
                f"{LISTEN_ATTEMPTS_HINT}"
            ) from error

    async def _close(self) -> None:
        network, self._network = self._network, None
        if network is not None:
            await network.stop()
        if self._kernel is not None:
            self._kernel.close()
        journal, self._journal = self._journal, None
        if journal is not None:
            # A journal that has failed says so again here; `failed` told it first.
            with contextlib.suppress(EngineFailure):
                journal._destroy()
        directory, self._directory = self._directory, None
        if directory is not None:
            directory.close()

    # The loop.

    def _round(self) -> None:
        kernel, network = self._running, self._network
        if kernel is None or network is None:
            return
        try:
            if self._reads_first(kernel):
                asyncio.get_running_loop().call_soon(self._round)
                return
            self._is_round_due = False
            self._alive_at = self._clock()
            kernel.tick()
            kernel.release(network.send_messages)
            self._tell_watchers()
            while kernel.to_disconnect:
                network.disconnect(kernel.to_disconnect.pop())
            self._journal_timer()
            self._plan(kernel.next_deadline())
        except Exception as error:  # noqa: BLE001 - whatever it is, going on could break a promise
            self._fail(error)

    def _reads_first(self, kernel: Kernel) -> bool:
        """After a stall, and before any election, what peers have sent meanwhile comes first
        (D25): an old heartbeat in a socket must prevent the election, and the news of another
        leader must arrive before anything is proposed. So some turns of the loop pass without a round."""
        if self._rounds_to_read:
            self._rounds_to_read -= 1
            return self._rounds_to_read > 0
        late = self._clock() - self._alive_at - self._planned_wait
        stalled = late > self.config.election_ms[0] / 1000 * STALL_PART
        if stalled:
            self.stats.stalls += 1
            self._postponements += 1
            if self._postponements <= POSTPONEMENTS_MAX:
                kernel.postpone_election()
        else:
            self._postponements = 0
        if stalled or kernel.is_election_due:
            self._rounds_to_read = READ_ROUNDS
        return self._rounds_to_read > 0

    def _plan(self, deadline: float | None) -> None:
        """The next round is made when there is news, or when it is time."""
        now = self._clock()
        until = (
            self._journal_timer_at if deadline is None else min(deadline, self._journal_timer_at)
        )
        self._planned_wait = max(0.0, until - now)
        if until <= now:
            self.wake()
            return
        # The library compares with "later than", so a round at the very deadline would be idle.
        self._due_at = until + 0.001
        if self._timer is None or self._timer_at > self._due_at:
            self._set_timer(now)

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._due_at
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._due_at - now, self._on_timer)

    def _on_timer(self) -> None:
        """Deadlines mostly move away, and setting a timer for each move would cost more than looking again."""
        self._timer = None
        now = self._clock()
        if now < self._due_at:
            self._set_timer(now)
        else:
            self.wake()

    def _journal_timer(self) -> None:
        now = self._clock()
        if now >= self._journal_timer_at and self._journal is not None:
            self._journal_timer_at = now + JOURNAL_TIMER_SECONDS
            self._journal.onOneSecondTimer()
            if self._compactor is not None:
                self._compactor.consider()

    def _flush_payloads(self) -> None:
        self._flush_scheduled = False
        waiting, self._payloads = self._payloads, {}
        self._payload_bytes.clear()
        network = self._network
        if network is None:
            return
        for peer, payloads in waiting.items():
            batch: list[bytes] = []
            size = 0
            for payload in payloads:
                batch.append(payload)
                size += len(payload)
                if size >= FRAME_TARGET_BYTES:
                    network.send_payloads(peer, batch)
                    batch, size = [], 0
            network.send_payloads(peer, batch)

    def _fail(self, error: Exception) -> None:
        """Stop for good: no message leaves or arrives from now on."""
        failure = error if isinstance(error, EngineFailure) else None
        if failure is None:
            failure = EngineFailure(f"node {self.node} stopped itself: {error!r}")
            failure.__cause__ = error
        if not self.failed.done():
            self.failed.set_exception(failure)
            self.failed.exception()  # told here; nobody has to ask again
            log.error("engine stopped: %s", failure, exc_info=error)
        if self._network is not None:
            self._network.silence()


class _Gate:
    """The peer book, asked by connections; what it cannot write stops the engine. Each refusal is logged
    once, until another one comes."""

    def __init__(self, engine: Engine, book: PeerBook) -> None:
        self._engine = engine
        self._book = book
        self._told: dict[tuple[str, str], str] = {}

    def introduce(self) -> Introduction:
        return self._book.introduce()

    def judge(self, peer: str, theirs: Introduction) -> Verdict:
        verdict = self._book.judge(peer, theirs)
        if verdict.code != ACCEPTED and self._is_news("judge", peer, verdict.code):
            log.warning("%s refuses %s: %s", self._book.node, peer, advice(peer, verdict.code))
        return verdict

    def met(self, peer: str, theirs: Introduction, verdict: Verdict) -> bool:
        try:
            self._book.met(peer, theirs, verdict)
        except EngineFailure as failure:
            self._engine._fail(failure)
            return False
        self._told.pop(("judge", peer), None)
        self._told.pop(("refused", peer), None)
        return True

    def refused_by(self, peer: str, code: str) -> None:
        if self._is_news("refused", peer, code):
            log.error("%s refuses this node: %s", peer, advice(self._book.node, code))

    def _is_news(self, what: str, peer: str, code: str) -> bool:
        before, self._told[what, peer] = self._told.get((what, peer)), code
        return before != code


class _Ears:
    """What the network tells, passed on to kernel and host; an error stops the engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def _kernel(self) -> Kernel | None:
        engine = self._engine
        return None if engine.failed.done() else engine._kernel

    def on_connected(self, peer: str) -> None:
        if (kernel := self._kernel()) is None:
            return
        engine = self._engine
        engine._payloads.pop(peer, None)  # they were for the connection before
        engine._payload_bytes.pop(peer, None)
        try:
            kernel.peer_connected(peer)
            engine._host.on_peer_connected(peer)
        except Exception as error:  # noqa: BLE001 - see Engine._round
            engine._fail(error)
        engine.wake()

    def on_disconnected(self, peer: str) -> None:
        if (kernel := self._kernel()) is not None:
            kernel.peer_disconnected(peer)
            self._engine.wake()

    def on_messages(self, peer: str, messages: Sequence[Message]) -> None:
        if (kernel := self._kernel()) is None:
            return
        try:
            for message in messages:
                if kernel.receive(peer, message):
                    self._engine.wake()
        except Exception as error:  # noqa: BLE001 - see Engine._round
            self._engine._fail(error)

    def on_payloads(self, peer: str, payloads: Sequence[bytes]) -> None:
        if self._kernel() is None:
            return
        try:
            for payload in payloads:
                self._engine._host.on_message(peer, payload)
        except Exception as error:  # noqa: BLE001 - see Engine._round
            self._engine._fail(error)

    def on_full(self, peer: str) -> None:
        if (kernel := self._kernel()) is not None:
            kernel.pause_peer(peer)

    def on_room(self, peer: str) -> None:
        if (kernel := self._kernel()) is not None:
            kernel.resume_peer(peer)
            self._engine.wake()
