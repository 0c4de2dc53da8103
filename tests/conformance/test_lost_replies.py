"""What every store does when the connection breaks in the middle: an unknown outcome is never taken for a refusal."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

import holdfast
from servers.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Clients = Callable[..., holdfast.AsyncClient]
    IsFree = Callable[[str], Awaitable[None]]

pytestmark = pytest.mark.timeout(90)

DECIDES = {
    "postgres": b"COMMIT\0",
    "redis": b"EVALSHA",
    "cluster": b"",  # frames are masked: the next one, and nothing else is asked then
    "plain": b"/v1/locks/acquire",
}
"""What the client sends when an acquire takes effect."""
PATIENCE_SECONDS = 1.5


@pytest.fixture
async def proxied(address: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before the store (before one node of the cluster), and the address through it."""
    first = address.split(",")[0]
    match = re.search(r"127\.0\.0\.1:(\d+)", first)
    if match is None:
        pytest.fail(f"the proxy knows servers on 127.0.0.1 only, not {first}")
    async with Proxy(int(match[1])) as proxy:
        yield proxy, first.replace(match[0], f"127.0.0.1:{proxy.port}")


async def test_a_lost_reply_is_asked_for_again_and_acts_once(
    proxied: tuple[Proxy, str], clients: Clients, store: str, key: str
) -> None:
    """time 0: the acquire takes effect and its answer is lost; time 1: the client asks again and gets that very grant."""
    proxy, address = proxied
    client, looker = clients(address), clients()
    assert await client.acquire_lock(f"{key}/warm")
    proxy.lose_reply_to(DECIDES[store])
    assert await client.acquire_lock(key)
    assert proxy.lost == 1
    grant = client.grant_of(key)
    assert grant is not None
    assert grant.previous is None  # a second execution would have found the first
    assert [each.token for each in (await looker.read_lock(key)).holders] == [grant.token]
    assert await client.release_lock(key)
    assert not (await looker.read_lock(key)).holders


async def test_a_lost_reply_to_a_release_is_asked_for_again(
    proxied: tuple[Proxy, str], clients: Clients, store: str, key: str
) -> None:
    """The release has taken effect; its repeat says so."""
    proxy, address = proxied
    client = clients(address)
    assert await client.acquire_lock(key)
    proxy.lose_reply_to({**DECIDES, "plain": b"/v1/locks/release"}[store])
    assert await client.release_lock(key)
    assert proxy.lost == 1


async def test_an_outcome_that_stays_unknown_is_said_to_be_and_ends_with_the_session(
    proxied: tuple[Proxy, str], clients: Clients, store: str, key: str
) -> None:
    """The answer is lost and nobody can be asked any more: `UnknownOutcome`, never a refusal; whatever was got is not stranded."""
    proxy, address = proxied
    client = clients(address, ttl=4.0, timeout=PATIENCE_SECONDS)
    assert await client.acquire_lock(f"{key}/warm")
    proxy.lose_reply_to(DECIDES[store], then_dead=True)
    with pytest.raises(holdfast.UnknownOutcome):
        await client.acquire_lock(key)
    assert proxy.lost == 1
    async with clients().lock(key, wait=30.0) as grant:
        assert grant.previous is not None
        assert grant.previous.ended == "expired"
    proxy.revive()  # so that closing the client takes no time


async def test_after_an_outage_the_unknown_acquire_is_withdrawn(
    proxied: tuple[Proxy, str], clients: Clients, store: str, key: str, is_free: IsFree
) -> None:
    """The store can be asked again before the session has ended: the client takes back what it may have got."""
    proxy, address = proxied
    client = clients(address, ttl=30.0, timeout=PATIENCE_SECONDS)
    assert await client.acquire_lock(f"{key}/warm")
    proxy.lose_reply_to(DECIDES[store], then_dead=True)
    with pytest.raises(holdfast.UnknownOutcome):
        await client.acquire_lock(key)
    proxy.revive()
    await is_free(key)
    assert await client.acquire_lock(key)


async def test_what_cannot_be_reached_took_no_effect(
    proxied: tuple[Proxy, str], clients: Clients, key: str
) -> None:
    """No connection: `Unreachable`, which says that nothing happened."""
    proxy, address = proxied
    proxy.stop_listening()
    with pytest.raises(holdfast.Unreachable):
        await clients(address, timeout=PATIENCE_SECONDS).acquire_lock(key)
    assert not (await clients().read_lock(key)).holders
