"""What the library costs over the bare calls: one lock cycle (acquire and release, nobody else wants it) through Holdfast, and the
same by hand with redis-py, psycopg, sqlite3 and asyncio.Lock, against the same server in the same run.

    python bench/stores.py            # about half a minute; it starts and ends the servers itself

The bare calls are what people write: `SET key owner NX PX` and a script that deletes if it is the owner's; `INSERT ... ON CONFLICT`
and `DELETE`. They have no session, no renewal, no token, no queue, no repeats under a request id, no `previous`. Both sides take
turns in small batches, so that whatever else the machine does hits both; the figures are medians of the batches.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import redis.asyncio

import holdfast

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from servers.postgres import PostgresServer
from servers.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

BATCHES = 15
CYCLES = {"memory": 300, "redis": 100, "postgresql": 30, "sqlite": 20}
TTL_MS = 10_000
DELETE_IF_MINE = (
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
)


async def measure(cycle: Callable[[str], Awaitable[object]], count: int) -> float:
    """Microseconds for one cycle."""
    keys = [f"payments/{secrets.token_hex(4)}" for _ in range(count)]
    started = time.perf_counter()
    for key in keys:
        await cycle(key)
    return (time.perf_counter() - started) / count * 1e6


async def compare(name: str, address: str, bare: Callable[[str], Awaitable[object]]) -> None:
    """One line of the table."""
    ours: list[float] = []
    theirs: list[float] = []
    async with holdfast.connect(address) as client:

        async def cycle(key: str) -> None:
            if not await client.acquire_lock(key):
                raise RuntimeError("nobody else is here")
            await client.release_lock(key)

        for each in (cycle, bare):
            await measure(each, 5)
        for _ in range(BATCHES):
            theirs.append(await measure(bare, CYCLES[name]))
            ours.append(await measure(cycle, CYCLES[name]))
    bare_us, our_us = statistics.median(theirs), statistics.median(ours)
    print(f"{name:12}{bare_us:12.0f}{our_us:14.0f}{our_us - bare_us:12.0f}{our_us / bare_us:9.1f}x")


async def with_memory() -> None:
    """asyncio.Lock: no lease, no other thread, no token."""
    locks: dict[str, asyncio.Lock] = {}

    async def bare(key: str) -> None:
        async with locks.setdefault(key, asyncio.Lock()):
            pass
        del locks[key]

    await compare("memory", "memory://", bare)


async def with_redis() -> None:
    """The recipe of Redis's own documentation for one instance."""
    with RedisServer() as server:
        client = redis.asyncio.Redis.from_url(server.url)
        script = client.register_script(DELETE_IF_MINE)

        async def bare(key: str) -> None:
            owner = secrets.token_hex(16)
            await client.set(key, owner, nx=True, px=TTL_MS)
            await script(keys=[key], args=[owner])

        await compare("redis", server.url, bare)
        await client.aclose()


async def with_postgres() -> None:
    """A table with a unique key, as most teams have it; durable (fsync on)."""
    with PostgresServer(settings=()) as server:
        url = server.new_database()
        connection = await psycopg.AsyncConnection.connect(
            url.replace("+psycopg", ""), autocommit=True
        )
        await connection.execute(
            "CREATE TABLE bare_locks (key text PRIMARY KEY, owner text, expires timestamptz)"
        )

        async def bare(key: str) -> None:
            owner = secrets.token_hex(16)
            await connection.execute(
                "INSERT INTO bare_locks VALUES (%s, %s, clock_timestamp() + interval '10 s')"
                " ON CONFLICT (key) DO NOTHING",
                (key, owner),
            )
            await connection.execute(
                "DELETE FROM bare_locks WHERE key = %s AND owner = %s", (key, owner)
            )

        await compare("postgresql", url, bare)
        await connection.close()


async def with_sqlite() -> None:
    """The same in a file, durable as well."""
    with tempfile.TemporaryDirectory() as folder:
        connection = sqlite3.connect(Path(folder) / "bare.db", isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("CREATE TABLE bare_locks (key TEXT PRIMARY KEY, owner TEXT, expires)")

        def insert_and_delete(key: str) -> None:
            owner: Any = secrets.token_hex(16)
            connection.execute(
                "INSERT INTO bare_locks VALUES (?, ?, julianday('now')) ON CONFLICT DO NOTHING",
                (key, owner),
            )
            connection.execute("DELETE FROM bare_locks WHERE key = ? AND owner = ?", (key, owner))

        async def bare(key: str) -> None:
            insert_and_delete(key)

        await compare("sqlite", f"sqlite:///{folder}/holdfast.db", bare)
        connection.close()


async def main() -> None:
    """The table."""
    print("one lock cycle, microseconds (medians)")
    print(f"{'store':12}{'bare calls':>12}{'Holdfast':>14}{'added':>12}{'ratio':>10}")
    await with_memory()
    await with_redis()
    await with_postgres()
    await with_sqlite()


if __name__ == "__main__":
    asyncio.run(main())
