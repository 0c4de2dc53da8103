"""One run: a seed becomes a cluster, a workload and a plan of faults; the run becomes a verdict.

Three phases: faults; then everything is healed; then, within `LAST_WORD`, a new client must get every key (so
every lease has ended and every node serves again). `valid` needs all checkers, and that the run was worth it:
planned faults fired, and operations were answered before, during and after them.
"""

from __future__ import annotations

import collections
import contextlib
import gc
import logging
import time
import traceback
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgpack
import structlog

from holdfast_coordinator.machine import check_invariants
from holdfast_coordinator.machine.levels import HIGHEST
from holdfast_coordinator.raft import messages
from holdfast_jepsen.checker import ledger, linearizability, orders, story
from holdfast_jepsen.faults import plan as plans
from holdfast_jepsen.faults.nemesis import Nemesis
from holdfast_jepsen.history import History
from holdfast_jepsen.sim import pace as paces
from holdfast_jepsen.sim import sizes
from holdfast_jepsen.sim.client import SimClient
from holdfast_jepsen.sim.cluster import Cluster, session_ref
from holdfast_jepsen.sim.rng import Rng
from holdfast_jepsen.sim.server import Settings
from holdfast_jepsen.sim.world import MILLISECOND, SECOND, World
from holdfast_jepsen.workloads import mix as workloads

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator

    from holdfast_jepsen.history.history import Operation


QUIET = 2 * SECOND
"""Before the first fault: a leader is elected and clients have begun."""
FAULT_SECONDS = 20.0
SETTLE = 3 * SECOND
"""After the heal: longer than the longest pause of a node that was on its way, and than an election."""
LAST_WORD = 12 * SECOND
NEEDS_SNAPSHOTS = ("lost-chunks",)
"""Faults that hit only what a node gets that lags behind a snapshot: nodes take some, and keep nothing of what is before them."""
NEEDS_OLD_VERSIONS = ("upgrade",)
"""Faults that need a node which runs an older version."""
LAST_WORD_TTL_MS = 2_000
ENTRY_BYTES_MAX = 512 * 1024
ANSWERED_MIN = 1
"""Definite answers before the faults; fewer, and the run says nothing."""
DURING_MIN = 2
AFTER_MIN = 2
"""As few: a queue of slow clients answers some thirty times in a whole run, and most of its faults stop it. Afterwards: an
acquire and a release of the last word, if nobody else was quick enough."""


@dataclass(slots=True)
class Variant:
    """What is not as the product has it: mutants and stock parts. Each takes what it changes and gives it back."""

    settings: Callable[[Settings], Settings] = lambda settings: settings
    client_class: type[SimClient] = SimClient
    size: int = 0
    """Nodes; 0: as the seed says."""
    workload: str = ""
    """None: as the seed says."""
    pace: int = 0
    """What periods are multiplied by; 0: as the seed says."""
    kinds: tuple[str, ...] = ()
    """Only these faults, one soon after the other; none: as the seed says."""
    only: tuple[int, ...] | None = None
    """Of the plan only the faults with these numbers; None: all of it."""
    plan: tuple[plans.Fault, ...] | None = None
    """These faults, at times of pace 1; None: drawn from the seed."""
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


@dataclass(slots=True)
class Outcome:
    """Of one run."""

    seed: int
    verdict: str
    """valid, invalid or unknown."""
    reasons: list[str]
    workload: str
    nodes: int
    virtual_seconds: float
    events: int
    answered: int
    fired: Counter[str]
    """Faults that had an effect, by kind."""
    plan: list[plans.Fault]
    trace_hash: str
    history: History
    culprits: tuple[Operation, ...] = ()
    """What no order could place, over all keys."""
    trace: list[str] | None = field(default=None, repr=False)
    points: Counter[str] = field(default_factory=collections.Counter)
    """Named points at which a process was killed."""
    pace: int = 1
    """What its periods were multiplied by."""
    cpu_seconds: float = 0.0
    """That it took; 0: nobody measured."""


def _through_the_codec(message: Any) -> Any:
    raw = msgpack.unpackb(msgpack.packb(messages.encode(message)))
    return messages.decode(raw, entry_bytes_max=ENTRY_BYTES_MAX)


