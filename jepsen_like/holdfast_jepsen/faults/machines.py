"""Faults of one machine: its disk, its clocks, and the exact point at which its process dies.

Rule: at most one disk of a run is spoilt (replaced, or its files changed), because with a second one what a majority had can be
gone for good; errors that a call reports may hit any disk. Clocks run wrong within what leases allow for (DESIGN G3); wall clocks
may show anything.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from holdfast_jepsen.faults.plan import SUSPENSION
from holdfast_jepsen.sim import disks
from holdfast_jepsen.sim.cluster import SKEW
from holdfast_jepsen.sim.points import POINTS, Trap
from holdfast_jepsen.sim.world import SECOND

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_jepsen.faults.nemesis import Nemesis
    from holdfast_jepsen.faults.plan import Fault
    from holdfast_jepsen.sim.client import SimClient
    from holdfast_jepsen.sim.rng import Rng
    from holdfast_jepsen.sim.server import Server

STROBES = 12
MAJORITY_SLEEPS = 0.2
"""Part of the suspensions that happen although they leave no majority awake."""
WALL_JUMP_MS = 7 * 24 * 3600 * 1000


class Machines:
    """See the module. What has an effect only later is counted then, by `nemesis.fired`."""

    def __init__(self, nemesis: Nemesis) -> None:
        self._nemesis = nemesis
        self._cluster = nemesis.cluster
        self._world = nemesis.cluster.world
        self._spoilt: str | None = None

    @property
    def actions(self) -> dict[str, Callable[[Fault, Rng], bool | None]]:
        """By kind; an action returns None if it will be counted when it happens."""
        return {
            "kill-at-point": self._kill_at_point,
            "disk-full": lambda f, r: self._disk_error(disks.full, f, r),
            "write-error": lambda f, r: self._disk_error(disks.failing_write, f, r),
            "sync-error": lambda f, r: self._disk_error(disks.failing_sync, f, r),
            "slow-disk": self._slow_disk,
            "wipe": self._wipe,
            "bit-flip": lambda f, r: self._decay(f, r, truncate=False),
            "truncate": lambda f, r: self._decay(f, r, truncate=True),
            "skew": self._skew,
            "strobe": self._strobe,
            "skew-client": self._skew_client,
            "strobe-client": self._strobe_client,
            "wall-jump": self._wall_jump,
            "suspend": self._suspend,
            "rolling-restart": self._rolling_restart,
            "upgrade": self._upgrade,
        }

    def _count(self, kind: str) -> Callable[[], None]:
        return lambda: self._nemesis.count(kind)

    # The process.

    def _kill_at_point(self, fault: Fault, rng: Rng) -> bool | None:
        server = self._nemesis.any_server(rng)
        if server.actor is None or server.has_step_fault or server.trap is not None:
            return False
        point = rng.choice(POINTS)

        def on_fire() -> None:
            self._nemesis.count(fault.kind)
            self._nemesis.points[point] += 1
            self._nemesis.later(fault, server.start)

        server.set_trap(Trap(point, 1 + rng.below(3), loses_power=rng.chance(0.5), on_fire=on_fire))
        return None

    def _suspend(self, fault: Fault, rng: Rng) -> bool:
        """The machine sleeps for longer than its peers keep its connections; its clock runs on. Seldom is a majority asleep: it
        lasts, and many plans would be nothing else."""
        server = self._nemesis.any_server(rng)
        if server.actor is None or server.actor.is_paused:
            return False
        awake = [s for s in self._cluster.servers if s.actor is not None and not s.actor.is_paused]
        has_majority = 2 * (len(awake) - 1) > len(self._cluster.servers)
        if not has_majority and not rng.chance(MAJORITY_SLEEPS):
            return False
        server.pause(fault.duration + SUSPENSION * self._world.pace)
        return True

    def _rolling_restart(self, fault: Fault, rng: Rng) -> bool:
        """Every node in turn, the next one a while after the last has come back."""
        is_any_up = any(server.actor is not None for server in self._cluster.servers)
        for place, server in enumerate(
            rng.sample(self._cluster.servers, len(self._cluster.servers))
        ):
            at = place * (fault.duration // 2 + SECOND * self._world.pace)
            self._nemesis.after(at, server.kill)
            self._nemesis.after(at + fault.duration // 4, server.start)
        return is_any_up

    def _upgrade(self, fault: Fault, rng: Rng) -> bool:
        """A node that runs an older version ends, and the newer one is started in its place."""
        old = [server for server in self._cluster.servers if server.is_old]
        if not old:
            return False
        server = rng.choice(old)
        server.upgrade()
        self._nemesis.later(fault, server.start)
        return True

    # The disk.

    def _disk_error(
        self, make: Callable[[Callable[[], None]], disks.DiskError], fault: Fault, rng: Rng
    ) -> bool | None:
        server = self._nemesis.any_server(rng)
        if server.actor is None or server.has_step_fault:
            return False
        error = make(self._count(fault.kind))
        server.set_disk_error(error)
        self._nemesis.later(fault, self._mend, server)
        return None

    @staticmethod
    def _mend(server: Server) -> None:
        server.lift_disk_errors()
        server.start()

    def _slow_disk(self, fault: Fault, rng: Rng) -> bool:
        server = self._nemesis.any_server(rng)
        put = functools.partial(setattr, server, "sync_slowdown")
        self._nemesis.hold(fault.duration, ("slow-disk", server.name), put, rng.choice((5, 30)), 1)
        return server.actor is not None

    def _spoil(self, rng: Rng) -> Server | None:
        """Whose disk may be spoilt: always the same one, once the cluster is founded, and has it back in its ranks."""
        servers = self._cluster.servers
        server = next((s for s in servers if s.name == self._spoilt), None) or rng.choice(servers)
        books = [each.engine.book for each in servers if each.engine is not None]
        if len(books) < len(servers) or any(
            b is None or b.founding or not b.is_complete for b in books
        ):
            return None
        if self._spoilt is not None:
            return None
        self._spoilt = server.name
        return server

    def _wipe(self, fault: Fault, rng: Rng) -> bool:
        """It dies, its disk is replaced, and an operator admits it."""
        server = self._spoil(rng)
        if server is None:
            return False
        server.kill()
        self._cluster.replace_disk(server)
        self._nemesis.later(fault, server.start)
        return True

    def _decay(self, fault: Fault, rng: Rng, *, truncate: bool) -> bool:
        """It dies, its files change, and it starts. Should it refuse them, its disk is replaced."""
        server = self._spoil(rng)
        if server is None:
            return False
        server.kill()
        what = disks.decay(server.disk, rng, truncate=truncate)
        server.is_damaged = True
        self._world.note(f"{server.name} {fault.kind} {what}")
        self._nemesis.later(fault, server.start)
        self._nemesis.after(
            fault.duration + SECOND * self._world.pace, self._cluster.replace_if_refused, server
        )
        return bool(what)

    # Clocks.

    def _rate(self, rng: Rng) -> float:
        return rng.choice((1 - SKEW, 1 + SKEW))

    def _skew(self, fault: Fault, rng: Rng) -> bool:
        return self._rates_of_a_server(fault, rng, 1)

    def _strobe(self, fault: Fault, rng: Rng) -> bool:
        return self._rates_of_a_server(fault, rng, STROBES)

    def _skew_client(self, fault: Fault, rng: Rng) -> bool:
        self._rates(rng.choice(self._cluster.clients), fault, rng, 1)
        return True

    def _strobe_client(self, fault: Fault, rng: Rng) -> bool:
        self._rates(rng.choice(self._cluster.clients), fault, rng, STROBES)
        return True

    def _rates_of_a_server(self, fault: Fault, rng: Rng, count: int) -> bool:
        """One that runs, if any does: nobody looks at the clock of another."""
        running = [s for s in self._cluster.servers if s.actor is not None]
        if not running:
            return False
        self._rates(rng.choice(running), fault, rng, count)
        return True

    def _rates(self, whose: Server | SimClient, fault: Fault, rng: Rng, count: int) -> None:
        """Its clock runs as wrong as may be; with several: now too fast, now too slow."""
        whose.set_rate(self._rate(rng))
        for place in range(1, count):
            self._nemesis.after(fault.duration * place // count, whose.set_rate, self._rate(rng))
        self._nemesis.after(fault.duration, whose.set_rate, rng.uniform(1 - SKEW, 1 + SKEW))

    def _wall_jump(self, fault: Fault, rng: Rng) -> bool:
        """The wall clock jumps by up to a week, some times, and back."""
        server = self._nemesis.any_server(rng)
        for place in range(STROBES):
            jump = rng.below(2 * WALL_JUMP_MS) - WALL_JUMP_MS
            self._nemesis.after(
                fault.duration * place // STROBES, setattr, server, "wall_offset_ms", jump
            )
        self._nemesis.later(fault, setattr, server, "wall_offset_ms", 0)
        return server.actor is not None
