"""Real node processes, each in its place of a `Network`, with a configuration file and a disk of its own.

Rule: what runs is `holdfast serve`, as anybody starts it. Only what is around it is ours: the addresses, the place, and, where a
run asks for it, the clock (`live.clock`). A process that was started here is ended here.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

from holdfast_coordinator import config
from holdfast_coordinator.local_cluster import LocalCluster
from holdfast_jepsen.workloads.recorder import session_refs

if TYPE_CHECKING:
    from pathlib import Path

    import aiohttp

    from holdfast_jepsen.live.network import Network

CLUSTER = "jepsen-live"
SECRET = "of a test cluster, and no secret"  # noqa: S105 - the addresses end with the run
SETTINGS = """\
timing: {heartbeat_ms: 100, election_ms_min: 400, election_ms_max: 800}
snapshots: {after_entries: 400, keep_entries: 50}
limits: {ttl_ms_min: 100}
"""
"""Snapshots all the time, and leases as short as those of the simulator."""


class LiveCluster(LocalCluster):
    """`LocalCluster` over a network that can be disturbed. `clocks`: node to (rate, CLOCK_BOOTTIME ahead, wall clock ahead)."""

    def __init__(self, directory: Path, network: Network, *, nodes: int, mutant: str = "") -> None:
        super().__init__(directory, nodes=nodes)
        self._mutant = mutant
        self.network = network
        self.clocks: dict[str, tuple[float, float, float]] = {}
        self._http = {name: network.http(name) for name in self.names}

    def _config_for(self, reader: str) -> str:
        addresses = self.network.addresses(reader)
        lines = [f"cluster: {CLUSTER}", "data_dir: ./data", f"secret: {json.dumps(SECRET)}"]
        # Everybody in the run's own namespaces may call: versions that ask for this sentence know it by this name.
        if (sentence := getattr(config, "INSECURE", None)) is not None:
            lines.append(f"insecure: {json.dumps(sentence)}")
        lines.append("nodes:")
        lines += [
            f"  - {{name: {name}, http: '{http}', raft: '{raft}'}}"
            for name, (http, raft) in addresses.items()
        ]
        return "\n".join([*lines, SETTINGS])

    async def _spawn(self, name: str, *options: str) -> None:
        path = self.directory / f"{name}.yml"
        path.write_text(self._config_for(name))
        program: tuple[str, ...] = (sys.executable, "-m", "holdfast")
        if self._mutant:
            program = (sys.executable, "-m", "holdfast_jepsen.live.mutant", self._mutant)
        elif name in self.clocks:
            clock = map(str, self.clocks[name])
            program = (sys.executable, "-m", "holdfast_jepsen.live.clock", *clock)
        command = (*program, "serve", "--node", name, "--config", str(path), *options)
        with (self.directory / f"{name}.log").open("ab") as output:
            self._processes[name] = await asyncio.create_subprocess_exec(
                *ends_with_us(),
                *self.network.inside(name),
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def is_running(self, name: str) -> bool:
        """Whether its process is there, paused or not."""
        process = self._processes.get(name)
        return process is not None and process.returncode is None

    def forget_ended(self, name: str) -> int | None:
        """The exit code of a node that has ended by itself, once; None: it has not."""
        process = self._processes.get(name)
        if process is None or process.returncode is None:
            return None
        del self._processes[name]
        return process.returncode

    async def status(
        self, name: str, http: aiohttp.ClientSession, **query: str
    ) -> dict[str, Any] | None:
        """What `/v1/cluster` says there; None: it does not answer."""
        return await self.get(name, http, "/v1/cluster", **query)

    async def get(
        self, name: str, http: aiohttp.ClientSession, path: str, **query: str
    ) -> dict[str, Any] | None:
        """An answer of this node; None: it gives none."""
        from aiohttp import ClientError

        try:
            async with http.get(self.url(name) + path, params=query) as response:
                body: dict[str, Any] = await response.json(content_type=None)
                return body if response.status == 200 else None
        except (ClientError, TimeoutError, OSError):
            return None

    async def leader(self, http: aiohttp.ClientSession) -> str | None:
        """Whoever leads in the highest term, as the nodes that answer say."""
        told = await asyncio.gather(
            *(self.status(name, http) for name in self.names if self.is_running(name))
        )
        known = [each for each in told if each is not None and each["leader"] is not None]
        if not known:
            return None
        leader: str = max(known, key=lambda each: each["term"])["leader"]
        return leader


def ends_with_us() -> tuple[str, ...]:
    """What stands before a command so that the kernel kills it when this process is killed (and can end nothing any more)."""
    return ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") is not None else ()


session_ref = session_refs(CLUSTER.encode() + SECRET.encode())
