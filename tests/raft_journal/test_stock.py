"""What the journal of pysyncobj does in the same place, and what ours does instead.

The numbers are those of the audit of pysyncobj 0.3.17 (D5 to D9, D24, D33).
"""

from __future__ import annotations

import inspect
import os
import struct
from pathlib import Path

import pysyncobj.journal
import pytest

from holdfast_coordinator.raft.datadir import DataDirectory
from holdfast_coordinator.raft.errors import JournalError
from holdfast_coordinator.raft.journal import Journal

# The library opens its vote file and never closes it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Interrupted(Exception):
    """The process ends here."""


@pytest.fixture
def stock(tmp_path):
    """Opens the library's own journal, as a restart would, and closes what the test left open."""
    opened = []

    def open_journal() -> pysyncobj.journal.FileJournal:
        opened.append(pysyncobj.journal.FileJournal(str(tmp_path / "stock")))
        return opened[-1]

    yield open_journal
    for journal in opened:
        journal._destroy()


@pytest.fixture
def syncs(monkeypatch):
    """Names every file that is synced."""
    synced: list[str] = []

    def recording(call):
        def record(descriptor: int) -> None:
            synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
            call(descriptor)

        return record

    monkeypatch.setattr(os, "fsync", recording(os.fsync))
    monkeypatch.setattr(os, "fdatasync", recording(os.fdatasync))
    return synced


def test_d5_stock_syncs_nothing(stock, syncs, tmp_path) -> None:
    """An acknowledged entry and a vote are in the page cache only; `flush` (msync) has no caller."""
    journal = stock()
    journal.add(b"acknowledged", 1, 1)
    journal.setCurrentTerm(1, "n2")
    journal.onOneSecondTimer()
    assert syncs == []
    source = inspect.getsource(pysyncobj.journal) + inspect.getsource(pysyncobj.syncobj)
    assert "fsync" not in source
    assert "raftLog.flush" not in source


def test_d5_ours_syncs_the_vote_and_the_log_before_sync_returns(syncs, tmp_path) -> None:
    directory = DataDirectory.open(tmp_path / "n1", cluster="c", node="n1")
    journal = Journal(directory)
    journal.add(b"one", 1, 0)
    journal.sync()
    syncs.clear()
    journal.add(b"acknowledged", 2, 0)
    journal.sync()
    assert syncs == ["journal-00000001.segment"]
    syncs.clear()
    journal.setCurrentTerm(1, "n2")
    journal.add(b"acknowledged", 3, 1)
    journal.sync()
    assert syncs == ["vote", "vote", "journal-00000001.segment"]
    journal._destroy()
    directory.close()


def test_d5_ours_keeps_what_it_acknowledged_when_the_power_fails(store) -> None:
    store.add(b"acknowledged")
    store.journal.sync()
    assert store.power_cut().commands == [b"acknowledged"]


def test_d6_stock_forgets_its_vote_when_the_file_is_empty(stock, tmp_path) -> None:
    """Rename without fsync leaves a file of length 0; the node then votes for n3 in term 7 as well."""
    stock().setCurrentTerm(7, "n2")
    (tmp_path / "stock.meta").write_bytes(b"")
    assert stock().getCurrentTerm() == 0
    assert stock().getVotedForNodeId() is None


def test_d6_ours_does_not_start_without_its_vote(store) -> None:
    store.journal.setCurrentTerm(7, "n2")
    store.journal.sync()
    store.disk.damage(store.path, "vote", b"")
    with pytest.raises(JournalError, match="could vote twice"):
        store.killed()


def test_d7_stock_believes_a_commit_index_beyond_its_log(stock) -> None:
    """The meta file survived the power cut, pages of the log did not: 30 committed, 10 present."""
    journal = stock()
    for index in range(1, 11):
        journal.add(b"x", index, 1)
    journal.setRaftCommitIndex(30)
    journal.onOneSecondTimer()
    assert stock().getRaftCommitIndex() == 30


def test_d7_ours_ends_the_commit_index_with_the_log(big_store) -> None:
    big_store.add(*[b"x"] * 10)
    big_store.journal.setRaftCommitIndex(30)
    big_store.journal.sync()
    assert big_store.power_cut().journal.getRaftCommitIndex() == 10


def test_d8_stock_loses_entries_when_compaction_is_interrupted(stock, monkeypatch) -> None:
    """The log is rewritten in place: 100 entries, killed while 60 of them are put back."""
    journal = stock()
    for index in range(1, 101):
        journal.add(b"x", index, 1)
    add = journal.add

    def interrupted(command: bytes, index: int, term: int) -> None:
        if index == 59:
            raise Interrupted
        add(command, index, term)

    monkeypatch.setattr(journal, "add", interrupted)
    with pytest.raises(Interrupted):
        journal.deleteEntriesTo(40)
    assert stock()[-1][1] == 58


