"""One node of the replicated log, without sockets, files or time of its own: pysyncobj, shielded.

Rules:
* What a peer says reaches pysyncobj only through `receive`, and what pysyncobj says leaves only
  through `release`, which syncs the journal before anything that promises durability.
* Everything is driven from outside, in one thread: `receive` and `tick` change the state,
  `release` lets the results out, `next_deadline` says when to tick even if nothing arrives.
* Any `EngineFailure` raised here is final: the node has stopped, and its owner must not go on.

Not known here: connections (the driver says who is connected), and what an entry means (the host).

The caller's loop is: receive what has arrived; tick; release; wait. The order matters: entries are
appended in `tick`, leave in `release` before the leader's own sync, and the leader counts itself
only in a later `tick`, after that sync (D5).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from holdfast_coordinator.raft import library, recovery, shield
from holdfast_coordinator.raft.errors import EngineFailure
from holdfast_coordinator.raft.messages import (
    ENTRY_ADMIT,
    ENTRY_NO_OP,
    ENTRY_OWN,
    Ack,
    Admissions,
    AdmitRequest,
    Append,
    HandOverRequest,
    Message,
    PreVote,
    PreVoteRequest,
    SnapshotAnswer,
    SnapshotChunk,
    SnapshotOffer,
    TermNotice,
    TimeoutNow,
    Vote,
    VoteRequest,
    admission_command,
    parse_admission,
)
from holdfast_coordinator.raft.snapshot_transfer import Receiver, Sender
from holdfast_coordinator.raft.snapshots import SnapshotInfo, SnapshotWriter, Unreadable

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Generator, Sequence

    from holdfast_coordinator.raft.peers import PeerBook
    from holdfast_coordinator.raft.ports import Host
    from holdfast_coordinator.raft.snapshots import SnapshotStore

APPLY_PER_TICK_MAX = 1024
"""Entries applied in one tick. A node that replays a long journal still answers its peers."""

REPLICATION_BYTES_PER_TICK = 4 * 2**20
"""What may be queued for one peer in one tick. A peer that is far behind gets the rest when this
much has left, instead of its whole backlog in memory at once."""

STICKY_PART = 0.75
"""Part of the shortest election time for which a node that heard its leader refuses to depose it.
Less than one, or a candidate whose own time is the shortest possible would always ask too early."""

EARLY_ELECTION_PARTS = (0.05, 0.3)
"""Parts of the shortest election time between which a follower stands that has lost the connection with
its leader: a dead process closes its sockets at once. Spread, so that two followers seldom collide. A
leader that lives is safe: whoever still hears it grants no pre-vote."""

EARLY_RETRY_PARTS = (0.2, 0.6)
"""The same for the next attempt, while the leader has been gone for less than the shortest election time:
should the two have stood in the same moment and split the votes."""

HAND_OVER_SECONDS = 1.0
"""A leader that could not hand over in this time goes on."""

HAND_OVER_REPEAT_SECONDS = 0.25
"""A successor that has not stood by then is asked again; or another one, if it has gone."""


COMMIT_TOLD_WITHIN_SECONDS = 0.002
"""Several times what a caller on the same network needs to ask again."""


class JournalPort(Protocol):
    """What the kernel asks of a journal, beyond what pysyncobj does."""

    def __len__(self) -> int: ...
    def __getitem__(self, position: int, /) -> tuple[bytes, int, int]: ...

    @property
    def durable_index(self) -> int: ...

    def sync(self) -> None: ...
    def deleteEntriesTo(self, entryTo: int, /) -> None: ...


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """Numbers of one node. Times in seconds."""

    node: str
    peers: tuple[str, ...]
    heartbeat_s: float = 0.1
    election_s: tuple[float, float] = (0.4, 0.8)
    max_entry_bytes: int = 512 * 1024
    max_uncommitted_entries: int = 1024


@dataclass(slots=True)
class KernelStats:
    """Counters since the start."""

    leader_changes: int = 0
    elections: int = 0
    """Elections in which this node stood."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Messages not passed to pysyncobj, by reason."""
    snapshots_installed: int = 0
    snapshots_sent: int = 0
    """Sent whole to a peer, which then had it."""


@dataclass(slots=True)
class HandOver:
    """A leader's attempt to give the leadership away: in which term, until when, and when to ask next."""

    term: int
    until: float
    ask_at: float = float("-inf")


@dataclass(slots=True)
class Installation:
    """A snapshot that has arrived whole, while the host reads it step by step; and whose offer is to be
    acknowledged when that is done."""

    snapshot: SnapshotWriter
    steps: Generator[None, None, None]
    peer: str
    term: int
    stamp: int


