"""A lock table in PostgreSQL through asyncpg, a connection for each worker: a row under a unique key with an expiry (an expired
one is taken over), deleted by key and owner; two durable commits a cycle. A contended key: an advisory lock, for a table has no
queue."""

from __future__ import annotations

import secrets

import asyncpg
from measuring import Tape

from peers.loops import Pair, loops

TABLE = """create table if not exists locks (
    key text primary key, owner text not null, expires timestamptz not null, token bigserial)"""
TAKE = """insert into locks (key, owner, expires) values ($1, $2, now() + interval '10 seconds')
    on conflict (key) do update set owner = excluded.owner, expires = excluded.expires,
    token = nextval('locks_token_seq') where locks.expires < now() returning token"""
DROP = "delete from locks where key = $1 and owner = $2 returning 1"


async def drive(address: str, tape: Tape, *, contended: bool) -> None:
    connections = [await asyncpg.connect(address) for _ in range(tape.workers)]
    try:
        await connections[0].execute(TABLE)
        if contended:
            pairs = [await _shared_key(each) for each in connections]
        else:
            pairs = [await _own_key(each, f"cycles/{n}") for n, each in enumerate(connections)]
        await loops(pairs, tape)
    finally:
        for each in connections:
            await each.close()


async def _own_key(connection: asyncpg.Connection, key: str) -> Pair:
    owner = secrets.token_hex(8)
    take, drop = await connection.prepare(TAKE), await connection.prepare(DROP)

    async def acquire() -> None:
        if await take.fetchval(key, owner) is None:
            raise RuntimeError("somebody else holds a key that nobody else wants")

    async def release() -> None:
        if await drop.fetchval(key, owner) is None:
            raise RuntimeError("a lock was lost")

    return acquire, release


async def _shared_key(connection: asyncpg.Connection) -> Pair:
    take = await connection.prepare("select pg_advisory_lock(1)")
    drop = await connection.prepare("select pg_advisory_unlock(1)")
    return take.fetchval, drop.fetchval
