"""What every store does: one holder, tokens that rise, waiting, renewal, expiry, several keys."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

import holdfast
from holdfast.stores.capabilities import Fairness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from conformance.conftest import Raw
    from holdfast.stores.capabilities import Capabilities

    Clients = Callable[..., holdfast.AsyncClient]
    QueueIs = Callable[[str, int], Awaitable[None]]
    IsFree = Callable[[str], Awaitable[None]]

pytestmark = pytest.mark.timeout(90)

CLIENTS = 4
TASKS = 3
ROUNDS = 4


async def test_one_holder_at_a_time(clients: Clients, key: str) -> None:
    """However many tasks of however many clients want it, one is inside, and each has a higher token than the one before."""
    inside = 0
    tokens: list[int] = []

    async def work(client: holdfast.AsyncClient) -> None:
        nonlocal inside
        for _ in range(ROUNDS):
            async with client.lock(key, wait=60.0) as grant:
                inside += 1
                assert inside == 1
                tokens.append(grant.token)
                await asyncio.sleep(0)  # let the others try
                assert inside == 1
                inside -= 1

    several = [clients() for _ in range(CLIENTS)]
    await asyncio.gather(*(work(each) for each in several for _ in range(TASKS)))
    assert len(tokens) == CLIENTS * TASKS * ROUNDS
    assert tokens == sorted(set(tokens))


async def test_tokens_rise_over_all_keys(clients: Clients, key: str) -> None:
    """A later grant has the higher token, whichever key it is for and whoever gets it."""
    one, other = clients(), clients()
    tokens = []
    for number in range(6):
        async with (one, other)[number % 2].lock(f"{key}/{number % 3}") as grant:
            tokens.append(grant.token)
            assert grant.fence == grant.token
    assert tokens == sorted(set(tokens))


async def test_held_is_refused_at_once_and_names_the_holder(clients: Clients, key: str) -> None:
    """Who does not wait learns who has it."""
    holder = clients(owner="worker-1")
    async with holder.lock(key) as grant:
        with pytest.raises(holdfast.NotAcquired) as refused:
            async with clients().lock(key):
                pass
        assert refused.value.code == "held"
        assert [each.token for each in refused.value.holders] == [grant.token]
        assert refused.value.holders[0].owner == "worker-1"
        assert refused.value.holders[0].session_ref


async def test_a_waiter_is_granted_when_the_holder_releases(
    clients: Clients, key: str, queue_is: QueueIs
) -> None:
    """Waiting ends with the release, with a higher token."""
    one, other = clients(), clients()
    assert await one.acquire_lock(key)
    first = one.grant_of(key)
    waiting = asyncio.create_task(_acquire_and_release(other, key))
    await queue_is(key, 1)
    assert await one.release_lock(key)
    second = await waiting
    assert first is not None
    assert second.token > first.token
    assert second.previous == holdfast.Previous(first.token, "released")


async def test_waiters_are_granted_in_the_order_of_their_arrival(
    clients: Clients, key: str, queue_is: QueueIs, promised: Capabilities
) -> None:
    """Where fairness=queue is declared, nobody overtakes."""
    assert (
        promised.fairness is Fairness.QUEUE
    )  # every store says so; one that does not gets a test of its own
    holder = clients()
    assert await holder.acquire_lock(key)
    order: list[int] = []
    waiting = []
    for number in range(4):
        waiting.append(asyncio.create_task(_note(clients(), key, order, number)))
        await queue_is(key, number + 1)
    assert await holder.release_lock(key)
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2, 3]


async def test_who_does_not_wait_does_not_overtake(
    clients: Clients, raw: Raw, key: str, queue_is: QueueIs
) -> None:
    """A key that somebody waits for is refused to others, even in the moment in which it is free."""
    holder, waiter = clients(), clients()
    assert await holder.acquire_lock(key)
    waiting = asyncio.create_task(waiter.acquire_lock(key, wait=30.0))
    await queue_is(key, 1)
    refused = await raw.acquire(await raw.session(), key)
    assert refused.body["code"] == "held"
    assert refused.body["queue_length"] == 1
    assert await holder.release_lock(key)
    assert await waiting


async def test_waiting_in_vain_leaves_no_waiter(
    clients: Clients, key: str, is_free: IsFree
) -> None:
    """The wait ends in time, definitely, and nothing stays in the queue."""
    holder, other = clients(), clients()
    assert await holder.acquire_lock(key)
    with pytest.raises(holdfast.NotAcquired) as refused:
        async with other.lock(key, wait=0.2):
            pass
    assert refused.value.code == "wait_timeout"
    lock = await other.read_lock(key)
    assert lock.queue_length == 0
    assert await holder.release_lock(key)
    await is_free(key)


async def test_a_renewed_lock_outlives_its_ttl(clients: Clients, key: str) -> None:
    """Whoever waits for two TTLs does so in vain: the holder is alive."""
    holder, other = clients(ttl=1.0), clients(ttl=1.0)
    async with holder.lock(key) as grant:
        assert not await other.acquire_lock(key, wait=2.2)
        assert not grant.is_lost
        assert grant.remaining() > 0.0


async def test_a_dead_holder_loses_the_lock_and_the_next_is_told(
    clients: Clients, raw: Raw, key: str
) -> None:
    """Nobody renews: the lease ends, the waiter gets the lock, and learns that work may be half done."""
    dead = await raw.session(ttl=1.0)
    granted = await raw.acquire(dead, key)
    assert granted.status == 200
    async with clients().lock(key, wait=30.0) as grant:
        assert grant.token > granted.body["token"]
        assert grant.previous == holdfast.Previous(granted.body["token"], "expired")
    gone = await raw.call("/sessions/renew", session=dead)
    assert gone.body["code"] in ("session_expired", "no_such_session")
    late = await raw.release(dead, granted.body["token"])
    assert late.status >= 400


async def test_a_dead_waiter_holds_up_nobody_for_longer_than_its_lease(
    clients: Clients, raw: Raw, key: str, queue_is: QueueIs
) -> None:
    """time 0: a waiter stands first in the queue, and its process dies (nobody renews); time 1: the holder releases; time 2: the
    next waiter gets it."""
    holder = clients()
    assert await holder.acquire_lock(key)
    dead = await raw.session(ttl=1.0)
    asking = asyncio.create_task(raw.acquire(dead, key, wait_ms=30_000))
    await queue_is(key, 1)
    waiting = asyncio.create_task(clients().acquire_lock(key, wait=30.0))
    await queue_is(key, 2)
    assert await holder.release_lock(key)
    assert await waiting
    told = await asking
    # It may have been granted for a moment, if its session still lived when the holder released.
    assert told.status == 200 or told.body["code"] in ("session_expired", "no_such_session")


async def test_several_keys_are_had_all_or_none(clients: Clients, key: str) -> None:
    """One that is held refuses all; granted they share one token, and each tells what was before."""
    one, other = clients(), clients()
    a, b, c = f"{key}/a", f"{key}/b", f"{key}/c"
    async with one.lock(b) as held:
        with pytest.raises(holdfast.NotAcquired):
            async with other.lock([a, b, c]):
                pass
        async with one.lock([a, c]):
            pass
    async with other.lock([c, a, b]) as grant:
        assert grant.keys == (c, a, b)
        assert grant.previous_by_key[b] == holdfast.Previous(held.token, "released")
        for each in (a, b, c):
            assert [h.token for h in (await one.read_lock(each)).holders] == [grant.token]
    for each in (a, b, c):
        assert not (await one.read_lock(each)).holders


async def test_several_keys_in_any_order_do_not_deadlock(clients: Clients, key: str) -> None:
    """Two that want the same keys in opposite order get them one after the other."""
    a, b = f"{key}/a", f"{key}/b"

    async def work(client: holdfast.AsyncClient, keys: list[str]) -> None:
        for _ in range(ROUNDS):
            async with client.lock(keys, wait=60.0):
                await asyncio.sleep(0)

    pairs = [(clients(), [a, b]), (clients(), [b, a]), (clients(), [a]), (clients(), [b])]
    await asyncio.gather(*(work(*each) for each in pairs))


async def test_nothing_is_known_before_the_first_hold(clients: Clients, key: str) -> None:
    """`previous` is None for a key that nobody had, then says how the last hold ended."""
    client = clients()
    async with client.lock(key) as first:
        assert first.previous is None
        assert first.previous_horizon < first.token
    async with client.lock(key) as second:
        assert second.previous == holdfast.Previous(first.token, "released")


async def test_the_same_holder_is_refused(clients: Clients, raw: Raw, key: str) -> None:
    """No re-entry, neither for a task nor within a session: it would wait for itself."""
    client = clients()
    assert await client.acquire_lock(key)
    assert not await client.acquire_lock(key)
    session = await raw.session()
    assert (await raw.acquire(session, f"{key}/raw")).status == 200
    assert (await raw.acquire(session, f"{key}/raw")).body["code"] == "held"


async def test_closing_a_client_releases_what_it_held(clients: Clients, key: str) -> None:
    """The next waits for no lease."""
    first = clients(ttl=3600.0)
    assert await first.acquire_lock(key)
    waiting = asyncio.create_task(clients().acquire_lock(key, wait=30.0))
    await first.aclose()
    assert await waiting


async def test_locks_are_listed_by_key_in_pages(clients: Clients, key: str) -> None:
    """Only what is held or waited for, in the order of the keys."""
    client = clients()
    names = [f"{key}/{each}" for each in ("a", "b", "c", "ü")]
    for name in reversed(names):
        assert await client.acquire_lock(name)
    page = await client.list_locks(f"{key}/", limit=3)
    assert [each.key for each in page.locks] == names[:3]
    rest = await client.list_locks(f"{key}/", limit=3, after=page.next)
    assert [each.key for each in rest.locks] == names[3:]
    assert rest.next is None
    for name in names:
        assert await client.release_lock(name)
    assert (await client.list_locks(f"{key}/")).locks == ()


async def test_the_store_says_that_it_is_there(clients: Clients) -> None:
    """`status` answers everywhere."""
    assert (await clients().status()).leader


async def test_threads_share_it_through_the_blocking_face(address: str, key: str) -> None:
    """Two blocking clients and six threads: one holder at a time, on event loops of their own."""
    inside, errors = [0], []

    def work(client: holdfast.Client) -> None:
        for _ in range(ROUNDS):
            with client.lock(key, wait=60.0):
                inside[0] += 1
                if inside[0] != 1:
                    errors.append(inside[0])
                inside[0] -= 1

    def all_of_it() -> None:
        with holdfast.connect_sync(address) as one, holdfast.connect_sync(address) as other:
            threads = [
                threading.Thread(target=work, args=(each,))
                for each in (one, other)
                for _ in range(3)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    await asyncio.to_thread(all_of_it)
    assert errors == []


async def _acquire_and_release(client: holdfast.AsyncClient, key: str) -> holdfast.Grant:
    async with client.lock(key, wait=30.0) as grant:
        return grant


async def _note(client: holdfast.AsyncClient, key: str, order: list[Any], name: object) -> None:
    async with client.lock(key, wait=30.0):
        order.append(name)
