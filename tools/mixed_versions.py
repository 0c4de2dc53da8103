"""An upgrade from an older checkout to this one, with the real programs of both, node by node, under load.

    git worktree add /tmp/older v0.1.0
    python tools/mixed_versions.py /tmp/older

Three nodes of the older version take snapshots all the time; one client holds a lock throughout, another takes and releases one
as fast as it can. Each node is stopped with SIGTERM and started with this version. Then a node goes back to the older one: if the
format level has risen meanwhile, it must refuse. The dependencies of both versions must be installed in this environment.

One line a step, with the longest time between two grants; the exit code is 0 if the lock was never lost and tokens only rose.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path
from signal import Signals
from typing import Final

import holdfast
from holdfast.clock import BootClock
from holdfast_coordinator.local_cluster import LocalCluster

SETTINGS: Final = "snapshots: {after_entries: 100, keep_entries: 5}"
GRANTS_BETWEEN: Final = 150
"""Before each step: enough entries for a snapshot."""
WITHIN_SECONDS: Final = 120.0


class Mixed(LocalCluster):
    """`older`: the nodes that run the programs of the other checkout."""

    def __init__(self, directory: Path, checkout: Path) -> None:
        super().__init__(directory, settings=SETTINGS)
        self.older = set(self.names)
        self._path = f"{checkout}/client:{checkout}/coordinator"

    async def _spawn(self, name: str, *options: str) -> None:
        """Several at once, so what the variable was before is not read here."""
        if name in self.older:
            os.environ["PYTHONPATH"] = self._path
        else:
            os.environ.pop("PYTHONPATH", None)
        await super()._spawn(name, *options)


class Worker:
    """Takes and releases one lock, and notes tokens and the time between grants."""

    def __init__(self, client: holdfast.AsyncClient) -> None:
        self.tokens: list[int] = []
        self.longest = 0.0
        self._client = client
        self._clock = BootClock()
        self._last = self._clock.now()

    async def work(self) -> None:
        while True:
            try:
                async with self._client.lock("worked", wait=5) as grant:
                    self.tokens.append(grant.token)
                    now = self._clock.now()
                    self.longest, self._last = max(self.longest, now - self._last), now
            except (holdfast.NotAcquired, holdfast.Unreachable, holdfast.UnknownOutcome):
                continue

    async def some_more(self) -> float:
        """The longest time between two grants since the last call."""
        goal = len(self.tokens) + GRANTS_BETWEEN
        async with asyncio.timeout(WITHIN_SECONDS):
            while len(self.tokens) < goal:  # noqa: ASYNC110 - other processes decide
                await asyncio.sleep(0.02)
        longest, self.longest = self.longest, 0.0
        return longest


def say(sentence: str) -> None:
    sys.stdout.write(f"{sentence}\n")
    sys.stdout.flush()


async def upgrade(directory: Path, checkout: Path) -> bool:
    cluster = Mixed(directory, checkout)
    lost: list[holdfast.Grant] = []
    async with (
        cluster,
        holdfast.connect(cluster.endpoints, ttl=20.0, on_lost=lost.append) as client,
        client.lock("held through it all") as grant,
    ):
        worker = Worker(client)
        working = asyncio.ensure_future(worker.work())
        await worker.some_more()
        for name in cluster.names:
            await cluster.kill(name, Signals.SIGTERM)
            cluster.older.discard(name)
            await cluster.start(name)
            gap = await worker.some_more()
            say(f"{name} runs this version; the longest time between two grants was {gap:.2f} s")
        reports = await client.reports()
        levels = [
            r.raw["format_levels"] for r in reports.values() if isinstance(r, holdfast.NodeReport)
        ]
        say(f"format levels: {levels}")
        name = cluster.names[0]
        await cluster.kill(name, Signals.SIGTERM)
        cluster.older.add(name)
        await cluster.start_unready(name)
        if any(each["current"] > 1 for each in levels):
            status = await asyncio.wait_for(cluster.ended(name), WITHIN_SECONDS)
            say(f"{name} went back and ended with {status}: {cluster.log(name).splitlines()[-1]}")
        gap = await worker.some_more()
        say(f"the others go on; the longest time between two grants was {gap:.2f} s")
        working.cancel()
        is_good = not lost and grant.remaining() > 0 and worker.tokens == sorted(set(worker.tokens))
        say(
            "no lock was lost, and tokens only rose"
            if is_good
            else "A LOCK WAS LOST, OR A TOKEN FELL"
        )
        return is_good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("older", type=Path, help="a checkout of the older version")
    options = parser.parse_args()
    os.environ.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory() as directory:
        return 0 if asyncio.run(upgrade(Path(directory), options.older.resolve())) else 1


if __name__ == "__main__":
    sys.exit(main())
