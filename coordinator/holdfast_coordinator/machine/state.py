"""What the machine remembers: the records and the one `State` that holds them. No rules, only lookups.

Records name each other by id, never by reference to their owner, so that nothing here forms a cycle that only a garbage
collector could free. It therefore need not look at them (`gc=False`), which at a million locks is most of its work. Dicts are
ordered by insertion and no set is ever iterated: replicas must agree on every order.

What a record is, is asked by `type(record) is Hold`: all records are final, and `isinstance` takes the long way through the
metaclass of msgspec's structs, which where the answer is no costs a third of a microsecond, seven times as much.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import final

from msgspec import Struct

from .deadlines import Deadlines
from .history import History
from .levels import LOWEST
from .limits import Limits
from .operations import Origin, Terms
from .origins import OriginBook
from .outcomes import ClosedBy, Ended, Granted, Note, Outcome, Previous, Refused
from .trail import Trail

Out = list[tuple[Origin, Outcome]]
Fingerprint = tuple[tuple[str, ...], int | None, str | None, str | None, Terms]
RequestId = int | str


@final
class Hold(Struct, eq=False, gc=False):
    """A grant. `ended` stays None while it lasts; an ended hold lives on only in the memory of its request."""

    token: int
    session: str
    keys: tuple[str, ...]
    owner: str | None
    terms: Terms
    context: str | None
    granted_ms: int
    ended: Ended | None = None


@final
class Phase(Struct, eq=False):
    """The shared holds that stand on a key at once, by token. `fence` is the token that opened it; `limit` belongs to the key."""

    fence: int
    limit: int | None
    holds: dict[int, Hold] = {}


@final
class Closure(Struct, eq=False, gc=False):
    """A key that nobody holds and that is not granted. `deadline_ms` None: until it is resolved."""

    key: str
    by: ClosedBy
    token: int
    ended: Ended
    deadline_ms: int | None
    result: str | None = None
    scheduled_ms: int = 0


@final
class Waiter(Struct, eq=False, gc=False):
    """A queued acquire. `number` counts over the whole cluster: the order of the log. `attachment` is who is told."""

    number: int
    session: str
    keys: tuple[str, ...]
    owner: str | None
    terms: Terms
    context: str | None
    request_id: RequestId | None
    attachment: Origin
    since_ms: int
    deadline_ms: int
    scheduled_ms: int = 0


class Request(Struct, eq=False, gc=False):
    """What became of a named acquire: exactly one of `waiter`, `hold`, `refused` is set.

    `fingerprint` None: it was cancelled before it was ever seen, so any body under this id is refused.
    """

    fingerprint: Fingerprint | None
    waiter: Waiter | None = None
    hold: Hold | None = None
    refused: Refused | None = None
    previous: tuple[Previous | None, ...] = ()
    previous_horizon: int = 0
    checkpoints: tuple[Note | None, ...] = ()


def granted_request(fingerprint: Fingerprint | None, hold: Hold, granted: Granted) -> Request:
    """With what a repeat has to be told again and can no longer be looked up."""
    told = (granted.previous, granted.previous_horizon, granted.checkpoints)
    return Request(fingerprint, None, hold, None, *told)


class RequestBook(Struct, eq=False):
    """The named acquires of one session. `integer_ids` is sorted, so that settling takes a slice from its front."""

    by_id: dict[RequestId, Request] = {}
    integer_ids: list[int] = []
    settled: int = -1


@final
class Session(Struct, eq=False):
    """`deadline_ms` None: an implicit session that still waits; its lease starts at the grant.

    `waiters`, `requests` and the rest are made on first use: most sessions of a plain HTTP caller never need them.
    `tasks` counts the holds by context; `forced` are the tokens of holds that an operator ended, until the client lets go of them.
    """

    id: str
    ttl_ms: int
    owner: str | None
    implicit: bool
    deadline_ms: int | None
    scheduled_ms: int = 0
    holds: dict[int, Hold] = {}
    waiters: dict[int, Waiter] | None = None
    requests: RequestBook | None = None
    tasks: dict[str, int] | None = None
    forced: list[int] | None = None


Queue = OrderedDict[int, Waiter]
"""Waiters by number. An OrderedDict because its first element is found in constant time however many left before it."""


@dataclass(slots=True, eq=False)
class Totals:
    """Counted since the cluster began; only metrics read them."""

    grants: int = 0
    releases: int = 0
    expired_holds: int = 0
    expired_sessions: int = 0
    wait_timeouts: int = 0
    forced_holds: int = 0
    deadlocks: int = 0


@dataclass(slots=True, eq=False)
class Tally:
    """How much there is of what has a bound of its own; each can be counted again from the records."""

    keys_waited: int = 0
    waiters_of_several: int = 0
    closed: dict[ClosedBy, int] = field(
        default_factory=lambda: {"delay": 0, "in_doubt": 0, "done": 0}
    )
    done_bytes: int = 0
    checkpoint_bytes: int = 0
    quota_sessions: list[int] = field(default_factory=list)
    quota_holds: list[int] = field(default_factory=list)
    quota_waiters: list[int] = field(default_factory=list)


class State:
    """All of it. Equal logs make equal states; `snapshot.py` writes exactly this.

    `standing` is what stands on each key that is not free: one exclusive hold, or a phase of shared ones, or a closure.
    """

    __slots__ = (
        "attachments",
        "checkpoints",
        "closures",
        "cluster_time_ms",
        "deadlines",
        "done",
        "history",
        "holds",
        "last_term",
        "last_token",
        "level",
        "limits",
        "next_waiter",
        "origins",
        "queues",
        "sessions",
        "standing",
        "tally",
        "totals",
        "trail",
        "waiters",
        "wall_ms",
    )

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.level = LOWEST
        self.cluster_time_ms = 0
        self.last_term: int | None = None
        self.last_token = 0
        self.next_waiter = 1
        self.wall_ms = 0
        self.sessions: dict[str, Session] = {}
        self.holds: dict[int, Hold] = {}
        self.standing: dict[str, Hold | Phase | Closure] = {}
        self.closures: dict[str, Closure] = {}
        self.done: dict[
            int, tuple[Closure, ...]
        ] = {}  # what is left of each completed hold, by its token
        self.checkpoints: dict[str, Note] = {}
        self.queues: dict[str, Queue] = {}
        self.waiters: dict[int, Waiter] = {}
        self.attachments: dict[Origin, Waiter] = {}
        self.deadlines = Deadlines()
        self.history = History(limits)
        self.origins = OriginBook()
        self.totals = Totals()
        self.trail = Trail(limits.trail_blocks_max, limits.trail_bytes_max)
        count = len(limits.quotas)
        self.tally = Tally(
            quota_sessions=[0] * count, quota_holds=[0] * count, quota_waiters=[0] * count
        )