def run(
    seed: int,
    *,
    variant: Variant | None = None,
    keep_trace: bool = False,
    fault_seconds: float = FAULT_SECONDS,
) -> Outcome:
    """Run a seed. Same seed, same code, same length of the faults: same trace, whatever the process."""
    variant = variant or Variant()
    with _quiet(), variant.around():
        gc_was_on = gc.isenabled()
        gc.disable()  # thousands of small objects, few cycles: collected between runs
        try:
            return _run(seed, variant, keep_trace, int(fault_seconds * SECOND))
        finally:
            if gc_was_on:
                gc.enable()


def run_briefly(seed: int, *, fault_seconds: float = FAULT_SECONDS) -> Outcome:
    """A run without its history, which is large: for tables, and for other processes."""
    began = time.process_time()
    outcome = run(seed, fault_seconds=fault_seconds)
    outcome.cpu_seconds = time.process_time() - began
    outcome.history, outcome.culprits = History(), ()
    return outcome


def _run(seed: int, variant: Variant, keep_trace: bool, faults: int) -> Outcome:
    pace = variant.pace or paces.draw(Rng(seed, "pace"))
    with paces.stretched(pace), sizes.cut(sizes.draw(Rng(seed, "sizes"))):
        return _run_at(seed, variant, World(keep_trace=keep_trace, pace=pace), faults * pace)


def _run_at(seed: int, variant: Variant, world: World, faults: int) -> Outcome:
    rng = Rng(seed, "run")
    pace = world.pace
    quiet = QUIET * pace
    mix = (
        workloads.make(variant.workload, rng)
        if variant.workload
        else workloads.draw(rng, Rng(seed, "ledgers"))
    )
    size = 5 if rng.chance(0.15) else 3
    settings = Settings.at_pace(
        pace,
        sync_ns=rng.choice((100_000, 500_000, 8_000_000)) * pace,
        compact_after=rng.choice((0, 0, 50, 300)),
        compact_keep=rng.choice((1, 20)),
    )
    plan = _plan(seed, variant, begin=quiet, end=quiet + faults, pace=pace)
    planned = {fault.kind for fault in plan}
    if planned & set(NEEDS_SNAPSHOTS):
        settings = replace(settings, compact_after=settings.compact_after or 300, compact_keep=1)
    cluster = Cluster(
        world,
        seed,
        size=variant.size or size,
        settings=variant.settings(settings),
        mix=mix.stretched(pace),
        carry=_through_the_codec if rng.chance(0.25) else None,
        client_class=variant.client_class,
    )
    if planned & set(NEEDS_OLD_VERSIONS):
        cluster.begin_with_old_versions(Rng(seed, "versions"))
    nemesis = Nemesis(cluster, plan)
    phases: list[int] = []
    last: _LastWord | None = None
    try:
        cluster.start()
        for until in (quiet, quiet + faults):
            world.run(until)
            phases.append(cluster.done)
        nemesis.heal()
        world.run(world.now + SETTLE * pace)
        phases.append(cluster.done)
        last = _LastWord(cluster)
        end = world.now + LAST_WORD * pace
        while not last.is_spoken and world.now < end and not cluster.watch.violations:
            world.run(world.now + 100 * MILLISECOND * pace)
        for server in cluster.servers:
            if server.node is not None:
                check_invariants(server.node.machine)
    except Exception as error:  # noqa: BLE001 - whatever the product raises is a finding
        where = traceback.extract_tb(error.__traceback__)[-1]
        cluster.watch.violated(f"{error!r} at {where.filename.rsplit('/', 1)[-1]}:{where.lineno}")
    phases.append(cluster.done)
    return _judge(seed, cluster, nemesis, plan, phases, last)


def _plan(seed: int, variant: Variant, *, begin: int, end: int, pace: int) -> list[plans.Fault]:
    plan = plans.draw(Rng(seed, "faults"), begin=begin, end=end, kinds=variant.kinds, pace=pace)
    if variant.plan is not None:
        plan = [replace(f, at=f.at * pace, duration=f.duration * pace) for f in variant.plan]
    if variant.only is not None:
        plan = [plan[number] for number in variant.only if number < len(plan)]
    return plan


