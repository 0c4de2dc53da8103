"""A history: every operation of every client, with true times that no client can see.

Rule: an operation lies between its call and its return; one that never got a definite answer has no return,
and may take effect at any time after its call, or never. Asking again under the same request id is the same
operation. Times are nanoseconds of true time.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["acquire", "release", "complete", "cancel", "end", "told over"]
"""`cancel`: of the acquire `request`, which may have been granted; `end`: of the session and all that it holds; `told over`: any
call that was refused because its session had ended."""

Result = Literal["ok", "held", "done", "not_held", "refused", "unknown", "pending"]
"""`held`: refused because others have it; `done`: refused because the work of `done` is remembered; `not_held`: refused because
the hold has ended; `refused`: any other definite refusal, which says nothing about the lock."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A hold as a refusal shows it."""

    token: int
    session: str
    shared: bool = False
    limit: int = 0


@dataclass(slots=True)
class Operation:
    """One request of one client."""

    process: str
    kind: Kind
    keys: tuple[str, ...]
    session: str
    called: int
    returned: int | None = None
    result: Result = "pending"
    token: int = 0
    holders: tuple[Seen, ...] = ()
    """All who have the key, as a refusal says; none: it does not say."""
    ttl_ns: int = 0
    """Of an implicit session: the lease that the grant itself begins. Of a completion: how long it is remembered."""
    shared: bool = False
    limit: int = 0
    """Permits of a semaphore; 0: no limit."""
    fences: tuple[int, ...] = ()
    """Of a shared hold without limit: the tokens that opened the phases of `keys`, as the grant says."""
    done: int = 0
    """The token under which the work was completed, as a refusal says."""
    request: int = 0
    """The name of an acquire within its session, and what a cancel calls it by; 0: it has none."""
    queued: int | None = None
    """Since when it certainly stood in the queues of its keys, until its grant; None: it did not wait, or nobody can say."""


@dataclass(frozen=True, slots=True)
class Lease:
    """An acknowledged opening or renewal: the session lives at least `ttl_ns` from `sent`, less the drift."""

    session: str
    sent: int
    ttl_ns: int


@dataclass(slots=True)
class Belief:
    """From when to when a client trusted that it holds a key."""

    process: str
    key: str
    token: int
    begun: int
    ended: int
    alone: bool = True
    """False: it shares the key with others."""


@dataclass(slots=True)
class History:
    """Of one run."""

    operations: list[Operation] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)
    beliefs: list[Belief] = field(default_factory=list)

    def finish(self) -> None:
        """The run is over: what is still on its way has an unknown outcome."""
        for operation in self.operations:
            if operation.result == "pending":
                operation.result, operation.returned = "unknown", None

    def waits(self, since: Mapping[int, int]) -> None:
        """Since when each token that was waited for was waited for, as somebody knows who saw the log."""
        for operation in self.operations:
            if operation.kind == "acquire" and operation.result == "ok":
                operation.queued = since.get(operation.token)

    def keys(self) -> list[str]:
        """Every key that occurs, sorted."""
        return sorted({key for operation in self.operations for key in operation.keys})

    def to_json_lines(self) -> str:
        """One object a line, in the order of the calls."""
        rows: list[dict[str, Any]] = []
        rows += (
            {"type": "operation", "at": each.called, **asdict(each)} for each in self.operations
        )
        rows += ({"type": "lease", "at": each.sent, **asdict(each)} for each in self.leases)
        rows += ({"type": "belief", "at": each.begun, **asdict(each)} for each in self.beliefs)
        rows.sort(key=lambda row: int(row["at"]))
        return "".join(json.dumps(row) + "\n" for row in rows)
