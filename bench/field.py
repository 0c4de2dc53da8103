"""All contenders of one run: their servers, their load processes, and orders to them one at a time.

    async with Field(["holdfast", "etcd"], directory) as field:
        window = await field.order("etcd", do="cycles", workers=64, ...)

Rule: whoever is missing is in `field.missing`, with how to install it. All servers run all the time, and only one has a load: the
others cost what they cost when idle, and cost it everybody alike.
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


class Field:
    """See the module. `servers` by module name, `addresses` as the load processes know them."""

    def __init__(
        self, names: Sequence[str], directory: Path, settings: dict[str, str] | None = None
    ) -> None:
        """`settings`: lines of cluster.yml for Holdfast's servers, by module name."""
        self.names: list[str] = []
        self.missing: dict[str, str] = {}
        self.servers: dict[str, Server] = {}
        self._wanted = names
        self._root = directory
        self._settings = settings or {}
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
                self.missing[name] = why
                say(f"not found: {contender(name).title}: {why}")
                return
        self.names.append(name)

    def server_of(self, name: str) -> Server:
        """The server that a contender uses."""
        return self.servers[contender(name).server]

    @property
    def versions(self) -> dict[str, str]:
        return {name: server.version() for name, server in self.servers.items()}

    async def order(self, name: str, *, again: bool = True, **order: Any) -> dict[str, Any]:
        """Have the load process of a contender do one thing. `again`: once more if it could not, for on a machine that is busy with
        other things a lease is lost now and then. Raises RuntimeError."""
        try:
            return await self._order(name, order)
        except RuntimeError as error:
            if not again:
                raise
            say(f"once more, because {error}")
            return await self._order(name, order)

    async def _order(self, name: str, order: dict[str, Any]) -> dict[str, Any]:
        if name not in self._loaders:
            await self._start_loader(name)
        loader = self._loaders[name]
        if loader.stdin is None or loader.stdout is None:
            raise RuntimeError("the load process has no pipes")
        order = {"servers": self.server_of(name).pids, **order}
        loader.stdin.write(json.dumps(order).encode() + b"\n")
        async with asyncio.timeout(ORDER_SECONDS_MAX + order["seconds"]):
            line = await loader.stdout.readline()
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

        async def end() -> None:
            if loader.returncode is None:
                loader.kill()
            await loader.wait()

        self._stack.push_async_callback(end)


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
