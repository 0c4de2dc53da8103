"""What can be asked of the machine, and in what envelope it travels. Plain values: no behaviour.

Every operation is addressed by its origin, so that it acts once however often it is forwarded, and so that the node whose
caller waits can find the outcome in its own apply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Origin(NamedTuple):
    """Where an operation entered the cluster. `sequence` counts 1, 2, 3, ... within one boot of one node, without gaps."""

    node: str
    boot: int
    sequence: int


@dataclass(frozen=True, slots=True)
class OpenSession:
    session: str
    ttl_ms: int
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class RenewSession:
    session: str


@dataclass(frozen=True, slots=True)
class CloseSession:
    session: str


@dataclass(frozen=True, slots=True)
class Acquire:
    """Ask for exclusive holds on all of `keys` or none. `ttl_ms` set: `session` names an implicit session that is made for this
    request (its lease starts at the grant). `ttl_ms` None: `session` must be open. `request_id` None: the request has no name and
    cannot be repeated. `settled`: integer request ids at or below it are never executed again in this session."""

    keys: tuple[str, ...]
    session: str
    ttl_ms: int | None = None
    wait_ms: int = 0
    request_id: int | str | None = None
    settled: int | None = None
    owner: str | None = None
    context: str | None = None


@dataclass(frozen=True, slots=True)
class Release:
    session: str
    token: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """The client gives up the acquire of this name: its waiter is removed, its hold (if it was granted) is released."""

    session: str
    request_id: int | str


@dataclass(frozen=True, slots=True)
class Withdraw:
    """A node says that the caller who asked as `attachment` has gone: removes the waiter that is still attached there, and
    nothing else. The waiter's own origin is told `Withdrawn` too. Its name (if it had one) is free to be asked again."""

    attachment: Origin


@dataclass(frozen=True, slots=True)
class Barrier:
    """Changes nothing; its outcome tells its node that everything acknowledged before is applied (a linearizable read follows)."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """What the codec makes of an operation that it cannot read; the machine refuses it."""

    reason: str


Operation = (
    OpenSession
    | RenewSession
    | CloseSession
    | Acquire
    | Release
    | Cancel
    | Withdraw
    | Barrier
    | Malformed
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One log entry: a batch, stamped by its leader in the step that appended it."""

    term: int
    elapsed_ms: int
    operations: tuple[tuple[Origin, Operation], ...] = ()
