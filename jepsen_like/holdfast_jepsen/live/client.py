"""The client of the workloads over real HTTP, and the file in which its history survives whatever happens to it.

Rules:
* It is the simulator's client: the same requests, repeats, deadlines and beliefs. Only time and transport are real.
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

import aiohttp

from holdfast_coordinator.machine.outcomes import Refused
from holdfast_jepsen.history import Belief, History, Lease, Operation, Seen
from holdfast_jepsen.live.cluster import session_ref
from holdfast_jepsen.live.wire import outcome_of, request_of
from holdfast_jepsen.sim.world import SECOND
from holdfast_jepsen.workloads.client import TRY_AGAIN, Client

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from pathlib import Path

    from holdfast_jepsen.sim.rng import Rng
    from holdfast_jepsen.workloads.ledger import Shop
    from holdfast_jepsen.workloads.mix import Mix

NOT_REACHED = Refused("no_leader", "nobody listens there")
"""The connection was never made, so the request took no effect."""
OPEN_MAX = 1_000
"""Things of one kind that a client still has to do with; it has a handful. An `end` that nobody answered would stay for ever."""
KINDS: dict[str, Any] = {"operation": Operation, "lease": Lease, "belief": Belief}


class RealWorld:
    """What a client knows of the world: what time it is."""

    def __init__(self, began_ns: int) -> None:
        self._began_ns = began_ns

    @property
    def now(self) -> int:
        """Nanoseconds since the run began."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - self._began_ns


class RealActor:
    """The event loop of this process, where the simulator has an actor."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create_task(self, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(coro)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any
    ) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay, callback, *args)

    def kill(self) -> None:
        """Its process ends; nothing is left to do."""


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
                    lines += json.dumps({"type": kind, "number": number, **_shown(row)}) + "\n"
                if _is_final(items[number], now) or number < len(items) - OPEN_MAX:
                    del still_open[number]
        if lines:
            os.write(self._file, lines.encode())


def _is_final(item: Any, now: int) -> bool:
    if isinstance(item, Operation):
        return item.returned is not None or item.result != "pending"
    return isinstance(item, Lease) or item.ended < now


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """Sessions are secrets, and others see a reference of them: it stands for them in the whole history."""
    name = "process" if "begun" in row else "session"  # a belief is that of a session
    return {**row, name: session_ref(row[name])}


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


class _Servers:
    """What the simulated client asks of its gateway: how many servers there are, and what workers of a ledger share."""

    def __init__(self, urls: list[str], shop: Shop | None) -> None:
        self.servers = urls
        self.shop = shop


class LiveClient(Client):
    """See the module."""

    def __init__(
        self,
        name: str,
        *,
        world: RealWorld,
        urls: list[str],
        http: aiohttp.ClientSession,
        history: KeptHistory,
        mix: Mix,
        rng: Rng,
        shop: Shop | None = None,
    ) -> None:
        super().__init__(
            name,
            world=cast("Any", world),
            gateway=cast("Any", _Servers(urls, shop)),
            history=history,
            mix=mix,
            rng=rng,
            rate=1.0,
        )
        self.actor = cast("Any", RealActor(name))
        self._urls = urls
        self._http = http
        self._kept = history

    async def ask_elsewhere(self, decide: Callable[[], Any]) -> Any:
        """As `Client.ask_elsewhere`: what is decided, in a thread, since it waits for a disk."""
        self._kept.keep(self._world.now)
        return await asyncio.to_thread(decide)

    async def ask(self, operation: Any, timeout_ns: int) -> Any:
        """As `Client.ask`, over HTTP."""
        self._kept.keep(self._world.now)
        outcome = await self._call(operation, timeout_ns / SECOND)
        if outcome is None or (isinstance(outcome, Refused) and outcome.code in TRY_AGAIN):
            self._server = (self._server + 1) % len(self._urls)
        return outcome

    async def _call(self, operation: Any, seconds: float) -> Any:
        path, body = request_of(operation)
        limit = aiohttp.ClientTimeout(total=seconds)
        try:
            async with self._http.post(
                self._urls[self._server] + path, json=body, timeout=limit
            ) as response:
                answer = await response.json(content_type=None)
                return outcome_of(operation, response.status, answer)
        except aiohttp.ClientConnectorError:
            return NOT_REACHED
        except (aiohttp.ClientError, TimeoutError, OSError, json.JSONDecodeError):
            return None
