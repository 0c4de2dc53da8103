"""A peer that comes back at another address is dialed there, without a restart, and proves itself anew."""

from __future__ import annotations

import asyncio
import os
import random
from typing import TYPE_CHECKING

from holdfast_coordinator.local_cluster import free_ports
from holdfast_coordinator.raft.transport import Network, TransportConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast_coordinator.raft.messages import Message


class Ears:
    """Notes who is connected."""

    def __init__(self) -> None:
        self.connected: set[str] = set()
        self.news = asyncio.Event()

    def on_connected(self, peer: str) -> None:
        self.connected.add(peer)
        self.news.set()

    def on_disconnected(self, peer: str) -> None:
        self.connected.discard(peer)
        self.news.set()

    def on_messages(self, peer: str, messages: Sequence[Message]) -> None: ...
    def on_payloads(self, peer: str, payloads: Sequence[bytes]) -> None: ...
    def on_full(self, peer: str) -> None: ...
    def on_room(self, peer: str) -> None: ...

    async def until(self, condition: Callable[[set[str]], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition(self.connected):
                self.news.clear()
                await self.news.wait()


def network(node: str, ports: Sequence[int], secret: bytes = b"secret") -> tuple[Network, Ears]:
    members = {"n1": ("127.0.0.1", ports[0]), "n2": ("127.0.0.1", ports[1])}
    config = TransportConfig("c", node, secret, members, entry_bytes_max=1000)
    ears = Ears()
    rng = random.Random(0)  # noqa: S311 - a seeded run
    return Network(config, ears, rng=rng, new_nonce=os.urandom), ears


async def test_a_peer_is_dialed_where_it_is_now() -> None:
    """time 0: connected; time 1: n2 dies, and comes back elsewhere; time 2: n1 is told where."""
    here, old, new = free_ports(3)
    one, ears = network("n1", (here, old))
    two, _ = network("n2", (here, old))
    await two.start()
    await one.start()
    await ears.until(lambda connected: connected == {"n2"})
    await two.stop()
    await ears.until(lambda connected: not connected)
    moved, _ = network("n2", (here, new))
    await moved.start()
    one.move("n2", ("127.0.0.1", new))
    await ears.until(lambda connected: connected == {"n2"})
    await one.stop()
    await moved.stop()


async def test_an_address_makes_nobody_a_peer() -> None:
    """Who listens there and does not know the secret is refused, as anywhere."""
    here, old, new = free_ports(3)
    one, ears = network("n1", (here, old))
    stranger, _ = network("n2", (here, new), secret=b"another")
    await stranger.start()
    await one.start()
    one.move("n2", ("127.0.0.1", new))
    async with asyncio.timeout(30):
        while not one.stats.rejected:  # noqa: ASYNC110 - the other end of a socket decides when
            await asyncio.sleep(0.01)
    assert not ears.connected
    await one.stop()
    await stranger.stop()
