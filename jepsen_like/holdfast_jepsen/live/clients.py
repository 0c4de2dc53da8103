"""The client processes of a live run: started, paused, killed and replaced, and ended with it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from typing import TYPE_CHECKING

from holdfast_jepsen.history import History
from holdfast_jepsen.live.client import read_histories
from holdfast_jepsen.live.cluster import ends_with_us
from holdfast_jepsen.live.network import Unavailable
from holdfast_jepsen.live.worker import Specification

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from pathlib import Path

END_SECONDS = 10.0
"""For a client to write its last line; then it is killed, and that line is missing."""
WORK_SECONDS = 60.0
"""For all of them to get a first answer: as many interpreters start at once on a small machine."""
LOOK_SECONDS = 0.1
ANSWERED = re.compile(rb'"result": "(ok|held|done)"')


class Clients:
    """See the module. `names` in the order of their places; whoever replaces another has a new name."""

    def __init__(
        self, directory: Path, *, count: int, workload: str, seed: int, urls: list[str], began: int
    ) -> None:
        self.directory = directory
        self._workload = workload
        self._seed = seed
        self._urls = urls
        self._began = began
        self._places: list[Process] = []
        self._count = count
        self._made = 0
        self._files: list[Path] = []
        self.broken: list[str] = []
        """What clients said that ended by themselves: faults of the harness."""

    async def start(self) -> None:
        """All of them. Returns when each has been answered. Raises `Unavailable` if one is not."""
        for _ in range(self._count):
            self._places.append(await self._new())
        for _ in range(int(WORK_SECONDS / LOOK_SECONDS)):
            if all(ANSWERED.search(path.read_bytes()) for path in self._files):
                return
            await asyncio.sleep(LOOK_SECONDS)
        raise Unavailable(
            f"not every client was answered within {WORK_SECONDS:g} s: see {self._log}"
        )

    @property
    def count(self) -> int:
        """Places, each with one client."""
        return len(self._places)

    def pause(self, place: int) -> int:
        """Stop it in the middle of what it does. Returns its process id."""
        with contextlib.suppress(ProcessLookupError):
            self._places[place].send_signal(SIGSTOP)
        return self._places[place].pid

    def resume(self, place: int) -> None:
        """Let it go on, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            self._places[place].send_signal(SIGCONT)

    async def replace(self, place: int) -> bool:
        """kill -9, and another takes its place. False: it was gone already."""
        process = self._places[place]
        was_there = process.returncode is None
        if was_there:
            process.send_signal(SIGKILL)
            await process.wait()
        else:
            self._ended_by_itself(process.returncode)
        self._places[place] = await self._new()
        return was_there

    async def end(self) -> History:
        """End all; what they were told."""
        for process in self._places:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(SIGCONT)
                process.send_signal(SIGTERM)
        for process in self._places:
            try:
                status = await asyncio.wait_for(process.wait(), END_SECONDS)
            except TimeoutError:
                self.broken.append(f"a client did not end within {END_SECONDS:g} s")
                process.kill()
                await process.wait()
            else:
                if status != 0:
                    self._ended_by_itself(status)
        self._places = []
        return read_histories(self._files)

    def _ended_by_itself(self, status: int | None) -> None:
        self.broken.append(f"a client ended with {status}: see {self._log.name}")

    @property
    def _log(self) -> Path:
        return self.directory / "clients.log"

    async def _new(self) -> Process:
        self._made += 1
        name = f"c{self._made}"
        path = self.directory / f"{name}.jsonl"
        path.touch()
        self._files.append(path)
        specification = Specification(
            name, self._seed, self._workload, self._urls, self._began, str(path)
        )
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *ends_with_us(), sys.executable, "-m", "holdfast_jepsen.live.worker", specification.to_json(),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
