"""One live run: nodes, clients and a plan of faults, and then a verdict.

    start      nodes elect, every client is answered once
    quiet      so that there is a throughput to compare with
    faults     the plan
    healed     everything is mended; the clients go on
    last word  a new client gets every key and gives it back; the nodes must agree, to the hash of their states

`valid` needs all checkers, and that the run was worth it: every planned kind of fault was seen to fire, and operations were
answered before, during and after the faults. Otherwise it is `unknown`, which is a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp

from holdfast_jepsen.checker import ledger as checker
from holdfast_jepsen.history import History
from holdfast_jepsen.live import judge, ledger, mutant, namespaces, plan
from holdfast_jepsen.live.client import KeptHistory, LiveClient, RealWorld, read_histories
from holdfast_jepsen.live.clients import Clients
from holdfast_jepsen.live.cluster import LiveCluster
from holdfast_jepsen.live.disk import SmallDisk
from holdfast_jepsen.live.namespaces import Namespaces
from holdfast_jepsen.live.nemesis import Nemesis
from holdfast_jepsen.live.network import Network, Unavailable
from holdfast_jepsen.live.proxies import Proxies
from holdfast_jepsen.live.worker import mix_of
from holdfast_jepsen.sim.rng import Rng
from holdfast_jepsen.sim.world import SECOND

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from holdfast_jepsen.faults.plan import Fault
    from holdfast_jepsen.history.history import Operation

AROUND_SECONDS = (1.5, 5.0)
"""Before the faults, and after them: a fifth of their time, within these."""
LAST_WORD_SECONDS = 60.0
"""For every lease to end (seconds) and the nodes to serve; more than that and the cluster does not recover."""
LAST_WORD_TTL_MS = 5_000
LOOK_SECONDS = 0.2
HTTP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked for. `network`: namespaces, proxies or auto."""

    directory: Path
    seed: int
    nemesis: tuple[str, ...] = ("partition", "kill", "pause")
    seconds: float = 60.0
    nodes: int = 3
    workload: str = "many-keys"
    network: str = "auto"
    mutant: str = ""
    """Of the scoreboard: the nodes lack a guarantee, and the run has to be invalid."""


@dataclass(slots=True)
class LiveOutcome:
    """Of one run. `rates`: answers a second before, during and after the faults."""

    seed: int
    verdict: str
    reasons: list[str]
    workload: str
    nodes: int
    network: str
    rates: tuple[float, float, float]
    fired: Counter[str]
    plan: list[Fault]
    acts: list[tuple[Fault, int, str]]
    history: History
    culprits: tuple[Operation, ...] = ()
    illegal_keys: tuple[str, ...] = ()
    phases: tuple[int, int, int] = (0, 0, 0)
    """When the faults began, when they were healed, and when the last word was begun: nanoseconds since the run began."""


@dataclass(slots=True)
class _Run:
    """What one run has gathered so far."""

    phases: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    story: dict[int, Any] = field(default_factory=dict)


def network_for(options: Options, say: Callable[[str], None]) -> Network:
    """Namespaces where they can be had. Raises `Unavailable`."""
    names = [f"n{number}" for number in range(1, options.nodes + 1)]
    reason = None if options.network == "proxies" else namespaces.why_not()
    if options.network == "namespaces" and reason is not None:
        raise Unavailable(f"network namespaces cannot be had here: {reason}")
    if reason is not None:
        say(f"no network namespaces: {reason}")
    if options.network == "proxies" or reason is not None:
        return Proxies(names)
    return Namespaces(names)


async def run(options: Options, say: Callable[[str], None]) -> LiveOutcome:
    """Everything that was started is ended, and everything that was changed is undone, whatever happens. Raises `Unavailable`."""
    kinds = plan.kinds_of(options.nemesis)
    if options.mutant and (not mutant.is_available(options.mutant) or "clock" in kinds):
        raise Unavailable(f"no live node can be the mutant {options.mutant!r} (with these faults)")
    network = network_for(options, say)
    began = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    world = RealWorld(began)
    directory = options.directory / "cluster"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    say(f"seed {options.seed}: {options.nodes} nodes, network: {network.kind}")
    async with contextlib.AsyncExitStack() as stack:
        limit = aiohttp.ClientTimeout(total=HTTP_SECONDS)
        await stack.enter_async_context(network)  # type: ignore[arg-type]
        network.check(kinds)
        cluster = LiveCluster(directory, network, nodes=options.nodes, mutant=options.mutant)
        disks: dict[str, SmallDisk] = {}
        if "disk-full" in kinds:
            for name in cluster.names:
                disks[name] = await stack.enter_async_context(SmallDisk(cluster.data_dir(name)))
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=limit))
        await stack.enter_async_context(cluster)
        clients = Clients(
            directory,
            count=mix_of(options.workload, options.seed).clients,
            workload=options.workload,
            seed=options.seed,
            urls=[cluster.url(name) for name in cluster.names],
            began=began,
        )
        stack.push_async_callback(clients.end)
        nemesis = Nemesis(cluster, clients, http, disks, say, lambda: int(world.now))
        outcome = await _play(options, world, cluster, clients, nemesis, http, say)
    if outcome.verdict == "valid":
        shutil.rmtree(directory / "data", ignore_errors=True)
    return outcome


