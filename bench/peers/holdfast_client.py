"""Holdfast through its own Python client: what a user writes, and nothing else. One client, connected to the leader, for all
workers, as with the other services.

For idle sessions a client each, which opens its session, renews it and watches its lease by itself, spread over the nodes. Those of
one process would be one client with one session; here CLIENTS_PER_TRANSPORT of them share the connections of one process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from measuring import Tape

import holdfast
from holdfast import client as client_module
from holdfast.client import AsyncClient, Ports, Settings
from holdfast.grant import Hooks
from peers.loops import Pair, loops

OPENED_AT_ONCE = 100
CLIENTS_PER_TRANSPORT = 1_000


async def leader_url(endpoints: str) -> str:
    """The address of the node that leads now."""
    async with holdfast.connect(endpoints) as client:
        seen = await client.status()
        return next(node.http for node in seen.nodes if node.name == seen.leader)


def pair(client: holdfast.AsyncClient, key: str, wait: float | None) -> Pair:
    async def acquire() -> None:
        if not await client.acquire_lock(key, wait):
            raise RuntimeError("somebody else holds a key that nobody else wants")

    async def release() -> None:
        if not await client.release_lock(key):
            raise RuntimeError("a release was not acknowledged")

    return acquire, release


async def drive(address: str, tape: Tape, *, contended: bool) -> None:
    wait = None if contended else 0.0
    async with holdfast.connect(await leader_url(address)) as client:
        keys = ["contended" if contended else f"cycles/{each}" for each in range(tape.workers)]
        await loops([pair(client, key, wait) for key in keys], tape)


async def idle(
    address: str, sessions: int, ttl_seconds: float, ready: Callable[[], object]
) -> None:
    lost = asyncio.get_running_loop().create_future()

    def on_lost(grant: holdfast.Grant) -> None:
        if not lost.done():
            lost.set_exception(RuntimeError(f"a session was lost: {grant!r}"))

    hooks = Hooks(on_lost=(on_lost,))
    settings = Settings(tuple(address.split(",")), ttl=ttl_seconds, timeout=60, hooks=hooks)
    clients: list[AsyncClient] = []
    for number in range(sessions):
        if number % CLIENTS_PER_TRANSPORT == 0:
            transport = client_module._transport(settings, Ports())  # what `connect` makes
        clients.append(AsyncClient(settings, Ports(transport=transport)))
    for first in range(0, sessions, OPENED_AT_ONCE):
        some = enumerate(clients[first : first + OPENED_AT_ONCE], first)
        await asyncio.gather(*(each.acquire_lock(f"idle/{number}") for number, each in some))
    ready()
    await lost  # they are not closed: they end with this process, and then with their cluster
