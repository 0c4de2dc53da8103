"""What the tests of the command share: a way for a child process to say that it has come to some point."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEARD_WITHIN_SECONDS = 20
"""Only a broken test waits this long."""


class Line:
    """A named pipe that children write lines to. `never` is one that nobody ever writes to, for a child that should stand still."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "said"
        self.never = folder / "never"
        os.mkfifo(self.path)
        os.mkfifo(self.never)
        # Both ends are held open, so that neither side ever waits for the other to open it, nor sees the end of the file.
        self._reader = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        self._silence = os.open(self.never, os.O_RDWR | os.O_NONBLOCK)

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._silence)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SAID": str(self.path), "NEVER": str(self.never)}

    async def said(self) -> str:
        """What a child writes next."""
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._reader, lambda: readable.done() or readable.set_result(None))
        try:
            async with asyncio.timeout(HEARD_WITHIN_SECONDS):
                await readable
        finally:
            loop.remove_reader(self._reader)
        return os.read(self._reader, 4096).decode().strip()


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    line = Line(tmp_path)
    yield line
    line.close()
