"""Snapshots on disk: the state after one log entry, as one verified file.

The rules:
* A file that bears its final name was whole and synced before it got that name. It is written under a
  name that no other life of this node uses, checked, synced, renamed, and the directory is synced.
* Only the node itself renames. A compactor process (compactor.py) fills a temporary file and reports; if
  it outlives its node, it leaves a temporary file and nothing else (D1, D32).
* A file says what it holds: cluster, last index and term, length, SHA-256. What does not check is
  `Unreadable`, and whoever wanted it decides what that means (recovery.py).

    header   magic, format, flags, length of the cluster's name, last index, last term,
             payload length, SHA-256 of the payload, cluster, padding, crc32c        512 bytes
    payload  bytes of the host                                                     (little-endian)

This module does not know the log, the peers, nor what the payload means.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from crc32c import crc32c

from holdfast_coordinator.raft.disk import TEMPORARY_SUFFIX, Directory, File
from holdfast_coordinator.raft.errors import SnapshotError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FORMAT_VERSION = 1
MAGIC = b"HFSNAPSH"
HEADER_BYTES = 512
PIECE_BYTES = 256 << 10
"""A file is written and hashed in pieces of this size; checking it does not need its size in memory."""
SYNC_BYTES = 512 << 10
"""A file is synced after every so many bytes: many short pauses, no long one. Also for a compactor: the
node's own syncs may have to wait until the file system has written what others left unsynced."""

PREFIX = "snapshot-"
_DIGITS = 20
_HEADER = struct.Struct("<8sIHHQQQ32s")
_CRC = struct.Struct("<I")
_FLAG_INSTALLED = 1


class Unreadable(ValueError):
    """These bytes are not a whole snapshot of this format; str() says what is wrong."""


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """Which state a snapshot holds. Equal on two nodes only if the bytes are."""

    index: int
    """The last log entry that the state contains."""
    term: int
    """The term of that entry."""
    length: int
    digest: bytes


def describe(index: int, term: int, payload: bytes) -> SnapshotInfo:
    """The description of a payload."""
    return SnapshotInfo(index, term, len(payload), hashlib.sha256(payload).digest())


@dataclass(frozen=True, slots=True)
class Header:
    """The first bytes of the file. `installed`: it came from a leader, so the own journal need not
    reach up to it; otherwise it was made of the own journal."""

    info: SnapshotInfo
    cluster: str
    installed: bool


def file_name(index: int) -> str:
    """Sorted by name is sorted by index."""
    return f"{PREFIX}{index:0{_DIGITS}d}"


def index_of(name: str) -> int:
    """0: not a snapshot's final name."""
    digits = name.removeprefix(PREFIX)
    is_number = digits.isascii() and digits.isdigit()
    return int(digits) if is_number and name == file_name(int(digits)) else 0


def encode_header(header: Header) -> bytes:
    """The first HEADER_BYTES of a file."""
    info, cluster = header.info, header.cluster.encode()
    fields = _HEADER.pack(
        MAGIC,
        FORMAT_VERSION,
        _FLAG_INSTALLED if header.installed else 0,
        len(cluster),
        info.index,
        info.term,
        info.length,
        info.digest,
    )
    body = (fields + cluster).ljust(HEADER_BYTES - _CRC.size, b"\0")
    if len(body) != HEADER_BYTES - _CRC.size:
        raise ValueError(f"the cluster's name has {len(cluster)} bytes, which does not fit")
    return body + _CRC.pack(crc32c(body))


def decode_header(data: bytes) -> Header:
    """Raises Unreadable."""
    if len(data) < HEADER_BYTES:
        raise Unreadable(f"only {len(data)} bytes, the header alone has {HEADER_BYTES}")
    body = data[: HEADER_BYTES - _CRC.size]
    magic, version, flags, name_bytes, index, term, length, digest = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise Unreadable("not a holdfast snapshot (foreign magic)")
    if version != FORMAT_VERSION:
        raise Unreadable(
            f"format version {version}, this program reads {FORMAT_VERSION}; if a newer version of "
            "holdfast wrote it, start that one"
        )
    if _CRC.unpack_from(data, len(body))[0] != crc32c(body):
        raise Unreadable("the header's checksum is wrong")
    cluster = body[_HEADER.size : _HEADER.size + name_bytes].decode()
    return Header(SnapshotInfo(index, term, length, digest), cluster, bool(flags & _FLAG_INSTALLED))


