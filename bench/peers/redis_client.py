"""Redis through redis-py's asyncio client with the hiredis parser, a connection for each worker: `SET NX PX`, and the script that
deletes if it is the owner's. There is no queue: a contended key is asked for again after each millisecond, as its `Lock` can do."""

from __future__ import annotations

import secrets
from typing import Any

import redis.asyncio as redis
from measuring import Tape

from peers.loops import Pair, loops

TTL_MS = 10_000
ASK_AGAIN_SECONDS = 0.001
DELETE_IF_MINE = (
    "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"
)


async def drive(address: int, tape: Tape, *, contended: bool) -> None:
    clients = [
        redis.Redis(host="127.0.0.1", port=address, single_connection_client=True)
        for _ in range(tape.workers)
    ]
    for client in clients:
        await client.initialize()
    try:
        if contended:
            pairs = [_shared_key(client) for client in clients]
        else:
            sha = await clients[0].script_load(DELETE_IF_MINE)
            pairs = [_own_key(client, f"cycles:{n}", sha) for n, client in enumerate(clients)]
        await loops(pairs, tape)
    finally:
        for client in clients:
            await client.aclose()


def _own_key(client: Any, key: str, sha: str) -> Pair:
    owner = secrets.token_hex(16)

    async def acquire() -> None:
        if not await client.set(key, owner, nx=True, px=TTL_MS):
            raise RuntimeError("somebody else holds a key that nobody else wants")

    async def release() -> None:
        if not await client.evalsha(sha, 1, key, owner):
            raise RuntimeError("a lock was lost")

    return acquire, release


def _shared_key(client: Any) -> Pair:
    lock = client.lock("contended", timeout=TTL_MS / 1000, sleep=ASK_AGAIN_SECONDS)
    return lock.acquire, lock.release
