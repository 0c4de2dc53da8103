"""The lock services that Holdfast is measured beside, and Holdfast itself, behind one small interface.

A *server* is started once for a run, with fsync on, fresh data and free ports; a *contender* is a way of using it: a server and a
client library. `bench/peers/loader.py` runs the client of a contender in a process of its own.

Rule: what is not on this machine is reported with how to install it, never left out. Every process is ended by its id.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from measuring import Tape

PACKAGES = "make bench installs it (the dependency group `bench`)"


class Server(Protocol):
    """`missing`: None, or what is not there and how to install it. `address`: what the client needs, as JSON can say it."""

    title: str

    def missing(self) -> str | None: ...

    async def start(self, directory: Path) -> None: ...

    @property
    def address(self) -> Any: ...

    @property
    def pids(self) -> list[int]: ...

    def version(self) -> str: ...

    async def stop(self) -> None: ...


class Drive(Protocol):
    """The worker loops: open the connections, then acquire and release in `tape.workers` loops until `tape.stopping`, and close.
    `contended`: all want one key and wait for it; else each has a key of its own."""

    def __call__(self, address: Any, tape: Tape, *, contended: bool) -> Awaitable[None]: ...


class Idle(Protocol):
    """Open `sessions` sessions of `ttl_seconds`, call `ready`, and keep them alive until cancelled. Returns never otherwise;
    raises if one is lost."""

    def __call__(
        self, address: Any, sessions: int, ttl_seconds: float, ready: Any
    ) -> Awaitable[None]: ...


@dataclass(frozen=True, slots=True)
class Contender:
    """`server` and `client` are modules of this package; the client module has `drive`, and `idle` if it can."""

    name: str
    title: str
    server: str
    client: str

    @property
    def service(self) -> str:
        """Without the client, where another one is used."""
        return self.title.partition(",")[0]


CONTENDERS = (
    Contender("holdfast", "Holdfast, its Python client", "holdfast_cluster", "holdfast_client"),
    Contender("etcd", "etcd, grpc.aio", "etcd", "etcd_client"),
    Contender("zookeeper-kazoo", "ZooKeeper, kazoo", "zookeeper", "zookeeper_kazoo"),
    Contender("zookeeper-wire", "ZooKeeper, bare protocol", "zookeeper", "zookeeper_wire"),
    Contender("redis", "one Redis, redis-py", "redis_server", "redis_client"),
    Contender("postgresql", "one PostgreSQL, asyncpg", "postgresql", "postgresql_client"),
)


def contender(name: str) -> Contender:
    """Raises KeyError."""
    return {each.name: each for each in CONTENDERS}[name]


def make_server(module: str) -> Server:
    """The server of a module of this package, not started."""
    made: Server = importlib.import_module(f"peers.{module}").Server()
    return made
