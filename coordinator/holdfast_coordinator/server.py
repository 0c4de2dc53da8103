"""One node as a process: configuration in, sockets and signals around, an exit code out.

Rule: this is the only place where the real clock, the real engine, the real HTTP server and the process meet.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable

import structlog

from . import compaction, descriptors, logs
from .addresses import AddressFile
from .certificates import CertificateError
from .collector import Collector
from .config import ClusterConfig
from .founding import why_not_founded
from .http import HttpFailure, Metrics, start_http
from .machine import Levels
from .machine.levels import HIGHEST
from .machine.limits import digest
from .node import Node, why_not_readable
from .raft import CompactionConfig, Engine, EngineConfig, EngineFailure
from .raft.ports import EnginePort
from .readiness import ReadinessLog, sentence
from .server_certificates import ServerCertificate
from .service_manager import ServiceManager
from .vitals import VitalSigns

log = structlog.get_logger("holdfast.server")

HAND_OVER_SECONDS = 1.0
"""A leader that is asked to stop and cannot hand over in this time stops anyway: the others elect."""

DRIVER_SILENT_SECONDS_MAX = 10.0
"""A driver that makes no round for so long hangs: even a state that is taken over comes in pieces of milliseconds."""

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_CONFIGURATION = 2


def run(config: ClusterConfig, node: str, *, bootstrap: bool = False) -> int:
    """Serve `node` until SIGTERM or SIGINT. Returns 0 after an orderly end, 1 when the node had to stop by itself, 2 when it could
    not start (an address in use, a directory that is not its own); the reason is one sentence on standard error. `bootstrap`: a
    data directory that is new founds the cluster together with those of all other nodes, instead of waiting to be admitted."""
    logs.configure(config.log, node)
    manager = ServiceManager.of(os.environ, os.getpid())
    Collector().install()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(config, node, manager, bootstrap=bootstrap))


async def _serve(
    config: ClusterConfig, name: str, manager: ServiceManager, *, bootstrap: bool
) -> int:
    if bootstrap and (why_not := why_not_founded(config, name)):
        sys.stderr.write(f"holdfast: node {name} cannot start: {why_not}\n")
        return EXIT_CONFIGURATION
    stop: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _ask_to_stop, stop, number.name)
    address = config.node(name).http
    metrics = Metrics()
    node, engine = build(config, name, bootstrap=bootstrap)
    node.apply_observer = metrics.observe_apply
    limits = descriptors.within(config.http_limits, descriptors.raise_limit())
    if limits.connections_max < min(descriptors.FEW, config.http_limits.connections_max):
        log.warning("few_descriptors", node=name, connections_max=limits.connections_max)
    try:
        tls = config.http_tls
        certificate = None if tls is None else ServerCertificate(tls.of(name), name)
        await node.start()
        signs = VitalSigns(config, name, stalls=lambda: engine.stats.stalls)
        node.vitals = signs.read
        engine.stats.fsync_observer = signs.observing(metrics.observe_fsync)
        engine.stats.snapshots.observer = metrics.observe_snapshot
        http = await start_http(
            node,
            address.host,
            address.port,
            machine_limits=config.machine_limits,
            http_limits=limits,
            rates=config.rates,
            access=config.access,
            certificate=certificate,
            metrics=metrics,
        )
    except (EngineFailure, HttpFailure, CertificateError) as failure:
        sys.stderr.write(f"holdfast: node {name} cannot start: {failure}\n")
        await node.stop()
        return EXIT_CONFIGURATION
    log.info("serving", node=name, http=str(address), data_dir=str(config.node(name).data_dir))
    manager.ready(lambda: is_alive(node, engine), lambda: sentence(node))
    readiness = ReadinessLog(node)
    readiness.start()
    await asyncio.wait((stop, engine.failed), return_when=asyncio.FIRST_COMPLETED)
    readiness.stop()
    manager.stopping()
    if not engine.failed.done():
        # Whoever asks this node meanwhile is answered by the new leader's log, as long as it still listens.
        handed_over = await engine.leave_leadership(HAND_OVER_SECONDS)
        log.info("stopping", node=name, reason=stop.result(), leads_no_more=handed_over)
    reason = engine.failed.exception() if engine.failed.done() else None
    if reason is not None:
        log.error("node_failed", node=name, reason=str(reason))
    await http.close()
    await node.stop()
    log.info("stopped", node=name)
    return EXIT_OK if reason is None else EXIT_FAILED


def is_alive(node: Node, engine: Engine) -> bool:
    """Whether everything that has to turn does. A node without a leader is alive: to restart it would help nobody."""
    return (
        not engine.failed.done()
        and node.keeps_house
        and engine.silent_seconds <= DRIVER_SILENT_SECONDS_MAX
    )


def build(config: ClusterConfig, name: str, *, bootstrap: bool = False) -> tuple[Node, Engine]:
    """The node `name` of `config` on its real engine and clock; nothing is started."""
    secret = config.secret.reveal()
    highest = config.format_level_max
    levels = Levels(highest=highest, held=highest < HIGHEST)
    engine_config = EngineConfig(
        node=name,
        cluster=config.cluster_id,
        secret=secret,
        members=config.members,
        data_dir=config.node(name).data_dir,
        heartbeat_ms=config.timing.heartbeat_ms,
        election_ms=(config.timing.election_ms_min, config.timing.election_ms_max),
        bootstrap=bootstrap,
        limits_digest=digest(config.machine_limits),
        certificates=None if config.raft_tls is None else config.raft_tls.of(name),
        compaction=CompactionConfig(
            command=compaction.command(),
            parameters=compaction.parameters(config.machine_limits),
            after_entries=config.snapshots.after_entries,
            after_bytes=config.snapshots.after_mib << 20,
            keep_entries=config.snapshots.keep_entries,
        ),
        why_not_readable=lambda payload: why_not_readable(payload, levels),
    )
    engines: list[Engine] = []
    addresses = AddressFile(config, name, os.environ)

    def factory(node: Node) -> EnginePort:
        engines.append(Engine(engine_config, node))
        return engines[0]

    node = Node(
        name,
        factory,
        clock_ns=boot_time_ns,
        wall_ms=wall_time_ms,
        limits=config.machine_limits,
        cluster=config.cluster_id,
        members={
            member.name: (config.http_url(member), str(member.raft)) for member in config.nodes
        },
        session_ref_key=config.cluster.encode() + secret,
        addresses=addresses,
        levels=levels,
    )
    return node, engines[0]


def boot_time_ns() -> int:
    """CLOCK_BOOTTIME: it runs on while the machine is suspended, so that a resumed leader knows that time has passed."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def wall_time_ms() -> int:
    """Unix milliseconds, for people who read the trail. It jumps, and decides nothing."""
    return time.time_ns() // 1_000_000


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _ask_to_stop(stop: asyncio.Future[str], signal_name: str) -> None:
    if not stop.done():
        stop.set_result(signal_name)
