"""Node processes for the supervisor: the real `World`, and the ways in which a process is tied to its parent.

Rule: effects only, no decisions. It knows how a node is started and asked whether it is ready; not when, nor what follows.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Final

import aiohttp

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from holdfast.cli.server_extra import LocalNode

READY_ANSWER_SECONDS_MAX: Final = 2.0
"""A node that does not answer its readiness in this time is not ready."""
_PR_SET_PDEATHSIG: Final = 1


class NodeProcess:
    """A `Child` of the supervisor around an asyncio subprocess."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        return await self._process.wait()

    def terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # ended already: what was asked for
            self._process.terminate()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


class ProcessWorld:
    """Nodes as processes of this machine. Use as an async context manager; it owns the HTTP session of the readiness checks."""

    def __init__(
        self,
        command: Sequence[str],
        ready_urls: Mapping[str, str],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`command`: to it `--node NAME` is added. `ready_urls`: for each node, what answers 200 when it can serve; `tls`: how to
        speak to them, if they are https."""
        self._tls = tls
        self._command = tuple(command)
        self._ready_urls = dict(ready_urls)
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> ProcessWorld:
        timeout = aiohttp.ClientTimeout(total=READY_ANSWER_SECONDS_MAX)
        connector = aiohttp.TCPConnector(ssl=True if self._tls is None else self._tls)
        self._http = aiohttp.ClientSession(timeout=timeout, connector=connector)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._http is not None:
            await self._http.close()

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def start(self, node: str) -> NodeProcess:
        """Its own process group: Ctrl-C in the terminal reaches the supervisor only, which then stops nodes in an orderly way.
        What the node prints goes to standard error: standard output belongs to the events."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            "--node",
            node,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sys.stderr,
            process_group=0,
        )
        return NodeProcess(process)

    async def is_ready(self, node: str) -> bool:
        assert self._http is not None, "ProcessWorld is used outside `async with`"  # noqa: S101 -- a caller's mistake
        try:
            async with self._http.get(self._ready_urls[node]) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False


def serve_command(config: Path, *, bootstrap: bool) -> tuple[str, ...]:
    """What starts a node of `config`, with the interpreter that runs now. `-P`: a file in the current directory that happens to be
    called holdfast.py must not be taken for this package."""
    serve = (sys.executable, "-P", "-m", "holdfast", "serve")
    options = ("--bootstrap",) if bootstrap else ()
    return (*serve, *options, "--supervised-by", str(os.getpid()), "--config", str(config))


def occupied(nodes: Iterable[LocalNode]) -> str | None:
    """A sentence about the first address that cannot be listened on, or None if all can.

    Only a courtesy that keeps a mistake from starting half a cluster: a node finds out for itself in any case.
    """
    for node in nodes:
        for what, host, port in node.listens:
            reason = _refusal_of(host, port)
            if reason is not None:
                return f"node {node.name} cannot listen on {host}:{port} ({what}): {reason}"
    return None


def _refusal_of(host: str, port: int) -> str | None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            # Linux lets two sockets bind with SO_REUSEADDR as long as neither listens: only this tells.
            probe.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return "the port is in use (is this cluster, or another one, running already?)"
        return error.strerror or str(error)
    return None


def end_with_parent(parent: int) -> None:
    """Linux: have the kernel send SIGTERM to this process when its parent dies, so that a killed supervisor leaves no nodes behind
    that hold the ports. `parent`: its process id; if our parent is another by now, it is dead already.
    Elsewhere there is no such thing, and nothing happens."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
