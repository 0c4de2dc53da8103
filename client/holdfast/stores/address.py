"""Which address means which store.

Rule: nothing is loaded or opened before it is needed: knowing what an address means costs no import of SQLAlchemy or redis, and no
I/O. A password in an address is never shown.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from holdfast.stores import capabilities
from holdfast.stores.capabilities import Capabilities

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.clock import Clock
    from holdfast.transport import Transport

CLUSTER_SCHEMES: Final = ("http", "https")
_PASSWORD: Final = re.compile(r"(?<=://)([^/@]*?):([^/@]*)@")
_PASSWORD_IN_QUERY: Final = re.compile(r"(?<=[?&]password=)[^&]*")

EXAMPLES: Final = "http://host:7601, memory://, sqlite:///locks.db, postgresql+psycopg://host/name, redis://host:6379/0"


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """A store, and where it is. `shown`: the address without its password."""

    url: str = field(repr=False)
    shown: str
    capabilities: Capabilities


def parse_store(endpoints: str | Sequence[str]) -> StoreAddress | None:
    """What `connect` was given, if it names a store; None if it names a cluster.

    Raises `ValueError` for a scheme that is unknown or an address that its store cannot use, and `ModuleNotFoundError` if the
    store needs an extra that is not installed.
    """
    if not isinstance(endpoints, str):
        parts = list(endpoints)
        if not any(_scheme(each) not in ("", *CLUSTER_SCHEMES) for each in parts):
            return None
        if len(parts) != 1:
            raise ValueError("a store has one address; several are for the nodes of a cluster")
        endpoints = parts[0]
    url = endpoints.strip()
    scheme = _scheme(url)
    if scheme in ("", *CLUSTER_SCHEMES):
        return None
    shown = _PASSWORD_IN_QUERY.sub("***", _PASSWORD.sub(r"\1:***@", url))
    kind = scheme.partition("+")[0]
    if kind == "memory":
        return StoreAddress(url, shown, _memory(url))
    if kind == "sqlite":
        _need("sqlalchemy", "sql", shown)
        if not url.partition(":///")[2].partition("?")[0] or ":memory:" in url:
            raise ValueError(
                "sqlite:// needs a file, such as sqlite:///locks.db; for locks in memory use memory://"
            )
        return StoreAddress(url, shown, capabilities.SQLITE)
    if kind == "postgresql":
        _need("sqlalchemy", "postgres", shown)
        if scheme in ("postgresql", "postgresql+psycopg"):
            _need("psycopg", "postgres", shown)
            url = "postgresql+psycopg" + url[len(scheme) :]
        return StoreAddress(url, shown, capabilities.POSTGRESQL)
    if kind in ("redis", "rediss", "unix"):
        _need("redis", "redis", shown)
        return StoreAddress(url, shown, capabilities.REDIS)
    raise ValueError(f"{scheme}:// is no store that Holdfast knows; addresses look like {EXAMPLES}")


def open_store(address: StoreAddress, clock: Clock, draw: Callable[[], float]) -> Transport:
    """The transport of a store. Does no I/O yet, except that a memory store with a file reads and locks it."""
    from holdfast.stores.base import StoreTransport

    store = address.capabilities.store
    if store.startswith("memory"):
        from holdfast.stores.memory import MemoryStore

        return StoreTransport(MemoryStore(address.url, clock), clock)
    if store == "redis":
        from holdfast.stores.redis import RedisStore

        return StoreTransport(RedisStore(address.url, address.shown, clock, draw), clock)
    from holdfast.stores.sql import SqlStore

    return StoreTransport(SqlStore(address.url, address.shown, clock, draw), clock)


def capabilities_of(endpoints: str | Sequence[str]) -> Capabilities:
    """What the store behind an address promises. Raises as `parse_store`."""
    address = parse_store(endpoints)
    return capabilities.CLUSTER if address is None else address.capabilities


def memory_file(url: str) -> Path | None:
    """The file of `memory:///path/to/file`; None for a store that only lives in memory."""
    rest = url.partition("://")[2]
    return Path(rest) if rest.startswith("/") and rest != "/" else None


def _memory(url: str) -> Capabilities:
    return capabilities.MEMORY if memory_file(url) is None else capabilities.MEMORY_WITH_FILE


def _scheme(address: str) -> str:
    """Lower case; empty where there is none."""
    scheme, found, _ = address.strip().partition("://")
    return scheme.lower() if found else ""


def _need(module: str, extra: str, shown: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ModuleNotFoundError(
            f"{shown} needs the package {module}, which is not installed: pip install 'holdfast[{extra}]'",
            name=module,
        )
