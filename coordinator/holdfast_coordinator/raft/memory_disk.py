"""A disk in memory that loses what was not synced: for tests, and for a simulator of whole clusters.

The rule: it may lose more than a real disk would, never less. Every effect (a write, a new size, a name)
is volatile until the matching `sync`; at a power cut any subset of the volatile effects survives, in any
combination, and a write may survive in part. A sync that fails drops what it should have written, as Linux
does, and the next one succeeds without it.

`before` is called ahead of every step and may raise: an OSError to inject a fault, or whatever ends the
test's run there. `after_kill` and `after_power_cut` give a new disk, as the next process would find it.

It does not know what the files mean, and has no randomness of its own.
"""

from __future__ import annotations

import errno
import itertools
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from holdfast_coordinator.raft.disk import Locked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes written to a file."""

    inode: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Resize:
    """A new size of a file; longer: zeros."""

    inode: int
    size: int


@dataclass(frozen=True, slots=True)
class Link:
    """A name in a directory now means this file (created, or renamed from `old`)."""

    path: Path
    name: str
    inode: int
    old: str | None = None


@dataclass(frozen=True, slots=True)
class Unlink:
    """A name has gone."""

    path: Path
    name: str


Effect = Write | Resize | Link | Unlink


@dataclass(frozen=True, slots=True)
class Step:
    """What is about to happen. `call`: create, rename, remove, sync directory, write, reserve, sync."""

    call: str
    name: str


@dataclass(slots=True)
class _State:
    """Names and bytes, either as the process sees them or as they are on the platter."""

    names: dict[Path, dict[str, int]] = field(default_factory=dict)
    bytes: dict[int, bytearray] = field(default_factory=dict)

    def copy(self) -> _State:
        return _State(
            {path: dict(names) for path, names in self.names.items()},
            {inode: bytearray(data) for inode, data in self.bytes.items()},
        )

    def take(self, effect: Effect) -> None:
        match effect:
            case Write(inode, offset, data):
                file = self.bytes.setdefault(inode, bytearray())
                if len(file) < offset:
                    file.extend(bytes(offset - len(file)))
                file[offset : offset + len(data)] = data
            case Resize(inode, size):
                file = self.bytes.setdefault(inode, bytearray())
                del file[size:]
                file.extend(bytes(size - len(file)))
            case Link(path, name, inode, old):
                names = self.names.setdefault(path, {})
                if old is not None and names.get(old) == inode:
                    del names[old]
                names[name] = inode
                self.bytes.setdefault(inode, bytearray())
            case Unlink(path, name):
                self.names.setdefault(path, {}).pop(name, None)


class MemoryDisk:
    """Implements the Disk port."""

    def __init__(self) -> None:
        self.before: Callable[[Step], None] | None = None
        self.unsynced: list[Effect] = []
        """What a power cut may lose, in the order in which it was done."""
        self.steps = 0
        self._seen = _State()
        self._safe = _State()
        self._inodes = 0
        self._locks: dict[tuple[Path, str], str] = {}

    def directory(self, path: Path) -> MemoryDirectory:
        for state in (self._seen, self._safe):
            state.names.setdefault(path, {})
        return MemoryDirectory(self, path)

    # -- what remains ------------------------------------------------------------------------

    def after_kill(self) -> MemoryDisk:
        """The process died, the machine did not: all is there, and as volatile as before."""
        disk = MemoryDisk()
        disk._seen, disk._safe = self._seen.copy(), self._safe.copy()
        disk.unsynced, disk._inodes = list(self.unsynced), self._inodes
        return disk

    def after_power_cut(self, survivors: Iterable[Effect] = ()) -> MemoryDisk:
        """Only what was synced, and `survivors`: effects out of `unsynced`, whole or in part."""
        disk = MemoryDisk()
        disk._safe, disk._inodes = self._safe.copy(), self._inodes
        for effect in survivors:
            disk._safe.take(effect)
        disk._seen = disk._safe.copy()
        return disk

    def power_cuts(self, *, effects_max: int = 6, stride: int = 1) -> Iterator[MemoryDisk]:
        """Every subset of the unsynced effects; and every write of each, torn at every `stride`-th byte
        (its beginning survives, or its end), with all of the others and with none.

        Raises ValueError above `effects_max`: the caller's steps are too coarse to be enumerated.
        """
        effects = self.unsynced
        if len(effects) > effects_max:
            raise ValueError(f"{len(effects)} unsynced effects; {effects_max} can be enumerated")
        for chosen in itertools.product((False, True), repeat=len(effects)):
            yield self.after_power_cut(itertools.compress(effects, chosen))
        for position, effect in enumerate(effects):
            if not isinstance(effect, Write):
                continue
            for torn in _torn(effect, stride):
                yield self.after_power_cut([torn])
                yield self.after_power_cut([*effects[:position], torn, *effects[position + 1 :]])

    # -- direct access, for tests that damage or inspect --------------------------------------

    def contents(self, path: Path, name: str) -> bytes:
        """The file as the process sees it."""
        return bytes(self._seen.bytes[self._seen.names[path][name]])

    def damage(self, path: Path, name: str, data: bytes) -> None:
        """Replace a file's bytes, in the cache and on the platter: decay, or somebody's editor."""
        for state in (self._seen, self._safe):
            state.bytes[state.names[path][name]] = bytearray(data)

    # -- used by directories and files --------------------------------------------------------

    def step(self, call: str, name: str) -> None:
        self.steps += 1
        if self.before is not None:
            self.before(Step(call, name))

    def do(self, effect: Effect) -> None:
        self._seen.take(effect)
        self.unsynced.append(effect)

    def new_inode(self) -> int:
        self._inodes += 1
        return self._inodes

    def settle(self, is_covered: Callable[[Effect], bool], *, is_lost: bool = False) -> None:
        """A sync: the covered effects are safe from now on, or lost for good."""
        if not is_lost:
            for effect in self.unsynced:
                if is_covered(effect):
                    self._safe.take(effect)
        self.unsynced = [effect for effect in self.unsynced if not is_covered(effect)]


def _torn(write: Write, stride: int) -> Iterator[Write]:
    for at in range(stride, len(write.data), stride):
        yield replace(write, data=write.data[:at])
        yield replace(write, offset=write.offset + at, data=write.data[at:])


class MemoryDirectory:
    """Implements the Directory port."""

    def __init__(self, disk: MemoryDisk, path: Path) -> None:
        self.path = path
        self._disk = disk
        self._locked: set[str] = set()

    @property
    def _names(self) -> dict[str, int]:
        return self._disk._seen.names[self.path]

    def names(self) -> list[str]:
        return sorted(self._names)

    def create(self, name: str) -> MemoryFile:
        self._disk.step("create", name)
        inode = self._disk.new_inode()  # also where the name exists: the old bytes may come back
        self._disk.do(Link(self.path, name, inode))
        return MemoryFile(self._disk, name, inode)

    def open(self, name: str) -> MemoryFile:
        if name not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path / name))
        return MemoryFile(self._disk, name, self._names[name])

    def rename(self, old: str, new: str) -> None:
        self._disk.step("rename", new)
        self._disk.do(Link(self.path, new, self._names[old], old))

    def remove(self, name: str) -> None:
        self._disk.step("remove", name)
        self._disk.do(Unlink(self.path, name))

    def sync(self) -> None:
        self._disk.step("sync directory", "")
        self._disk.settle(lambda e: isinstance(e, Link | Unlink) and e.path == self.path)

    def lock(self, name: str, holder: str) -> None:
        if (self.path, name) in self._disk._locks:
            raise Locked(self._disk._locks[self.path, name])
        self._disk._locks[self.path, name] = holder
        self._locked.add(name)

    def close(self) -> None:
        for name in self._locked:
            del self._disk._locks[self.path, name]
        self._locked.clear()


class MemoryFile:
    """Implements the File port."""

    def __init__(self, disk: MemoryDisk, name: str, inode: int) -> None:
        self.name = name
        self._disk = disk
        self._inode = inode

    @property
    def _bytes(self) -> bytearray:
        return self._disk._seen.bytes[self._inode]

    def size(self) -> int:
        return len(self._bytes)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self._bytes[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self._disk.step("write", self.name)
        self._disk.do(Write(self._inode, offset, bytes(data)))

    def reserve(self, size: int) -> None:
        if len(self._bytes) < size:
            self._disk.step("reserve", self.name)
            self._disk.do(Resize(self._inode, size))

    def sync(self) -> None:
        def is_covered(effect: Effect) -> bool:
            return isinstance(effect, Write | Resize) and effect.inode == self._inode

        try:
            self._disk.step("sync", self.name)
        except OSError:
            self._disk.settle(is_covered, is_lost=True)
            raise
        self._disk.settle(is_covered)

    def close(self) -> None:
        """Closing syncs nothing."""
