"""One coordinator node: the machine and the engine, and between them the way of an operation from its caller and back.

    caller -> submit -> [submissions] -> leader's [batcher] -> log -> every node's machine -> the caller's node answers

Rule: the answer to a caller comes from this node's own apply, never from a message. The machine is changed by `apply` alone. All
of it runs in one thread, on one event loop. The node does not know HTTP, pysyncobj, or the disk.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Annotated, Final

import msgspec
import structlog

from holdfast._version import __version__

from .admission import Admission
from .batcher import TIME_PERIOD_MS, Batcher, count_within_limit, no_wall_clock
from .machine import Levels, Limits, Machine, decode_entry, encode_operation, level_of
from .machine.codec import EMPTY_ENTRY, Encoded, readable
from .machine.levels import KNOWN, needed
from .machine.operations import (
    Acquire,
    Barrier,
    Operation,
    Origin,
    Release,
    RenewSession,
    Withdraw,
)
from .machine.outcomes import Outcome, Passed, Refused
from .node_report import NodeReport, PeerReport, Vitals
from .node_types import (
    AddressBook,
    AdminRefused,
    ClusterStatus,
    NodeState,
    NodeStatus,
    Unknown,
    overloaded,
)
from .peer_levels import PeerLevels, Unreadable, is_words
from .raft import EngineFailure
from .raft.ports import EnginePort, PayloadReader
from .submissions import Awaited, Orphan, Submission, Submissions

log = structlog.get_logger("holdfast.node")

NO_LEADER_AFTER_MS: Final = 2_000
"""How long an operation waits for a leader before it is refused: longer than one election, so that a failover is a delay."""

UNKNOWN_AFTER_MS: Final = 5_000
"""How long a caller waits for the apply of its operation before the answer is `unknown_outcome`."""

FORWARD_AGAIN_MS: Final = 1_000
"""An outstanding operation that made no progress for so long is sent to the leader again; the leader passes over repeats."""

LAG_MS_MAX: Final = 1_000
"""A node that has been behind for longer than this is not ready."""

PEER_GONE_MS: Final = 500
"""A leader takes a node that has been disconnected for so long for dead, and withdraws its callers that wait without a name: longer
than a connection takes to come back, short because until then a grant can still go to nobody (for the length of its lease)."""

HOUSEKEEPING_LATE_SECONDS_MAX: Final = 5.0
"""A loop that was held up runs an overdue timer in its next turn. One that stays overdue has died of an error."""

WITHDRAWALS_PER_ROUND_MAX: Final = 1_000
"""A dead node may have had tens of thousands of waiting callers; what is alive goes on meanwhile."""

RENEWALS_GATHERED_MS: Final = 50
"""Nobody waits for a renewal, and most of what one costs is its log entry, so renewals wait for company for so long: for each
other, or for the next operation that somebody waits for. It is a twentieth of the shortest lease, which counts from the asking."""

OPERATIONS_PER_MESSAGE_MAX: Final = 512
MESSAGE_VERSION: Final = 1

_Version = Annotated[int, msgspec.Meta(ge=MESSAGE_VERSION, le=MESSAGE_VERSION)]
_Counter = Annotated[int, msgspec.Meta(gt=0, lt=2**53)]

_encode_forwarded: Final = msgspec.msgpack.Encoder().encode
_decode_forwarded: Final = msgspec.msgpack.Decoder(
    tuple[_Version, _Counter, _Counter, list[Encoded]]
).decode
"""What one node forwards to another: version, boot, the sequence of the first operation, and the operations."""


class Node:
    """See the module. `engine_factory` is called with the node as the engine's `Host`; `clock_ns` is CLOCK_BOOTTIME in nanoseconds;
    `wall_ms` is the wall clock in Unix milliseconds, written into the trail for people and for nothing else;
    `members` maps each node's name to its (http, raft) addresses; `addresses` is where they may change; `levels` are the format
    levels that it works at."""

    def __init__(
        self,
        name: str,
        engine_factory: Callable[[Node], EnginePort],
        *,
        clock_ns: Callable[[], int],
        wall_ms: Callable[[], int] = no_wall_clock,
        limits: Limits,
        cluster: str,
        members: Mapping[str, tuple[str, str]],
        session_ref_key: bytes,
        addresses: AddressBook | None = None,
        levels: Levels = KNOWN,
    ) -> None:
        self.name = name
        self.machine = Machine(limits)
        self._clock_ns = clock_ns
        self._cluster = cluster
        self._members = dict(members)
        self._addresses = addresses
        self._session_ref_key = hashlib.blake2b(session_ref_key, digest_size=32).digest()
        self._levels = PeerLevels(name, members, levels, __version__)
        self._submissions = Submissions()
        self._admission = Admission()
        self._batcher = Batcher(clock_ns, wall_ms)
        self._leader: str | None = None
        self._caught_up_ns: int | None = None
        self._goal: tuple[int, int] | None = None
        """When housekeeping last looked, and what the leader had committed then, as far as was heard."""
        self._pump_scheduled = False
        self._patient_pump: asyncio.TimerHandle | None = None
        self._progress = (0, 0)
        self._gone_since_ns: dict[str, int] = {}
        self._withdrawals: list[asyncio.Future[Outcome | Unknown]] = []
        self._housekeeping: asyncio.TimerHandle | None = None
        self.rejected_messages = 0
        self._leader_changes = 0
        self._told_of_applies: dict[object, Callable[[], None]] = {}
        self.apply_observer: Callable[[float], None] | None = None
        """Told the seconds that each apply of an entry took."""
        self.vitals: Callable[[], Vitals] = Vitals
        """What the process knows of itself, for `report`."""
        self.engine = engine_factory(self)

    # -- life ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises EngineFailure with a sentence for the operator if the engine cannot start."""
        await self.engine.start()
        self._on_timer()

    async def stop(self) -> None:
        """Callers that still wait get an unknown outcome."""
        if self._housekeeping is not None:
            self._housekeeping.cancel()
        if self._patient_pump is not None:
            self._patient_pump.cancel()
        await self.engine.stop()
        submissions = self._submissions
        for submission in (
            *submissions.admitted,
            *submissions.outstanding.values(),
            *submissions.waiting.values(),
        ):
            self._answer(submission, Unknown("this node is stopping"))

    # -- callers ---------------------------------------------------------------------------------------

    async def submit(self, operation: Operation) -> Outcome | Unknown:
        """The final outcome of `operation`. `Refused` is definite; `Unknown` says that it may or may not take effect. Cancelling
        the call means that the caller has gone: its waiter is withdrawn, and a grant that nobody can ask for again is released."""
        refused = self._refused_at_once(operation)
        if refused is not None:
            return refused
        submission = Awaited(operation, self._clock_ns())
        self._submissions.admit(submission)
        if isinstance(operation, RenewSession):
            self._schedule_patient_pump()
        else:
            self._schedule_pump()
        try:
            return await submission.future
        except asyncio.CancelledError:
            self.abandon(submission)
            raise

    def submit_all(self, submissions: Sequence[Submission]) -> None:
        """See `NodePort`."""
        now_ns, books = self._clock_ns(), self._submissions
        is_patient = True
        for submission in submissions:
            refused = self._refused_at_once(submission.operation)
            if refused is not None:
                submission.answer(refused)
            else:
                submission.admitted_ns = now_ns
                books.admit(submission)
                is_patient = is_patient and isinstance(submission.operation, RenewSession)
        if is_patient:
            self._schedule_patient_pump()
        else:
            self._schedule_pump()

    def abandon(self, submission: Submission) -> None:
        """See `NodePort`."""
        self._give_back(self._submissions.abandon(submission))

    async def barrier(self) -> Refused | Unknown | None:
        """None: everything acknowledged before this call is applied here, and `machine` may be read."""
        outcome = await self.submit(Barrier())
        if isinstance(outcome, Passed):
            return None
        if isinstance(outcome, Refused | Unknown):
            return outcome
        raise AssertionError(f"a barrier was answered with {type(outcome).__name__}")

    async def step_down(self) -> str:
        """Have the leader, whichever node it is, hand over; the new leader's name. Raises `AdminRefused`. Callers are delayed."""
        return await self.engine.step_down()

    async def replace_node(self, name: str) -> None:
        """Admit the data directory with which `name` comes back. Raises `AdminRefused`."""
        await self.engine.replace_node(name)

    async def reload(self) -> int:
        """Go by what the configuration says now about where the other nodes are. Raises `AdminRefused`."""
        book = self._addresses
        if book is None:
            raise AdminRefused("conflict", "this node has no configuration to read")
        for moved in book.reread(self.engine.connected_peers):
            self._members[moved.name] = (moved.http, moved.raft)
            self.engine.move_peer(moved.name, moved.address)
            log.info("node_moved", node=moved.name, http=moved.http, epoch=book.epoch)
        return book.epoch

    async def open_backup(self) -> tuple[bytes, PayloadReader]:
        """Call it after `barrier`: then everything acknowledged before is in it. Raises `AdminRefused`."""
        return await self.engine.open_backup()

    def session_ref(self, session: str) -> str:
        """What others may see of a session id: a keyed hash, the same on every node of this cluster."""
        key = self._session_ref_key
        return hashlib.blake2b(session.encode(), key=key, digest_size=8).hexdigest()

    def on_applied(self, told: Callable[[], None]) -> Callable[[], None]:
        """See `NodePort`."""
        subscription = object()
        self._told_of_applies[subscription] = told

        def end() -> None:
            self._told_of_applies.pop(subscription, None)

        return end

    def _tell_of_apply(self) -> None:
        for told in self._told_of_applies.values():
            told()

    @property
    def leader(self) -> str | None:
        return self._leader

    @property
    def keeps_house(self) -> bool:
        """False: the timer of `keep_house` is overdue by so much that it has died; whoever waits is never answered."""
        timer = self._housekeeping
        late = asyncio.get_running_loop().time() - (timer.when() if timer is not None else 0.0)
        return late <= HOUSEKEEPING_LATE_SECONDS_MAX

    @property
    def lag_ms(self) -> int | None:
        """For how long this node has been behind what its leader says is committed, or has not known. None: since it started."""
        if self._is_caught_up:
            return 0
        since_ns = self._caught_up_ns
        return None if since_ns is None else (self._clock_ns() - since_ns) // 1_000_000

    @property
    def is_ready(self) -> bool:
        """A node that has just started may have applied all that it knows of, and lack what was committed while it was away: it is
        ready only once it has caught up with what a leader has told it."""
        lag_ms = self.lag_ms
        return self._leader is not None and lag_ms is not None and lag_ms <= LAG_MS_MAX

    @property
    def _is_caught_up(self) -> bool:
        said = self.engine.leader_commit_index
        return self._leader is not None and said is not None and self.engine.applied_index >= said

    def status(self) -> ClusterStatus:
        engine = self.engine
        nodes = []
        for name, (http, raft) in self._members.items():
            state: NodeState = "unreachable"
            if name == self._leader:
                state = "leader"
            elif name == self.name or name in engine.connected_peers:
                state = "follower" if self._leader is not None else "unknown"
            match_index = engine.last_index if name == self.name else engine.match_index.get(name)
            nodes.append(NodeStatus(name, http, raft, state, match_index))
        return ClusterStatus(
            node=self.name,
            leader=self._leader,
            term=engine.term,
            nodes=tuple(nodes),
            commit_index=engine.commit_index,
            applied_index=engine.applied_index,
            cluster_time_ms=self.machine.cluster_time_ms,
            cluster=self._cluster,
            epoch=0 if self._addresses is None else self._addresses.epoch,
            leader_changes=self._leader_changes,
            rejected={**engine.rejected, "application": self.rejected_messages},
            storage=engine.storage,
        )

    def report(self) -> NodeReport:
        """See `NodePort`."""
        own, engine = self._levels.own, self.engine
        peers = []
        for name in self._members:
            if name != self.name:
                said = self._levels.said_by(name)
                words = (None, None) if said is None else (said.version, said.highest)
                peers.append(PeerReport(name, name in engine.connected_peers, *words))
        return NodeReport(
            version=__version__,
            format_level=self.machine.level,
            format_level_min=own.lowest,
            format_level_max=own.highest,
            clock_us=self._clock_ns() // 1_000,
            boot=engine.boot,
            peers=tuple(peers),
            vitals=self.vitals(),
        )

    # -- the engine's host -----------------------------------------------------------------------------

    def next_batch(self, term: int) -> bytes | None:
        self._lead(term)
        self._pump()
        engine, reached = self.engine, self.machine.level
        level = reached
        if reached < self._levels.own.highest:
            level = max(reached, self._levels.common(engine.connected_peers))
        return self._batcher.next_entry(
            term,
            last_index=engine.last_index,
            commit_index=engine.commit_index,
            has_deadlines=self.machine.has_deadlines,
            level=level,
            raises=level > reached,
        )

    def apply(self, index: int, term: int, payload: bytes) -> bool:
        began_ns = self._clock_ns()
        boot = self.engine.boot
        if (why_not := why_not_readable(payload, self._levels.own)) is not None:
            raise EngineFailure(f"log entry {index} {why_not}")
        entry = decode_entry(payload)
        if entry is EMPTY_ENTRY:
            # Checksums and peers were right, so a newer version wrote it. Passing over it would let this replica differ.
            raise EngineFailure(
                f"log entry {index} cannot be read by this version; start the newer version of holdfast that wrote it"
            )
        level = self.machine.level
        outcomes = self.machine.apply(entry)
        if self.machine.level > level:
            log.info("format_level_raised", format_level=self.machine.level, index=index)
        waits_elsewhere = False
        for origin, outcome in outcomes:
            if origin.node != self.name:
                waits_elsewhere = True
            elif origin.boot == boot:
                self._give_back(self._submissions.settle(origin.sequence, outcome))
        if self.apply_observer is not None:
            self.apply_observer((self._clock_ns() - began_ns) / 1e9)
        self._tell_of_apply()
        return waits_elsewhere

    def restore(self, index: int, term: int, payload: bytes) -> Generator[None, None, None]:
        """Take over the state after entry `index`. Callers whose operation it contains get an unknown outcome, for the outcome was
        never applied here: whoever named the request may ask again, and gets it."""
        machine = yield from Machine.restoring(payload, self.machine.state.limits)
        if (why_not := self._levels.own.why_not(machine.level)) is not None:
            raise EngineFailure(f"the snapshot of entry {index} {why_not}")
        self.machine = machine
        boot = self.engine.boot
        skipped, orphans = self._submissions.skip(
            machine.last_sequence(self.name, boot),
            lambda sequence: machine.is_waiting(Origin(self.name, boot, sequence)),
        )
        for submission in skipped:
            self._answer(submission, Unknown("this node was behind, and took over a later state"))
            self._release_unnamed(submission)
        for orphan in orphans:
            self._give_back(orphan)
        log.info("state_taken_over", index=index, term=term, unknown_outcomes=len(skipped))
        self._tell_of_apply()

    def on_message(self, peer: str, payload: bytes) -> None:
        """Operations that `peer` forwards, because it believes that this node leads. If it does not, they are dropped: their origin
        sends them to the leader that it hears of next. Or what it says of its version."""
        if is_words(payload):
            self._hear(peer, payload)
            return
        if not self.engine.is_leader:
            return
        try:
            _, boot, first_sequence, operations = _decode_forwarded(payload)
        except (ValueError, RecursionError):
            self.rejected_messages += 1
            log.warning("peer_message_rejected", peer=peer)
            return
        self._lead(self.engine.term)
        self._batcher.offer(peer, boot, first_sequence, [readable(each) for each in operations])
        self.engine.wake()

    def _hear(self, peer: str, payload: bytes) -> None:
        try:
            said = self._levels.heard(peer, payload)
        except Unreadable:
            self.rejected_messages += 1
            log.warning("peer_message_rejected", peer=peer)
            return
        own = self._levels.own
        if said.level > own.highest:
            raise EngineFailure(f"the log of {peer} {own.why_not(said.level)}")
        if said.highest < self.machine.level:
            log.warning("peer_is_too_old", peer=peer, version=said.version, knows=said.highest)
        if self.engine.is_leader:
            self.engine.wake()

    def on_peer_connected(self, peer: str) -> None:
        self._levels.connected(peer)
        self.engine.send(peer, self._levels.words(self.machine.level))
        if peer == self._leader:
            self._submissions.forward_again()
            self._schedule_pump()

    def on_leader(self, leader: str | None, term: int) -> None:
        if leader != self._leader:
            self._leader_changes += leader is not None
            self._tell_of_leader(leader, term)
        self._leader = leader
        if leader is not None and self._submissions.last_sequence == 0:
            # The first word of a new boot: it withdraws the nameless waiters of the process that was here before.
            self._propose(Barrier())
        self._submissions.forward_again()
        if leader == self.name:
            self._lead(term)
        self._schedule_pump()

    # -- inside ----------------------------------------------------------------------------------------

    def _refused_at_once(self, operation: Operation) -> Refused | None:
        """Why nothing is proposed; None: it may go on its way."""
        if needed(operation) > self.machine.level:
            return Refused("conflict", "not before every node of the cluster runs this version")
        books, admission = self._submissions, self._admission
        waiting = len(books.waiting)
        if admission.admits(operation, in_flight=books.in_flight, waiting=waiting):
            return None
        return overloaded(admission.appointment(self._clock_ns()))

    def _tell_of_leader(self, leader: str | None, term: int) -> None:
        before = self._leader
        if leader is not None:
            log.info("leader_elected", leader=leader, term=term, before=before)
            return
        reason = "nothing is heard of it, or somebody stands against it"
        if before == self.name:
            reason = "this node leads no more: it handed over, or does not hear a majority"
        elif before not in self.engine.connected_peers:
            reason = "its connection is gone"
        log.warning("leader_lost", leader=before, term=term, reason=reason)

    def _lead(self, term: int) -> None:
        if self._batcher.term != term:
            self._batcher.begin(term)

    def _schedule_pump(self) -> None:
        """Whatever is submitted in one turn of the loop goes out together; a leader takes it along when it proposes."""
        if self._leader == self.name:
            self.engine.wake()
        elif not self._pump_scheduled:
            self._pump_scheduled = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _schedule_patient_pump(self) -> None:
        """The same for renewals, a moment later; whatever is pumped before takes them along."""
        if self._patient_pump is None:
            loop = asyncio.get_running_loop()
            self._patient_pump = loop.call_later(RENEWALS_GATHERED_MS / 1000, self._schedule_pump)

    def _pump(self) -> None:
        self._pump_scheduled = False
        if self._patient_pump is not None:
            self._patient_pump.cancel()
            self._patient_pump = None
        leader = self._leader
        if leader is None:
            return
        submissions = self._submissions
        submissions.number_admitted()
        while True:
            first, operations = submissions.to_forward(OPERATIONS_PER_MESSAGE_MAX)
            if not operations:
                return
            encoded = [encode_operation(operation) for operation in operations]
            if leader == self.name:
                self._batcher.offer(self.name, self.engine.boot, first, encoded)
                submissions.forwarded = first + len(encoded) - 1
            elif (count := self._send(leader, first, encoded)) > 0:
                submissions.forwarded = first + count - 1
            else:
                return  # housekeeping or the next connection sends it again

    def _send(self, leader: str, first: int, operations: list[Encoded]) -> int:
        """How many of `operations` were sent, from the first."""
        count = count_within_limit(operations, OPERATIONS_PER_MESSAGE_MAX)
        message = (MESSAGE_VERSION, self.engine.boot, first, operations[:count])
        return count if self.engine.send(leader, _encode_forwarded(message)) else 0

    def _give_back(self, orphan: Orphan | None) -> None:
        """Propose what undoes the request of a caller that has gone."""
        if orphan is None:
            return
        if orphan.grant is not None:
            self._propose(Release(orphan.grant.session, orphan.grant.token))
        else:
            sequence = orphan.submission.sequence
            self._propose(Withdraw(self.name, self.engine.boot, sequence))

    def _release_unnamed(self, submission: Submission) -> None:
        """The outcome of `submission` was passed over. If it was a grant that nobody can ask for again, give it back."""
        operation = submission.operation
        if not isinstance(operation, Acquire) or operation.request_id is not None:
            return
        token = self.machine.implicit_hold(operation.session, operation.keys)
        if token is not None:
            self._propose(Release(operation.session, token))

    def _propose(self, operation: Operation) -> asyncio.Future[Outcome | Unknown]:
        """An operation of this node's own: it waits for a leader as long as it takes, and is not refused for overload. Its number
        is bounded all the same: each stems from another submission, at most two from one."""
        submission = Awaited(operation, self._clock_ns())
        self._submissions.number(submission)
        self._schedule_pump()
        return submission.future

    def keep_house(self) -> None:
        """Four times a second: how much comes in, callers that have waited long enough, a leader that made no progress, the passing
        of time."""
        now_ns = self._clock_ns()
        engine = self.engine
        self._note_progress(now_ns)
        books = self._submissions
        self._admission.look(now_ns, settled=books.settled, oldest_ns=books.oldest_ns)
        self._answer_overdue(now_ns)
        self._retry_stalled(now_ns)
        if engine.is_leader:
            self._withdraw_for_the_gone(now_ns)
            engine.wake()
        else:
            self._gone_since_ns.clear()

    def _note_progress(self, now_ns: int) -> None:
        """Under load there is always something that is committed and not yet applied. Whoever has applied by now what was committed
        when we last looked was behind by no more than the time since then."""
        engine, said = self.engine, self.engine.leader_commit_index
        if self._is_caught_up:
            self._caught_up_ns = now_ns
        elif said is not None and self._goal is not None and engine.applied_index >= self._goal[1]:
            self._caught_up_ns = self._goal[0]
        self._goal = None if said is None else (now_ns, said)

    def _on_timer(self) -> None:
        self.keep_house()
        loop = asyncio.get_running_loop()
        self._housekeeping = loop.call_later(TIME_PERIOD_MS / 1000, self._on_timer)

    def _answer_overdue(self, now_ns: int) -> None:
        submissions = self._submissions
        no_leader_ns = now_ns - NO_LEADER_AFTER_MS * 1_000_000
        while submissions.admitted and submissions.admitted[0].admitted_ns <= no_leader_ns:
            refusal = Refused("no_leader", "the cluster has no leader that this node can reach")
            self._answer(submissions.admitted.popleft(), refusal)
        unknown_ns = now_ns - UNKNOWN_AFTER_MS * 1_000_000
        for submission in submissions.outstanding.values():
            if submission.admitted_ns <= unknown_ns:
                self._answer(submission, Unknown("not decided in time; ask again"))
                submission.abandoned = True
        for submission in submissions.waiting.values():
            operation = submission.operation
            wait_ms = operation.wait_ms if isinstance(operation, Acquire) else 0
            overdue = submission.admitted_ns <= unknown_ns - wait_ms * 1_000_000
            if overdue and not submission.abandoned:
                # It stays among the waiting: a grant may stand in the log before the withdrawal, and is given back then.
                self._answer(submission, Unknown("the end of the wait was not decided in time"))
                submission.abandoned = True
                self._give_back(Orphan(submission))

    def _withdraw_for_the_gone(self, now_ns: int) -> None:
        """time 0: a node is killed while a nameless acquire waits there; time 1: the lock is released. Without this it would go
        to a caller that nobody can answer. If the node lives after all, its caller is told, definitely, to ask again."""
        away = self._members.keys() - self.engine.connected_peers - {self.name}
        self._gone_since_ns = {name: self._gone_since_ns.get(name, now_ns) for name in away}
        gone = frozenset(
            name
            for name, since_ns in self._gone_since_ns.items()
            if now_ns - since_ns >= PEER_GONE_MS * 1_000_000
        )
        if not gone or not all(future.done() for future in self._withdrawals):
            return
        attachments = self.machine.nameless_attachments(gone, WITHDRAWALS_PER_ROUND_MAX)
        self._withdrawals = [self._propose(Withdraw(*attachment)) for attachment in attachments]

    def _retry_stalled(self, now_ns: int) -> None:
        """The oldest outstanding operation has been the oldest for a while: what was sent may be lost."""
        oldest = next(iter(self._submissions.outstanding), 0)
        since_ns, oldest_before = self._progress
        if oldest != oldest_before or oldest == 0:
            self._progress = (now_ns, oldest)
        elif now_ns - since_ns >= FORWARD_AGAIN_MS * 1_000_000:
            self._progress = (now_ns, oldest)
            self._submissions.forward_again()
        if self._submissions.admitted or oldest:
            self._schedule_pump()

    @staticmethod
    def _answer(submission: Submission, answer: Outcome | Unknown) -> None:
        if not submission.is_answered:
            submission.answer(answer)


def why_not_readable(payload: bytes, levels: Levels) -> str | None:
    """Why a log entry cannot be applied by a version that knows these levels: a sentence. None: its level is known."""
    level = level_of(payload)
    return None if level is None else levels.why_not(level)
