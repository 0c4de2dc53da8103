"""Holdfast: distributed locks with fencing tokens; this package is the client.

    async with holdfast.connect("http://127.0.0.1:7601,http://127.0.0.1:7602") as hf:
        async with hf.lock("1234collectPayment", wait=0) as grant:
            await ledger.capture(..., fence=grant.fence)

`connect_sync` is the same thing, blocking. The names of this module are its public face; it loads no server, and it loads the
network library only when a client is made.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from holdfast._version import __version__
from holdfast.decorator import current_grant
from holdfast.errors import (
    BadRequest,
    ClientClosed,
    HoldfastError,
    LimitReached,
    LockLost,
    LossCode,
    NotAcquired,
    NotAllowed,
    NotEnoughTime,
    Refused,
    SessionLost,
    UnknownOutcome,
    Unreachable,
    Unsuitable,
)
from holdfast.exits import release_on_sigterm
from holdfast.grant import Grant
from holdfast.views import (
    ClusterInfo,
    Holder,
    LockInfo,
    LockPage,
    NodeInfo,
    Previous,
    Waiter,
)

if TYPE_CHECKING:
    from holdfast.client import AsyncClient, connect
    from holdfast.lock import Lock
    from holdfast.sync import BlockingLock, Client, connect_sync

__all__ = [
    "AsyncClient",
    "BadRequest",
    "BlockingLock",
    "Client",
    "ClientClosed",
    "ClusterInfo",
    "Grant",
    "Holder",
    "HoldfastError",
    "LimitReached",
    "Lock",
    "LockInfo",
    "LockLost",
    "LockPage",
    "LossCode",
    "NodeInfo",
    "NotAcquired",
    "NotAllowed",
    "NotEnoughTime",
    "Previous",
    "Refused",
    "SessionLost",
    "UnknownOutcome",
    "Unreachable",
    "Unsuitable",
    "Waiter",
    "__version__",
    "connect",
    "connect_sync",
    "current_grant",
    "release_on_sigterm",
]

_LAZY = {
    "AsyncClient": "holdfast.client",
    "connect": "holdfast.client",
    "Lock": "holdfast.lock",
    "BlockingLock": "holdfast.sync",
    "Client": "holdfast.sync",
    "connect_sync": "holdfast.sync",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
