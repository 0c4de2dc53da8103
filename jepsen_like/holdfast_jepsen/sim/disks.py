"""What disks do wrong, on the memory disk of one server: errors of single calls, a full disk, and decay.

Rule: an error is what the call answers, and it is counted when it was answered; decay happens while nobody runs. What the
product has to do is in DESIGN (it stops itself, with a sentence); who starts it again is the nemesis.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from holdfast_coordinator.raft.memory_disk import MemoryDisk, Write

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_coordinator.raft.memory_disk import Effect, Step
    from holdfast_jepsen.sim.rng import Rng

WRITES = ("write", "reserve", "create")
SYNCS = ("sync", "sync directory")
STEPS = (*WRITES, *SYNCS, "rename", "remove")


class DiskError:
    """One call of these kinds fails, or every one until it is lifted (a full disk). `on_fire`: told of the first that did."""

    def __init__(
        self,
        calls: tuple[str, ...],
        number: int,
        *,
        once: bool,
        on_fire: Callable[[], None],
        spares: int = 0,
    ) -> None:
        self._calls = calls
        self._spares = spares
        """So many calls go well before that."""
        self._number = number
        self._once = once
        self._on_fire = on_fire
        self._has_fired = False

    def before(self, step: Step) -> None:
        """Ahead of a step on the disk. Raises OSError."""
        if step.call not in self._calls or (self._once and self._has_fired):
            return
        if self._spares:
            self._spares -= 1
            return
        if not self._has_fired:
            self._has_fired = True
            self._on_fire()
        raise OSError(self._number, os.strerror(self._number))


def full(on_fire: Callable[[], None]) -> DiskError:
    """No space is left, until some is made."""
    return DiskError(WRITES, errno.ENOSPC, once=False, on_fire=on_fire)


def failing_write(on_fire: Callable[[], None]) -> DiskError:
    """The next write fails."""
    return DiskError(("write",), errno.EIO, once=True, on_fire=on_fire)


def failing_sync(on_fire: Callable[[], None]) -> DiskError:
    """The next sync fails, and what it should have written is lost."""
    return DiskError(SYNCS, errno.EIO, once=True, on_fire=on_fire)


def crash(step: int, die: Callable[[], None]) -> DiskError:
    """No error, but an end: ahead of its so manieth step from now the process comes to `die`, which raises Crashed."""
    return DiskError(STEPS, errno.EIO, once=True, on_fire=die, spares=step - 1)


def survivors(unsynced: list[Effect], rng: Rng) -> list[Effect]:
    """What a power loss leaves of what was not synced: any subset; of some files nothing; some writes torn."""
    keep = rng.choice((0.0, 0.5, 0.9))
    spared: dict[int, bool] = {}
    by_file = rng.chance(0.3)
    left: list[Effect] = []
    for effect in unsynced:
        inode = getattr(effect, "inode", 0)
        if by_file and not spared.setdefault(inode, rng.chance(0.5)):
            continue
        if not by_file and not rng.chance(keep):
            continue
        if isinstance(effect, Write) and len(effect.data) > 1 and rng.chance(0.2):
            cut = 1 + rng.below(len(effect.data) - 1)
            effect = Write(effect.inode, effect.offset, effect.data[:cut])  # noqa: PLW2901 - torn
        left.append(effect)
    return left


def decay(disk: MemoryDisk, rng: Rng, *, truncate: bool) -> str:
    """One bit of one file flips, or a file ends early. What was hit, or nothing where there is nothing to hit."""
    files = [
        (path, name)
        for path, names in sorted(disk._seen.names.items())
        for name in sorted(names)
        if disk._seen.bytes[names[name]]
    ]
    if not files:
        return ""
    path, name = rng.choice(files)
    data = bytearray(disk.contents(path, name))
    at = rng.below(len(data))
    if truncate:
        del data[at:]
    else:
        data[at] ^= 1 << rng.below(8)
    disk.damage(path, name, bytes(data))
    return f"{name} at {at}"
