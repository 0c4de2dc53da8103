"""What the snapshots of pysyncobj do in the same place: why its serializer is replaced whole.

The numbers are those of the audit of pysyncobj 0.3.17. What ours does instead stands in the other modules here, by the
same numbers.
"""

from __future__ import annotations

import gzip
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pysyncobj.pickle as library_pickle
import pysyncobj.syncobj as library
import pytest
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.config import SERIALIZER_STATE
from pysyncobj.serializer import Serializer
from pysyncobj.transport import Transport

from holdfast_coordinator.raft.inmem import MemoryJournal, VirtualClock
from holdfast_coordinator.raft.library import Peer


class _Wire(Transport):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(None, None, [])
        self.sent: list[dict[str, Any]] = []

    def send(self, _node: Peer, message: dict[str, Any]) -> bool:
        self.sent.append(message)
        return True


class _NoPoller:
    def subscribe(self, *_: object) -> None: ...
    def poll(self, _timeout: float) -> None: ...


class Replica(SyncObj):  # type: ignore[misc]
    """A replicated list, in the way of the library's manual."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.applied: list[Any] = []

    @replicated
    def put(self, item: Any) -> None:
        self.applied.append(item)


class Stock:
    """One node of the unmodified library."""

    def __init__(
        self,
        name: str,
        peers: list[str],
        *,
        clock: VirtualClock,
        journal: MemoryJournal,
        **conf: Any,
    ) -> None:
        self.clock = clock
        self.journal = journal
        self.wire = _Wire()
        places = {each: place for place, each in enumerate(sorted([name, *peers]))}
        self.peers = {each: Peer(each, places[each]) for each in peers}
        settings = {"autoTick": False, "commandsWaitLeader": False, "useFork": False} | conf
        create_journal = library.createJournal
        library.createJournal = lambda _path: journal
        try:
            self.raft = Replica(
                Peer(name, places[name]),
                list(self.peers.values()),
                conf=SyncObjConf(**settings),
                transport=self.wire,
            )
        finally:
            library.createJournal = create_journal
        for peer in self.peers.values():
            self.wire._onNodeConnected(peer)

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self.clock.now += 3
            self.raft.doTick(0)

    def put(self, first: int, last: int) -> None:
        for number in range(first, last + 1):
            self.raft.put(number)
        self.tick(4)

    def receive(self, peer: str, **message: Any) -> None:
        self.wire._onMessageReceived(self.peers[peer], {"type": "append_entries", **message})

    @property
    def last_index(self) -> int:
        return self.journal[-1][1]


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stock]:
    clock = VirtualClock()
    monkeypatch.setattr(library, "monotonicTime", clock)
    monkeypatch.setattr(library, "createPoller", lambda _kind: _NoPoller())
    monkeypatch.setattr(library, "PIPE_NOTIFIER_ENABLED", False)
    logging.getLogger("pysyncobj").setLevel(logging.CRITICAL + 1)

    def make(
        name: str = "n1", peers: tuple[str, ...] = (), journal: Any = None, **conf: Any
    ) -> Stock:
        kept = journal if journal is not None else MemoryJournal()
        return Stock(name, list(peers), clock=clock, journal=kept, **conf)

    return make


def dump_of(stock: Callable[..., Stock], path: Path, last: int) -> bytes:
    """The dump of a node that has put the numbers up to `last`."""
    node = stock(fullDumpFile=str(path))
    node.tick(2)
    node.put(1, last)
    node.raft.forceLogCompaction()
    node.tick(2)
    return path.read_bytes()


def test_d1_stock_clears_its_journal_when_it_was_not_cut_to_the_dump(stock, tmp_path) -> None:
    """Time 0: the dump gets its name; time 1: kill -9 before the journal is cut, at a later tick; time 2: a start."""
    path = tmp_path / "dump"
    node = stock(fullDumpFile=str(path))
    node.tick(2)
    node.put(1, 10)
    node.raft.forceLogCompaction()
    node.raft._SyncObj__tryLogCompaction()  # the dump is written and renamed; the journal is cut by the next call
    for number in range(11, 16):
        node.raft.put(number)
    node.raft._checkCommandsToApply()
    node.raft._SyncObj__raftCommitIndex = node.last_index
    node.raft._SyncObj__applyLogEntries()
    assert node.raft.applied[-1] == 15, "acknowledged"
    again = stock(fullDumpFile=str(path), journal=node.journal)
    again.tick(4)
    assert again.raft.applied == list(range(1, 11))


def test_d10_stock_goes_back_below_what_it_has_acknowledged(stock, tmp_path) -> None:
    """A late snapshot of entry 11 reaches a follower that has acknowledged up to 20."""
    dump = dump_of(stock, tmp_path / "leader", 9)
    node = stock("n1", ("n2", "n3"), fullDumpFile=str(tmp_path / "follower"))
    entries = [(b"\x01", index, 1) for index in range(2, 21)]
    node.receive("n2", term=1, commit_index=1, entries=entries, prevLogIdx=1, prevLogTerm=0)
    assert node.last_index == 20
    node.receive("n2", term=1, commit_index=1, serialized=(dump, True, False))
    node.receive("n2", term=1, commit_index=1, serialized=(b"", False, True))
    assert node.last_index < 20


def test_d11_stock_acknowledges_a_snapshot_that_it_could_not_read(stock, tmp_path) -> None:
    """A piece is missing; its own good dump is gone, and the leader hears of success."""
    dump = dump_of(stock, tmp_path / "leader", 9)
    own = tmp_path / "follower"
    own.write_bytes(dump)
    node = stock("n1", ("n2", "n3"), fullDumpFile=str(own))
    node.receive("n2", term=1, commit_index=1, serialized=(dump[:100], True, False))
    node.receive("n2", term=1, commit_index=1, serialized=(dump[140:], False, False))
    node.receive("n2", term=1, commit_index=1, serialized=(b"", False, True))
    assert node.wire.sent[-1]["success"] is True
    assert node.raft.applied == []
    with pytest.raises((OSError, EOFError, ValueError, gzip.zlib.error)), gzip.open(own) as file:
        library_pickle.load(file)


def test_d16_stock_starts_with_an_empty_state_when_its_dump_is_damaged(stock, tmp_path) -> None:
    """... takes part as if nothing were wrong, and has lost what the dump held."""
    path = tmp_path / "dump"
    node = stock(fullDumpFile=str(path))
    node.tick(2)
    node.put(1, 10)
    node.raft.forceLogCompaction()
    node.tick(3)
    path.write_bytes(b"damaged")
    again = stock(fullDumpFile=str(path), journal=node.journal)
    again.tick(4)
    assert again.raft._isLeader()
    assert 1 not in again.raft.applied


def test_d31_stock_clears_its_journal_when_entries_come_back_as_lists(stock, tmp_path) -> None:
    """As every deserializer that is not pickle returns them."""
    journal = MemoryJournal()
    for index in range(1, 22):
        journal.add(b"\x01", index, 1)
    path = tmp_path / "dump"
    path.write_bytes(b"anything")
    second, first = list(journal[1]), list(journal[0])
    node = stock(
        journal=journal,
        fullDumpFile=str(path),
        serializer=lambda _name, _data: None,
        deserializer=lambda _name: (second, first, []),
    )
    node.raft.doTick(0)
    assert len(journal) < 21


def test_d32_stock_replaces_a_good_dump_by_whatever_lies_under_the_temporary_name(tmp_path) -> None:
    """With a serializer of one's own, the rename happens when it returns, written or not."""
    path = tmp_path / "dump"
    path.write_bytes(b"good")
    (tmp_path / "dump.tmp").write_bytes(b"stale")
    serializer = Serializer(
        str(path),
        1024,
        False,
        lambda _name, _data: None,
        None,
        lambda: SERIALIZER_STATE.SERIALIZING,
    )
    serializer.serialize((None, (b"", 2, 1), (b"", 1, 1), set()), 1)
    assert path.read_bytes() == b"stale"


def test_d23_stock_forks_the_process_with_all_its_threads() -> None:
    """The default: what a thread holds at that moment stays locked in the child for ever. Ours starts a new program."""
    assert SyncObjConf().useFork is True
