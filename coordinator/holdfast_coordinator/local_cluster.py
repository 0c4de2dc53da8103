"""A cluster of real node processes on this machine, for the demo, the benchmarks and the tests.

Rule: every process that was started here is ended here, by its id. Ports are free ones of loopback. It knows the command line of a
node and its HTTP readiness, and nothing of what the nodes do.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import ssl
import sys
from collections.abc import Iterable
from pathlib import Path
from signal import Signals
from types import TracebackType
from typing import Final, Self

import aiohttp

READY_WITHIN_SECONDS: Final = 30.0
"""Three interpreters that start at once on a small machine, and an election."""

POLL_SECONDS: Final = 0.05
STOP_WITHIN_SECONDS: Final = 10.0
PORTS: Final = range(20_000, 32_000)


class LocalClusterError(Exception):
    """A node did not start or did not become ready; the message ends with what it wrote last."""


class LocalCluster:
    """`async with LocalCluster(directory) as cluster:` gives a ready cluster. `directory` receives `cluster.yml`, the data and one
    log file a node. `settings` are more lines for `cluster.yml`."""

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int = 3,
        settings: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`tls`: how to speak to nodes whose `settings` have http_tls."""
        self._tls = tls
        self.directory = directory
        self._settings = settings
        self.names = tuple(f"n{number}" for number in range(1, nodes + 1))
        ports = free_ports(2 * nodes)
        self._http = {name: f"127.0.0.1:{ports.pop()}" for name in self.names}
        self._raft = {name: f"127.0.0.1:{ports.pop()}" for name in self.names}
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    async def __aenter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config_path.write_text(self._config())
        try:
            await self._start(self.names, "--bootstrap")
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def config_path(self) -> Path:
        return self.directory / "cluster.yml"

    @property
    def endpoints(self) -> str:
        return ",".join(self.url(name) for name in self.names)

    @property
    def running(self) -> tuple[str, ...]:
        return tuple(name for name in self.names if name in self._processes)

    def url(self, name: str) -> str:
        return f"{'http' if self._tls is None else 'https'}://{self._http[name]}"

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    async def kill(self, name: str, number: Signals = Signals.SIGKILL) -> None:
        """End one node with a signal and wait until it is gone."""
        process = self._processes.pop(name)
        process.send_signal(number)
        await process.wait()

    async def ended(self, name: str) -> int:
        """Wait until a node ends by itself; its exit code (negative: a signal)."""
        status = await self._processes[name].wait()
        del self._processes[name]
        return status

    def signal(self, name: str, number: Signals) -> None:
        """Send a signal that does not end a node, such as SIGSTOP and SIGCONT."""
        self._processes[name].send_signal(number)

    async def start(self, *names: str) -> None:
        """Start nodes that are not running, and wait until each is ready. (A majority must be running then.)"""
        await self._start(names)

    async def start_unready(self, name: str) -> None:
        """Start a node that may have to wait: for the others, or to be admitted."""
        await self._spawn(name)

    def move(self, name: str, epoch: int) -> None:
        """Write other addresses for a node, which does not run, and this epoch into `cluster.yml`. Nobody is told."""
        http, raft = (f"127.0.0.1:{port}" for port in free_ports(2))
        text = self.config_path.read_text()
        text = text.replace(self._http[name], http).replace(self._raft[name], raft)
        lines = [line for line in text.splitlines() if not line.startswith("epoch:")]
        self.config_path.write_text("\n".join([*lines, f"epoch: {epoch}", ""]))
        self._http[name], self._raft[name] = http, raft

    def log(self, name: str) -> str:
        """What a node has written so far, over all its lives."""
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def data_dir(self, name: str) -> Path:
        return self.directory / "data" / name

    async def _start(self, names: Iterable[str], *options: str) -> None:
        names = tuple(names)
        await asyncio.gather(*(self._spawn(name, *options) for name in names))
        await asyncio.gather(*(self.wait_ready(name) for name in names))

    async def stop(self) -> None:
        """SIGTERM to all, SIGKILL to whoever does not go in time."""
        processes = list(self._processes.values())
        self._processes.clear()
        for process in processes:
            if process.returncode is None:
                process.send_signal(Signals.SIGCONT)
                process.terminate()
        for process in processes:
            try:
                await asyncio.wait_for(process.wait(), STOP_WITHIN_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()

    async def wait_ready(self, name: str) -> None:
        """Returns when `/readyz` answers 200. Raises LocalClusterError if the process ends or takes too long."""
        process = self._processes[name]
        timeout = aiohttp.ClientTimeout(total=2)
        connector = aiohttp.TCPConnector(ssl=True if self._tls is None else self._tls)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http:
            for _ in range(int(READY_WITHIN_SECONDS / POLL_SECONDS)):
                if process.returncode is not None:
                    raise LocalClusterError(f"node {name} ended: {self._last_words(name)}")
                try:
                    async with http.get(f"{self.url(name)}/readyz") as response:
                        if response.status == 200:
                            return
                except (aiohttp.ClientError, TimeoutError):
                    pass  # not listening yet: that is what this loop waits for
                await asyncio.sleep(POLL_SECONDS)
        raise LocalClusterError(f"node {name} is not ready: {self._last_words(name)}")

    def _config(self) -> str:
        lines = [f"cluster: local-{os.urandom(4).hex()}", "data_dir: ./data", "nodes:"]
        lines += [
            f"  - {{name: {name}, http: '{self._http[name]}', raft: '{self._raft[name]}'}}"
            for name in self.names
        ]
        return "\n".join([*lines, self._settings]) + "\n"

    async def _spawn(self, name: str, *options: str) -> None:
        command = ("serve", "--node", name, "--config", str(self.config_path), *options)
        with (self.directory / f"{name}.log").open("ab") as output:
            self._processes[name] = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "holdfast",
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C goes to whoever owns the cluster, which then ends it
            )

    def _last_words(self, name: str) -> str:
        text = (self.directory / f"{name}.log").read_text(errors="replace").strip()
        return text[-500:] or "(it wrote nothing)"


def free_ports(count: int) -> list[int]:
    """Ports of loopback that were free a moment ago, all different, and out of reach of outgoing connections: the system gives
    those ports from 32768 on, also the one of a node that is down for the moment."""
    sockets: list[socket.socket] = []
    try:
        for port in random.SystemRandom().sample(PORTS, len(PORTS)):
            if len(sockets) == count:
                break
            one = socket.socket()
            sockets.append(one)
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                sockets.pop().close()
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
