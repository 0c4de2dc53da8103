"""Whose session it is: sessions belong to the identity that opened them, and the lock table need not know of identities.

    what the caller calls its session --(its identity's name)--> the id in the lock table

Rule: the id in the lock table is a hash of both. Whoever is not that identity and uses the same id speaks of another session, one
that does not exist, on whichever node, after any failover, and learns as much as if it had invented the id. A request that is
forwarded to the leader, or repeated at another node, carries the id of the lock table; every node computes the same one, from the
name alone, and nothing of it is replicated. The name and not the credential: who changes its credential keeps its sessions.

Where no access is set up, both ids are the same. So a cluster that begins to ask for identities does not know the sessions from
before, and they end with their leases. What answers and problems say of a session is what its caller calls it.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from msgspec.structs import replace

from holdfast_coordinator.machine.operations import (
    Acquire,
    Cancel,
    Checkpoint,
    CloseSession,
    Complete,
    OpenSession,
    Release,
    RenewSession,
)
from holdfast_coordinator.machine.outcomes import Granted, SessionOpened

if TYPE_CHECKING:
    from holdfast_coordinator.access import Identity
    from holdfast_coordinator.machine.operations import Operation
    from holdfast_coordinator.machine.outcomes import Outcome

_OF_A_SESSION: Final = (
    Acquire,
    Cancel,
    Checkpoint,
    CloseSession,
    Complete,
    OpenSession,
    Release,
    RenewSession,
)
_PERSON: Final = b"holdfast session"

O = TypeVar("O", bound="Operation")  # noqa: E741 - an operation


def session_in_table(identity: Identity, session: str) -> str:
    """The id under which the lock table knows the caller's `session`: 43 characters."""
    if identity.name is None:
        return session
    # No name of an identity holds a NUL, so no two pairs are written alike.
    digest = hashlib.blake2b(
        f"{identity.name}\0{session}".encode(), digest_size=32, person=_PERSON
    ).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def owned(identity: Identity, operation: O) -> O:
    """The operation as the lock table has to see it."""
    if identity.name is None or not isinstance(operation, _OF_A_SESSION):
        return operation
    session = session_in_table(identity, operation.session)
    return cast("O", replace(cast("Any", operation), session=session))


def shown(identity: Identity, operation: Operation, outcome: Outcome) -> Outcome:
    """The outcome as the caller has to see it. `operation`: as it came from the caller."""
    if (
        identity.name is None
        or not isinstance(outcome, Granted | SessionOpened)
        or not isinstance(operation, _OF_A_SESSION)
    ):
        return outcome
    return replace(outcome, session=operation.session)
