"""pysyncobj behind its seams: the one module that imports it.

Rule: nothing here decides. `Raft` is the library's node with the methods replaced that are unsound
or of no use to us; `Port` is its transport and hands everything to the kernel; `check_seams` says
in a sentence when the library is not the one that all this was written against.

pysyncobj keeps its state in name-mangled attributes. They are virtual: `self.__x` inside the
library is `_SyncObj__x`, which a subclass can replace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pysyncobj.syncobj as library
from pysyncobj.node import Node
from pysyncobj.transport import Transport
from pysyncobj.version import VERSION

from holdfast_coordinator.raft.errors import EngineFailure
from holdfast_coordinator.raft.messages import ENTRIES_PER_APPEND_MAX, ENTRY_OWN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LIBRARY_VERSION = "0.3.17"

FOLLOWER, CANDIDATE, LEADER = 0, 1, 2
"""pysyncobj's names for what a node is."""

NEVER = 10**9
"""Seconds or entries after which compaction would begin; it never does, see `Raft`."""

MODULE_SEAMS = (
    "createJournal",
    "createPoller",
    "monotonicTime",
    "PIPE_NOTIFIER_ENABLED",
    "SyncObjConf",
)
METHOD_SEAMS = (
    "_SyncObj__applyLogEntries",
    "_SyncObj__connectedToAnyone",
    "_SyncObj__doApplyCommand",
    "_SyncObj__generateRaftTimeout",
    "_SyncObj__getEntries",
    "_SyncObj__loadDumpFile",
    "_SyncObj__onBecomeLeader",
    "_SyncObj__sendAppendEntries",
    "_SyncObj__tryLogCompaction",
    "_applyCommand",
    "_checkCommandsToApply",
    "doTick",
)
ATTRIBUTE_SEAMS = (
    "_SyncObj__connectedNodes",
    "_SyncObj__lastResponseTime",
    "_SyncObj__newAppendEntriesTime",
    "_SyncObj__numOneSecondDumps",
    "_SyncObj__raftCommitIndex",
    "_SyncObj__raftCurrentTerm",
    "_SyncObj__raftElectionDeadline",
    "_SyncObj__raftLastApplied",
    "_SyncObj__raftLeader",
    "_SyncObj__raftLog",
    "_SyncObj__raftMatchIndex",
    "_SyncObj__raftNextIndex",
    "_SyncObj__raftState",
    "_SyncObj__serializer",
)


def check_seams() -> None:
    """Raise `EngineFailure` unless pysyncobj is the version, and has the insides, that are used."""
    if VERSION != LIBRARY_VERSION:
        raise EngineFailure(
            f"pysyncobj {VERSION} is installed, but the engine needs exactly {LIBRARY_VERSION}; "
            f"install pysyncobj=={LIBRARY_VERSION}"
        )
    missing = [name for name in MODULE_SEAMS if not hasattr(library, name)]
    missing += [name for name in METHOD_SEAMS if not hasattr(library.SyncObj, name)]
    _refuse_missing(missing)


def _refuse_missing(missing: Sequence[str]) -> None:
    if missing:
        raise EngineFailure(
            f"pysyncobj {VERSION} lacks {', '.join(missing)}, which the engine relies on; "
            f"install an unchanged pysyncobj=={LIBRARY_VERSION}"
        )


class Owner(Protocol):
    """What the kernel does for the library."""

    def library_sends(self, peer: str, message: dict[str, Any]) -> None: ...
    def election_timeout(self) -> float: ...
    def became_leader(self) -> None: ...
    def propose(self) -> None: ...
    def apply_committed(self) -> bool: ...


class Peer(Node):  # type: ignore[misc]  # pysyncobj ships no types
    """A node whose hash is its place in the sorted cluster: sets of nodes keep one order in every
    process, whatever PYTHONHASHSEED says."""

    def __init__(self, name: str, place: int) -> None:
        super().__init__(name)
        self._place = place

    def __hash__(self) -> int:
        return self._place


