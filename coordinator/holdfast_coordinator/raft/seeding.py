"""A data directory that begins with a given state: what a restore gives each node of a new cluster.

The rules:
* Only an empty directory, under its lock, is written to. `identity.json` comes last: without it no node starts on what is there,
  so a restore that was interrupted leaves nothing that could run.
* The log begins with the end of the state, as after the installation of a leader's snapshot; nothing before it can be asked for.
* The nodes meet as founders do (peers.py): whose directory is whose is settled by all of them before anybody votes, and a
  directory of the cluster before is not among them.

Not known here: what the state means, and where it comes from.
"""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast_coordinator.raft import recovery
from holdfast_coordinator.raft.datadir import (
    ID_BYTES,
    LOCK_NAME,
    DataDirectory,
    lock,
    write_boots,
    write_identity,
)
from holdfast_coordinator.raft.disk import Directory, Disk, OsDisk
from holdfast_coordinator.raft.errors import EngineFailure
from holdfast_coordinator.raft.journal import Journal
from holdfast_coordinator.raft.peers import PeerBook
from holdfast_coordinator.raft.snapshots import PIECE_BYTES, SnapshotInfo, SnapshotStore, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

NOT_OURS = frozenset({LOCK_NAME, "lost+found"})
"""What may be in a directory that counts as empty: our own lock, and what a file system of its own brings along."""


@dataclass(frozen=True, slots=True)
class Seed:
    """The state after entry `index` of `term`, with which a cluster begins."""

    cluster: str
    index: int
    term: int
    payload: bytes


def seed_all(
    seed: Seed,
    directories: Mapping[str, Path],
    members: Sequence[str],
    *,
    disk: Disk | None = None,
    new_id: Callable[[int], str] = secrets.token_hex,
) -> SnapshotInfo:
    """Write the directories of some or all `members`, by name. All are locked and looked at before the first is written to. Raises
    EngineFailure with a sentence."""
    info = describe(seed.index, seed.term, seed.payload)
    with ExitStack() as stack:
        opened: dict[str, Directory] = {}
        for node, path in directories.items():
            opened[node] = _empty_directory(disk or OsDisk(), path)
            stack.callback(opened[node].close)
        for node, files in opened.items():
            try:
                _fill(seed, info, files, node, members, new_id(ID_BYTES))
            except OSError as error:
                raise EngineFailure(
                    f"data directory {files.path} cannot be written ({error}); nothing starts on it. Empty it and "
                    "restore again"
                ) from error
    return info


def _empty_directory(disk: Disk, path: Path) -> Directory:
    try:
        files = disk.directory(path)
    except OSError as error:
        raise EngineFailure(f"data directory {path} cannot be used: {error}") from error
    try:
        lock(files)
        others = sorted(set(files.names()) - NOT_OURS)
        if others:
            raise EngineFailure(
                f"data directory {path} is not empty ({others[0]}); a restore goes into empty ones only. Move the old "
                "one away, and keep it until the restored cluster serves"
            )
    except BaseException:
        files.close()
        raise
    return files


def _fill(
    seed: Seed,
    info: SnapshotInfo,
    files: Directory,
    node: str,
    members: Sequence[str],
    directory_id: str,
) -> None:
    directory = DataDirectory(files, seed.cluster, node, directory_id, boot=0)
    store = SnapshotStore(files, cluster=seed.cluster, life=0)
    writer = store.receive(info)
    view = memoryview(seed.payload)
    for offset in range(0, len(view), PIECE_BYTES):
        writer.write(bytes(view[offset : offset + PIECE_BYTES]))
    writer.finish()
    store.adopt(writer.name, info)
    store.load(info.index)  # read back, and checked
    journal = Journal(directory)
    recovery.reset(journal, info)
    journal._destroy()
    PeerBook.found_from(
        files, node=node, directory=directory_id, members=members, start=info.digest
    )
    write_boots(files, 0)
    write_identity(files, cluster=seed.cluster, node=node, identity=directory_id)
