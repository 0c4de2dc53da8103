"""A file system of its own for the data of one node, so small that it can be filled. Needs root (a tmpfs is mounted)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from holdfast_jepsen.live.network import Unavailable

if TYPE_CHECKING:
    from pathlib import Path

DISK_MIB: Final = 48
"""Room for some reservations of the journal (4 MiB) and for snapshots: enough for a run, and filled in a moment."""
PIECE: Final = bytes(1 << 20)


class SmallDisk:
    """`async with SmallDisk(directory)` mounts it there."""

    def __init__(self, where: Path) -> None:
        self.where = where

    async def __aenter__(self) -> SmallDisk:
        self.where.mkdir(parents=True, exist_ok=True)
        options = f"size={DISK_MIB}m,mode=700"
        await _run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.where))
        return self

    async def __aexit__(self, *_: object) -> None:
        await _run("umount", "--lazy", str(self.where))

    def fill(self) -> None:
        """Not a byte is left."""
        with (self.where / "ballast").open("wb", buffering=0) as ballast:
            try:
                while ballast.write(PIECE) == len(PIECE):
                    pass
            except OSError:
                return  # that it is full is what was asked for

    def make_room(self) -> None:
        """As before."""
        (self.where / "ballast").unlink(missing_ok=True)


async def _run(*words: str) -> None:
    process = await asyncio.create_subprocess_exec(*words, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    if process.returncode != 0:
        raise Unavailable(f"`{' '.join(words)}`: {said.decode().strip()}")
