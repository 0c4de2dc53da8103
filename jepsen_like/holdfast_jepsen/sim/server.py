"""One simulated machine: a disk, a clock, and the process of a node that lives and dies on it.

Rule: the disk outlives the process; the clock (CLOCK_BOOTTIME) outlives the process but not a power loss; the
process is a new `Node` each time. Faults act here; nothing here decides when.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast_coordinator.http.problems import Problem
from holdfast_coordinator.machine import Levels, Limits
from holdfast_coordinator.machine.levels import KNOWN, LOWEST
from holdfast_coordinator.node import Node
from holdfast_coordinator.raft.errors import EngineFailure
from holdfast_coordinator.raft.kernel import Kernel
from holdfast_coordinator.raft.memory_disk import MemoryDisk, Step
from holdfast_coordinator.raft.snapshots import PREFIX as SNAPSHOT_PREFIX
from holdfast_jepsen.sim import disks
from holdfast_jepsen.sim.engine import SimEngine
from holdfast_jepsen.sim.front import Front, refused
from holdfast_jepsen.sim.world import MILLISECOND, SECOND, Actor, Crashed, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_jepsen.checker.raft_invariants import RaftInvariants
    from holdfast_jepsen.sim.disks import DiskError
    from holdfast_jepsen.sim.network import Network
    from holdfast_jepsen.sim.points import Trap
    from holdfast_jepsen.sim.rng import Rng


HEARTBEAT_SECONDS = 0.1
ELECTION_SECONDS = (0.4, 0.8)
SESSION_REF_KEY = b"simulated"
WALL_MS = 1_800_000_000_000
"""Unix time at the beginning."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Of every node of a run."""

    heartbeat_s: float = HEARTBEAT_SECONDS
    election_s: tuple[float, float] = ELECTION_SECONDS
    uncommitted_max: int = 1024
    sync_ns: int = 300_000
    compact_after: int = 0
    """Entries between snapshots; 0: none are taken."""
    compact_keep: int = 20
    limits: Limits = field(default_factory=lambda: Limits(ttl_ms_min=100))
    kernel_class: type[Kernel] = Kernel
    node_class: type[Node] = Node

    @classmethod
    def at_pace(cls, pace: int, **other: Any) -> Settings:
        """With the product's heartbeat and election times, `pace` times as long."""
        shortest, longest = ELECTION_SECONDS
        return cls(
            heartbeat_s=HEARTBEAT_SECONDS * pace,
            election_s=(shortest * pace, longest * pace),
            limits=Limits(ttl_ms_min=100, wait_ms_max=30_000 * pace),
            **other,
        )