def test_d8_ours_keeps_the_end_of_the_log_wherever_compaction_is_interrupted(store) -> None:
    for index in range(100):
        store.add(b"%d" % index)
        if index % 5 == 0:
            store.journal.sync()
    store.journal.sync()
    tried = 0

    def killed(_) -> None:
        nonlocal tried
        found = store.killed().journal
        assert found[-1] == (b"99", 100, 1)
        assert found[0][1] in (1, 41)
        tried += 1

    store.disk.before = killed
    store.journal.deleteEntriesTo(40)
    store.journal.sync()
    assert tried > 5


def test_d9_stock_serves_a_flipped_bit_and_a_gap(stock, tmp_path) -> None:
    """No checksum, no check of the index, although lookups go by position."""
    journal = stock()
    journal.add(b"pay 100", 1, 1)
    journal.add(b"pay 100", 3, 1)
    path = tmp_path / "stock"
    path.write_bytes(path.read_bytes().replace(b"pay 100", b"pay 900", 1))
    assert stock()[:] == [(b"pay 900", 1, 1), (b"pay 100", 3, 1)]


def test_d9_ours_refuses_both(store) -> None:
    store.add(b"pay 100")
    with pytest.raises(JournalError, match="cannot follow"):
        store.journal.add(b"pay 100", 3, 1)
    store.journal._destroy()
    name = "journal-00000001.segment"
    data = store.disk.contents(store.path, name)
    store.disk.damage(store.path, name, data.replace(b"pay 100", b"pay 900"))
    with pytest.raises(JournalError, match="checksum of entry 1 is wrong"):
        store.killed()


def test_d24_stock_promises_space_that_the_disk_may_not_have(tmp_path) -> None:
    """Its file is longer than what is reserved for it. Writing to a mapped page that the disk has no room for is SIGBUS."""
    file = pysyncobj.journal.ResizableFile(str(tmp_path / "stock"), defaultContent=b"header")
    file.write(1 << 20, b"one entry")
    found = (tmp_path / "stock").stat()
    file._destroy()
    assert found.st_size > 1 << 20
    assert found.st_blocks * 512 < found.st_size // 2


def test_d24_ours_has_the_space_before_it_writes(tmp_path) -> None:
    """A full disk is an error of the call that reserves it, with nothing half done."""
    directory = DataDirectory.open(tmp_path / "n1", cluster="c", node="n1")
    journal = Journal(directory, reserve_bytes=1 << 20)
    journal.add(b"one entry", 1, 0)
    journal.sync()
    found = next((tmp_path / "n1").glob("*.segment")).stat()
    assert found.st_size == 1 << 20
    assert found.st_blocks * 512 >= found.st_size
    journal._destroy()
    directory.close()


def test_d24_stock_differs_from_its_disk_from_4_gib_on(stock, monkeypatch) -> None:
    """The offset of the end has 32 bits, and is written after the entry is in memory."""
    journal = stock()
    journal.add(b"x", 1, 0)
    monkeypatch.setattr(
        journal, "_FileJournal__journalFile", _Sparse(journal._FileJournal__journalFile)
    )
    journal._FileJournal__currentOffset = (1 << 32) - 10
    with pytest.raises(struct.error):
        journal.add(b"y", 2, 0)
    assert journal[-1][1] == 2, "memory has it"
    assert stock()[-1][1] == 1, "the disk does not"


class _Sparse:
    """The journal's file, but what is written at its far end is not kept: nobody has 4 GiB for a test."""

    def __init__(self, file) -> None:
        self._file = file

    def write(self, offset, values) -> None:
        if offset < 1 << 20:
            self._file.write(offset, values)

    def _destroy(self) -> None:
        self._file._destroy()


def test_d33_stock_starts_from_commit_index_one_when_killed_within_a_second(stock) -> None:
    """The first tick of a leader then walks the whole log."""
    journal = stock()
    for index in range(1, 1001):
        journal.add(b"x", index, 1)
    journal.setRaftCommitIndex(990)
    assert stock().getRaftCommitIndex() == 1


def test_d33_ours_is_one_group_behind_at_most(big_store) -> None:
    for index in range(1, 101):
        big_store.add(*[b"x"] * 10)
        big_store.journal.sync()
        big_store.journal.setRaftCommitIndex(index * 10)
    assert big_store.killed().journal.getRaftCommitIndex() == 990
