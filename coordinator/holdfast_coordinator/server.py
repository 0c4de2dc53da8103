"""One node as a process: configuration in, sockets and signals around, an exit code out.

Rule: this is the only place where the real clock, the real engine, the real HTTP server and the process meet.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable

import structlog

from .config import ClusterConfig
from .node import Node
from .raft import Engine, EngineConfig, EngineFailure
from .raft.ports import EnginePort

log = structlog.get_logger("holdfast.server")

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_CONFIGURATION = 2


def run(config: ClusterConfig, node: str) -> int:
    """Serve `node` until SIGTERM or SIGINT. Returns 0 after an orderly end, 1 when the node had to stop by itself, 2 when it could
    not start (an address in use, a directory that is not its own); the reason is one sentence on standard error."""
    _configure_logging()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(config, node))


async def _serve(config: ClusterConfig, name: str) -> int:
    from .http import start_http

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    node, engine = build(config, name)
    try:
        await node.start()
    except EngineFailure as failure:
        _tell_operator(f"node {name} cannot start: {failure}")
        return EXIT_CONFIGURATION
    host, port = config.node(name).http_address
    try:
        http = await start_http(node, host, port)
    except OSError as error:
        _tell_operator(f"node {name} cannot listen on {host}:{port}: {error.strerror}")
        await node.stop()
        return EXIT_CONFIGURATION
    log.info("serving", node=name, http=f"{host}:{port}", data_dir=str(config.data_dir / name))
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({stopped, engine.failed}, return_when=asyncio.FIRST_COMPLETED)
    failure = engine.failed.exception() if engine.failed.done() else None
    if failure is not None:
        log.error("node_failed", node=name, reason=str(failure))
    stopped.cancel()
    await http.cleanup()
    await node.stop()
    return EXIT_OK if failure is None else EXIT_FAILED


def build(config: ClusterConfig, name: str) -> tuple[Node, Engine]:
    """The node `name` of `config` on its real engine and clock; nothing is started."""
    engine_config = EngineConfig(
        node=name,
        cluster=config.cluster,
        secret=config.secret_bytes,
        members={member.name: member.raft_address for member in config.nodes},
        data_dir=config.data_dir / name,
        heartbeat_ms=config.timing.heartbeat_ms,
        election_ms=(config.timing.election_ms_min, config.timing.election_ms_max),
    )
    engines: list[Engine] = []

    def factory(node: Node) -> EnginePort:
        engines.append(Engine(engine_config, node))
        return engines[0]

    node = Node(
        name,
        factory,
        clock_ns=boot_time_ns,
        limits=config.machine_limits,
        members={member.name: (member.http, member.raft) for member in config.nodes},
        session_ref_key=config.cluster.encode() + config.secret_bytes,
    )
    return node, engines[0]


def _tell_operator(sentence: str) -> None:
    sys.stderr.write(f"holdfast: {sentence}\n")


def boot_time_ns() -> int:
    """CLOCK_BOOTTIME: it runs on while the machine is suspended, so that a resumed leader knows that time has passed."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _configure_logging() -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
