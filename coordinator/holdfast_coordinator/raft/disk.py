"""The disk as a small port: what the journal needs of a directory and of the files in it.

The rule: nothing is durable before `sync` has returned. `File.sync` covers the bytes and the size
of one file; `Directory.sync` covers names (created, renamed, removed). Whoever writes another
adapter (a fault-injecting disk in memory, a simulator) may lose any part of the rest.

It does not know what the files mean. Every method may raise OSError, and none retries.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

DIRECTORY_MODE = 0o700  # entries hold keys, which may be personal data: nobody else's business
FILE_MODE = 0o600
LARGE_BYTES = 1 << 20  # freeing so much takes about as long as starting a thread
ZEROS_CHUNK_BYTES = 1 << 20  # where space cannot be reserved, zeros are written in pieces this long


class Locked(Exception):
    """The directory is locked by another holder; `args[0]` is what that holder wrote about itself."""


class File(Protocol):
    """An open file. Positions are bytes from its beginning."""

    @property
    def name(self) -> str:
        """Its name within the directory."""

    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes; fewer only at the end of the file."""

    def write(self, offset: int, data: bytes) -> None:
        """All of `data`, or an OSError."""

    def reserve(self, size: int) -> None:
        """Make the file at least `size` bytes long, with space behind them; new bytes read as zero. Raises OSError, and then the
        file is as long as it was."""

    def sync(self) -> None:
        """Everything written to this file so far, and its size, is on disk when this returns."""

    def close(self) -> None: ...


class Directory(Protocol):
    """One flat directory of one node."""

    @property
    def path(self) -> Path:
        """Where it is, for messages."""

    def names(self) -> list[str]:
        """The names in it, sorted."""

    def create(self, name: str) -> File:
        """A new empty file; an older one of that name is emptied."""

    def open(self, name: str) -> File: ...

    def rename(self, old: str, new: str) -> None:
        """Atomic, replaces `new`; durable after `sync`."""

    def remove(self, name: str) -> None: ...

    def sync(self) -> None:
        """Every name created, renamed or removed so far is on disk when this returns."""

    def lock(self, name: str, holder: str) -> None:
        """Take the exclusive lock `name` until `close`, and leave `holder` there to be read.

        Raises Locked if another one has it. The lock dies with the process.
        """

    def close(self) -> None: ...


class Disk(Protocol):
    """Gives directories."""

    def directory(self, path: Path) -> Directory:
        """The directory at `path`, created (for its owner only) if it is missing, durably."""


def replace_file(directory: Directory, name: str, data: bytes) -> None:
    """Write the whole of file `name` atomically: after a crash it is the old one or the new one.

    The data is synced under a temporary name first, so a file that bears its final name is whole.
    """
    file = directory.create(name + TEMPORARY_SUFFIX)
    try:
        file.write(0, data)
        file.sync()
    finally:
        file.close()
    directory.rename(name + TEMPORARY_SUFFIX, name)
    directory.sync()


TEMPORARY_SUFFIX = ".tmp"


def read_file(directory: Directory, name: str) -> bytes:
    """The whole of a small file."""
    file = directory.open(name)
    try:
        return file.read(0, file.size())
    finally:
        file.close()


class OsDisk:
    """The real thing."""

    def directory(self, path: Path) -> OsDirectory:
        missing = []
        parent = path
        while not parent.exists():
            missing.append(parent)
            parent = parent.parent
        for each in reversed(missing):
            each.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
            _sync_directory(each.parent)  # or the whole directory could vanish with the power
        return OsDirectory(path)


class OsDirectory:
    """A directory of the operating system."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))

    def names(self) -> list[str]:
        return sorted(entry.name for entry in self.path.iterdir())

    def create(self, name: str) -> OsFile:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        return OsFile(name, os.open(self.path / name, flags, FILE_MODE))

    def open(self, name: str) -> OsFile:
        return OsFile(name, os.open(self.path / name, os.O_RDWR))

    def rename(self, old: str, new: str) -> None:
        (self.path / old).replace(self.path / new)

    def remove(self, name: str) -> None:
        """The name goes now. The space of a large file is given back by another thread, when it closes
        the last descriptor: 64 MiB take ext4 some 40 ms, for which no event loop should stand still."""
        descriptor = os.open(self.path / name, os.O_RDONLY)
        try:
            is_large = os.fstat(descriptor).st_size > LARGE_BYTES
            (self.path / name).unlink()
        except BaseException:
            os.close(descriptor)
            raise
        if is_large:
            threading.Thread(target=os.close, args=(descriptor,), daemon=True).start()
        else:
            os.close(descriptor)

    def sync(self) -> None:
        _sync_directory(self.path)

    def lock(self, name: str, holder: str) -> None:
        descriptor = os.open(self.path / name, os.O_RDWR | os.O_CREAT, FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.pread(descriptor, 64, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise Locked(other) from None
        except OSError:
            os.close(descriptor)
            raise
        self._lock = descriptor
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode("ascii"), 0)

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class OsFile:
    """An open file of the operating system."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self._descriptor = descriptor

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, length: int) -> bytes:
        pieces = []
        while length:
            piece = os.pread(self._descriptor, length, offset)
            if not piece:
                break
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def write(self, offset: int, data: bytes) -> None:
        written = os.pwrite(self._descriptor, data, offset)
        while written < len(data):  # a disk that fills up writes a part first, then says ENOSPC
            written += os.pwrite(self._descriptor, memoryview(data)[written:], offset + written)

    def reserve(self, size: int) -> None:
        present = self.size()
        if present >= size:
            return
        try:
            self._grow(present, size)
        except OSError:
            os.ftruncate(self._descriptor, present)
            raise

    def _grow(self, present: int, size: int) -> None:
        if sys.platform == "darwin":
            zeros = bytes(ZEROS_CHUNK_BYTES)
            for offset in range(present, size, ZEROS_CHUNK_BYTES):
                self.write(offset, zeros[: size - offset])
        else:
            # As fast to sync as zeros that were written (115 and 127 us at the median; an append
            # that grows the file 171 us), and it costs nothing up front.
            os.posix_fallocate(self._descriptor, present, size - present)

    def sync(self) -> None:
        if sys.platform == "darwin":
            fcntl.fcntl(
                self._descriptor, fcntl.F_FULLFSYNC
            )  # fsync alone stops at the drive's cache
        else:
            os.fdatasync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