class Server:
    """See the module."""

    def __init__(
        self,
        name: str,
        names: tuple[str, ...],
        *,
        world: World,
        network: Network,
        watch: RaftInvariants,
        settings: Settings,
        rng: Rng,
        rate: float,
    ) -> None:
        self.name = name
        self.peers = tuple(other for other in names if other != name)
        self.levels = KNOWN
        """Of the version that it runs, or will run when it is started next."""
        self._names = names
        self.world = world
        self.network = network
        self.watch = watch
        self.settings = settings
        self.rng = rng
        self.rate = rate
        self.disk = MemoryDisk()
        self.actor: Actor | None = None
        self.node: Node | None = None
        self.front: Front | None = None
        self.engine: SimEngine | None = None
        self.lives = 0
        self.failure: EngineFailure | None = None
        self.crash_loses_power = False
        self.calls: dict[int, tuple[asyncio.Task[Any], Callable[[Any], None]]] = {}
        """Requests of clients that are being worked on: the task, and how to hang up on the client."""
        self.trap: Trap | None = None
        self.has_disk_error = False
        """A call of this life was answered with an error."""
        self.is_damaged = False
        """Its files are not as it left them; it may refuse to start."""
        self.is_newcomer = False
        """It has to be admitted by the others."""
        self.wall_offset_ms = 0
        self.sync_slowdown = 1
        self._renamed_snapshot = False
        self._disk_errors: list[DiskError] = []
        self._clock_from = world.now
        self._read_at, self._reading = -1, 0.0
        self._clock_base = rng.between(10, 100_000) * SECOND

    @property
    def is_old(self) -> bool:
        """It runs a version that knows only the first format level."""
        return self.levels != KNOWN

    @property
    def level(self) -> int:
        """The format level of the log, as far as it is applied here; 0: it is not running."""
        return 0 if self.node is None else self.node.machine.level

    def begin_old(self) -> None:
        """Whatever is started here is of the older version, until it is upgraded."""
        self.levels = Levels(LOWEST, LOWEST)

    def upgrade(self) -> None:
        """The older version ends; what is started next is the newer one."""
        self.levels = KNOWN
        self.kill()

    # Its clock.

    def clock_ns(self) -> int:
        """CLOCK_BOOTTIME of this machine."""
        return self._clock_base + int((self.world.now - self._clock_from) * self.rate)

    def set_rate(self, rate: float) -> None:
        """How fast its clock runs from now on."""
        self._clock_base, self._clock_from, self._read_at = self.clock_ns(), self.world.now, -1
        self.rate = rate
        if self.actor is not None:
            self.actor.set_rate(rate)

    def wall_ms(self) -> int:
        """What it shows people. It may be anything, and nothing may depend on it."""
        return WALL_MS + self.world.now // MILLISECOND + self.wall_offset_ms

    def clock_seconds(self) -> float:
        """The same, as the kernel asks for it: dozens of times in one instant."""
        now = self.world.now
        if now != self._read_at:
            self._read_at, self._reading = now, self.clock_ns() / SECOND
        return self._reading

    def new_id(self, size: int) -> str:
        """The id of a data directory."""
        return "".join(f"{self.rng.below(256):02x}" for _ in range(size))

    # Life and death.

    def start(self) -> None:
        """A new process, on the disk as it is."""
        if self.actor is not None or self.failure is not None:
            return
        self.lives += 1
        self.disk.before = self._before_step
        world = self.world
        actor = Actor(world, self.name, clock=self.clock_ns, rate=self.rate)
        actor.on_crash = self._on_crash
        self.actor = actor
        world.at(world.now, self._begin, actor=actor)

    def _begin(self) -> None:
        def engine_for(node: Node) -> SimEngine:
            self.engine = SimEngine(self, self.watch.host(self, node))
            return self.engine

        self.watch.begin_life(self)
        self.node = self.settings.node_class(
            self.name,
            engine_for,  # type: ignore[arg-type]
            clock_ns=self.clock_ns,
            wall_ms=self.wall_ms,
            limits=self.settings.limits,
            cluster="simulated",
            members={name: (f"{name}:http", f"{name}:raft") for name in self._names},
            levels=self.levels,
            session_ref_key=SESSION_REF_KEY,
        )
        self.front = Front(self.node, self.settings.limits)
        try:
            self.node.start().send(None)
        except StopIteration:
            self.world.note(f"{self.name} starts, life {self.lives}")
            self.watch.after_start(self)
        except EngineFailure as failure:
            self.on_failure(failure)

    def kill(self) -> None:
        """SIGKILL: what was written is in the page cache."""
        if self._die("is killed"):
            self.disk = self.disk.after_kill()
            self.network.machine_gone(self.name, silently=False)

    def lose_power(self, rng: Rng) -> None:
        """Any subset of what was not synced is lost, and the clock starts again."""
        if self._die("loses power"):
            self.disk = self.disk.after_power_cut(disks.survivors(self.disk.unsynced, rng))
            self.network.machine_gone(self.name, silently=True)
            self._clock_from, self._read_at = self.world.now, -1
            self._clock_base = rng.between(1, 30) * SECOND

    def set_trap(self, trap: Trap) -> None:
        """It dies at a named point."""
        self.trap = trap

    def set_disk_error(self, error: DiskError) -> None:
        """Its disk fails from now on."""
        self._disk_errors.append(error)

    def lift_disk_errors(self) -> None:
        """Space was made; the disk is mended."""
        self._disk_errors.clear()

    def lift_traps(self) -> None:
        """It need not die of what was planned for one of its next steps."""
        self.trap = None

    @property
    def has_step_fault(self) -> bool:
        """Whether something is to happen at one of its next steps on the disk already."""
        return bool(self._disk_errors)

    def pass_point(self, point: str) -> None:
        """It comes past one of the named points. Raises Crashed if it is to die there."""
        trap = self.trap
        if trap is not None and self.actor is not None and trap.is_sprung(point):
            self.trap = None
            self.crash_loses_power = trap.loses_power
            self.world.note(f"{self.name} crashes {point}")
            self._crash()

    def survives(self, call: Callable[..., object], *args: Any) -> bool:
        """Do this in its name, outside of its own turns; False if it died of it, or stopped itself."""
        try:
            call(*args)
        except Crashed:
            self._on_crash()
            return False
        except (EngineFailure, OSError) as error:
            if self.engine is not None:
                self.engine.fail(error)
            return False
        return True

    def _crash(self) -> None:
        if self.actor is not None:
            self.actor.has_crashed = True
        raise Crashed

    def _before_step(self, step: Step) -> None:
        if self.trap is not None:
            if self._renamed_snapshot:
                self._renamed_snapshot = False
                self.pass_point("after snapshot rename")
            if step.call == "rename" and step.name.startswith(SNAPSHOT_PREFIX):
                self._renamed_snapshot = True
                self.pass_point("before snapshot rename")
        for error in self._disk_errors:
            try:
                error.before(step)
            except OSError:
                self.has_disk_error = True
                self.world.note(f"{self.name} disk error in {step.call} {step.name}")
                raise

    def lose_disk(self) -> None:
        """Its disk is replaced by an empty one. Only of a machine that is not running."""
        self.disk = MemoryDisk()
        self.is_newcomer = True
        self.is_damaged = False
        self.failure = None
        self.world.note(f"{self.name} has an empty disk")
        self.watch.forget(self.name)

    def pause(self, duration: int) -> None:
        """SIGSTOP, or a virtual machine that is moved."""
        if self.actor is not None:
            self.actor.pause(duration)
            self.network.silence(self.name, duration)

    def take_snapshot(self) -> None:
        """Of all that it has applied, without a reason of its own."""
        if self.actor is not None and self.engine is not None:
            self.world.at(self.world.now, self.engine.take_snapshot, actor=self.actor)

    def hand_over(self) -> None:
        """If it leads, another is to lead."""
        if self.engine is not None and self.engine.kernel is not None:
            self.engine.kernel.hand_over()
            self.engine.wake()

    def on_failure(self, failure: EngineFailure) -> None:
        """The product stopped itself. Only a disk that failed, or was damaged, is a reason."""
        self.world.note(f"{self.name} fails: {failure}")
        if self.is_damaged:
            self.failure = failure
        elif not self.has_disk_error:
            self.failure = failure
            self.watch.violated(f"{self.name} stopped itself: {failure}")
        self.world.at(self.world.now, self._exit, self.lives)

    def _exit(self, life: int) -> None:
        if life == self.lives and self._die("ends"):
            self.disk = self.disk.after_kill()
            self.network.machine_gone(self.name, silently=False)

    def _on_crash(self) -> None:
        if self.crash_loses_power:
            self.lose_power(self.rng)
        else:
            self.kill()

    def _die(self, how: str) -> bool:
        if self.actor is None:
            return False
        self.world.note(f"{self.name} {how}")
        self.disk.before = None
        self.trap = None
        self.has_disk_error = self._renamed_snapshot = False
        self.watch.end_life(self)
        self.actor.kill()
        calls, self.calls = self.calls, {}
        for _, hang_up in calls.values():
            hang_up(None)
        self.actor = self.node = self.front = self.engine = None
        return True

    # The network's end.

    def on_connected(self, peer: str, epoch: int) -> None:
        if self.engine is not None:
            self.world.note(f"{self.name} connected {peer} {epoch}")
            self.engine.on_connected(peer, epoch)

    def on_disconnected(self, peer: str, epoch: int) -> None:
        if self.engine is not None:
            self.engine.on_disconnected(peer, epoch)

    def on_delivery(self, peer: str, epoch: int, kind: str, content: Any) -> None:
        if self.engine is not None:
            self.world.note(f"{self.name} {peer} {kind} {len(content)}")
            self.engine.on_delivery(peer, epoch, kind, content)

    # Clients.

    def serve(
        self, call: int, request: bytes, answer: Callable[[bytes | None], None], is_frame: bool
    ) -> None:
        """A request has arrived at this process."""
        node, actor, front = self.node, self.actor, self.front
        if not (node and actor and front) or (self.engine and self.engine.failure):
            answer(None)
            return
        try:
            operation = front.operation_of(request, is_frame=is_frame)
        except Problem as problem:
            answer(refused(problem, is_frame=is_frame))
            return
        task = actor.create_task(node.submit(operation))
        self.calls[call] = task, answer
        task.add_done_callback(lambda done: self._answered(call, front, done, is_frame=is_frame))

    def _answered(
        self, call: int, front: Front, task: asyncio.Task[Any], *, is_frame: bool
    ) -> None:
        entry = self.calls.pop(call, None)
        if entry is not None and not task.cancelled():
            told = front.answer_of(task.result(), is_frame=is_frame)
            self.pass_point("before answer")
            entry[1](told)
            self.pass_point("after answer")

    def hang_up(self, call: int) -> None:
        """The client has closed its connection."""
        entry = self.calls.pop(call, None)
        if entry is not None:
            entry[0].cancel()
