"""What the HTTP layer needs of a node, as a port, and the plain values that pass through it.

Rule: types only. `Node` (node.py) fulfils `NodePort`; so does a fake in the tests, which is how the whole HTTP layer is tested
without Raft. This module knows the machine's vocabulary and neither HTTP nor the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from holdfast_coordinator.machine.outcomes import Refused
from holdfast_coordinator.raft.errors import AdminRefused
from holdfast_coordinator.raft.ports import PayloadReader, StorageStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from holdfast_coordinator.machine import Machine
    from holdfast_coordinator.machine.operations import Operation
    from holdfast_coordinator.machine.outcomes import Outcome
    from holdfast_coordinator.node_report import NodeReport
    from holdfast_coordinator.submissions import Submission

__all__ = [
    "AddressBook",
    "AdminRefused",
    "ClusterStatus",
    "Moved",
    "NodePort",
    "NodeState",
    "NodeStatus",
    "Overloaded",
    "PayloadReader",
    "StorageStatus",
    "Unknown",
    "overloaded",
]

NodeState = Literal["leader", "follower", "candidate", "unreachable", "unknown"]


@dataclass(frozen=True, slots=True)
class Unknown:
    """The operation may or may not have taken effect, or may yet. The caller asks again under the same request id."""

    detail: str


class Overloaded(Refused, frozen=True, gc=False):
    """This node refuses before anything was proposed; the log knows nothing of it. Ask again after `retry_after_ms`."""

    retry_after_ms: int = 0


def overloaded(retry_after_ms: int) -> Overloaded:
    detail = "this node has more to do than it can do in time"
    return Overloaded("overloaded", detail, retry_after_ms=retry_after_ms)


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One member as the answering node sees it.

    `http` is a URL (`http://127.0.0.1:7601`), `raft` is `host:port`. `match_index` is the last log index that the
    member is known to have on disk; only the leader knows it of others, everybody else says None.
    """

    name: str
    http: str
    raft: str
    state: NodeState
    match_index: int | None = None


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """The cluster as one node sees it, at this instant and without asking anybody.

    `leader_changes` counts the leaders that this process has seen come; `rejected` counts, by reason, peer frames that the shield
    refused. Both start at 0 with the process and are, like `storage`, for metrics only.
    """

    node: str
    leader: str | None
    term: int
    nodes: tuple[NodeStatus, ...]
    commit_index: int
    applied_index: int
    cluster_time_ms: int
    cluster: str = ""
    epoch: int = 0
    """Of the addresses that this node goes by."""
    leader_changes: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    storage: StorageStatus = field(default_factory=StorageStatus)


@dataclass(frozen=True, slots=True)
class Moved:
    """A member that has other addresses: `http` and `raft` as in `NodeStatus`, `address` is the latter as host and port."""

    name: str
    http: str
    raft: str
    address: tuple[str, int]


class AddressBook(Protocol):
    """Where the addresses of the members are written down."""

    @property
    def epoch(self) -> int:
        """Of what was read last."""
        ...

    def reread(self, connected: frozenset[str]) -> tuple[Moved, ...]:
        """What has changed since; `connected` are the members that are there. Raises `AdminRefused`: nothing was taken over."""
        ...


class NodePort(Protocol):
    """A node, as the HTTP layer uses it. Everything is called from the one event-loop thread."""

    @property
    def machine(self) -> Machine:
        """The replicated lock table as applied here. Read it without awaiting in between; never apply to it."""
        ...

    @property
    def leader(self) -> str | None:
        """The node that leads, as far as this one knows."""
        ...

    @property
    def is_ready(self) -> bool:
        """A leader is known and what is applied here is close to what is committed."""
        ...

    @property
    def lag_ms(self) -> int | None:
        """Milliseconds since this node last knew that it had applied everything committed. None: it never has."""
        ...

    async def submit(self, operation: Operation) -> Outcome | Unknown:
        """The final outcome of `operation`. `Refused("no_leader" | "overloaded")` is definite; `Unknown` is not.

        Cancelling the awaiting task says that the caller has gone: the node withdraws what waits, and releases a grant that nobody
        can ask for again.
        """
        ...

    def submit_all(self, submissions: Sequence[Submission]) -> None:
        """Many at once: each is answered by its own `answer`, now or later, under the rules of `submit`."""
        ...

    def abandon(self, submission: Submission) -> None:
        """The caller of `submission` has gone: as if the task that awaits it had been cancelled."""
        ...

    async def barrier(self) -> Refused | Unknown | None:
        """None: the machine may be read now and the answer is linearizable."""
        ...

    async def step_down(self) -> str:
        """Have the leader hand over; the new leader's name. Raises `AdminRefused`."""
        ...

    async def replace_node(self, name: str) -> None:
        """Admit the data directory with which member `name` comes back, in place of the one it had. Raises `AdminRefused`."""
        ...

    async def reload(self) -> int:
        """Read the addresses of the other nodes anew; their epoch. Raises `AdminRefused`."""
        ...

    async def open_backup(self) -> tuple[bytes, PayloadReader]:
        """The head of a snapshot file that holds no less than is applied here, and what follows it. Raises `AdminRefused`."""
        ...

    def on_applied(self, told: Callable[[], None]) -> Callable[[], None]:
        """Have `told` called after every entry that is applied here, and after another state was taken over. It has to be cheap,
        and must not raise. The answer is called to end that."""
        ...

    def status(self) -> ClusterStatus: ...

    def report(self) -> NodeReport:
        """What this node tells of itself. Looks at files; for people, not for the path of a request."""
        ...

    def session_ref(self, session: str) -> str:
        """A keyed hash of a session's id: the same on every node of this cluster, and useless for acting as that session."""
        ...
