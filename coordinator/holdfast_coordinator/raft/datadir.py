"""The data directory of one node: whose it is, that only one process uses it, how often it was started.

The rule: a directory is used only under its lock, by the node and cluster that it was made for. Whatever
does not fit is refused before anything in it is changed.

    lock           flock of the running node; holds its process id
    identity.json  format, cluster, node, and a random id of this very directory; written once
    boot           how many times the directory was opened, and the CRC-32C of that number in hexadecimal; on disk
                   before `open` returns, so that no two lives of a node ever share a number. Without the checksum it
                   was written by hand
    limits         a digest of the limits under which its log was decided (`check_limits`)

It does not know the journal (journal.py), which keeps its own files beside these.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crc32c import crc32c

from holdfast_coordinator.raft.disk import (
    TEMPORARY_SUFFIX,
    Directory,
    Disk,
    Locked,
    OsDisk,
    read_file,
    replace_file,
)
from holdfast_coordinator.raft.errors import EngineFailure

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FORMAT_VERSION = 1
LOCK_NAME = "lock"
IDENTITY_NAME = "identity.json"
BOOT_NAME = "boot"
LIMITS_NAME = "limits"
ID_BYTES = 16  # random: two directories never share an id


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """An open, locked data directory. `close` gives the lock back."""

    files: Directory
    cluster: str
    node: str
    id: str
    """Hexadecimal; new for every directory ever made, so that a lost disk is noticed."""
    boot: int
    """1 at the first opening, one more at every other."""

    @property
    def path(self) -> Path:
        return self.files.path

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        cluster: str,
        node: str,
        disk: Disk | None = None,
        new_id: Callable[[int], str] = secrets.token_hex,
    ) -> DataDirectory:
        """Open (or make) the directory of `node`. Raises EngineFailure with a sentence."""
        try:
            files = (disk or OsDisk()).directory(path)
        except OSError as error:
            raise EngineFailure(f"data directory {path} cannot be used: {error}") from error
        try:
            lock(files)
            identity = _identity(files, cluster=cluster, node=node, new_id=new_id)
            return cls(files, cluster, node, identity, _next_boot(files))
        except OSError as error:
            files.close()
            raise EngineFailure(f"data directory {path} cannot be used: {error}") from error
        except EngineFailure:
            files.close()
            raise

    def close(self) -> None:
        """Give the lock back. Call it after everything that uses the files has been closed."""
        self.files.close()


def lock(files: Directory) -> None:
    """Take the directory for this process. Raises EngineFailure: another one has it."""
    try:
        files.lock(LOCK_NAME, str(os.getpid()))
    except Locked as locked:
        holder = f"pid {locked.args[0]}" if locked.args[0] else "pid unknown"
        raise EngineFailure(
            f"data directory {files.path} is in use by a running node ({holder}); "
            "stop that node first, or give this one a data directory of its own"
        ) from None


def _identity(files: Directory, *, cluster: str, node: str, new_id: Callable[[int], str]) -> str:
    """The id of the directory, after a check that it belongs here; a new directory gets one."""
    names = files.names()
    if IDENTITY_NAME not in names:
        return _first_identity(files, names, cluster=cluster, node=node, new_id=new_id)
    where = files.path / IDENTITY_NAME
    fields: dict[str, object] = {}
    with contextlib.suppress(ValueError):
        decoded = json.loads(read_file(files, IDENTITY_NAME))
        fields = decoded if isinstance(decoded, dict) else {}
    version = fields.get("format")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise EngineFailure(
            f"{where} has format {version}, this program knows formats up to {FORMAT_VERSION}; "
            "start the newer version of holdfast that wrote it"
        )
    identity = fields.get("id")
    known = fields.get("cluster"), fields.get("node")
    if version != FORMAT_VERSION or not isinstance(identity, str) or not _is_id(identity):
        raise EngineFailure(
            f"{where} cannot be read; restore it from a copy of this very directory, "
            "or put this node back as a new one, with an empty data directory"
        )
    if known != (cluster, node):
        raise EngineFailure(
            f"data directory {files.path} belongs to node {known[1]} of cluster {known[0]}, "
            f"not to node {node} of cluster {cluster}; nothing in it was changed"
        )
    return identity


def _is_id(text: str) -> bool:
    return len(text) == 2 * ID_BYTES and all(digit in "0123456789abcdef" for digit in text)


def _first_identity(
    files: Directory,
    names: list[str],
    *,
    cluster: str,
    node: str,
    new_id: Callable[[int], str],
) -> str:
    """Make a new directory ours. `boot` comes first: an identity without it would be a loss."""
    ours = {LOCK_NAME, BOOT_NAME, BOOT_NAME + TEMPORARY_SUFFIX, IDENTITY_NAME + TEMPORARY_SUFFIX}
    if others := [name for name in names if name not in ours and name != "lost+found"]:
        raise EngineFailure(
            f"data directory {files.path} is not empty ({others[0]}) and has no {IDENTITY_NAME}; "
            "name an empty or missing directory, or restore that file"
        )
    identity = new_id(ID_BYTES)
    write_boots(files, 0)
    write_identity(files, cluster=cluster, node=node, identity=identity)
    return identity


def write_identity(files: Directory, *, cluster: str, node: str, identity: str) -> None:
    """The last file of a new directory: with it, a node starts on what is there."""
    fields = {"format": FORMAT_VERSION, "cluster": cluster, "node": node, "id": identity}
    replace_file(files, IDENTITY_NAME, (json.dumps(fields, indent=2) + "\n").encode())


def check_limits(files: Directory, digest: bytes) -> None:
    """Refuse to go on under other limits than the log was decided under; a directory that has none gets these.

    Time 0: a node grants the third hold of a quota of three. Time 1: it starts again under a quota of two, replays its
    journal, and refuses what it had granted; a node with a newer snapshot replays less, and the two are in different states.
    Raises EngineFailure.
    """
    try:
        known = read_file(files, LIMITS_NAME)
    except FileNotFoundError:
        replace_file(files, LIMITS_NAME, digest.hex().encode() + b"\n")
        return
    if known != digest.hex().encode() + b"\n":
        raise EngineFailure(
            f"the log in {files.path} was decided under other `limits` or `quotas` than the configuration has now, and would "
            "be decided otherwise; put the old ones back. To change them, back the cluster up, stop it, and restore it under "
            "the new ones"
        )


def _next_boot(files: Directory) -> int:
    text = b""
    with contextlib.suppress(FileNotFoundError):
        text = read_file(files, BOOT_NAME)
    boots = parse_boots(text)
    if boots is None:
        # Guessing a number would let two lives of this node share one, and the machine would
        # skip, or execute twice, what this node sends.
        raise EngineFailure(
            f"{files.path / BOOT_NAME} cannot be read; write into it a number that is larger than "
            "any boot of this node in its logs, and a line feed"
        )
    write_boots(files, boots + 1)
    return boots + 1


def write_boots(files: Directory, boots: int) -> None:
    """How many times it was opened."""
    number = b"%d" % boots
    replace_file(files, BOOT_NAME, b"%s %08x\n" % (number, crc32c(number)))


def parse_boots(text: bytes) -> int | None:
    """None: the file has been damaged."""
    number, _, checksum = text.removesuffix(b"\n").partition(b" ")
    if not text.endswith(b"\n") or not number.isdigit():
        return None
    return int(number) if checksum in (b"", b"%08x" % crc32c(number)) else None
