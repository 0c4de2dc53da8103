"""What the machine remembers: the records and the one `State` that holds them. No rules, only lookups.

Records name each other by id, never by reference to their owner, so that nothing here forms a cycle that only a garbage
collector could free. Dicts are ordered by insertion and no set is ever iterated: replicas must agree on every order.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from .deadlines import Deadlines
from .history import History
from .limits import Limits
from .operations import Origin
from .origins import OriginBook
from .outcomes import Ended, Outcome, Previous, Refused

Out = list[tuple[Origin, Outcome]]
Fingerprint = tuple[tuple[str, ...], int | None, str | None, str | None]
RequestId = int | str


@dataclass(slots=True, eq=False)
class Hold:
    """A grant. `ended` stays None while it lasts; an ended hold lives on only in the memory of its request."""

    token: int
    session: str
    keys: tuple[str, ...]
    owner: str | None
    ended: Ended | None = None


@dataclass(slots=True, eq=False)
class Waiter:
    """A queued acquire. `number` counts over the whole cluster: the order of the log. `attachment` is who is told."""

    number: int
    session: str
    keys: tuple[str, ...]
    owner: str | None
    request_id: RequestId | None
    attachment: Origin
    deadline_ms: int
    scheduled_ms: int = 0


@dataclass(slots=True, eq=False)
class Request:
    """What became of a named acquire: exactly one of `waiter`, `hold`, `refused` is set.

    `fingerprint` None: it was cancelled before it was ever seen, so any body under this id is refused.
    """

    fingerprint: Fingerprint | None
    waiter: Waiter | None = None
    hold: Hold | None = None
    refused: Refused | None = None
    previous: tuple[Previous | None, ...] = ()
    previous_horizon: int = 0


@dataclass(slots=True, eq=False)
class RequestBook:
    """The named acquires of one session. `integer_ids` is sorted, so that settling takes a slice from its front."""

    by_id: dict[RequestId, Request] = field(default_factory=dict)
    integer_ids: list[int] = field(default_factory=list)
    settled: int = -1


@dataclass(slots=True, eq=False)
class Session:
    """`deadline_ms` None: an implicit session that still waits; its lease starts at the grant.

    `waiters` and `requests` are made on first use: most sessions of a plain HTTP caller never need them.
    """

    id: str
    ttl_ms: int
    owner: str | None
    implicit: bool
    deadline_ms: int | None
    scheduled_ms: int = 0
    holds: dict[int, Hold] = field(default_factory=dict)
    waiters: dict[int, Waiter] | None = None
    requests: RequestBook | None = None


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


class State:
    """All of it. Equal logs make equal states; `snapshot.py` writes exactly this."""

    __slots__ = (
        "attachments",
        "cluster_time_ms",
        "deadlines",
        "history",
        "holds",
        "holds_by_key",
        "keys_waited",
        "last_term",
        "last_token",
        "limits",
        "next_waiter",
        "origins",
        "queues",
        "sessions",
        "totals",
        "waiters",
    )

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.cluster_time_ms = 0
        self.last_term: int | None = None
        self.last_token = 0
        self.next_waiter = 1
        self.keys_waited = 0
        self.sessions: dict[str, Session] = {}
        self.holds: dict[int, Hold] = {}
        self.holds_by_key: dict[str, Hold] = {}
        self.queues: dict[str, Queue] = {}
        self.waiters: dict[int, Waiter] = {}
        self.attachments: dict[Origin, Waiter] = {}
        self.deadlines = Deadlines()
        self.history = History()
        self.origins = OriginBook()
        self.totals = Totals()
