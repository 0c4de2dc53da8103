"""Carries out a plan of faults on a simulated cluster, and counts what really happened."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from holdfast_jepsen.faults.machines import Machines
from holdfast_jepsen.sim.network import links
from holdfast_jepsen.sim.rng import Rng
from holdfast_jepsen.sim.world import MILLISECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from holdfast_jepsen.faults.plan import Fault
    from holdfast_jepsen.sim.cluster import Cluster
    from holdfast_jepsen.sim.server import Server

Link = tuple[str, str]

OUTAGE_AGAIN = 0.2
"""Part of the outages of all nodes that come although nothing was answered since the one before."""


class Nemesis:
    """See the module. `fired` counts, by kind, the faults that had an effect."""

    def __init__(self, cluster: Cluster, plan: Sequence[Fault]) -> None:
        self.fired: Counter[str] = Counter()
        self.points: Counter[str] = Counter()
        """At which of the named points somebody was killed."""
        self.planned = Counter(fault.kind for fault in plan)
        self.is_over = False
        self._done_at_outage = -1
        """What had been answered when all nodes lost their power last."""
        self._waiting: Counter[str] = Counter()
        """Faults of messages that have not hit one yet."""
        self.cluster = cluster
        self._cluster = cluster
        cluster.network.hits = self._hit
        self._actions: dict[str, Callable[[Fault, Rng], bool | None]] = {
            "kill": lambda f, r: self._kill(self._any(r), f),
            "kill-leader": lambda f, r: self._kill(self._leader(), f),
            "power": lambda f, r: self._power([self._any(r)], f, r),
            "power-all": self._power_all,
            "crash-at-step": self._crash_at_step,
            "pause": lambda f, r: self._pause(self._any(r), f),
            "pause-leader": lambda f, r: self._pause(self._leader(), f),
            "pause-client": self._pause_client,
            "crash-client": self._crash_client,
            "isolate": lambda f, r: self._isolate(self._any(r), f),
            "isolate-leader": lambda f, r: self._isolate(self._leader(), f),
            "halves": self._halves,
            "bridge": self._bridge,
            "one-way": self._one_way,
            "ring": self._ring,
            "slow-links": self._slow_links,
            "slow-client": self._slow_client,
            "cut-client": self._cut_client,
            "hand-over": self._hand_over,
            "duplicates": self._duplicates,
            "losses": lambda f, r: self._spoil_traffic("losses", (0.02, 0.3), f, r),
            "corrupt": lambda f, r: self._spoil_traffic("corruption", (0.002, 0.02), f, r),
            "lost-chunks": self._lost_chunks,
            "swizzle": self._swizzle,
            "reset": lambda f, r: self._connection(cluster.network.reset, r),
            "supersede": lambda f, r: self._connection(cluster.network.supersede, r),
        }
        self._actions |= Machines(self).actions
        for fault in plan:
            cluster.world.at(fault.at, self._act, fault)

    def heal(self) -> None:
        """No more faults; everything that can live does."""
        self.is_over = True
        self._cluster.heal()

    def _act(self, fault: Fault) -> None:
        if self.is_over:
            return
        self._cluster.world.note(f"fault {fault.kind}")
        if self._actions[fault.kind](fault, Rng(fault.draw)):
            self.fired[fault.kind] += 1

    # For `machines`.

    def count(self, kind: str) -> None:
        """It has had an effect now."""
        if not self.is_over:
            self.fired[kind] += 1

    def any_server(self, rng: Rng) -> Server:
        """One of them."""
        return rng.choice(self._cluster.servers)

    def later(self, fault: Fault, action: Callable[..., object], *args: object) -> None:
        """When the fault is over."""
        self._later(fault, action, *args)

    def after(self, delay: int, action: Callable[..., object], *args: object) -> None:
        """After so many nanoseconds, unless all is over by then."""
        self._cluster.world.after(delay, self._unless_over, action, args)

    def _hit(self, kind: str) -> None:
        """A message was hit. A fault of that kind has fired when it has hit one."""
        if self._waiting[kind]:
            self.fired[kind] += self._waiting.pop(kind)

    # Processes.

    def _any(self, rng: Rng) -> Server:
        return rng.choice(self._cluster.servers)

    def _leader(self) -> Server | None:
        return self._cluster.leader

    def _later(self, fault: Fault, action: Callable[..., object], *args: object) -> None:
        self._cluster.world.after(fault.duration, self._unless_over, action, args)

    def _unless_over(self, action: Callable[..., object], args: tuple[object, ...]) -> None:
        if not self.is_over:
            action(*args)

    def _kill(self, server: Server | None, fault: Fault) -> bool:
        if server is None or server.actor is None:
            return False
        server.kill()
        self._later(fault, server.start)
        return True

    def _power(self, servers: Iterable[Server], fault: Fault, rng: Rng) -> bool:
        hit = [server for server in servers if server.actor is not None]
        for server in hit:
            server.lose_power(rng)
            self._later(fault, server.start)
        return bool(hit)

    def _power_all(self, fault: Fault, rng: Rng) -> bool:
        """Seldom again before anything was answered: plans of many would be nothing else."""
        done = self._cluster.done
        if done == self._done_at_outage and not rng.chance(OUTAGE_AGAIN):
            return False
        self._done_at_outage = done
        return self._power(self._cluster.servers, fault, rng)

    def _crash_at_step(self, fault: Fault, rng: Rng) -> bool:
        server = self._any(rng)
        if server.actor is None or server.has_step_fault:
            return False
        server.crash_at_step(1 + rng.below(8), loses_power=rng.chance(0.6))
        self._later(fault, server.start)
        # Should it not have come to that step by then, it starts when it does.
        self._cluster.world.after(
            fault.duration + 1_000 * MILLISECOND * self._cluster.world.pace,
            self._unless_over,
            server.start,
            (),
        )
        return True

    def _pause(self, server: Server | None, fault: Fault) -> bool:
        if server is None or server.actor is None:
            return False
        server.pause(fault.duration)
        return True

    def _hand_over(self, _: Fault, __: Rng) -> bool:
        """An operator asks the leader to give the leadership away."""
        server = self._leader()
        if server is None or server.actor is None:
            return False
        self._cluster.world.at(self._cluster.world.now, server.hand_over, actor=server.actor)
        return True

    # Clients.

    def _pause_client(self, fault: Fault, rng: Rng) -> bool:
        rng.choice(self._cluster.clients).actor.pause(fault.duration)
        return True

    def _crash_client(self, _: Fault, rng: Rng) -> bool:
        self._cluster.replace_client(rng.below(len(self._cluster.clients)))
        return True

    def _slow_client(self, fault: Fault, rng: Rng) -> bool:
        slow, name = self._cluster.gateway.slow, rng.choice(self._cluster.clients).name
        slow[name] = 1 + fault.duration // 4
        self._later(fault, slow.pop, name, 0)
        return True

    def _cut_client(self, fault: Fault, rng: Rng) -> bool:
        cut = self._cluster.gateway.cut
        pair = rng.choice(self._cluster.clients).name, self._any(rng).name
        cut.add(pair)
        self._later(fault, cut.discard, pair)
        return True

    # Links between nodes.

    def _block(self, blocked: Iterable[Link], fault: Fault) -> bool:
        network, count = self._cluster.network, 0
        for link in blocked:
            if not network.is_blocked(*link):
                network.block(*link)
                self._later(fault, network.unblock, *link)
                count += 1
        return count > 0

    def _between(self, one: Sequence[str], other: Sequence[str]) -> list[Link]:
        return [pair for a in one for b in other for pair in ((a, b), (b, a))]

    def _isolate(self, server: Server | None, fault: Fault) -> bool:
        if server is None:
            return False
        return self._block(self._between([server.name], server.peers), fault)

    def _halves(self, fault: Fault, rng: Rng) -> bool:
        names = self._cluster.names
        side = rng.sample(names, len(names) // 2)
        return self._block(self._between(side, [n for n in names if n not in side]), fault)

    def _bridge(self, fault: Fault, rng: Rng) -> bool:
        """Two sides that see each other only through one node."""
        names = rng.sample(self._cluster.names, len(self._cluster.names))
        middle = len(names) // 2
        return self._block(self._between(names[:middle], names[middle + 1 :]), fault)

    def _one_way(self, fault: Fault, rng: Rng) -> bool:
        return self._block([rng.choice(links(self._cluster.names))], fault)

    def _ring(self, fault: Fault, rng: Rng) -> bool:
        """Every node sees a majority, no two the same one (of five); of three, one link is missing."""
        names = rng.sample(self._cluster.names, len(self._cluster.names))
        count = len(names)
        keep = {(i, (i + d) % count) for i in range(count) for d in (1, count - 1)}
        cut = [(i, j) for i in range(count) for j in range(count) if i != j and (i, j) not in keep]
        cut = cut or [(0, 1), (1, 0)]
        return self._block([(names[i], names[j]) for i, j in cut], fault)

    def _slow_links(self, fault: Fault, rng: Rng) -> bool:
        network = self._cluster.network
        for link in links(self._cluster.names):
            if rng.chance(0.5):
                network.delay(*link, 1 + fault.duration // 8)
                self._later(fault, network.delay, *link, 0)
        return True

    def _duplicates(self, fault: Fault, rng: Rng) -> bool | None:
        return self._spoil_traffic("duplicates", (0.02, 0.3), fault, rng)

    def _spoil_traffic(
        self, what: str, parts: tuple[float, float], fault: Fault, rng: Rng
    ) -> bool | None:
        """This part of the messages. Counted when it hits the first one."""
        self._waiting[fault.kind] += 1
        setattr(self._cluster.network, what, rng.choice(parts))
        self._later(fault, setattr, self._cluster.network, what, 0.0)
        return None

    def _lost_chunks(self, fault: Fault, rng: Rng) -> bool | None:
        """A node comes back after the others have cut their logs: it needs a snapshot, of which pieces are lost on the way."""
        leader = self._leader()
        followers = [s for s in self._cluster.servers if s.actor is not None and s is not leader]
        if leader is None or 2 * len(followers) <= len(self._cluster.servers):
            return False  # without it nobody could commit what it will lack
        server = rng.choice(followers)
        second = 1_000 * MILLISECOND * self._cluster.world.pace
        away = max(fault.duration // 2, second)
        network = self._cluster.network
        self._waiting[fault.kind] += 1
        network.lost_chunks = rng.choice((0.3, 0.8))
        server.kill()
        for other in self._cluster.servers:
            self.after(away - second // 4, other.take_snapshot)
        self.after(away, server.start)
        self.after(away + fault.duration // 2 + 2 * second, setattr, network, "lost_chunks", 0.0)
        return None

    def _swizzle(self, fault: Fault, rng: Rng) -> bool:
        """One node's links stop one by one, and come back in another order."""
        name = self._any(rng).name
        pairs = [pair for pair in links(self._cluster.names) if name in pair]
        network, step = self._cluster.network, fault.duration // len(pairs)
        for place, link in enumerate(rng.sample(pairs, len(pairs))):
            self.after(place * step, network.block, *link)
        for place, link in enumerate(rng.sample(pairs, len(pairs))):
            self.after(fault.duration + place * step, network.unblock, *link)
        return True

    def _connection(self, action: Callable[[str, str], None], rng: Rng) -> bool:
        action(*rng.choice(links(self._cluster.names)))
        return True
