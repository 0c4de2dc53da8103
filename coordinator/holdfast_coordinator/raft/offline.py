"""A journal looked at from outside: judged exactly as a start would judge it, and nothing on the disk changed.

The rule: the journal's own code opens a copy of the files in memory. So what this calls whole, a node starts
on; what it refuses, a node refuses with the same sentence; and what a start repairs (a torn tail) is
repaired in the copy only. A node may be running: what it writes meanwhile may look like a torn tail.

It does not know what an entry of the host means.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast_coordinator.raft.datadir import (
    BOOT_NAME,
    IDENTITY_NAME,
    DataDirectory,
    parse_boots,
)
from holdfast_coordinator.raft.errors import JournalError
from holdfast_coordinator.raft.journal import Journal, _segment_number
from holdfast_coordinator.raft.vote import VOTE_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast_coordinator.raft.disk import File
    from holdfast_coordinator.raft.segments import Entry


@dataclass(frozen=True, slots=True)
class Found:
    """What the files of a journal say. `torn_bytes`: of a last group whose sync never returned; a start drops
    them, and nobody was promised anything about them."""

    cluster: str
    node: str
    directory_id: str
    boots: int
    term: int
    vote: str | None
    segments: int
    first_index: int
    last_index: int
    commit_index: int
    torn_bytes: int
    entries: tuple[Entry, ...]


def inspect(path: Path) -> Found:
    """Read the journal in data directory `path`. Raises JournalError with the sentence of a start."""
    try:
        identity = json.loads((path / IDENTITY_NAME).read_bytes())
        cluster, node, directory_id = (str(identity[key]) for key in ("cluster", "node", "id"))
        boots = parse_boots((path / BOOT_NAME).read_bytes())
        if boots is None:
            raise ValueError(f"{BOOT_NAME} is damaged")
        files = _Copy(path)
    except FileNotFoundError as error:
        raise JournalError(
            f"{path} is not the data directory of a node: {error.filename} is missing"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JournalError(f"{path} cannot be read: {error}") from error
    numbers = [name for name in files.names() if _segment_number(name)]
    if not numbers:
        raise JournalError(f"{path} holds no journal")
    newest = files.files[numbers[-1]]
    written = len(newest.read(0, newest.size()).rstrip(b"\0"))
    journal = Journal(DataDirectory(files, cluster, node, directory_id, boots))
    entries = tuple(journal[:])
    return Found(
        cluster=cluster,
        node=node,
        directory_id=directory_id,
        boots=boots,
        term=journal.getCurrentTerm(),
        vote=journal.getVotedForNodeId(),
        segments=len(numbers),
        first_index=entries[0][1] if entries else 0,
        last_index=entries[-1][1] if entries else 0,
        commit_index=journal.getRaftCommitIndex(),
        torn_bytes=max(written - journal._offset, 0) if journal._is_torn else 0,
        entries=entries,
    )


class _Copy:
    """A directory in memory that begins as the journal's files on disk; fulfils `disk.Directory`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, _CopiedFile] = {}
        # The vote first: it names the newest segment there was, so a later copy has that one too.
        names = sorted((each.name for each in path.iterdir()), key=lambda name: name != VOTE_NAME)
        for name in names:
            if name == VOTE_NAME or _segment_number(name):
                self.files[name] = _CopiedFile(name, (path / name).read_bytes())

    def names(self) -> list[str]:
        return sorted(self.files)

    def create(self, name: str) -> File:
        self.files[name] = _CopiedFile(name, b"")
        return self.files[name]

    def open(self, name: str) -> File:
        return self.files[name]

    def rename(self, old: str, new: str) -> None:
        self.files[new] = self.files.pop(old)

    def remove(self, name: str) -> None:
        del self.files[name]

    def sync(self) -> None: ...
    def lock(self, name: str, holder: str) -> None: ...
    def close(self) -> None: ...


class _CopiedFile:
    """Fulfils `disk.File`."""

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self._data = bytearray(data)

    def size(self) -> int:
        return len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self._data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self._data[offset : offset + len(data)] = data

    def reserve(self, size: int) -> None: ...

    def sync(self) -> None: ...
    def close(self) -> None: ...
