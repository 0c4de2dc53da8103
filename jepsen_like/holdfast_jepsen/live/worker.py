"""One client of a live run as a process: `python -m holdfast_jepsen.live.worker SPECIFICATION`, a JSON object.

It works until it is told to end (SIGTERM), or killed. It knows its workload, the nodes, and the file of its history.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from holdfast_jepsen.live.client import KeptHistory, LiveClient, RealWorld
from holdfast_jepsen.live.ledger import shop_for
from holdfast_jepsen.sim.rng import Rng
from holdfast_jepsen.workloads import mix as workloads


@dataclass(frozen=True, slots=True)
class Specification:
    """`began_ns`: when the run began, on CLOCK_BOOTTIME."""

    name: str
    seed: int
    workload: str
    urls: list[str]
    began_ns: int
    history: str

    def to_json(self) -> str:
        """For the command line of the process."""
        return json.dumps(asdict(self))


PACE_MS = (5, 100)
"""Thinking and working: real time is dear, so every client is a busy one."""
OVERSTAY = 0.03
"""Fewer than in the simulator, where it costs nothing to wait for a lease."""


def mix_of(workload: str, seed: int) -> workloads.Mix:
    """The same for every process of a run."""
    mix = workloads.make(workload, Rng(seed, "live workload"))
    work_ms = mix.work_ms if workload in workloads.LEDGER_KEYS else PACE_MS
    return replace(mix, think_ms=PACE_MS, work_ms=work_ms, overstay=OVERSTAY)


async def work(specification: Specification) -> None:
    """Until the process is told to end."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    world = RealWorld(specification.began_ns)
    path = Path(specification.history)
    history = KeptHistory(path)
    mix = mix_of(specification.workload, specification.seed)
    client = LiveClient(
        specification.name,
        world=world,
        urls=specification.urls,
        history=history,
        mix=mix,
        rng=Rng(specification.seed, specification.name),
        shop=shop_for(mix, path.parent, specification.seed),
    )
    working = asyncio.ensure_future(workloads.work(client))
    ending = asyncio.ensure_future(ended.wait())
    await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
    client.keep()
    history.close(world.now)
    if working.done():
        working.result()  # a fault of the harness: the process ends with it


def main() -> None:
    """Of the process."""
    asyncio.run(work(Specification(**json.loads(sys.argv[1]))))


if __name__ == "__main__":
    main()