def _judge(
    seed: int,
    cluster: Cluster,
    nemesis: Nemesis,
    plan: list[plans.Fault],
    phases: list[int],
    last: _LastWord | None,
) -> Outcome:
    history, watch, world = cluster.history, cluster.watch, cluster.world
    for client in cluster.clients:
        client.crash()  # it is over for them, too
    history.finish()
    history.waits(watch.waited_since)
    found = list(watch.violations)
    found += orders.token_order(history)
    granted = {
        token: (session_ref(session), keys) for token, (session, keys) in watch.tokens.items()
    }
    found += orders.nothing_happened(history, granted)
    found += orders.sessions_last(history)
    found += orders.beliefs(history)
    found += orders.first_come_first_served(history)
    found += story.check(history, cluster.story)
    if (shop := cluster.gateway.shop) is not None:
        found += ledger.check(history, shop.writes, shop.messages.settled) + shop.books.close()
    doubts = []
    culprits: list[Operation] = []
    for verdict in linearizability.check(history):
        if verdict.answer == "illegal":
            found.append(f"key {verdict.key}: {verdict.why}")
            culprits += verdict.culprits
        elif verdict.answer == "unknown":
            doubts.append(f"key {verdict.key}: {verdict.why}")
    if last is not None and not last.is_spoken:
        found.append(f"{LAST_WORD * world.pace // SECOND} s after the heal {last.missing}")
    if phases[0] < ANSWERED_MIN:
        doubts.append(f"only {phases[0]} answers before the first fault")
    if len(phases) > 3:
        doubts += _slow_phases(phases)
    if plan and not nemesis.fired:
        doubts.append("no fault fired")
    return Outcome(
        seed=seed,
        verdict="invalid" if found else "unknown" if doubts else "valid",
        reasons=found + doubts,
        workload=cluster.mix.name,
        nodes=len(cluster.names),
        pace=world.pace,
        virtual_seconds=world.now / SECOND,
        events=world.events,
        answered=phases[-1],
        fired=nemesis.fired,
        points=nemesis.points,
        plan=plan,
        trace_hash=world.trace_hash,
        history=history,
        culprits=tuple(culprits),
        trace=world.trace,
    )


def _slow_phases(phases: list[int]) -> list[str]:
    """Answers during and after the faults, as a part of what there was before them: below a floor, the run proves little."""
    doubts = []
    for name, answers, floor in (
        ("during", phases[1] - phases[0], DURING_MIN),
        ("after", phases[3] - phases[1], AFTER_MIN),
    ):
        if answers < floor:
            doubts.append(f"only {answers} answers {name} the faults")
    return doubts


class _LastWord:
    """After the heal, a client gets every key once and gives it back; and the log is at the highest format level."""

    def __init__(self, cluster: Cluster) -> None:
        self._keys = list(cluster.mix.keys)
        self._cluster = cluster
        self._client = cluster.new_client()
        for place, client in enumerate(cluster.clients):
            cluster.done_before += client.done
            client.crash()
            cluster.clients[place] = self._client
        del cluster.clients[1:]
        self._client.start(self._work)

    @property
    def is_spoken(self) -> bool:
        """Whether every key was had, and nothing is held back for the sake of an older version."""
        return not self._keys and self._is_raised

    @property
    def missing(self) -> str:
        """What is."""
        if self._keys:
            return f"not every key could be had: {self._keys}"
        return "the format level is still not the highest, though every node knows it"

    @property
    def _is_raised(self) -> bool:
        leader = self._cluster.leader
        return leader is not None and leader.level == HIGHEST

    async def _work(self, client: SimClient) -> None:
        await client.get_every_key(self._keys, LAST_WORD_TTL_MS * client.mix.pace)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The logs of nodes and clients would be most of a run's output, and most of its time."""
    before = structlog.get_config()
    loggers = [logging.getLogger(name) for name in ("holdfast_coordinator", "holdfast")]
    levels = [logger.level for logger in loggers]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        structlog.configure(**before)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
