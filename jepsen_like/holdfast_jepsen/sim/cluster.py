"""A simulated cluster with its clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast_coordinator.raft.peers import ACCEPTED
from holdfast_jepsen.checker.raft_invariants import RaftInvariants
from holdfast_jepsen.history import History
from holdfast_jepsen.sim.client import SimClient
from holdfast_jepsen.sim.gateway import Gateway
from holdfast_jepsen.sim.network import Network
from holdfast_jepsen.sim.rng import Rng
from holdfast_jepsen.sim.server import SESSION_REF_KEY, Server
from holdfast_jepsen.sim.world import SECOND
from holdfast_jepsen.workloads import ledger
from holdfast_jepsen.workloads import mix as workloads
from holdfast_jepsen.workloads.recorder import session_refs
from holdfast_jepsen.workloads.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from holdfast_coordinator.machine import Record
    from holdfast_jepsen.sim.server import Settings
    from holdfast_jepsen.sim.world import World
    from holdfast_jepsen.workloads.mix import Mix

WATCHERS = 2
"""More than one, so that what they are told can differ."""
SKEW = 0.004
"""Clocks run this much too fast or too slow at most: two of them differ by less than the client's margin."""


session_ref = session_refs(SESSION_REF_KEY)


class Cluster:
    """See the module. `skew`: how wrong the clocks of this run are, as a part."""

    def __init__(
        self,
        world: World,
        seed: int,
        *,
        size: int,
        settings: Settings,
        mix: Mix,
        carry: Callable[[Any], Any] | None,
        client_class: type[SimClient] = SimClient,
    ) -> None:
        self.world = world
        self.names = tuple(f"n{number}" for number in range(1, size + 1))
        self.history = History()
        self.watch = RaftInvariants(self.names, world.note)
        self.network = Network(world, Rng(seed, "network"), carry=carry)
        rates = Rng(seed, "rates")
        self.servers = [
            Server(
                name,
                self.names,
                world=world,
                network=self.network,
                watch=self.watch,
                settings=settings,
                rng=Rng(seed, name),
                rate=rates.uniform(1 - SKEW, 1 + SKEW),
            )
            for name in self.names
        ]
        for server in self.servers:
            self.watch.servers[server.name] = server
            self.network.add(server)
        self.network.introduce = self._introduce
        self.gateway = Gateway(world, self.network, self.servers, Rng(seed, "gateway"))
        self.gateway.shop = ledger.shop_for(
            mix.name, mix.keys, Rng(seed, "shop"), ttl_ms=mix.ttl_ms[0]
        )
        self.mix = mix
        self.story: dict[int, Record] = {}
        """What each revision was, as watchers were told."""
        self.clients: list[SimClient] = []
        self.done_before = 0
        """Operations answered to clients that are gone."""
        self._client_class = client_class
        self._seed = seed
        self._client_rates = Rng(seed, "client rates")
        self._clients_made = 0
        self._is_operated = False

    @property
    def leader(self) -> Server | None:
        """Whoever believes to lead in the highest term."""
        leaders = [each for each in self.servers if each.engine and each.engine.is_leader]
        return max(leaders, key=lambda each: each.engine.term, default=None)  # type: ignore[union-attr]

    def _introduce(self, one: str, other: str) -> bool:
        """What two nodes tell each other in the handshake, and whether both accept it (D37)."""
        by_name = self.watch.servers
        books = [engine.book for engine in (by_name[one].engine, by_name[other].engine) if engine]
        if len(books) < 2 or books[0] is None or books[1] is None:
            return False
        first, second = books[0], books[1]
        theirs, ours = second.introduce(), first.introduce()
        by_first, by_second = first.judge(other, theirs), second.judge(one, ours)
        if by_first.code != ACCEPTED or by_second.code != ACCEPTED:
            return False
        return by_name[one].survives(first.met, other, theirs, by_second) and by_name[
            other
        ].survives(second.met, one, ours, by_first)

    def begin_with_old_versions(self, rng: Rng) -> None:
        """One node at least runs a version that knows only the first format level."""
        count = rng.between(1, len(self.servers))
        for server in rng.sample(self.servers, count):
            server.begin_old()

    # An operator.

    def replace_disk(self, server: Server) -> None:
        """A machine that is down gets an empty disk; as long as it is refused, an operator has it admitted."""
        server.lose_disk()
        if not self._is_operated:
            self._is_operated = True
            self._operate()

    def replace_if_refused(self, server: Server) -> None:
        """It would not start on its damaged files."""
        if server.failure is not None and server.is_damaged:
            self.replace_disk(server)
            server.start()

    def _operate(self) -> None:
        """`holdfast replace-node`, for whoever is refused."""
        leader = self.leader
        if leader is not None and leader.actor is not None and leader.engine is not None:
            engine = leader.engine
            refused = {} if engine.book is None else engine.book.refused
            for name, directory in sorted(refused.items()):
                if engine.kernel is not None:
                    engine.kernel.propose_admission(name, directory)
                    engine.wake()
        self.world.after(SECOND * self.world.pace, self._operate)

    @property
    def done(self) -> int:
        """Operations that were answered definitely."""
        return self.done_before + sum(client.done for client in self.clients)

    def start(self) -> None:
        """All nodes and clients."""
        for server in self.servers:
            server.start()
        for _ in range(self.mix.clients):
            self.clients.append(self.new_client())
            self.clients[-1].start(workloads.work)
        for number in range(1, WATCHERS + 1):
            name = f"w{number}"
            Watcher(name, self, Rng(self._seed, name), self.story).start()

    def new_client(self) -> SimClient:
        """A new process."""
        self._clients_made += 1
        name = f"c{self._clients_made}"
        return self._client_class(
            name,
            world=self.world,
            gateway=self.gateway,
            history=self.history,
            mix=self.mix,
            rng=Rng(self._seed, name),
            rate=self._client_rates.uniform(1 - SKEW, 1 + SKEW),
            ref=session_ref,
        )

    def replace_client(self, place: int) -> None:
        """One crashes, and another takes its place."""
        self.clients[place].crash()
        self.done_before += self.clients[place].done
        self.clients[place] = self.new_client()
        self.clients[place].start(workloads.work)

    def heal(self) -> None:
        """Undo every fault that can be undone."""
        self.network.heal()
        self.gateway.cut.clear()
        self.gateway.slow.clear()
        for server in self.servers:
            server.lift_disk_errors()
            server.lift_traps()
            if server.is_old:
                server.upgrade()
            server.sync_slowdown = 1
            self.replace_if_refused(server)
            server.start()
