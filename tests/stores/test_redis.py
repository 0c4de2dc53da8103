"""Locks in Redis: what only shows inside: one script a call, a server that has lost its scripts, what is kept and what is not."""

from __future__ import annotations

import asyncio

import pytest
import redis

import holdfast
from holdfast.stores import redis_scripts
from holdfast.stores.redis_scripts import PREFIX


async def test_each_call_is_one_script(redis_url: str) -> None:
    """A lock cycle of a client that is warm is two commands."""
    with redis.Redis.from_url(redis_url) as server:
        async with holdfast.connect(redis_url) as client:
            await _cycle(client, "warm")
            before = server.info("commandstats")
            await _cycle(client, "k")
            after = server.info("commandstats")

    def calls(stats: dict[str, dict[str, int]], name: str) -> int:
        return stats.get(f"cmdstat_{name}", {}).get("calls", 0)

    assert calls(after, "evalsha") - calls(before, "evalsha") == 2
    assert calls(after, "eval") == calls(before, "eval")


async def test_a_server_that_lost_its_scripts_gets_them_again(redis_url: str) -> None:
    """After a restart, or SCRIPT FLUSH; nobody notices."""
    with redis.Redis.from_url(redis_url) as server:
        async with holdfast.connect(redis_url) as client:
            assert await client.acquire_lock("k")
            server.script_flush()
            assert not await client.acquire_lock("k")
            assert await client.release_lock("k")


async def test_redis_tells_the_waiter(redis_url: str) -> None:
    """With messages a waiter looks every few seconds by itself; it gets the lock long before that, because it is told."""
    async with holdfast.connect(redis_url) as holder, holdfast.connect(redis_url) as other:
        for _ in range(5):
            assert await holder.acquire_lock("k")
            waiting = asyncio.create_task(_cycle(other, "k"))
            while not (await holder.read_lock("k")).queue_length:
                pass  # each round is a call to the server
            started = asyncio.get_running_loop().time()
            assert await holder.release_lock("k")
            await waiting
            assert asyncio.get_running_loop().time() - started < 2.0


async def test_a_waiter_whose_message_is_lost_looks_by_itself(redis_url: str) -> None:
    """The subscription is killed while it waits: it takes a look, and goes on."""
    with redis.Redis.from_url(redis_url) as server:
        async with holdfast.connect(redis_url) as holder, holdfast.connect(redis_url) as other:
            assert await holder.acquire_lock("k")
            waiting = asyncio.create_task(_cycle(other, "k"))
            while not (await holder.read_lock("k")).queue_length:
                pass
            while not server.client_list(_type="pubsub"):
                await holder.read_lock("k")
            server.client_kill_filter(_type="pubsub")
            assert await holder.release_lock("k")
            await waiting


async def test_nothing_grows_with_the_number_of_locks(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of keys that nobody holds only a bounded number is remembered, and the answer says what was forgotten."""
    small = {
        name: source.replace("> 200000 do", "> 3 do")
        for name, source in redis_scripts.SCRIPTS.items()
    }
    assert small != redis_scripts.SCRIPTS
    monkeypatch.setattr("holdfast.stores.redis.SCRIPTS", small)
    monkeypatch.setattr("holdfast.stores.redis._SHA", dict.fromkeys(small, "0" * 40))
    with redis.Redis.from_url(redis_url, decode_responses=True) as server:
        async with holdfast.connect(redis_url) as client:
            for number in range(1, 21):
                await _cycle(client, f"k{number}")
            assert len(list(server.scan_iter(f"{PREFIX}k:*"))) == 3
            async with client.lock("k1") as grant:
                assert grant.previous is None
                assert grant.previous_horizon == 17
        # The session was closed: what is left is bounded, or goes by itself.
        left = {name.removeprefix(PREFIX).partition(":")[0] for name in server.scan_iter("*")}
        assert left == {"token", "k", "ended", "horizon", "es"}


async def _cycle(client: holdfast.AsyncClient, key: str) -> None:
    async with client.lock(key, wait=30.0):
        pass