async def _play(
    options: Options,
    world: RealWorld,
    cluster: LiveCluster,
    clients: Clients,
    nemesis: Nemesis,
    http: aiohttp.ClientSession,
    say: Callable[[str], None],
) -> LiveOutcome:
    gathered = _Run()
    say("nodes are ready; clients start")
    await clients.start()
    say("every client has been answered")
    around = min(max(options.seconds / 5, AROUND_SECONDS[0]), AROUND_SECONDS[1])
    await asyncio.sleep(around)
    kinds = plan.kinds_of(options.nemesis)
    begin = world.now
    end = begin + int(options.seconds * SECOND)
    faults = plan.draw(Rng(options.seed, "live faults"), begin=0, end=end - begin, kinds=kinds)
    gathered.phases.append(begin)
    await _faults(faults, begin, end, world, nemesis, say)
    gathered.phases.append(world.now)
    say("healing")
    await nemesis.heal()
    await asyncio.sleep(around)
    gathered.phases.append(world.now)
    history = await clients.end()
    say("last word")
    history, gathered.missing = await _last_word(options, world, cluster, history)
    nemesis.look_around()
    gathered.failures += nemesis.failures
    wrong, gathered.doubts = await judge.agreement(cluster, http)
    gathered.failures += wrong
    mix = mix_of(options.workload, options.seed)
    gathered.story, told = await judge.story_of(cluster, http, mix.keys)
    gathered.failures += told
    writes, unbalanced = ledger.decided(mix, cluster.directory, history)
    gathered.failures += [*checker.check(history, writes, ()), *unbalanced]
    say(f"checking {len(history.operations)} operations")
    verdict = await asyncio.to_thread(
        judge.judge,
        history,
        told=gathered.story,
        failures=gathered.failures,
        missing=gathered.missing,
        planned=Counter(fault.kind for fault in faults),
        fired=nemesis.fired,
        phases=(gathered.phases[0], gathered.phases[1], gathered.phases[2]),
        broken=[*clients.broken, *gathered.doubts],
    )
    shifted = [_shifted(fault, begin) for fault in faults]
    acts = [(_shifted(fault, begin), at, what) for fault, at, what in nemesis.acts]
    return LiveOutcome(
        seed=options.seed, verdict=verdict.answer, reasons=verdict.reasons, workload=options.workload,
        nodes=options.nodes, network=cluster.network.kind, rates=verdict.rates, fired=nemesis.fired,
        plan=shifted, acts=acts, history=history, culprits=verdict.culprits,
        illegal_keys=verdict.illegal_keys,
        phases=(gathered.phases[0], gathered.phases[1], gathered.phases[2]),
    )  # fmt: skip


def _shifted(fault: Fault, begin: int) -> Fault:
    return type(fault)(fault.at + begin, fault.kind, fault.duration, fault.draw)


async def _faults(
    faults: list[Fault],
    begin: int,
    end: int,
    world: RealWorld,
    nemesis: Nemesis,
    say: Callable[[str], None],
) -> None:
    """Begin each at its time, and wait until the last has ended."""
    acting: list[asyncio.Task[None]] = []
    left = list(faults)
    while world.now < end or not all(task.done() for task in acting):
        while left and world.now >= begin + left[0].at:
            acting.append(asyncio.ensure_future(nemesis.act(left.pop(0))))
        nemesis.look_around()
        seconds = (world.now - begin) / SECOND
        say(
            f"\r{seconds:5.0f} s of {(end - begin) / SECOND:.0f}  {sum(nemesis.fired.values())} faults of {len(faults)}"
        )
        await asyncio.sleep(LOOK_SECONDS)
    for task in acting:
        await task


async def _last_word(
    options: Options,
    world: RealWorld,
    cluster: LiveCluster,
    history: History,
) -> tuple[History, list[str]]:
    """A new client gets every key once and gives it back. (The history with its part, the keys that it did not get)"""
    mix = mix_of(options.workload, options.seed)
    path = cluster.directory / "last-word.jsonl"
    kept = KeptHistory(path)
    client = LiveClient(
        "last-word",
        world=world,
        urls=[cluster.url(name) for name in cluster.names],
        history=kept,
        mix=mix,
        rng=Rng(options.seed, "last word"),
    )
    missing = list(mix.keys)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LAST_WORD_SECONDS):
            await client.get_every_key(missing, LAST_WORD_TTL_MS)
    client.keep()
    kept.close(world.now)
    await client.aclose()
    spoken = read_histories([path])
    merged = History(
        [*history.operations, *spoken.operations],
        [*history.leases, *spoken.leases],
        [*history.beliefs, *spoken.beliefs],
    )
    return merged, missing


def run_blocking(options: Options, say: Callable[[str], None]) -> LiveOutcome:
    """`run`, for a command: an interrupt or SIGTERM takes everything down first."""

    async def main() -> LiveOutcome:
        import signal

        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await run(options, say)

    return asyncio.run(main())
