"""All contenders of one run: their servers, their load processes, and orders to them one at a time.

    async with Field(["holdfast", "etcd"], directory) as field:
        window = await field.order("etcd", do="cycles", workers=64, ...)

Rule: whoever is missing is in `field.facts`, with how to install it, and so is every order that had to be given twice. All servers
run all the time, and only one has a load: the others cost what they cost when idle, and cost it everybody alike.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from measuring import FOLDER, say
from peers import CONTENDERS, Server, contender, make_server

ORDER_SECONDS_MAX = 300.0
"""On top of what was ordered: no load process is waited for without an end."""
HELD_SECONDS_MAX = 12.0
"""After its client is gone a lock of any contender is free within 10 s (TTL, lease, session timeout), and some to notice it."""
JIT_SECONDS = 20.0
"""Java compiles what is used often. ZooKeeper's rate rises for that long under load, and it gets it from each of its clients."""
WARM_UP_SECONDS = 3.0
QUICK_WARM_UP_SECONDS = 1.5


class Field:
    """See the module. `names`: those who are there, in the order that was asked for; `servers` by module name."""

    def __init__(self, names: Sequence[str], directory: Path) -> None:
        self.names: list[str] = []
        self.servers: dict[str, Server] = {}
        self._missing: dict[str, str] = {}
        self._retried: list[str] = []
        self._wanted = names
        self._root = directory
        self._loaders: dict[str, asyncio.subprocess.Process] = {}
        self._stack = AsyncExitStack()
        self.directory = directory

    async def __aenter__(self) -> Self:
        self._root.mkdir(parents=True, exist_ok=True)
        self.directory = Path(tempfile.mkdtemp(prefix="run-", dir=self._root))
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        try:
            for name in self._wanted:
                await self._add(name)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            for name in list(self._loaders):
                await self._end_loader(name)
        finally:
            await self._stack.aclose()

    async def _add(self, name: str) -> None:
        module = contender(name).server
        if module not in self.servers:
            server = make_server(module)
            why = server.missing()
            if why is None:
                say(f"starting {server.title}")
                folder = self.directory / module
                folder.mkdir()
                self._stack.push_async_callback(server.stop)
                await server.start(folder)
                self.servers[module] = server
            else:
                self._missing[name] = why
                say(f"not found: {contender(name).title}: {why}")
                return
        self.names.append(name)

    def server_of(self, name: str) -> Server:
        """The server that a contender uses."""
        return self.servers[contender(name).server]

    @property
    def facts(self) -> dict[str, Any]:
        """What belongs into the result of each measurement: `versions`, `missing`, `retried`."""
        versions = {each.title.partition(",")[0]: each.version() for each in self.servers.values()}
        return {"versions": versions, "missing": self._missing, "retried": self._retried}

    async def warm_up(self, *, quick: bool, workers: int, contended: bool) -> None:
        """A load for everybody before anything is measured."""
        for name in self.names:
            seconds = QUICK_WARM_UP_SECONDS if quick else WARM_UP_SECONDS
            if contender(name).server == "zookeeper" and not quick:
                seconds = JIT_SECONDS
            order = {"workers": workers, "contended": contended, "warm_up": 0.0, "seconds": seconds}
            await self.order(name, do="cycles", **order)

    async def order(self, name: str, *, again: bool = True, **order: Any) -> dict[str, Any]:
        """Have the load process of a contender do one thing. `again`: once more if it could not, for on a machine that is busy with
        other things a lease is lost now and then. Raises RuntimeError."""
        try:
            return await self._order(name, order)
        except RuntimeError as error:
            await self._end_loader(name)
            if not again:
                raise
            say(f"once more, because {error}")
            self._retried.append(str(error))
            # What it held is not released by anybody: it ends by itself.
            await asyncio.sleep(HELD_SECONDS_MAX)
            return await self._order(name, order)

    async def _order(self, name: str, order: dict[str, Any]) -> dict[str, Any]:
        if name not in self._loaders:
            await self._start_loader(name)
        loader = self._loaders[name]
        if loader.stdin is None or loader.stdout is None:
            raise RuntimeError("the load process has no pipes")
        order = {"servers": self.server_of(name).pids, **order}
        loader.stdin.write(json.dumps(order).encode() + b"\n")
        try:
            async with asyncio.timeout(ORDER_SECONDS_MAX + order["seconds"]):
                line = await loader.stdout.readline()
        except TimeoutError:
            raise RuntimeError(f"{name}: no answer to {order['do']}") from None
        answer: dict[str, Any] = json.loads(line or b'{"failed": "the load process ended"}')
        if "failed" in answer:
            raise RuntimeError(f"{name}: {answer['failed']}")
        return answer

    async def _start_loader(self, name: str) -> None:
        loader = await asyncio.create_subprocess_exec(
            sys.executable,
            FOLDER / "peers" / "loader.py",
            name,
            json.dumps(self.server_of(name).address),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._loaders[name] = loader

    async def _end_loader(self, name: str) -> None:
        loader = self._loaders.pop(name, None)
        if loader is not None:
            if loader.returncode is None:
                loader.kill()
            await loader.wait()


def names_of(chosen: str | None) -> list[str]:
    """What `--peers` says; Holdfast is always among them. Raises SystemExit for a name that there is not."""
    known = [each.name for each in CONTENDERS]
    if chosen is None:
        return known
    asked = [each for each in chosen.split(",") if each]
    for each in asked:
        if each not in known:
            raise SystemExit(f"there is no peer {each!r}; there are {', '.join(known)}")
    return ["holdfast", *(each for each in asked if each != "holdfast")]
