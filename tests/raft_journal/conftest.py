"""A node's journal on a disk in memory, small enough that every power cut can be tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast_coordinator.raft.datadir import DataDirectory
from holdfast_coordinator.raft.journal import Journal
from holdfast_coordinator.raft.memory_disk import MemoryDisk

PATH = Path("/data/n1")
SEGMENT_BYTES = 400  # a handful of small entries fill a segment
RESERVE_BYTES = 128


class Store:
    """One life of a node: its disk, its data directory, its journal."""

    path = PATH
    reserve_bytes = RESERVE_BYTES

    def __init__(self, disk: MemoryDisk | None = None, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.disk = disk or MemoryDisk()
        self.segment_bytes = segment_bytes
        self.directory = DataDirectory.open(
            PATH, cluster="c", node="n1", disk=self.disk, new_id=lambda length: "5a" * length
        )
        try:
            self.journal = self.open_journal()
        except BaseException:
            self.directory.close()
            raise

    def open_journal(self) -> Journal:
        return Journal(
            self.directory, segment_bytes=self.segment_bytes, reserve_bytes=self.reserve_bytes
        )

    def again(self, disk: MemoryDisk) -> Store:
        """The next life, on what is left."""
        return Store(disk, self.segment_bytes)

    def killed(self) -> Store:
        return self.again(self.disk.after_kill())

    def power_cut(self) -> Store:
        """Everything that was not synced is gone."""
        return self.again(self.disk.after_power_cut())

    def names(self) -> list[str]:
        return self.directory.files.names()

    def add(self, *commands: bytes, term: int = 1) -> None:
        for command in commands:
            index = self.journal[-1][1] + 1 if len(self.journal) else 1
            self.journal.add(command, index, term)

    @property
    def commands(self) -> list[bytes]:
        return [command for command, _, _ in self.journal[:]]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def big_store() -> Store:
    """Everything fits into one segment."""
    return Store(segment_bytes=1 << 20)
