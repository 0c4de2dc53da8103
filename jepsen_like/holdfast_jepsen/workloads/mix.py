"""What the clients of one run do: drawn from the seed, so that runs differ in kind and not only in order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from holdfast_coordinator.machine import PLAIN, Terms
from holdfast_jepsen.sim.world import MILLISECOND, SECOND
from holdfast_jepsen.workloads import ledger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast.client import AsyncClient
    from holdfast_jepsen.sim.rng import Rng
    from holdfast_jepsen.workloads.client import Client, Hold

    Do = Callable[[Client, AsyncClient], Awaitable[None]]
    """One round of one task."""

NAMES = (
    "hot-key",
    "many-keys",
    "queue",
    "short-leases",
    "several-keys",
    "implicit",
    "readers",
    "semaphore",
    "done",
)


TIMES = ("ttl_ms", "waits_ms", "retain_ms", "think_ms", "work_ms")
LEDGER_KEYS = {ledger.FENCED: 3, ledger.UNFENCED: 3}
"""Customers: few, so that workers meet."""
WORKLOADS = (*NAMES, *LEDGER_KEYS)
LEDGER_TTL = dict.fromkeys(LEDGER_KEYS, (400, 1200))
LEDGER_WORK_MS = (60, 400)
"""Short leases and a slow provider: a worker that stalls stalls there, and for longer than its lease."""


@dataclass(frozen=True, slots=True)
class Mix:
    """One workload. Probabilities are of one round of a client."""

    name: str
    clients: int
    keys: tuple[str, ...]
    ttl_ms: tuple[int, int]
    waits_ms: tuple[int, ...]
    several: float = 0.0
    """An acquire of two keys at once."""
    implicit: float = 0.0
    shared: float = 0.0
    limit: int = 0
    """Permits of every key of a semaphore workload; 0: no semaphores."""
    complete: float = 0.0
    """A hold is not released: its work is done."""
    retain_ms: tuple[int, int] = (1000, 2500)
    forget: float = 0.05
    """A hold with a lease of its own is not released, but left to it."""
    overstay: float = 0.1
    """Work goes on for longer than the lease."""
    bounded: float = 0.15
    """A lock is asked for with `max_hold`, of the length of a lease: it has a session of its own, which is not renewed, and left to
    its lease, if the work goes on for longer."""
    pairs: float = 0.3
    """A process has two tasks, which share a session."""
    close: float = 0.05
    think_ms: tuple[int, int] = (5, 150)
    work_ms: tuple[int, int] = (5, 120)
    attempts: int = 4
    timeout_ns: int = 1 * SECOND
    pace: int = 1
    """All times are multiplied already; for what is not in here."""

    def stretched(self, pace: int) -> Mix:
        """The same at another pace."""
        times = {name: tuple(each * pace for each in getattr(self, name)) for name in TIMES}
        return replace(self, **times, timeout_ns=self.timeout_ns * pace, pace=pace)  # type: ignore[arg-type]


LEDGERS = 0.1
"""Part of the seeds whose clients are workers of a ledger."""


def draw(rng: Rng, ledgers: Rng) -> Mix:
    """The workload of a seed. `ledgers`: a stream of its own, so that the other seeds stay what they were."""
    name = rng.choice(NAMES)
    return make(ledger.FENCED if ledgers.chance(LEDGERS) else name, rng)


def make(name: str, rng: Rng) -> Mix:
    """A workload by its name. Raises `ValueError`."""
    if name not in WORKLOADS:
        raise ValueError(f"no workload {name!r}; there are {', '.join(WORKLOADS)}")
    count = {
        "hot-key": 1,
        "many-keys": 8,
        "queue": 1,
        "several-keys": 3,
        "done": 4,
        **LEDGER_KEYS,
    }.get(name, 2)
    keys = tuple(f"k{number}" for number in range(count))
    ttl = {"short-leases": (300, 1200), "queue": (700, 3000), **LEDGER_TTL}.get(name, (800, 4000))
    pace = rng.choice((1, 3, 10))
    waits = {"queue": (300, 1000, 2000), "several-keys": (0, 500, 1500)}.get(name, (0, 0, 0, 500))
    return Mix(
        name,
        clients=rng.between(3, 6),
        keys=keys,
        ttl_ms=ttl,
        waits_ms=waits,
        several=0.6 if name == "several-keys" else 0.0,
        implicit=0.5 if name == "implicit" else 0.05,
        shared=0.7 if name in ("readers", "several-keys") else 0.0,
        limit=rng.choice((1, 2, 3)) if name == "semaphore" else 0,
        complete=0.4 if name == "done" else 0.0,
        think_ms=(5 * pace, 150 * pace),
        work_ms=LEDGER_WORK_MS if name in LEDGER_KEYS else (5 * pace, 120 * pace),
        timeout_ns=rng.choice((300, 1000, 2500)) * MILLISECOND,
    )


async def work(client: Client) -> None:
    """A client's life: one after the other it is connected with leases of some length, and does rounds."""
    mix, rng = client.mix, client.rng
    do = ledger.one_message if client.shop is not None else _one_round
    while True:
        library = client.connect(rng.between(*mix.ttl_ms))
        tasks = [_rounds(client, library, do) for _ in range(2 if rng.chance(mix.pairs) else 1)]
        await asyncio.gather(*tasks)
        await library.aclose()


async def _rounds(client: Client, library: AsyncClient, do: Do) -> None:
    """Those of one task: it shares the session with the others of its process."""
    mix, rng = client.mix, client.rng
    while True:
        await asyncio.sleep(rng.between(*mix.think_ms) / 1000)
        if rng.chance(mix.close):
            return
        await do(client, library)


async def _one_round(client: Client, library: AsyncClient) -> None:
    mix, rng = client.mix, client.rng
    if rng.chance(mix.implicit):
        await _unnamed(client, library)
        return
    keys = tuple(rng.sample(mix.keys, 2 if rng.chance(mix.several) else 1))
    terms = _terms(client)
    ttl_ms = rng.between(*mix.ttl_ms)

    async def body(hold: Hold) -> None:
        await asyncio.sleep(rng.between(*mix.work_ms) / 1000)
        if rng.chance(mix.overstay):
            await asyncio.sleep(2 * ttl_ms / 1000)
        if terms is PLAIN and hold.complete is not None and rng.chance(mix.complete):
            await hold.complete(rng.between(*mix.retain_ms))

    await client.hold(
        library,
        keys,
        body,
        wait_ms=rng.choice(mix.waits_ms),
        terms=terms,
        max_hold_ms=ttl_ms if rng.chance(mix.bounded) else None,
    )


def _terms(client: Client) -> Terms:
    mix, rng = client.mix, client.rng
    if mix.limit:
        return Terms(mode="shared", limit=mix.limit)
    return Terms(mode="shared") if rng.chance(mix.shared) else PLAIN


async def _unnamed(client: Client, library: AsyncClient) -> None:
    """A lock with a lease of its own, without a session that is renewed."""
    mix, rng = client.mix, client.rng

    async def body(hold: Hold) -> None:
        await asyncio.sleep(rng.between(*mix.work_ms) / 1000)
        if hold.release is not None and not rng.chance(mix.forget):
            await hold.release()

    await client.hold_unnamed(
        library,
        rng.choice(mix.keys),
        body,
        ttl_ms=rng.between(*mix.ttl_ms),
        wait_ms=rng.choice(mix.waits_ms),
        terms=_terms(client),
    )
