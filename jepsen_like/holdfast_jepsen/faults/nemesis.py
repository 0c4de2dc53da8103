"""Carries out a plan of faults on a simulated cluster, and counts what really happened.

Rules:
* `fired` counts a fault when something was hit: a process that ran, a connection that was there, a message, a call of the disk.
  What is only prepared counts when it happens, and not if its time is over before that.
* Of several faults that overlap on one thing the latest counts, and only the end of the last gives back what was there.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import TYPE_CHECKING

from holdfast_jepsen.faults.machines import Machines
from holdfast_jepsen.faults.plan import SUSPENSION
from holdfast_jepsen.sim import disks
from holdfast_jepsen.sim.network import links
from holdfast_jepsen.sim.rng import Rng
from holdfast_jepsen.sim.world import MILLISECOND, Crashed

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence
    from typing import Any

    from holdfast_jepsen.faults.plan import Fault
    from holdfast_jepsen.sim.cluster import Cluster
    from holdfast_jepsen.sim.server import Server

Link = tuple[str, str]

OUTAGE_AGAIN = 0.2
"""Part of the outages of a majority that come although nothing was answered since the one before."""


class Nemesis:
    """See the module. `fired` counts, by kind, the faults that had an effect."""

    def __init__(self, cluster: Cluster, plan: Sequence[Fault]) -> None:
        self.fired: Counter[str] = Counter()
        self.points: Counter[str] = Counter()
        """At which of the named points somebody was killed."""
        self.is_over = False
        self._done_at_outage = -1
        """What had been answered when a majority failed last."""
        self._waiting: dict[str, set[Fault]] = {}
        """By kind, faults of messages that have not hit one yet, and are not over."""
        self._held: dict[Hashable, dict[int, Any]] = {}
        """What faults put in place for a while, in the order in which they did; see `hold`."""
        self._holds = 0
        self.cluster = cluster
        cluster.network.hits = self._hit
        self._actions: dict[str, Callable[[Fault, Rng], bool | None]] = {
            "kill": lambda f, r: self._kill([self.any_server(r)], f),
            "kill-leader": lambda f, r: self._kill([self._leader()], f),
            "kill-minority": lambda f, r: self._kill(self._minority(r), f),
            "kill-majority": lambda f, r: self._kill(self._majority(r), f),
            "kill-all": lambda f, r: self._kill(self._all(r), f),
            "power": lambda f, r: self._power([self.any_server(r)], f, r),
            "power-all": lambda f, r: self._power(self._all(r), f, r),
            "crash-at-step": self._crash_at_step,
            "pause": lambda f, r: self._pause([self.any_server(r)], f),
            "pause-leader": lambda f, r: self._pause([self._leader()], f),
            "pause-minority": lambda f, r: self._pause(self._minority(r), f),
            "pause-majority": lambda f, r: self._pause(self._majority(r), f),
            "pause-all": lambda f, r: self._pause(self._all(r), f),
            "pause-client": lambda f, r: self._pause_client(f.duration, r),
            "suspend-client": self._suspend_client,
            "crash-client": self._crash_client,
            "isolate": lambda f, r: self._isolate(self.any_server(r), f),
            "isolate-leader": lambda f, r: self._isolate(self._leader(), f),
            "halves": self._halves,
            "bridge": self._bridge,
            "one-way": self._one_way,
            "ring": self._ring,
            "slow-links": self._slow_links,
            "slow-client": self._slow_client,
            "cut-client": self._cut_client,
            "hand-over": self._hand_over,
            "duplicates": lambda f, r: self._spoil_traffic("duplicates", (0.02, 0.3), f, r),
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
        self.cluster.heal()

    def _act(self, fault: Fault) -> None:
        if self.is_over:
            return
        self.cluster.world.note(f"fault {fault.kind}")
        if self._actions[fault.kind](fault, Rng(fault.draw)):
            self.fired[fault.kind] += 1

    # For `machines`.

    def count(self, kind: str) -> None:
        """It has had an effect now."""
        if not self.is_over:
            self.fired[kind] += 1

    def any_server(self, rng: Rng) -> Server:
        """One of them."""
        return rng.choice(self.cluster.servers)

    def later(self, fault: Fault, action: Callable[..., object], *args: object) -> None:
        """When the fault is over."""
        self.after(fault.duration, action, *args)

    def after(self, delay: int, action: Callable[..., object], *args: object) -> None:
        """After so many nanoseconds, unless all is over by then."""
        self.cluster.world.after(delay, self._unless_over, action, args)

    def hold(
        self,
        duration: int,
        what: Hashable,
        put: Callable[[Any], object],
        value: object,
        rest: object,
    ) -> None:
        """`put(value)` for so many nanoseconds; then `put(rest)`, or what another fault has put on the same `what` meanwhile."""
        held = self._held.setdefault(what, {})
        self._holds += 1
        held[self._holds] = value
        put(value)
        self.after(duration, self._let_go, self._holds, what, put, rest)

    def _let_go(
        self, number: int, what: Hashable, put: Callable[[Any], object], rest: object
    ) -> None:
        held = self._held[what]
        del held[number]
        put(held[max(held)] if held else rest)

    def _wait_for_a_hit(self, fault: Fault, duration: int) -> None:
        """It will be counted when it hits its first message, if it does before it is over."""
        waiting = self._waiting.setdefault(fault.kind, set())
        waiting.add(fault)
        self.after(duration, waiting.discard, fault)

    def _hit(self, kind: str) -> None:
        """A message was hit. Every fault of that kind that is at work has fired."""
        if waiting := self._waiting.get(kind):
            self.fired[kind] += len(waiting)
            waiting.clear()

    # Processes.

    def _leader(self) -> Server | None:
        return self.cluster.leader

    def _unless_over(self, action: Callable[..., object], args: tuple[object, ...]) -> None:
        if not self.is_over:
            action(*args)

    def _minority(self, rng: Rng) -> list[Server]:
        """The largest."""
        servers = self.cluster.servers
        return rng.sample(servers, (len(servers) - 1) // 2)

    def _majority(self, rng: Rng) -> list[Server]:
        """The smallest; none, if the last outage is too near."""
        servers = self.cluster.servers
        return [] if self._is_too_soon(rng) else rng.sample(servers, len(servers) // 2 + 1)

    def _all(self, rng: Rng) -> list[Server]:
        return [] if self._is_too_soon(rng) else list(self.cluster.servers)

    def _is_too_soon(self, rng: Rng) -> bool:
        """Seldom does a majority fail again before anything was answered: plans of many such faults would be nothing else."""
        done = self.cluster.done
        if done == self._done_at_outage and not rng.chance(OUTAGE_AGAIN):
            return True
        self._done_at_outage = done
        return False

    def _kill(self, servers: Iterable[Server | None], fault: Fault) -> bool:
        hit = [server for server in servers if server is not None and server.actor is not None]
        for server in hit:
            server.kill()
            self.later(fault, server.start)
        return bool(hit)

    def _power(self, servers: Iterable[Server], fault: Fault, rng: Rng) -> bool:
        hit = [server for server in servers if server.actor is not None]
        for server in hit:
            server.lose_power(rng)
            self.later(fault, server.start)
        return bool(hit)

    def _crash_at_step(self, fault: Fault, rng: Rng) -> bool | None:
        server = self.any_server(rng)
        if server.actor is None or server.has_step_fault:
            return False
        loses_power = rng.chance(0.6)

        def die() -> None:
            server.crash_loses_power = loses_power
            server.lift_disk_errors()
            self.count(fault.kind)
            self.later(fault, server.start)
            if server.actor is not None:
                server.actor.has_crashed = True
            raise Crashed

        server.set_disk_error(disks.crash(1 + rng.below(8), die))
        return None

    def _pause(self, servers: Iterable[Server | None], fault: Fault) -> bool:
        hit = [
            s for s in servers if s is not None and s.actor is not None and not s.actor.is_paused
        ]
        for server in hit:
            server.pause(fault.duration)
        return bool(hit)

    def _hand_over(self, _: Fault, __: Rng) -> bool:
        """An operator asks the leader to give the leadership away."""
        server = self._leader()
        if server is None or server.actor is None:
            return False
        self.cluster.world.at(self.cluster.world.now, server.hand_over, actor=server.actor)
        return True

    # Clients.

    def _pause_client(self, duration: int, rng: Rng) -> bool:
        actor = rng.choice(self.cluster.clients).actor
        if actor.is_paused:
            return False
        actor.pause(duration)
        return True

    def _suspend_client(self, fault: Fault, rng: Rng) -> bool:
        """Its machine sleeps for longer than most leases; its clock runs on."""
        return self._pause_client(fault.duration + SUSPENSION * self.cluster.world.pace, rng)

    def _crash_client(self, _: Fault, rng: Rng) -> bool:
        self.cluster.replace_client(rng.below(len(self.cluster.clients)))
        return True

    def _slow_client(self, fault: Fault, rng: Rng) -> bool:
        slow, name = self.cluster.gateway.slow, rng.choice(self.cluster.clients).name

        def put(delay: int) -> None:
            slow[name] = delay

        self.hold(fault.duration, ("slow-client", name), put, 1 + fault.duration // 4, 0)
        return True

    def _cut_client(self, fault: Fault, rng: Rng) -> bool:
        cut = self.cluster.gateway.cut
        pair = rng.choice(self.cluster.clients).name, self.any_server(rng).name

        def put(is_cut: bool) -> None:
            (cut.add if is_cut else cut.discard)(pair)

        self.hold(fault.duration, ("cut-client", pair), put, True, False)
        return True

    # Links between nodes.

    def _block(self, blocked: Iterable[Link], fault: Fault) -> bool:
        is_new = [self._block_link(link, fault.duration) for link in blocked]
        return any(is_new)

    def _block_link(self, link: Link, duration: int) -> bool:
        """Whether it was open."""
        network = self.cluster.network
        is_new = not network.is_blocked(*link)

        def put(is_blocked: bool) -> None:
            if not is_blocked:
                network.unblock(*link)
            elif not network.is_blocked(*link):
                network.block(*link)

        self.hold(duration, ("block", link), put, True, False)
        return is_new

    def _between(self, one: Sequence[str], other: Sequence[str]) -> list[Link]:
        return [pair for a in one for b in other for pair in ((a, b), (b, a))]

    def _isolate(self, server: Server | None, fault: Fault) -> bool:
        if server is None:
            return False
        return self._block(self._between([server.name], server.peers), fault)

    def _halves(self, fault: Fault, rng: Rng) -> bool:
        names = self.cluster.names
        side = rng.sample(names, len(names) // 2)
        return self._block(self._between(side, [n for n in names if n not in side]), fault)

    def _bridge(self, fault: Fault, rng: Rng) -> bool:
        """Two sides that see each other only through one node."""
        names = rng.sample(self.cluster.names, len(self.cluster.names))
        middle = len(names) // 2
        return self._block(self._between(names[:middle], names[middle + 1 :]), fault)

    def _one_way(self, fault: Fault, rng: Rng) -> bool:
        return self._block([rng.choice(links(self.cluster.names))], fault)

    def _ring(self, fault: Fault, rng: Rng) -> bool:
        """Every node sees a majority, no two the same one (of five); of three, one link is missing."""
        names = rng.sample(self.cluster.names, len(self.cluster.names))
        count = len(names)
        keep = {(i, (i + d) % count) for i in range(count) for d in (1, count - 1)}
        cut = [(i, j) for i in range(count) for j in range(count) if i != j and (i, j) not in keep]
        cut = cut or [(0, 1), (1, 0)]
        return self._block([(names[i], names[j]) for i, j in cut], fault)

    def _slow_links(self, fault: Fault, rng: Rng) -> bool | None:
        """Half of them. Counted when something is late."""
        network = self.cluster.network
        for link in links(self.cluster.names):
            if rng.chance(0.5):
                put = functools.partial(network.delay, *link)
                self.hold(fault.duration, ("delay", link), put, 1 + fault.duration // 8, 0)
        self._wait_for_a_hit(fault, fault.duration)
        return None

    def _spoil_traffic(
        self, what: str, parts: tuple[float, float], fault: Fault, rng: Rng
    ) -> bool | None:
        """This part of the messages. Counted when it hits the first one."""
        self._wait_for_a_hit(fault, fault.duration)
        self._put_traffic(what, rng.choice(parts), fault.duration)
        return None

    def _put_traffic(self, what: str, part: float, duration: int) -> None:
        put = functools.partial(setattr, self.cluster.network, what)
        self.hold(duration, what, put, part, 0.0)

    def _lost_chunks(self, fault: Fault, rng: Rng) -> bool | None:
        """A node comes back after the others have cut their logs: it needs a snapshot, of which pieces are lost on the way."""
        leader = self._leader()
        followers = [s for s in self.cluster.servers if s.actor is not None and s is not leader]
        if leader is None or 2 * len(followers) <= len(self.cluster.servers):
            return False  # without it nobody could commit what it will lack
        server = rng.choice(followers)
        second = 1_000 * MILLISECOND * self.cluster.world.pace
        away = max(fault.duration // 2, second)
        duration = away + fault.duration // 2 + 2 * second
        self._wait_for_a_hit(fault, duration)
        self._put_traffic("lost_chunks", rng.choice((0.3, 0.8)), duration)
        server.kill()
        for other in self.cluster.servers:
            self.after(away - second // 4, other.take_snapshot)
        self.after(away, server.start)
        return None

    def _swizzle(self, fault: Fault, rng: Rng) -> bool:
        """One node's links stop one by one, and come back in another order."""
        name = self.any_server(rng).name
        pairs = [pair for pair in links(self.cluster.names) if name in pair]
        step = fault.duration // len(pairs)
        begins = {link: place * step for place, link in enumerate(rng.sample(pairs, len(pairs)))}
        is_new = not all(self.cluster.network.is_blocked(*link) for link in pairs)
        for place, link in enumerate(rng.sample(pairs, len(pairs))):
            end = fault.duration + place * step
            self.after(begins[link], self._block_link, link, end - begins[link])
        return is_new

    def _connection(self, action: Callable[[str, str], bool], rng: Rng) -> bool:
        return action(*rng.choice(links(self.cluster.names)))
