"""A snapshot's file: what it says of itself, and that no damage to it goes unnoticed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from snapshot_lives import PATH, MemoryDisk

from holdfast_coordinator.raft.errors import SnapshotError
from holdfast_coordinator.raft.memory_disk import MemoryDirectory, Step
from holdfast_coordinator.raft.snapshot_transfer import Receiver
from holdfast_coordinator.raft.snapshots import (
    HEADER_BYTES,
    MAGIC,
    Header,
    SnapshotInfo,
    SnapshotStore,
    Unreadable,
    decode_header,
    describe,
    encode_header,
    file_name,
    index_of,
    inspect,
    write_snapshot,
)

PAYLOAD = b"the state after entry 12"


@pytest.fixture
def files() -> MemoryDirectory:
    return MemoryDisk().directory(PATH)


def store(files: MemoryDirectory) -> SnapshotStore:
    return SnapshotStore(files, cluster="c", life=1)


def write(files: MemoryDirectory, *, index: int = 12, payload: bytes = PAYLOAD) -> SnapshotStore:
    made = store(files)
    name = made.new_temporary_name(index)
    info = write_snapshot(files, name, cluster="c", index=index, term=3, payload=payload)
    made.adopt(name, info)
    return made


def test_what_is_written_is_read_back(files: MemoryDirectory) -> None:
    made = write(files)
    assert made.newest == describe(12, 3, PAYLOAD)
    header, payload = made.load(12)
    assert (header, payload) == (Header(made.newest, "c", installed=False), PAYLOAD)
    assert made.open(made.newest).read(4, 5) == b"state"
    assert files.names() == [file_name(12)]


def test_every_flipped_bit_and_every_missing_end_is_noticed(files: MemoryDirectory) -> None:
    made = write(files)
    disk = files._disk
    whole = disk.contents(PATH, file_name(12))
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :]):
            disk.damage(PATH, file_name(12), damaged)
            with pytest.raises(Unreadable):
                made.load(12)
    disk.damage(PATH, file_name(12), whole + b"\0")
    with pytest.raises(Unreadable, match="the header says"):
        made.load(12)


def test_a_newer_format_and_a_foreign_file_are_named(files: MemoryDirectory) -> None:
    header = encode_header(Header(describe(12, 3, PAYLOAD), "c", installed=True))
    with pytest.raises(Unreadable, match=r"format version 2.*newer version of holdfast"):
        decode_header(MAGIC + b"\2" + header[9:])
    with pytest.raises(Unreadable, match="foreign magic"):
        decode_header(bytes(HEADER_BYTES))
    assert decode_header(header).installed


def test_a_file_under_another_name_or_of_another_cluster_is_not_used(
    files: MemoryDirectory,
) -> None:
    made = write(files)
    files.rename(file_name(12), file_name(13))
    with pytest.raises(Unreadable, match="holds the state at entry 12"):
        made.load(13)
    other = SnapshotStore(files, cluster="d", life=1)
    with pytest.raises(Unreadable, match="belongs to cluster c, not to d"):
        other.load(13)


def test_names_that_are_not_exactly_ours_are_left_alone(files: MemoryDirectory) -> None:
    made = write(files, index=20)
    strangers = ["snapshot-5", "snapshot-notes", "snapshot-0000000000000000000x", "journal-1"]
    for name in strangers:
        assert index_of(name) == 0
        files.create(name)
    made.drop_older()
    made.drop_temporaries()
    assert files.names() == sorted([*strangers, file_name(20)])
    assert made.indices() == [20]


def test_a_temporary_file_that_is_not_the_one_reported_is_not_adopted(
    files: MemoryDirectory,
) -> None:
    made = write(files)
    name = made.new_temporary_name(20)
    info = write_snapshot(files, name, cluster="c", index=20, term=3, payload=PAYLOAD)
    with pytest.raises(Unreadable, match="another snapshot"):
        made.adopt(name, SnapshotInfo(20, 4, info.length, info.digest))
    cut = files.open(name).read(0, HEADER_BYTES + 3)
    files.remove(name)
    files.create(name).write(0, cut)
    with pytest.raises(Unreadable, match="bytes, "):
        made.adopt(name, info)
    assert made.newest == describe(12, 3, PAYLOAD)


@pytest.mark.parametrize("call", ["create", "write", "sync", "rename", "sync directory"])
def test_a_disk_that_refuses_is_a_sentence_and_leaves_the_old_snapshot(
    files: MemoryDirectory, call: str
) -> None:
    """While a leader's snapshot arrives: no space, or an error of the drive."""
    made = write(files)
    receiver = Receiver(made)
    info = describe(30, 5, PAYLOAD)

    def fail(step: Step) -> None:
        if step.call == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    files._disk.before = fail

    def arrive() -> None:
        receiver.offered(info)
        receiver.take(30, 0, PAYLOAD)
        complete = receiver.complete()
        assert complete is not None
        made.adopt(complete.name, info)

    with pytest.raises(SnapshotError, match="No space left"):
        arrive()
    assert made.newest == describe(12, 3, PAYLOAD)
    found = store(files._disk.after_power_cut().directory(PATH))
    assert found.indices() == [12]
    assert found.load(12)[1] == PAYLOAD


def test_inspect_reads_a_file_wherever_it_is(tmp_path: Path) -> None:
    """... and changes nothing; it checks every byte."""
    info = describe(12, 3, PAYLOAD)
    path = tmp_path / "copy of a snapshot"
    path.write_bytes(encode_header(Header(info, "c", installed=True)) + PAYLOAD)
    path.chmod(0o400)
    assert inspect(path) == (Header(info, "c", installed=True), PAYLOAD)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(Unreadable, match="SHA-256"):
        inspect(path)


def test_more_bytes_than_announced_are_not_written(files: MemoryDirectory) -> None:
    receiver = Receiver(store(files))
    receiver.offered(describe(30, 5, b"four"))
    assert receiver.take(30, 0, b"fours") is None
    assert receiver.take(30, 1, b"our") is None
    assert receiver.take(31, 0, b"four") is None
    assert receiver.take(30, 0, b"four") == 4