class Kernel:
    """See the module's docstring. `clock` gives seconds and must run on in suspend (D30)."""

    def __init__(
        self,
        config: KernelConfig,
        journal: Any,
        host: Host,
        *,
        clock: Callable[[], float],
        rng: random.Random,
        snapshots: SnapshotStore | None = None,
        book: PeerBook | None = None,
    ) -> None:
        self.config = config
        self.stats = KernelStats()
        self.bytes_since_snapshot = 0
        """Of the entries applied since the newest snapshot; a reason to take the next one."""
        self._host = host
        self._clock = clock
        self._rng = rng
        self._journal: JournalPort = journal
        self._replication: list[tuple[str, Append]] = []
        self._answers: list[tuple[str, Message]] = []
        self._replication_bytes: Counter[str] = Counter()
        self._connected: set[str] = set()
        self._paused: set[str] = set()
        self._blocked: set[str] = set()
        self._stamp = 0
        self._reset_stamp: dict[str, int] = {}
        self._answering_stamp = 0
        self._last_ack: tuple[str, Ack, float] = ("", Ack(-1, 1, True, False, 0), 0.0)
        self._heard_leader_at = float("-inf")
        self._leaderless_until = float("-inf")
        self._leader_of_term: tuple[int, str] = (-1, "")
        self._leader_said: tuple[int, str, int] = (-1, "", 0)
        """What a leader last said of its commit index on the present connection: term, leader, index."""
        self._voters = shield.Voters()
        self._pre_voters = shield.Voters()
        self._pre_vote_term: int | None = None
        self._candidate_term = -1
        self._book = book
        self.to_disconnect: set[str] = set()
        """Peers whose data directory was replaced: the driver closes their connections."""
        self._hand_over: HandOver | None = None
        self._called_to_stand_in = -1
        """The term in which the leader asked this node to stand, if any."""
        self._published: tuple[str | None, int] | None = None
        self._seen: tuple[object, int] = (None, -1)
        """The same, as the library keeps it."""
        self._snapshots = snapshots
        self._sender: Sender | None = None
        self._receiver: Receiver | None = None
        self._installation: Installation | None = None
        self._tells_commit_by = float("inf")
        """When a leader says, at the latest, what it has committed and not told yet."""
        self._tells_commit = False
        """Whether it does so in this tick: it committed it in an earlier one."""
        self._behind: set[str] = set()
        restored = None
        if snapshots is not None:
            self._sender, self._receiver = (
                Sender(snapshots, config.heartbeat_s),
                Receiver(snapshots),
            )
            restored = recovery.recover(journal, snapshots)
        if restored is not None:
            for _ in self._restoring(restored.info, restored.payload):
                pass  # nobody is waiting yet
        # `_raft` is read by the library's constructor through our own callbacks, so it comes last.
        self._raft, self._port, self._nodes = library.open_raft(
            self,
            node=config.node,
            peers=config.peers,
            journal=journal,
            clock=clock,
            heartbeat_s=config.heartbeat_s,
            election_s=config.election_s,
            # An entry of this size or more would travel as pickled pieces (D34).
            append_bytes=2 * config.max_entry_bytes + 64,
        )
        if restored is not None:
            self._raft.continue_from(restored.info.index)
        self._majority = (len(config.peers) + 1) // 2 + 1
        if book is not None:
            for command, index, _ in journal[:]:
                if command[:1] == ENTRY_ADMIT:
                    self._admission_appended(index, command)

    # What it is.

    @property
    def is_leader(self) -> bool:
        """Whether it believes so; a deposed leader may, for up to an election time."""
        return bool(self._raft._SyncObj__raftState == library.LEADER)

    @property
    def leader(self) -> str | None:
        """The leader of the present term, as far as is known."""
        node = self._raft._SyncObj__raftLeader
        return None if node is None else node.id

    @property
    def term(self) -> int:
        """The present term."""
        return int(self._raft._SyncObj__raftCurrentTerm)

    @property
    def commit_index(self) -> int:
        """Index up to which entries are committed, as far as is known."""
        return int(self._raft._SyncObj__raftCommitIndex)

    @property
    def applied_index(self) -> int:
        """Index of the last entry given to the host."""
        return int(self._raft._SyncObj__raftLastApplied)

    @property
    def last_index(self) -> int:
        """Index of the last entry in the log."""
        return shield.last_index(self._journal)

    @property
    def match_index(self) -> dict[str, int]:
        """What each peer has acknowledged in this term. Empty unless this node leads."""
        if not self.is_leader:
            return {}
        matches = self._raft._SyncObj__raftMatchIndex
        return {name: matches[node] for name, node in self._nodes.items()}

    @property
    def has_own_term_commit(self) -> bool:
        """A leader that knows how far the log is committed: an entry of its own term is."""
        return self.is_leader and shield.term_at(self._journal, self.commit_index) == self.term

    @property
    def leader_commit_index(self) -> int | None:
        """How far the leader of this term says that the log is committed, heard on the present connection with
        it; None: not heard yet, or what it says may be too little.

        Time 0: L commits entry 9 and dies. Time 1: N, which has entry 9, is elected and knows of 8 only. Not
        before an entry of its own term is committed does it know, and then everybody may believe it.
        """
        if self.is_leader:
            return self.commit_index if self.has_own_term_commit else None
        term, _, index = self._leader_said
        if term != self.term or self.leader is None:
            return None
        if index > self.last_index:
            return index  # that this node is behind is certain
        first = self._journal[0][1]
        return index if index >= first and shield.term_at(self._journal, index) == term else None

    @property
    def is_election_due(self) -> bool:
        """Whether the next tick would begin an election."""
        return (
            not self.is_leader
            and bool(self._connected or not self._nodes)
            and self._raft._SyncObj__raftElectionDeadline < self._clock()
        )

    # What the driver does with it.

    def peer_connected(self, peer: str) -> None:
        """A new connection; whatever was on an older one may be lost."""
        self._enter()
        if peer in self._connected:
            self.peer_disconnected(peer)
        self._connected.add(peer)
        self._port.connected(self._nodes[peer])
        self._replicate_soon()
        if peer == self.leader:
            self._leaderless_until = float("-inf")  # it lives after all
            self.postpone_election()
        if self._book is not None and (admitted := self._book.admissions()):
            self._answer(peer, Admissions(tuple(admitted)))

    def peer_disconnected(self, peer: str) -> None:
        """The connection is gone, and what was queued for it is void."""
        self._enter()
        self._connected.discard(peer)
        self._paused.discard(peer)
        self._blocked.discard(peer)
        self._behind.discard(peer)
        if self._sender is not None:
            self._sender.cancel(peer)
        self._port.disconnected(self._nodes[peer])
        if peer == self._leader_said[1]:
            self._leader_said = -1, "", 0
        if peer == self._last_ack[0]:
            self._last_ack = "", self._last_ack[1], 0.0  # it may have been lost
        self._replication = [item for item in self._replication if item[0] != peer]
        self._answers = [item for item in self._answers if item[0] != peer]
        if peer == self.leader:
            self._leader_went_away()

    def pause_peer(self, peer: str) -> None:
        """The connection's buffer is full: nothing is replicated to the peer until it has room."""
        if peer in self._connected:
            self._blocked.add(peer)
            self._port.disconnected(self._nodes[peer])

    def resume_peer(self, peer: str) -> None:
        """The connection has room again."""
        if peer in self._blocked:
            self._blocked.discard(peer)
            self._enter()
            self._port.connected(self._nodes[peer])
            self._replicate_soon()

    def receive(self, peer: str, message: Message) -> bool:
        """A checked message of an authenticated peer. False if no tick is needed because of it."""
        self._enter()
        if isinstance(message, Ack) and self._is_old_news(message):
            self._on_ack(peer, message)
            return False
        match message:
            case Append():
                self._on_append(peer, message)
            case Ack():
                self._on_ack(peer, message)
            case VoteRequest():
                self._on_vote_request(peer, message)
            case Vote():
                self._on_vote(peer, message)
            case TermNotice():
                self._adopt_term(peer, message.term)
            case PreVoteRequest():
                self._on_pre_vote_request(peer, message)
            case PreVote():
                self._on_pre_vote(peer, message)
            case TimeoutNow():
                self._on_timeout_now(peer, message)
            case HandOverRequest():
                if message.term == self.term:
                    self.hand_over()
            case AdmitRequest():
                self.propose_admission(message.node, message.directory)
            case Admissions():
                for name, index, directory in message.admitted:
                    self._admit(name, index, directory)
            case SnapshotOffer() | SnapshotChunk():
                self._on_snapshot(peer, message)
            case SnapshotAnswer():
                self._on_snapshot_answer(peer, message)
        self._publish()
        return True

    def tick(self) -> None:
        """Elect, commit, apply, propose, replicate: whatever is due now."""
        self._enter()
        self._publish()
        self._continue_installation()
        self._pre_vote_if_due()
        self._tells_commit = self._tells_commit_by <= self._clock()
        self._raft.doTick(0)
        self._publish()
        self._continue_hand_over()
        if self._book is not None:
            self._book.caught_up(self.commit_index, self.term)

    def propose_admission(self, node: str, directory: str) -> bool:
        """A leader appends the entry that gives `node` another data directory (D37). False: this node does
        not lead, or the node is connected with the directory that it has."""
        if self._book is None or not self.is_leader or node in self._connected:
            return False
        if node not in self._nodes:
            return False
        command = admission_command(node, directory)
        uncommitted = range(self.commit_index + 1 - self._journal[0][1], len(self._journal))
        if not any(self._journal[position][0] == command for position in uncommitted):
            self._enter()
            self._admission_appended(self._raft.append_command(command), command)
            self._replicate_soon()
        return True

    def hand_over(self) -> bool:
        """Begin to give the leadership to the most advanced peer (D36): from now on nothing is proposed;
        once that peer has the whole log it is asked to stand. False: this node does not lead, or nobody
        is there. Goes on as before after `HAND_OVER_SECONDS` without success."""
        if not self.is_leader or self._successor() is None:
            return False
        if self._hand_over is None:
            self._enter()
            self._hand_over = HandOver(self.term, self._clock() + HAND_OVER_SECONDS)
            self._replicate_soon()
        return True

    @property
    def is_handing_over(self) -> bool:
        """Whether it proposes nothing because another is to lead."""
        return self._hand_over is not None

    def release(self, deliver: Callable[[str, Sequence[Message]], None]) -> None:
        """The durability barrier: entries leave at once, everything that promises something only
        after the journal is on disk. Raises `EngineFailure` if that fails; then nothing leaves."""
        self._deliver(self._replication, deliver)
        self._replication = []
        self._replication_bytes.clear()
        for peer in self._paused - self._blocked:
            self._port.connected(self._nodes[peer])
            self._replicate_soon()
        self._paused.clear()
        for peer in self._behind - self._blocked:
            # No sooner than the next heartbeat or proposal: until the snapshot is there, nothing else
            # can be said to it.
            self._port.connected(self._nodes[peer])
        self._behind.clear()
        self._journal.sync()
        answers, self._answers = self._answers, []
        self._deliver([item for item in map(self._still_true, answers) if item], deliver)
        if answers and self.commit_index > self.applied_index:
            self.apply_committed()

    def cut_log(self, first_index: int) -> None:
        """Forget the entries before `first_index`, which a snapshot covers; durable when this returns.
        That one stays: pysyncobj counts positions from it, and needs the term of the entry before any
        that it sends."""
        newest = None if self._snapshots is None else self._snapshots.newest
        if newest is None or first_index > newest.index:
            raise EngineFailure(
                f"the log was to be cut at entry {first_index}, which no snapshot covers"
            )
        count = first_index - self._journal[0][1]
        if count > 0:
            self._journal.deleteEntriesTo(count)
            self._journal.sync()

    def close(self) -> None:
        """Let go of the files of snapshots; the journal belongs to the caller."""
        if self._sender is not None:
            self._sender.close()
        if self._receiver is not None:
            self._receiver.close()

    def postpone_election(self) -> None:
        """After a stall of the driver: what the leader sent may still be unread (D25)."""
        deadline = self._clock() + self.election_timeout()
        raft = self._raft
        raft._SyncObj__raftElectionDeadline = max(raft._SyncObj__raftElectionDeadline, deadline)

    def next_deadline(self) -> float | None:
        """When to tick next, on this kernel's clock, at once if that has passed; None if only a
        message can change anything."""
        if self.commit_index > self.applied_index or self._installation is not None:
            return 0.0
        if self.is_leader:
            heartbeat_at = float(self._raft._SyncObj__newAppendEntriesTime)
            return min(self._tells_commit_by, heartbeat_at)
        if self._connected or not self._nodes:
            return float(self._raft._SyncObj__raftElectionDeadline)
        return None

    # What the library asks for (see `library.Owner`).

    def election_timeout(self) -> float:
        """A random election time, in seconds."""
        shortest, longest = self.config.election_s
        if self._clock() < self._leaderless_until:
            shortest, longest = (part * shortest for part in EARLY_RETRY_PARTS)
        return shortest + (longest - shortest) * self._rng.random()

    def became_leader(self) -> None:
        """Its first entry and its vote are on disk before a later tick counts them."""
        self._reset_stamp.clear()
        self._journal.sync()

    def propose(self) -> None:
        """Take what the host has, stamped now, and append it in the same step (D35)."""
        self._publish()
        if not self.is_leader:
            self._tells_commit_by = float("inf")
            return
        appended = self._hand_over is None and self._append_from_host()
        if appended or self._tells_commit:
            self._tells_commit_by = float("inf")
            self._raft._SyncObj__sendAppendEntries()

    def _append_from_host(self) -> bool:
        appended = False
        while self.last_index - self.commit_index < self.config.max_uncommitted_entries:
            payload = self._host.next_batch(self.term)
            if payload is None:
                break
            if len(payload) > self.config.max_entry_bytes:
                raise EngineFailure(
                    f"an entry of {len(payload)} bytes was proposed; the limit is "
                    f"{self.config.max_entry_bytes}"
                )
            self._raft.append_own(payload)
            appended = True
        return appended

    def apply_committed(self) -> bool:
        """Give committed entries to the host, each once. False: the library need not tell at once what is
        committed. A caller who was answered often asks again right away; so a leader waits a moment for what it
        proposes then, which says it too: half of the frames, and of the rounds of its peers. Unless
        somebody waits for it there: then it lets one round pass, at most."""
        raft = self._raft
        applied: int = raft._SyncObj__raftLastApplied
        if self._answers and not self.is_leader:
            return False  # the leader waits for them: what is committed is applied as soon as they have left
        waits = False
        end: int = min(raft._SyncObj__raftCommitIndex, applied + APPLY_PER_TICK_MAX)
        first = self._journal[0][1]
        for index in range(applied + 1, end + 1):
            command, stored_index, term = self._journal[index - first]
            if stored_index != index:
                raise EngineFailure(f"the log holds entry {stored_index} in the place of {index}")
            raft._SyncObj__raftLastApplied = index
            self.bytes_since_snapshot += len(command)
            if command[:1] == ENTRY_OWN:
                waits |= self._host.apply(index, term, command[1:])
            elif command[:1] == ENTRY_ADMIT:
                name, directory = parse_admission(command)
                self._admit(name, index, directory)
            elif command != ENTRY_NO_OP:
                raise EngineFailure(
                    f"log entry {index} is of a type that this version does not know; start the "
                    "newer version of holdfast that wrote it"
                )
        if end > applied and self.is_leader:
            by = self._clock() + (0.0 if waits else COMMIT_TOLD_WITHIN_SECONDS)
            self._tells_commit_by = min(self._tells_commit_by, by)
        return False

    def library_sends(self, peer: str, message: dict[str, Any]) -> None:
        """Queue what the library says, in our own schema; what it must not say is dropped."""
        match message["type"]:
            case "append_entries" if "entries" in message:
                self._queue_append(peer, message)
            case "next_node_idx":
                self._answer(
                    peer,
                    Ack(
                        self.term,
                        message["next_node_idx"],
                        bool(message["success"]),
                        bool(message["reset"]),
                        self._answering_stamp,
                    ),
                )
            case "request_vote":
                self._count_election(message["term"])
                last = message["last_log_index"], message["last_log_term"]
                called = message["term"] == self._called_to_stand_in
                self._answer(peer, VoteRequest(message["term"], *last, called))
            case "response_vote":
                self._answer(peer, Vote(message["term"]))
            case "append_entries" if "serialized" in message:
                self._needs_snapshot(peer)
            case _:
                # Pickled pieces, forwarded commands (D15, D34).
                self._drop("outgoing")

    # Leaves.

    def _enter(self) -> None:
        library.set_clock(self._clock)

    def _drop(self, reason: str) -> None:
        self.stats.dropped[reason] += 1

    def _replicate_soon(self) -> None:
        self._raft._SyncObj__newAppendEntriesTime = 0.0

    def _publish(self) -> None:
        raft = self._raft
        leader, term = raft._SyncObj__raftLeader, raft._SyncObj__raftCurrentTerm
        if leader is not self._seen[0] or term != self._seen[1]:
            # Asked many times a round, so that nobody is told late.
            self._seen = leader, term
            state = self.leader, self.term
            before, self._published = self._published, state
            if self._sender is not None:
                self._sender.close()  # offers are of one leader in one term
            if state[0] is not None and (before is None or before[0] != state[0]):
                self.stats.leader_changes += 1
            self._host.on_leader(*state)

    def _count_election(self, term: int) -> None:
        if term != self._candidate_term:
            self._candidate_term = term
            self.stats.elections += 1

    def _answer(self, peer: str, message: Message) -> None:
        self._answers.append((peer, message))

    def _queue_append(self, peer: str, message: dict[str, Any]) -> None:
        entries = message["entries"]
        append = Append(
            message["term"],
            message["commit_index"],
            message["prevLogIdx"],
            message["prevLogTerm"],
            self._new_stamp(),
            tuple((term, command) for command, _, term in entries),
        )
        self._replication.append((peer, append))
        self._replication_bytes[peer] += sum(len(entry[0]) for entry in entries)
        if self._replication_bytes[peer] > REPLICATION_BYTES_PER_TICK:
            # The library goes on filling the queue as long as it thinks the peer is connected.
            self._paused.add(peer)
            self._port.disconnected(self._nodes[peer])

    def _new_stamp(self) -> int:
        """Strictly rising, so that an answer tells which message it belongs to."""
        self._stamp = max(self._stamp + 1, int(self._clock() * 1_000_000))
        return self._stamp

    def _deliver(
        self,
        queue: Sequence[tuple[str, Message]],
        deliver: Callable[[str, Sequence[Message]], None],
    ) -> None:
        by_peer: dict[str, list[Message]] = {}
        for peer, message in queue:
            by_peer.setdefault(peer, []).append(message)
        for peer, messages in by_peer.items():
            deliver(peer, messages)

    def _still_true(self, item: tuple[str, Message]) -> tuple[str, Message] | None:
        """An acknowledgement is a promise about the log as it is on disk, in one term (D3).

        Time 0: entry E of leader L (term 1) is appended here and its acknowledgement queued.
        Time 1, same tick: a message of term 2 cuts E away. Time 2: the queue is released; L would
        count an entry that this node no longer has.
        """
        peer, message = item
        if not isinstance(message, Ack):
            return item
        if message.term != self.term:
            self._drop("ack of an older term")
            return None
        if message.success and message.next_index > self._journal.durable_index + 1:
            self._drop("ack beyond what is durable")
            return None
        if message.success:
            self._last_ack = peer, message, self._clock()
        return peer, message

    def _on_append(self, peer: str, append: Append) -> None:
        if not self._heard_leader(peer, append.term):
            return
        self._answering_stamp = append.stamp
        self._leader_said = append.term, peer, append.commit_index
        plan = shield.normalise(append, self._journal, self.commit_index)
        message: dict[str, Any] = {"type": "append_entries", "term": append.term}
        match plan:
            case shield.Fresh():
                message |= {
                    "commit_index": min(append.commit_index, plan.verified),
                    "entries": plan.entries,
                    "prevLogIdx": plan.prev_index,
                    "prevLogTerm": plan.prev_term,
                }
                self._port.deliver(self._nodes[peer], message)
                for command, index, _ in plan.entries:
                    if command[:1] == ENTRY_ADMIT:
                        self._admission_appended(index, command)
            case shield.Known():
                message["commit_index"] = min(append.commit_index, plan.verified)
                self._port.deliver(self._nodes[peer], message)
                if append.entries or not self._is_acknowledged(peer, plan.verified):
                    ack = Ack(self.term, plan.verified + 1, True, False, append.stamp)
                    self._answer(peer, ack)
            case shield.Gap():
                message["commit_index"] = self.commit_index
                self._port.deliver(self._nodes[peer], message)
                self._answer(peer, Ack(self.term, plan.next_index, False, True, append.stamp))

    def _heard_leader(self, peer: str, term: int) -> bool:
        """Whether what the peer says is said by the present leader."""
        if term < self.term:
            # Without an answer the two would stay deaf to each other (D19).
            self._answer(peer, TermNotice(self.term))
            self._drop("append of an older term")
            return False
        self._one_leader_in_a_term(peer, term)
        self._heard_leader_at = self._clock()
        self._leaderless_until = float("-inf")
        self._pre_vote_term = None
        return True

    def _is_acknowledged(self, peer: str, verified: int) -> bool:
        """Whether the leader was told as much a moment ago, in this term. Most empty appends only
        say how far the log is committed, right behind an acknowledgement; every heartbeat is still
        answered, so the leader always knows who is there."""
        last_peer, last, at = self._last_ack
        return (
            last_peer == peer
            and last.term == self.term
            and last.next_index > verified
            and self._clock() - at < self.config.heartbeat_s / 2
        )

    def _one_leader_in_a_term(self, peer: str, term: int) -> None:
        known_term, known = self._leader_of_term
        if (term == self.term and self.is_leader) or (term == known_term and peer != known):
            other = self.config.node if self.is_leader else known
            raise EngineFailure(
                f"{peer} and {other} both lead term {term}; a node has lost its vote, or two nodes "
                "share a name"
            )
        self._leader_of_term = term, peer

    def _is_old_news(self, ack: Ack) -> bool:
        """Another follower than the first to say it: what it has is committed already."""
        return ack.success and ack.term == self.term and ack.next_index - 1 <= self.commit_index

    def _on_ack(self, peer: str, ack: Ack) -> None:
        if ack.term > self.term:
            return self._adopt_term(peer, ack.term)
        if ack.term < self.term or not self.is_leader:
            return self._drop("ack of an older term")
        if ack.stamp > self._stamp or (ack.success and ack.next_index > self.last_index + 1):
            return self._drop("ack of what was never sent")
        raft, node = self._raft, self._nodes[peer]
        next_index, matches = raft._SyncObj__raftNextIndex, raft._SyncObj__raftMatchIndex
        # One gap makes a follower answer every append behind it with a reset. The first one moves
        # the leader back; the others are about appends from before that and say nothing new.
        reset = ack.reset and ack.stamp > self._reset_stamp.get(peer, -1)
        counts = self._counts(peer, ack.next_index - 1 if ack.success else matches[node])
        if ack.success and not counts:
            # It goes on being told, but neither commits nor keeps this leader in its place (D37).
            next_index[node] = max(next_index[node], ack.next_index)
            self._note_sent(peer, ack.next_index - 1)
            return None
        went_on_to, heard_at = next_index[node], raft._SyncObj__lastResponseTime[node]
        self._port.deliver(
            node,
            {
                "type": "next_node_idx",
                "next_node_idx": ack.next_index,
                "reset": False,
                "success": ack.success,
            },
        )
        # The library goes back to the acknowledged entry under the appends that are on their way.
        next_index[node] = max(went_on_to, next_index[node])
        # It also takes any answer for fresh news, even one that lay in a buffer for minutes (D20).
        answered_at = ack.stamp / 1_000_000 if counts else heard_at
        raft._SyncObj__lastResponseTime[node] = max(heard_at, answered_at)
        if ack.success:
            self._note_sent(peer, ack.next_index - 1)
        if reset:
            self._reset_stamp[peer] = self._stamp
            next_index[node] = shield.next_index_after_reset(ack, matches[node], self.last_index)
            self._replicate_soon()

    def _on_vote_request(self, peer: str, request: VoteRequest) -> None:
        if request.term < self.term:
            self._answer(peer, TermNotice(self.term))
            return self._drop("vote request of an older term")
        if not request.hand_over and self._is_sticky(peer):
            return self._drop("vote request against a live leader")
        if not self._may_vote(request.term):
            self._drop("vote request to a node that must not vote")
            return self._adopt_term(peer, request.term)
        last = {"last_log_index": request.last_index, "last_log_term": request.last_term}
        self._port.deliver(
            self._nodes[peer], {"type": "request_vote", "term": request.term, **last}
        )

    def _on_vote(self, peer: str, vote: Vote) -> None:
        if vote.term != self.term or self._raft._SyncObj__raftState != library.CANDIDATE:
            return self._drop("vote without a candidate")
        if not self._voters.add(vote.term, peer):
            return self._drop("second vote of one node")
        self._port.deliver(self._nodes[peer], {"type": "response_vote", "term": vote.term})

    def _is_sticky(self, candidate: str) -> bool:
        """Whether a live leader would be deposed: then a candidate is not heard (D19)."""
        recently = self._clock() - self.config.election_s[0] * STICKY_PART
        if not self.is_leader:
            return bool(self._heard_leader_at > recently and candidate != self.leader)
        heard = self._raft._SyncObj__lastResponseTime.values()
        return sum(1 for at in heard if at > recently) + 1 >= self._majority

    def _adopt_term(self, peer: str, term: int) -> None:
        """A higher term exists: follow it, without a vote. pysyncobj learns of a term only from
        requests and appends, so this is a request that no log can satisfy."""
        if term <= self.term:
            return self._drop("notice of an older term")
        stale = {"last_log_index": 0, "last_log_term": -1}
        self._port.deliver(self._nodes[peer], {"type": "request_vote", "term": term, **stale})

    def _pre_vote_if_due(self) -> None:
        """Before a real election, ask whether it could be won: a node that was cut off must not
        depose a healthy leader with the high term that it reached on its own (D19)."""
        raft = self._raft
        if not self.is_leader and not self._may_vote(self.term + 1):
            if raft._SyncObj__raftElectionDeadline < self._clock():
                raft._SyncObj__raftLeader = None
                self.postpone_election()
            return
        if self._called_to_stand_in == self.term + 1 and not self.is_leader:
            raft._SyncObj__raftElectionDeadline = 0.0  # whatever heartbeats have come since (D36)
            return
        if not self._nodes or not self.is_election_due:
            return
        term = self.term + 1
        if self._pre_vote_term == term and self._pre_voters.count(term) + 1 >= self._majority:
            self._pre_vote_term = None
            return
        raft._SyncObj__raftElectionDeadline = self._clock() + self.election_timeout()
        raft._SyncObj__raftLeader = None
        self._pre_vote_term = term
        self._pre_voters = shield.Voters()
        self._publish()
        _, index, last_term = self._journal[-1]
        for peer in sorted(self._connected):
            self._answer(peer, PreVoteRequest(term, index, last_term))

    def _on_pre_vote_request(self, peer: str, request: PreVoteRequest) -> None:
        if request.term <= self.term:
            self._answer(peer, TermNotice(self.term))
        elif self._is_sticky(peer):
            self._drop("pre-vote against a live leader")
        elif not self._may_vote(request.term):
            self._drop("vote request to a node that must not vote")
        elif shield.up_to_date(self._journal, request.last_index, request.last_term):
            self._answer(peer, PreVote(request.term))

    def _on_pre_vote(self, peer: str, vote: PreVote) -> None:
        if vote.term != self._pre_vote_term or vote.term != self.term + 1 or self.is_leader:
            return self._drop("pre-vote without a question")
        self._pre_voters.add(vote.term, peer)
        if self._pre_voters.count(vote.term) + 1 >= self._majority:
            self._raft._SyncObj__raftElectionDeadline = 0.0

    def _leader_went_away(self) -> None:
        """The connection with the leader is gone. Most often because its process is: stand soon, and do
        not refuse whoever stands first. If it lives, whoever still hears it refuses us (D19)."""
        if self.is_leader:
            return
        self._heard_leader_at = float("-inf")
        self._leaderless_until = self._clock() + self.config.election_s[0]
        low, high = (part * self.config.election_s[0] for part in EARLY_ELECTION_PARTS)
        at = self._clock() + low + (high - low) * self._rng.random()
        raft = self._raft
        raft._SyncObj__raftElectionDeadline = min(raft._SyncObj__raftElectionDeadline, at)

    # Whose disk was lost (D37).

    def _may_vote(self, term: int) -> bool:
        return self._book is None or self._book.may_vote(term)

    def _counts(self, peer: str, index: int) -> bool:
        return self._book is None or self._book.counts(peer, index, self.commit_index)

    def _admission_appended(self, index: int, command: bytes) -> None:
        """From now on this node refuses the old directory. Should the entry be cut away again, that stays so
        until the next start: refusing is always safe, and the operator asks again."""
        book = self._book
        if book is None:
            return
        name, directory = parse_admission(command)
        known = book.known.get(name)
        if name == self.config.node or (known is not None and index <= known.admission):
            return
        book.retiring[name] = directory
        if name in self._nodes:
            # What the lost disk acknowledged no longer counts for anything not yet committed.
            self._raft._SyncObj__raftMatchIndex[self._nodes[name]] = 0
            self.to_disconnect.add(name)

    def _admit(self, name: str, index: int, directory: str) -> None:
        """An admission is committed."""
        book = self._book
        if book is None:
            return
        news = book.admit(name, index, directory)
        if book.retiring.get(name) == directory:
            del book.retiring[name]
        if not news:
            return
        if name in self._nodes:
            self._raft._SyncObj__raftMatchIndex[self._nodes[name]] = 0
            self.to_disconnect.add(name)
        for peer in sorted(self._connected):
            self._answer(peer, Admissions(tuple(book.admissions())))

    # Handing over.

    def _successor(self) -> str | None:
        """The connected peer that has most of the log."""
        matches = self.match_index
        peers = sorted(self._connected)
        return max(peers, key=lambda peer: matches[peer], default=None)

    def _continue_hand_over(self) -> None:
        going = self._hand_over
        if going is None:
            return
        now = self._clock()
        peer = self._successor() if self.is_leader and self.term == going.term else None
        if peer is None or now > going.until:
            self._hand_over = None
            return
        if self.match_index[peer] == self.last_index and now >= going.ask_at:
            going.ask_at = now + HAND_OVER_REPEAT_SECONDS
            self._answer(peer, TimeoutNow(self.term))

    def _on_timeout_now(self, peer: str, message: TimeoutNow) -> None:
        if message.term != self.term or peer != self.leader or self.is_leader:
            return self._drop("call to stand by another than the leader")
        self._called_to_stand_in = self.term + 1

    # Snapshots.

    def _restoring(self, info: SnapshotInfo, payload: bytes) -> Generator[None, None, None]:
        try:
            yield from self._host.restore(info.index, info.term, payload)
        except ValueError as error:
            raise EngineFailure(
                f"the snapshot of entry {info.index} cannot be used by this version of holdfast: {error}"
            ) from error

    def _needs_snapshot(self, peer: str) -> None:
        """The library has nothing that it could send: the log begins behind what the peer needs. It
        would say so again and again in one tick, as long as it thinks that the peer is connected."""
        self._behind.add(peer)
        self._port.disconnected(self._nodes[peer])
        if self._sender is None:
            return self._drop("outgoing")
        offer = self._sender.needed(
            peer,
            term=self.term,
            first_index=self._journal[0][1],
            now=self._clock(),
            new_stamp=self._new_stamp,
        )
        if offer is not None:
            self._answer(peer, offer)

    def _note_sent(self, peer: str, index: int) -> None:
        """The peer's log reaches up to `index`: it may have been a snapshot that brought it there."""
        if self._sender is not None and self._sender.acknowledged(peer, index):
            self.stats.snapshots_sent += 1

    def _on_snapshot_answer(self, peer: str, answer: SnapshotAnswer) -> None:
        if answer.term > self.term:
            return self._adopt_term(peer, answer.term)
        if answer.term < self.term or not self.is_leader or self._sender is None:
            return self._drop("answer about a snapshot of an older term")
        if answer.stamp > self._stamp:
            return self._drop("ack of what was never sent")
        # The peer is alive, although it acknowledges nothing yet (D20).
        responses, node = self._raft._SyncObj__lastResponseTime, self._nodes[peer]
        if self._counts(peer, self.match_index[peer]):
            responses[node] = max(responses[node], answer.stamp / 1_000_000)
        chunks = self._sender.answered(peer, answer, term=self.term, new_stamp=self._new_stamp)
        for chunk in chunks:
            self._answer(peer, chunk)

    def _on_snapshot(self, peer: str, message: SnapshotOffer | SnapshotChunk) -> None:
        """A leader's offer of a snapshot, or a piece of it."""
        if not self._heard_leader(peer, message.term):
            return
        heartbeat = {"type": "append_entries", "term": message.term}
        self._port.deliver(self._nodes[peer], heartbeat | {"commit_index": self.commit_index})
        receiver = self._receiver
        if receiver is None:
            return self._drop("snapshot where none is kept")
        received: int | None
        if isinstance(message, SnapshotChunk):
            received = receiver.take(message.index, message.offset, message.data)
        elif self._has(message.index, message.last_term):
            # Going back to the snapshot would drop what was acknowledged after it (D10).
            receiver.discard()
            return self._answer(peer, Ack(self.term, message.index + 1, True, False, message.stamp))
        else:
            info = SnapshotInfo(message.index, message.last_term, message.length, message.digest)
            installation = self._installation
            if installation is not None and installation.snapshot.info == info:
                installation.peer, installation.term = peer, message.term
                installation.stamp, received = message.stamp, info.length
            else:
                received = receiver.offered(info)
        if received is None:
            return self._drop("piece of a snapshot out of order")
        try:
            complete = receiver.complete()
        except Unreadable:
            self._drop("snapshot that is not what was offered")
            return self._answer(
                peer, SnapshotAnswer(self.term, message.stamp, message.index, 0, True)
            )
        if complete is not None:
            self._begin_installation(complete, peer, message.stamp)
        answer = SnapshotAnswer(self.term, message.stamp, message.index, received, False)
        self._answer(peer, answer)

    def _has(self, index: int, term: int) -> bool:
        """Whether the log agrees with a leader's up to this entry of that leader's."""
        if index <= self.commit_index:
            return True
        return index <= self.last_index and shield.term_at(self._journal, index) == term

    def _begin_installation(self, snapshot: SnapshotWriter, peer: str, stamp: int) -> None:
        """From now on every tick lets the host read a piece. A newer snapshot takes the place of one that is
        not read yet."""
        self._abandon_installation()
        assert self._snapshots is not None  # noqa: S101 - a receiver has a store
        steps = self._restoring(snapshot.info, self._snapshots.payload(snapshot))
        self._installation = Installation(snapshot, steps, peer, self.term, stamp)

    def _abandon_installation(self) -> None:
        going, self._installation = self._installation, None
        if going is not None and self._snapshots is not None:
            going.steps.close()
            self._snapshots.remove(going.snapshot.name)

    def _continue_installation(self) -> None:
        going = self._installation
        if going is None:
            return
        info = going.snapshot.info
        if self._has(info.index, info.term):
            # Another leader had the entries, and sent them meanwhile (D10).
            return self._abandon_installation()
        try:
            return next(going.steps)
        except StopIteration:
            self._installation = None
        self._install(going.snapshot)
        if going.term == self.term:
            self._answer(going.peer, Ack(self.term, info.index + 1, True, False, going.stamp))

    def _install(self, snapshot: SnapshotWriter) -> None:
        """Replace log and state by a whole, verified snapshot of a leader. The host has come first, because
        it might not be able to read it; then the snapshot is made durable, then the log is reset to it. A
        crash in between leaves the old state, or what `recovery` finishes."""
        store, info = self._snapshots, snapshot.info
        assert store is not None  # noqa: S101 - a receiver has a store
        store.adopt(snapshot.name, info)
        recovery.reset(self._journal, info)
        self._raft.continue_from(info.index)
        store.drop_older()
        self.bytes_since_snapshot = 0
        self.stats.snapshots_installed += 1
