"""What the clients of one run do: drawn from the seed, so that runs differ in kind and not only in order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from holdfast_coordinator.machine import PLAIN, Terms
from holdfast_jepsen.sim.world import MILLISECOND, SECOND
from holdfast_jepsen.workloads import ledger

if TYPE_CHECKING:
    from holdfast_jepsen.sim.rng import Rng
    from holdfast_jepsen.workloads.client import Client, Session

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
    """A hold is not released, but left to its lease."""
    overstay: float = 0.1
    """Work goes on for longer than the lease, without renewal."""
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
    """A workload by its name."""
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
    """A client's life: sessions, one after the other, and rounds in each."""
    mix, rng = client.mix, client.rng
    if client.shop is not None:
        await ledger.work(client, client.shop)
    while True:
        session = await client.open(rng.between(*mix.ttl_ms))
        if session is None:
            continue
        keeper = client.actor.create_task(client.keep(session))
        while not session.is_over:
            await asyncio.sleep(rng.between(*mix.think_ms) / 1000)
            if rng.chance(mix.close):
                await client.close(session)
            elif rng.chance(mix.implicit):
                await _implicit(client)
            else:
                await _round(client, session)
        keeper.cancel()


async def _round(client: Client, session: Session) -> None:
    mix, rng = client.mix, client.rng
    keys = tuple(rng.sample(mix.keys, 2 if rng.chance(mix.several) else 1))
    terms = _terms(client)
    _, grant = await client.acquire(session, keys, wait_ms=rng.choice(mix.waits_ms), terms=terms)
    if grant is None:
        return
    await asyncio.sleep(rng.between(*mix.work_ms) / 1000)
    if rng.chance(mix.overstay):
        await asyncio.sleep(session.ttl_ns / SECOND)
    if terms is PLAIN and rng.chance(mix.complete):
        await client.complete(session, keys, grant.token, rng.between(*mix.retain_ms))
    elif not rng.chance(mix.forget):
        await client.release(session, keys, grant.token)


def _terms(client: Client) -> Terms:
    mix, rng = client.mix, client.rng
    if mix.limit:
        return Terms(mode="shared", limit=mix.limit)
    return Terms(mode="shared") if rng.chance(mix.shared) else PLAIN


async def _implicit(client: Client) -> None:
    """A lock with a lease of its own, without a session that is renewed."""
    from holdfast_jepsen.workloads.client import Session

    mix, rng = client.mix, client.rng
    ttl_ms = rng.between(*mix.ttl_ms)
    session = Session(f"{client.name}-i{rng.bits():016x}", ttl_ms * MILLISECOND)
    keys = (rng.choice(mix.keys),)
    _, grant = await client.acquire(
        session,
        keys,
        wait_ms=rng.choice(mix.waits_ms),
        implicit_ttl_ms=ttl_ms,
        terms=_terms(client),
    )
    if grant is None:
        return
    await asyncio.sleep(rng.between(*mix.work_ms) / 1000)
    if not rng.chance(mix.forget):
        await client.release(session, keys, grant.token)
