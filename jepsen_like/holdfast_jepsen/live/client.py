"""The client of the workloads over real connections, and the file in which its history survives whatever happens to it.

Rules:
* It is the simulator's client: the same library does the same work. Only time and transport are real.
* What is about to be sent is in the file before it is sent, in one write. A client that is killed leaves operations without an
  answer, which are unknown, and beliefs that last until their deadline.
* Times are CLOCK_BOOTTIME, one clock for all processes of the run, in nanoseconds since it began.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from holdfast.clock import BootClock
from holdfast.stream_transport import StreamTransport
from holdfast.transport import HttpTransport
from holdfast_jepsen.history import Belief, History, Lease, Operation, Seen
from holdfast_jepsen.live.cluster import session_ref
from holdfast_jepsen.workloads.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from holdfast_jepsen.sim.rng import Rng
    from holdfast_jepsen.workloads.ledger import Shop
    from holdfast_jepsen.workloads.mix import Mix

OPEN_MAX = 1_000
"""Things of one kind that a client still has to do with; it has a handful. What nobody answered would stay for ever."""
KINDS: dict[str, Any] = {"operation": Operation, "lease": Lease, "belief": Belief}


class RealWorld:
    """What a client knows of the world: what time it is."""

    def __init__(self, began_ns: int) -> None:
        self._began_ns = began_ns

    @property
    def now(self) -> int:
        """Nanoseconds since the run began."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - self._began_ns


class KeptHistory(History):
    """A history with a file. `keep` writes whatever is new or has changed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._open: dict[str, dict[int, dict[str, Any]]] = {kind: {} for kind in KINDS}
        """By kind and number: what may still change, as it was written last."""
        self._known = dict.fromkeys(KINDS, 0)

    def close(self, now: int) -> None:
        """Nothing changes any more."""
        self.keep(now)
        os.close(self._file)

    def keep(self, now: int) -> None:
        """See the class. `now`: a belief that ended before it changes no more."""
        lines = ""
        for kind, items in (
            ("operation", self.operations), ("lease", self.leases), ("belief", self.beliefs),
        ):  # fmt: skip
            still_open = self._open[kind]
            still_open.update((number, {}) for number in range(self._known[kind], len(items)))
            self._known[kind] = len(items)
            for number in list(still_open):
                row = asdict(cast("Any", items[number]))
                if still_open[number] != row:
                    still_open[number] = row
                    lines += json.dumps({"type": kind, "number": number, **row}) + "\n"
                if _is_final(items[number], now) or number < len(items) - OPEN_MAX:
                    del still_open[number]
        if lines:
            os.write(self._file, lines.encode())


def _is_final(item: Any, now: int) -> bool:
    if isinstance(item, Operation):
        return item.returned is not None  # what was unknown may be answered after all
    return isinstance(item, Lease) or item.ended < now


def read_histories(paths: Iterable[Path]) -> History:
    """One history of many files: the last line about each thing counts."""
    history = History()
    for path in paths:
        rows: dict[tuple[str, int], dict[str, Any]] = {}
        for line in path.read_text().splitlines():
            row = json.loads(line)
            rows[row.pop("type"), row.pop("number")] = row
        for (kind, _), row in rows.items():
            for name in ("keys", "fences"):
                if name in row:
                    row[name] = tuple(row[name])
            if "holders" in row:
                row["holders"] = tuple(Seen(**each) for each in row["holders"])
            getattr(history, f"{kind}s").append(KINDS[kind](**row))
    history.operations.sort(key=lambda each: each.called)
    history.leases.sort(key=lambda each: each.sent)
    history.beliefs.sort(key=lambda each: each.begun)
    history.finish()
    return history


class LiveClient(Client):
    """See the module. Half of them speak over a stream, half of them by plain calls. To be closed by `aclose`."""

    def __init__(
        self,
        name: str,
        *,
        world: RealWorld,
        urls: list[str],
        history: KeptHistory,
        mix: Mix,
        rng: Rng,
        shop: Shop | None = None,
    ) -> None:
        clock = BootClock()
        plain = HttpTransport(clock=clock)
        self._world = world
        self._kept = history
        self._transport = StreamTransport(plain, clock) if rng.chance(0.5) else plain
        super().__init__(
            name,
            mix=mix,
            rng=rng,
            history=history,
            endpoints=tuple(urls),
            clock=clock,
            transport=self._transport,
            now=lambda: world.now,
            ref=session_ref,
            shop=shop,
            before_sending=self.keep,
        )

    def keep(self) -> None:
        """What is known so far is in the file."""
        self.look_at_beliefs()
        self._kept.keep(self._world.now)

    async def ask_elsewhere(self, decide: Callable[[], Any]) -> Any:
        """As `Client.ask_elsewhere`: what is decided, in a thread, since it waits for a disk."""
        self.keep()
        return await asyncio.to_thread(decide)

    async def aclose(self) -> None:
        """Its connections."""
        await self._transport.aclose()
