"""Three nodes of Holdfast, as `holdfast serve` starts them, with their default settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import holdfast
from holdfast_coordinator.local_cluster import LocalCluster


class Server:
    """See `peers.Server`. The address is the list of endpoints as the client takes it."""

    title = "Holdfast, three nodes"

    def __init__(self) -> None:
        self.cluster: LocalCluster | None = None

    def missing(self) -> str | None:
        return None

    async def start(self, directory: Path) -> None:
        cluster = LocalCluster(directory)
        await cluster.__aenter__()
        self.cluster = cluster

    @property
    def running(self) -> LocalCluster:
        if self.cluster is None:
            raise RuntimeError("the cluster was not started")
        return self.cluster

    @property
    def address(self) -> Any:
        return self.running.endpoints

    @property
    def pids(self) -> list[int]:
        return [self.running.pid(name) for name in self.running.running]

    def version(self) -> str:
        return holdfast.__version__

    async def stop(self) -> None:
        if self.cluster is not None:
            await self.cluster.stop()