class Port(Transport):  # type: ignore[misc]  # pysyncobj ships no types
    """pysyncobj's transport: all it says goes to the kernel."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(None, None, [])
        self._owner = owner

    def send(self, node: Peer, message: dict[str, Any]) -> bool:
        self._owner.library_sends(node.id, message)
        return True

    def deliver(self, node: Peer, message: dict[str, Any]) -> None:
        """Give the library a message that the shield has let through."""
        self._onMessageReceived(node, message)

    def connected(self, node: Peer) -> None:
        self._onNodeConnected(node)

    def disconnected(self, node: Peer) -> None:
        self._onNodeDisconnected(node)


class _NoPoller:
    """The driver reads sockets itself."""

    def subscribe(self, *_: object) -> None: ...
    def unsubscribe(self, *_: object) -> None: ...
    def poll(self, _timeout: float) -> None: ...


class _NoSnapshots:
    """Stands for the library's serializer, whole: it would pickle, and it clears journals (D1). It never
    has anything to send; the library then says so to the peer, which the kernel takes as the sign that
    the peer needs a snapshot."""

    def checkSerializing(self) -> tuple[int, None]:
        return 0, None

    def cancelTransmisstion(self, _node: object) -> None: ...
    def getTransmissionData(self, _node: object) -> None: ...


class Raft(library.SyncObj):  # type: ignore[misc]  # pysyncobj ships no types
    """The library's node. Make it with `open_raft`."""

    def __init__(self, owner: Owner, node: Peer, peers: Sequence[Peer], conf: Any) -> None:
        self._owner = owner
        super().__init__(node, peers, conf=conf, transport=Port(owner))
        _refuse_missing([name for name in ATTRIBUTE_SEAMS if not hasattr(self, name)])
        self._SyncObj__serializer = _NoSnapshots()
        # Entries that a journal says are committed, but does not have, would be committed again
        # by this node alone, as a leader (D7).
        raft: Any = self
        raft._SyncObj__raftCommitIndex = min(
            raft._SyncObj__raftCommitIndex, raft._SyncObj__raftLog[-1][1]
        )
        # The driver has a timer of its own; the library's would catch up one call a tick after a
        # suspend of hours.
        self._SyncObj__numOneSecondDumps = float("inf")

    def _SyncObj__generateRaftTimeout(self) -> float:
        return self._owner.election_timeout()

    def _SyncObj__onBecomeLeader(self) -> None:
        super()._SyncObj__onBecomeLeader()
        self._owner.became_leader()

    def _checkCommandsToApply(self) -> None:
        """Stamp and append in one step (D35): the library's queue would forward what is stale."""
        self._owner.propose()

    def _SyncObj__applyLogEntries(self) -> bool:
        """Each entry once, whatever its apply does (D12, D13): the library counts an entry as
        applied only afterwards, so that an exception makes it apply the entry again."""
        return self._owner.apply_committed()

    def _SyncObj__doApplyCommand(self, command: bytes) -> None:
        raise EngineFailure("pysyncobj tried to unpickle a log entry; the engine is misassembled")

    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> None:
        raise EngineFailure("pysyncobj tried to load a dump; the engine is misassembled")

    def _SyncObj__tryLogCompaction(self) -> None:
        """No compaction by the library: see compaction.py."""

    def _applyCommand(self, *_: object) -> None:
        raise EngineFailure("a command was put into pysyncobj's queue; the engine is misassembled")

    def _SyncObj__getEntries(
        self, fromIDx: int | None, count: int | None = None, maxSizeBytes: int | None = None
    ) -> list[tuple[bytes, int, int]]:
        """As the library's, but a batch is bounded in entries, and not cut from a copy of the
        whole rest of the log."""
        if maxSizeBytes is None:
            entries: list[tuple[bytes, int, int]] = super()._SyncObj__getEntries(fromIDx, count)
            return entries
        batch: list[tuple[bytes, int, int]] = []
        size = 0
        for entry in super()._SyncObj__getEntries(fromIDx, count or ENTRIES_PER_APPEND_MAX):
            # Always one, so that the library makes progress; never two that pass the limit, or
            # the batch would be larger than the library's own rule allows.
            batch.append(entry)
            size += len(entry[0])
            if size >= maxSizeBytes:
                break
        return batch

    def continue_from(self, index: int) -> None:
        """The state after entry `index` was given to the host otherwise: from a snapshot (D33)."""
        raft: Any = self
        raft._SyncObj__raftLastApplied = max(raft._SyncObj__raftLastApplied, index)
        raft._SyncObj__raftCommitIndex = max(raft._SyncObj__raftCommitIndex, index)

    def append_own(self, payload: bytes) -> None:
        """Append an entry of the host in the present term. Only for a leader."""
        self.append_command(ENTRY_OWN + payload)

    def append_command(self, command: bytes) -> int:
        """Append an entry of any of our types, and give its index. Only for a leader."""
        log = self._SyncObj__raftLog
        index = int(log[-1][1]) + 1
        log.add(command, index, self._SyncObj__raftCurrentTerm)
        return index


def open_raft(
    owner: Owner,
    *,
    node: str,
    peers: Sequence[str],
    journal: Any,
    clock: Callable[[], float],
    heartbeat_s: float,
    election_s: tuple[float, float],
    append_bytes: int,
) -> tuple[Raft, Port, dict[str, Peer]]:
    """Make the library's node on `journal`. Its constructor has no hooks for these things, so the
    module's names are replaced while it runs."""
    check_seams()
    conf = library.SyncObjConf(
        autoTick=False,
        appendEntriesUseBatch=False,
        appendEntriesPeriod=heartbeat_s,
        raftMinTimeout=election_s[0],
        raftMaxTimeout=election_s[1],
        # A leader that hears no majority for an election time is one no longer (D20).
        leaderFallbackTimeout=election_s[1],
        connectionTimeout=election_s[1],
        appendEntriesBatchSizeBytes=append_bytes,
        commandsWaitLeader=False,
        dynamicMembershipChange=False,
        logCompactionMinEntries=NEVER,
        logCompactionMinTime=NEVER,
    )
    places = {name: place for place, name in enumerate(sorted({node, *peers}))}
    nodes = {name: Peer(name, places[name]) for name in sorted(peers)}
    before = {name: getattr(library, name) for name in MODULE_SEAMS}
    try:
        library.createJournal = lambda _path: journal
        library.createPoller = lambda _kind: _NoPoller()
        library.PIPE_NOTIFIER_ENABLED = False
        library.monotonicTime = clock
        raft = Raft(owner, Peer(node, places[node]), list(nodes.values()), conf)
    finally:
        for name, value in before.items():
            setattr(library, name, value)
    return raft, raft._SyncObj__transport, nodes


def set_clock(clock: Callable[[], float]) -> None:
    """The library reads time through a name in its module, which several kernels in one process
    share (simulators): each sets its own clock before it calls in. One thread, so this is sound."""
    library.monotonicTime = clock
