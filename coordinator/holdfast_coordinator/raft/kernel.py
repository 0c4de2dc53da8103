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

from holdfast_coordinator.raft import library, shield
from holdfast_coordinator.raft.errors import EngineFailure
from holdfast_coordinator.raft.messages import (
    ENTRY_NO_OP,
    ENTRY_OWN,
    Ack,
    Append,
    Message,
    PreVote,
    PreVoteRequest,
    TermNotice,
    Vote,
    VoteRequest,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from holdfast_coordinator.raft.ports import Host

APPLY_PER_TICK_MAX = 1024
"""Entries applied in one tick. A node that replays a long journal still answers its peers."""

REPLICATION_BYTES_PER_TICK = 4 * 2**20
"""What may be queued for one peer in one tick. A peer that is far behind gets the rest when this
much has left, instead of its whole backlog in memory at once."""

STICKY_PART = 0.75
"""Part of the shortest election time for which a node that heard its leader refuses to depose it.
Less than one, or a candidate whose own time is the shortest possible would always ask too early."""


class JournalPort(Protocol):
    """What the kernel asks of a journal, beyond what pysyncobj does."""

    def __len__(self) -> int: ...
    def __getitem__(self, position: int, /) -> tuple[bytes, int, int]: ...

    @property
    def durable_index(self) -> int: ...

    def sync(self) -> None: ...


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
    dropped: Counter[str] = field(default_factory=Counter)
    """Messages not passed to pysyncobj, by reason."""


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
    ) -> None:
        self.config = config
        self.stats = KernelStats()
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
        self._heard_leader_at = float("-inf")
        self._leader_of_term: tuple[int, str] = (-1, "")
        self._voters = shield.Voters()
        self._pre_voters = shield.Voters()
        self._pre_vote_term: int | None = None
        self._published: tuple[str | None, int] | None = None
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
        self._majority = (len(config.peers) + 1) // 2 + 1

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

    def peer_disconnected(self, peer: str) -> None:
        """The connection is gone, and what was queued for it is void."""
        self._enter()
        self._connected.discard(peer)
        self._paused.discard(peer)
        self._blocked.discard(peer)
        self._port.disconnected(self._nodes[peer])
        self._replication = [item for item in self._replication if item[0] != peer]
        self._answers = [item for item in self._answers if item[0] != peer]

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

    def receive(self, peer: str, message: Message) -> None:
        """A checked message of an authenticated peer."""
        self._enter()
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
        self._publish()

    def tick(self) -> None:
        """Elect, commit, apply, propose, replicate: whatever is due now."""
        self._enter()
        self._publish()
        self._pre_vote_if_due()
        self._raft.doTick(0)
        self._publish()

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
        self._journal.sync()
        answers, self._answers = self._answers, []
        self._deliver([item for item in map(self._still_true, answers) if item], deliver)

    def postpone_election(self) -> None:
        """After a stall of the driver: what the leader sent may still be unread (D25)."""
        deadline = self._clock() + self.election_timeout()
        raft = self._raft
        raft._SyncObj__raftElectionDeadline = max(raft._SyncObj__raftElectionDeadline, deadline)

    def next_deadline(self) -> float | None:
        """When to tick next, on this kernel's clock; None if only a message can change anything."""
        if self.commit_index > self.applied_index:
            return self._clock()
        if self.is_leader:
            return float(self._raft._SyncObj__newAppendEntriesTime)
        if self._connected or not self._nodes:
            return float(self._raft._SyncObj__raftElectionDeadline)
        return None

    # What the library asks for (see `library.Owner`).

    def election_timeout(self) -> float:
        """A random election time, in seconds."""
        shortest, longest = self.config.election_s
        return shortest + (longest - shortest) * self._rng.random()

    def became_leader(self) -> None:
        """Its first entry and its vote are on disk before a later tick counts them."""
        self._reset_stamp.clear()
        self._journal.sync()

    def propose(self) -> None:
        """Take what the host has, stamped now, and append it in the same step (D35)."""
        self._publish()
        if not self.is_leader:
            return
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
        if appended:
            self._raft._SyncObj__sendAppendEntries()

    def apply_committed(self) -> bool:
        """Give committed entries to the host, each once. True if there were any."""
        raft = self._raft
        applied: int = raft._SyncObj__raftLastApplied
        end: int = min(raft._SyncObj__raftCommitIndex, applied + APPLY_PER_TICK_MAX)
        first = self._journal[0][1]
        for index in range(applied + 1, end + 1):
            command, stored_index, term = self._journal[index - first]
            if stored_index != index:
                raise EngineFailure(f"the log holds entry {stored_index} in the place of {index}")
            raft._SyncObj__raftLastApplied = index
            if command[:1] == ENTRY_OWN:
                self._host.apply(index, term, command[1:])
            elif command != ENTRY_NO_OP:
                raise EngineFailure(
                    f"log entry {index} is of a type that this version does not know; start the "
                    "newer version of holdfast that wrote it"
                )
        return end > applied

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
                self.stats.elections += 1
                last = message["last_log_index"], message["last_log_term"]
                self._answer(peer, VoteRequest(message["term"], *last))
            case "response_vote":
                self._answer(peer, Vote(message["term"]))
            case _:
                # Pickled pieces, snapshots of the library, forwarded commands (D15, D34).
                self._drop("outgoing")

    # Leaves.

    def _enter(self) -> None:
        library.set_clock(self._clock)

    def _drop(self, reason: str) -> None:
        self.stats.dropped[reason] += 1

    def _replicate_soon(self) -> None:
        self._raft._SyncObj__newAppendEntriesTime = 0.0

    def _publish(self) -> None:
        state = self.leader, self.term
        if state != self._published:
            before, self._published = self._published, state
            if state[0] is not None and (before is None or before[0] != state[0]):
                self.stats.leader_changes += 1
            self._host.on_leader(*state)

    def _answer(self, peer: str, message: Message) -> None:
        self._answers.append((peer, message))

    def _queue_append(self, peer: str, message: dict[str, Any]) -> None:
        entries = message["entries"]
        # Strictly rising, so that an answer tells which append it belongs to.
        self._stamp = max(self._stamp + 1, int(self._clock() * 1_000_000))
        append = Append(
            message["term"],
            message["commit_index"],
            message["prevLogIdx"],
            message["prevLogTerm"],
            self._stamp,
            tuple((term, command) for command, _, term in entries),
        )
        self._replication.append((peer, append))
        self._replication_bytes[peer] += sum(len(entry[0]) for entry in entries)
        if self._replication_bytes[peer] > REPLICATION_BYTES_PER_TICK:
            # The library goes on filling the queue as long as it thinks the peer is connected.
            self._paused.add(peer)
            self._port.disconnected(self._nodes[peer])

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
        return peer, message

    def _on_append(self, peer: str, append: Append) -> None:
        term = self.term
        if append.term < term:
            # Without an answer the two would stay deaf to each other (D19).
            self._answer(peer, TermNotice(term))
            return self._drop("append of an older term")
        self._one_leader_in_a_term(peer, append.term)
        self._heard_leader_at = self._clock()
        self._pre_vote_term = None
        self._answering_stamp = append.stamp
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
            case shield.Known():
                message["commit_index"] = min(append.commit_index, plan.verified)
                self._port.deliver(self._nodes[peer], message)
                self._answer(
                    peer, Ack(self.term, plan.verified + 1, True, False, append.stamp)
                )
            case shield.Gap():
                message["commit_index"] = self.commit_index
                self._port.deliver(self._nodes[peer], message)
                self._answer(peer, Ack(self.term, plan.next_index, False, True, append.stamp))

    def _one_leader_in_a_term(self, peer: str, term: int) -> None:
        known_term, known = self._leader_of_term
        if (term == self.term and self.is_leader) or (term == known_term and peer != known):
            other = self.config.node if self.is_leader else known
            raise EngineFailure(
                f"{peer} and {other} both lead term {term}; a node has lost its vote, or two nodes "
                "share a name"
            )
        self._leader_of_term = term, peer

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
        raft._SyncObj__lastResponseTime[node] = max(heard_at, ack.stamp / 1_000_000)
        if reset:
            self._reset_stamp[peer] = self._stamp
            next_index[node] = shield.next_index_after_reset(ack, matches[node], self.last_index)
            self._replicate_soon()

    def _on_vote_request(self, peer: str, request: VoteRequest) -> None:
        if request.term < self.term:
            self._answer(peer, TermNotice(self.term))
            return self._drop("vote request of an older term")
        if self._is_sticky(peer):
            return self._drop("vote request against a live leader")
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
        elif shield.up_to_date(self._journal, request.last_index, request.last_term):
            self._answer(peer, PreVote(request.term))

    def _on_pre_vote(self, peer: str, vote: PreVote) -> None:
        if vote.term != self._pre_vote_term or vote.term != self.term + 1 or self.is_leader:
            return self._drop("pre-vote without a question")
        self._pre_voters.add(vote.term, peer)
        if self._pre_voters.count(vote.term) + 1 >= self._majority:
            self._raft._SyncObj__raftElectionDeadline = 0.0