class Readable(Protocol):
    """The part of a file that checking it needs."""

    def size(self) -> int: ...
    def read(self, offset: int, length: int) -> bytes: ...


def check_file(file: Readable) -> Header:
    """Read the whole file; its header if everything in it checks. Raises Unreadable, OSError."""
    header = decode_header(file.read(0, HEADER_BYTES))
    size = HEADER_BYTES + header.info.length
    if file.size() != size:
        raise Unreadable(f"{file.size()} bytes, the header says {size}")
    digest = hashlib.sha256()
    for offset in range(HEADER_BYTES, size, PIECE_BYTES):
        digest.update(file.read(offset, min(PIECE_BYTES, size - offset)))
    if digest.digest() != header.info.digest:
        raise Unreadable(
            f"offset {HEADER_BYTES}: the payload does not have the SHA-256 of the header"
        )
    return header


def inspect(path: Path) -> tuple[Header, bytes]:
    """Any file, offline: its header and payload after a check of every byte. Changes nothing.

    Raises Unreadable or OSError.
    """
    file = _ReadOnly(path)
    header = check_file(file)
    return header, file.read(HEADER_BYTES, header.info.length)


class SnapshotWriter:
    """A snapshot that arrives in order, in pieces, under a temporary name."""

    def __init__(self, files: Directory, name: str, header: Header) -> None:
        self.info = header.info
        self.name = name
        self.received = 0
        self._installed = header.installed
        self._files = files
        self._digest = hashlib.sha256()
        self._unsynced = 0
        self._file: File | None = files.create(name)
        self._file.write(0, encode_header(header))

    def write(self, data: bytes) -> None:
        """The next piece. Raises ValueError beyond the length that was announced, OSError."""
        assert self._file is not None  # noqa: S101 - nobody writes after close
        if self.received + len(data) > self.info.length:
            raise ValueError("more bytes than were announced")
        self._file.write(HEADER_BYTES + self.received, data)
        self._digest.update(data)
        self.received += len(data)
        self._unsynced += len(data)
        if self._unsynced >= SYNC_BYTES:
            self._unsynced = 0
            self._file.sync()

    @property
    def is_complete(self) -> bool:
        """All announced bytes are there; `finish` says whether they are the right ones."""
        return self.received == self.info.length

    def finish(self) -> None:
        """Check and sync. Raises Unreadable if this is not what was announced."""
        assert self._file is not None  # noqa: S101 - nobody finishes after close
        if not self.is_complete or self._digest.digest() != self.info.digest:
            raise Unreadable(
                f"{self.received} bytes arrived that are not what was announced "
                f"({self.info.length} bytes of another SHA-256)"
            )
        self._file.sync()
        self.close()

    def close(self) -> None:
        """The temporary file stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def discard(self) -> None:
        """Close, and remove the temporary file."""
        self.close()
        if self.name in self._files.names():
            self._files.remove(self.name)


class SnapshotReader:
    """Pieces of a payload. Works on although the file's name may be gone meanwhile."""

    def __init__(self, info: SnapshotInfo, file: File) -> None:
        self.info = info
        self._file = file

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes of the payload."""
        return self._file.read(HEADER_BYTES + offset, min(length, self.info.length - offset))

    def close(self) -> None:
        """Afterwards nothing can be read."""
        self._file.close()


class SnapshotStore:
    """The snapshots in one data directory. `life` is the boot counter of this life of the node: with
    it, no two lives ever use one temporary name."""

    def __init__(self, files: Directory, *, cluster: str, life: int) -> None:
        self.newest: SnapshotInfo | None = None
        """The one that the journal continues from; set by `use` and `adopt`."""
        self._files = files
        self._cluster = cluster
        self._life = life
        self._temporaries = 0

    def path(self, index: int) -> Path:
        """Where the snapshot is, for messages."""
        return self._files.path / file_name(index)

    def indices(self) -> list[int]:
        """Of the files with a final name, newest first."""
        return sorted(filter(None, map(index_of, self._files.names())), reverse=True)

    def load(self, index: int) -> tuple[Header, bytes]:
        """A whole snapshot, checked. Raises Unreadable, or SnapshotError if the disk refuses."""
        try:
            file = self._files.open(file_name(index))
            try:
                header = check_file(file)
                payload = file.read(HEADER_BYTES, header.info.length)
            finally:
                file.close()
        except OSError as error:
            raise SnapshotError(f"{self.path(index)} cannot be read: {error}") from error
        if header.cluster != self._cluster:
            raise Unreadable(f"it belongs to cluster {header.cluster}, not to {self._cluster}")
        if header.info.index != index:
            raise Unreadable(f"it holds the state at entry {header.info.index}")
        return header, payload

    def open(self, info: SnapshotInfo) -> SnapshotReader:
        """Read it in pieces, unchecked: the receiver of the pieces checks the whole."""
        try:
            return SnapshotReader(info, self._files.open(file_name(info.index)))
        except OSError as error:
            raise SnapshotError(f"{self.path(info.index)} cannot be read: {error}") from error

    def new_temporary_name(self, index: int) -> str:
        """For one writer, this one or a compactor's."""
        self._temporaries += 1
        return f"{file_name(index)}.{self._life}-{self._temporaries}{TEMPORARY_SUFFIX}"

    def receive(self, info: SnapshotInfo) -> SnapshotWriter:
        """Begin to collect a snapshot of a leader."""
        header = Header(info, self._cluster, installed=True)
        return SnapshotWriter(self._files, self.new_temporary_name(info.index), header)

    def payload(self, complete: SnapshotWriter) -> bytes:
        """Of a snapshot that was finished and has no final name yet."""
        try:
            file = self._files.open(complete.name)
            try:
                return file.read(HEADER_BYTES, complete.info.length)
            finally:
                file.close()
        except OSError as error:
            where = self._files.path / complete.name
            raise SnapshotError(f"{where} cannot be read: {error}") from error

    def adopt(self, name: str, info: SnapshotInfo) -> None:
        """Give a finished temporary file its final name, durably. Raises Unreadable if the file is not
        what it should be (nothing has changed), SnapshotError if the disk refuses."""
        try:
            file = self._files.open(name)
            try:
                header = decode_header(file.read(0, HEADER_BYTES))
                size = file.size()
            finally:
                file.close()
            if (header.info, header.cluster) != (info, self._cluster):
                raise Unreadable("another snapshot stands in the file")
            if size != HEADER_BYTES + info.length:
                raise Unreadable(f"{size} bytes, {HEADER_BYTES + info.length} were expected")
            self._files.rename(name, file_name(info.index))
            self._files.sync()
        except OSError as error:
            where = self._files.path / name
            raise SnapshotError(f"snapshot {where} cannot be put in place: {error}") from error
        self.newest = info

    def use(self, info: SnapshotInfo) -> None:
        """The journal continues from this one."""
        self.newest = info

    def drop_older(self) -> None:
        """Remove what the newest one replaces. Not before the journal has been cut, or reset, to it."""
        if self.newest is None:
            return
        self._remove(name for name in self._files.names() if 0 < index_of(name) < self.newest.index)

    def drop_temporaries(self) -> None:
        """Remove what earlier lives left behind. Only at a start: afterwards there are writers."""
        self._remove(
            name
            for name in self._files.names()
            if name.startswith(PREFIX) and name.endswith(TEMPORARY_SUFFIX)
        )

    def remove(self, name: str) -> None:
        """Remove a temporary file that will not be adopted."""
        self._remove(each for each in self._files.names() if each == name)

    def _remove(self, names: Iterator[str]) -> None:
        try:
            for name in list(names):
                self._files.remove(name)
        except OSError as error:
            raise SnapshotError(f"{self._files.path} cannot be tidied: {error}") from error


def write_snapshot(
    files: Directory, name: str, *, cluster: str, index: int, term: int, payload: bytes
) -> SnapshotInfo:
    """Write a whole snapshot of the own journal under a temporary name, sync it, read it back and
    check it. Raises OSError, Unreadable."""
    info = describe(index, term, payload)
    writer = SnapshotWriter(files, name, Header(info, cluster, installed=False))
    view = memoryview(payload)
    for offset in range(0, len(payload), PIECE_BYTES):
        writer.write(bytes(view[offset : offset + PIECE_BYTES]))
    writer.finish()
    file = files.open(name)
    try:
        check_file(file)
    finally:
        file.close()
    return info


class _ReadOnly:
    """Any file, wherever it is; opened anew for each piece, so that there is nothing to close."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def size(self) -> int:
        return self._path.stat().st_size

    def read(self, offset: int, length: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(offset)
            return file.read(length)
