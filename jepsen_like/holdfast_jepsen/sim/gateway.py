"""The way from clients to nodes: one request, one answer, or silence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from holdfast_jepsen.sim.network import Network
    from holdfast_jepsen.sim.rng import Rng
    from holdfast_jepsen.sim.server import Server
    from holdfast_jepsen.sim.world import Actor, World
    from holdfast_jepsen.workloads.ledger import Shop

NOBODY_LISTENS = "nobody listens"
"""What comes in the place of an answer: the connection was refused. None: it broke."""


class Gateway:
    """See the module. Answers are bytes."""

    def __init__(self, world: World, network: Network, servers: list[Server], rng: Rng) -> None:
        self.world = world
        self.servers = {server.name: server for server in servers}
        self.cut: set[tuple[str, str]] = set()
        """(client, server): nothing gets through, in both directions."""
        self.slow: dict[str, int] = {}
        """By client: answers may take up to so many nanoseconds more."""
        self.shop: Shop | None = None
        """What the workers of a ledger share."""
        self._network = network
        self._rng = rng
        self._calls = 0
        self._open: dict[str, dict[int, Server]] = {}
        """By client: the requests that it waits for."""

    def ask(
        self,
        client: Actor,
        to: str,
        request: bytes,
        future: asyncio.Future[Any],
        *,
        is_frame: bool,
    ) -> int:
        """Send a request. The future gets the answer, or what comes in its place. Returns its number."""
        self._calls += 1
        call, server = self._calls, self.servers[to]
        pair = client.name, to
        self._open.setdefault(client.name, {})[call] = server

        def answer(told: bytes | str | None) -> None:
            if pair in self.cut:
                return
            delay = self._network.one_way()
            if slow := self.slow.get(client.name, 0):
                delay += self._rng.below(slow)
            self.world.after(delay, receive, told, actor=client)

        def receive(told: bytes | str | None) -> None:
            size = len(told) if isinstance(told, bytes) else told
            self.world.note(f"{client.name} gets {size} for {call}")
            if not future.done():
                future.set_result(told)

        def arrive() -> None:
            if pair in self.cut:
                return
            if server.actor is None:
                answer(NOBODY_LISTENS)
            else:
                # The process of the server takes it when it has time.
                life = server.actor
                self.world.at(
                    self.world.now, server.serve, call, request, answer, is_frame, actor=life
                )

        self.world.after(self._network.one_way(), arrive)
        return call

    def settled(self, client: str, call: int) -> None:
        """The client waits for this one no more."""
        self._open[client].pop(call, None)

    def elsewhere(
        self, client: Actor, decide: Callable[[], Any], future: asyncio.Future[Any]
    ) -> None:
        """The same to something that is no node, has no faults, and decides at once when the request arrives."""

        def arrive() -> None:
            self.world.after(self._way(client), receive, decide(), actor=client)

        def receive(decided: Any) -> None:
            if not future.done():  # whoever lost the lock waits for it no more
                future.set_result(decided)

        self.world.after(self._way(client), arrive)

    def _way(self, client: Actor) -> int:
        slow = self.slow.get(client.name, 0)
        return self._network.one_way() + (self._rng.below(slow) if slow else 0)

    def hang_up(self, client: str, call: int) -> None:
        """The client closes the connection of this request."""
        server = self._open[client].pop(call, None)
        if (
            server is not None
            and (client, server.name) not in self.cut
            and server.actor is not None
        ):
            self.world.after(self._network.one_way(), server.hang_up, call, actor=server.actor)

    def hang_up_all(self, client: str) -> None:
        """The client's process is gone, and its system closes its connections."""
        for call in list(self._open.get(client, ())):
            self.hang_up(client, call)
