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
from holdfast.closed import Blocked, Checkpoint, ClosedPage, Closure, Forced
from holdfast.decorator import current_grant
from holdfast.errors import (
    AlreadyDone,
    BadRequest,
    ClientClosed,
    Deadlock,
    HoldfastError,
    InDoubt,
    KeyClosed,
    LimitReached,
    LockLost,
    LossCode,
    NoLongerKept,
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
from holdfast.explanation import Blocker, Explanation
from holdfast.grant import Grant
from holdfast.records import HistoryPage, Record, Restarted
from holdfast.reports import NodeReport
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
    from holdfast.credentials import Credentials, credentials_from_environment, tls_context
    from holdfast.election import Election, Leader, Leadership
    from holdfast.held import AsyncGrant, BlockingGrant, SharedGrant
    from holdfast.lock import Lock
    from holdfast.sync import BlockingLock, Client, connect_sync
    from holdfast.sync_services import BlockingElection, BlockingLeadership, BlockingWatch
    from holdfast.watch import Watch

__all__ = [
    "AlreadyDone",
    "AsyncClient",
    "AsyncGrant",
    "BadRequest",
    "Blocked",
    "Blocker",
    "BlockingElection",
    "BlockingGrant",
    "BlockingLeadership",
    "BlockingLock",
    "BlockingWatch",
    "Checkpoint",
    "Client",
    "ClientClosed",
    "ClosedPage",
    "Closure",
    "ClusterInfo",
    "Credentials",
    "Deadlock",
    "Election",
    "Explanation",
    "Forced",
    "Grant",
    "HistoryPage",
    "Holder",
    "HoldfastError",
    "InDoubt",
    "KeyClosed",
    "Leader",
    "Leadership",
    "LimitReached",
    "Lock",
    "LockInfo",
    "LockLost",
    "LockPage",
    "LossCode",
    "NoLongerKept",
    "NodeInfo",
    "NodeReport",
    "NotAcquired",
    "NotAllowed",
    "NotEnoughTime",
    "Previous",
    "Record",
    "Refused",
    "Restarted",
    "SessionLost",
    "SharedGrant",
    "UnknownOutcome",
    "Unreachable",
    "Unsuitable",
    "Waiter",
    "Watch",
    "__version__",
    "connect",
    "connect_sync",
    "credentials_from_environment",
    "current_grant",
    "release_on_sigterm",
    "tls_context",
]

_LAZY = {
    "AsyncGrant": "holdfast.held",
    "BlockingGrant": "holdfast.held",
    "SharedGrant": "holdfast.held",
    "Election": "holdfast.election",
    "Leader": "holdfast.election",
    "Leadership": "holdfast.election",
    "Watch": "holdfast.watch",
    "BlockingElection": "holdfast.sync_services",
    "BlockingLeadership": "holdfast.sync_services",
    "BlockingWatch": "holdfast.sync_services",
    "AsyncClient": "holdfast.client",
    "Credentials": "holdfast.credentials",
    "credentials_from_environment": "holdfast.credentials",
    "tls_context": "holdfast.credentials",
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
