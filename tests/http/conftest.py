"""The HTTP layer over a real machine and no Raft: each operation is a log entry of its own, applied at once."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest

from holdfast_coordinator.http import HttpServer, start_http
from holdfast_coordinator.machine import (
    Barrier,
    Entry,
    Limits,
    Machine,
    Operation,
    Origin,
    Outcome,
    Queued,
    Refused,
    Withdraw,
)
from holdfast_coordinator.node_report import (
    CertificateReport,
    NodeReport,
    PeerReport,
    SyncTimes,
    Vitals,
)
from holdfast_coordinator.node_types import (
    AdminRefused,
    ClusterStatus,
    NodeStatus,
    PayloadReader,
    StorageStatus,
    Unknown,
)
from holdfast_coordinator.raft.snapshots import Header, describe, encode_header

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from holdfast_coordinator.submissions import Submission


class FakeNode:
    """A `NodePort` of one. `answers` (if any) are given in turn instead of the machine's; `withdrawn` are the callers that went."""

    def __init__(self, limits: Limits | None = None, *, waits_end_at_once: bool = False) -> None:
        self.machine = Machine(limits or Limits())
        self.is_ready = True
        self.lag_ms: int | None = 7
        self.leader: str | None = "n1"
        self.admin_refusal: AdminRefused | None = None
        self.read_refusal: Refused | Unknown | None = None
        self.answers: list[Outcome | Unknown | BaseException] = []
        self.withdrawn: list[Origin] = []
        self.submitted: list[Operation] = []
        self.queued = asyncio.Event()
        self.withdrew = asyncio.Event()
        self._waits_end_at_once = waits_end_at_once
        self._sequence = 0
        self._waiting: dict[Origin, asyncio.Future[Outcome]] = {}
        self._streamed: dict[Origin, Submission] = {}
        self._told: list[Callable[[], None]] = []
        self.wall_ms = 1_700_000_000_000

    async def submit(self, operation: Operation) -> Outcome | Unknown:
        self.submitted.append(operation)
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, BaseException):
                raise answer
            return answer
        origin = self._origin()
        outcome = self._apply(((origin, operation),))[origin]
        if not isinstance(outcome, Queued):
            return outcome
        waiting = asyncio.get_running_loop().create_future()
        self._waiting[origin] = waiting
        self.queued.set()
        if self._waits_end_at_once:
            self.advance(getattr(operation, "wait_ms", 0))
        try:
            return await waiting
        except asyncio.CancelledError:
            self._waiting.pop(origin, None)
            self._apply(((self._origin(), Withdraw(*origin)),))
            self.withdrawn.append(origin)
            self.withdrew.set()
            raise

    def submit_all(self, submissions: Sequence[Submission]) -> None:
        """In one entry, as a node does it."""
        origins = {}
        for submission in submissions:
            self.submitted.append(submission.operation)
            if self.answers:
                answer = self.answers.pop(0)
                assert not isinstance(answer, BaseException)
                submission.answer(answer)
            else:
                origins[self._origin()] = submission
        if not origins:
            return
        told = self._apply(tuple((origin, each.operation) for origin, each in origins.items()))
        for origin, submission in origins.items():
            outcome = told[origin]
            if isinstance(outcome, Queued):
                self._streamed[origin] = submission
                self.queued.set()
            else:
                submission.answer(outcome)

    def abandon(self, submission: Submission) -> None:
        for origin, waiting in self._streamed.items():
            if waiting is submission:
                del self._streamed[origin]
                self._apply(((self._origin(), Withdraw(*origin)),))
                self.withdrawn.append(origin)
                self.withdrew.set()
                return

    def advance(self, milliseconds: int) -> None:
        """Let cluster time pass."""
        while milliseconds > 0:
            self._apply((), min(milliseconds, 500))
            milliseconds -= 500

    def hash_but_for_counters(self) -> bytes:
        """Of the whole state, without what counts requests: operations heard of each node, and deadlocks refused."""
        copy = Machine.restore(self.machine.snapshot(), self.machine.state.limits)
        copy.state.origins.last.clear()
        copy.state.totals.deadlocks = 0
        return copy.state_hash()

    async def barrier(self) -> Refused | Unknown | None:
        if self.read_refusal is None:
            self._apply(((self._origin(), Barrier()),))
        return self.read_refusal

    def on_applied(self, told: Callable[[], None]) -> Callable[[], None]:
        self._told.append(told)
        return lambda: self._told.remove(told)

    def tell(self) -> None:
        """As after an entry, or after a state was taken over."""
        for told in self._told:
            told()

    def status(self) -> ClusterStatus:
        me = NodeStatus("n1", "http://127.0.0.1:7601", "127.0.0.1:7701", "leader", 3)
        other = NodeStatus("n2", "http://127.0.0.1:7602", "127.0.0.1:7702", "unreachable")
        return ClusterStatus(
            node="n1",
            leader=self.leader,
            term=2,
            nodes=(me, other),
            commit_index=4,
            applied_index=3,
            cluster_time_ms=self.machine.cluster_time_ms,
            cluster="test",
            leader_changes=1,
            rejected={"schema": 2},
            storage=StorageStatus(
                journal_bytes=4096,
                journal_segments=2,
                log_entries=4,
                snapshot_index=3,
                snapshot_bytes=512,
                snapshots={"taken": 5, "failed": 1, "superseded": 0},
                snapshots_sent=6,
                snapshots_installed=7,
            ),
        )

    def report(self) -> NodeReport:
        peers = (PeerReport("n2", connected=False), PeerReport("n3", True, "0.2", 3))
        vitals = Vitals(
            SyncTimes(1_000, 700, 2_000, 9_000),
            (CertificateReport("raft_tls.certificate", "n1.pem", 1_800_000_000_000),),
            {"limits": "af82"},
            disk_free_bytes=1 << 30,
            stalls=4,
        )
        return NodeReport("0.1", 1, 1, 2, 5_000_000, 3, peers, vitals)

    async def step_down(self) -> str:
        if self.admin_refusal is not None:
            raise self.admin_refusal
        return "n2"

    async def replace_node(self, name: str) -> None:
        if self.admin_refusal is not None:
            raise self.admin_refusal

    async def reload(self) -> int:
        if self.admin_refusal is not None:
            raise self.admin_refusal
        return 7

    async def open_backup(self) -> tuple[bytes, PayloadReader]:
        if self.admin_refusal is not None:
            raise self.admin_refusal
        payload = self.machine.snapshot()
        head = encode_header(Header(describe(3, 2, payload), "test", installed=False))
        return head, BytesReader(payload)

    def session_ref(self, session: str) -> str:
        return hashlib.sha256(session.encode()).hexdigest()[:16]

    def _origin(self) -> Origin:
        self._sequence += 1
        return Origin("n1", 1, self._sequence)

    def _apply(
        self, operations: tuple[tuple[Origin, Operation], ...], elapsed_ms: int = 0
    ) -> dict[Origin, Outcome]:
        outcomes = dict(self.machine.apply(Entry(1, elapsed_ms, operations, self.wall_ms)))
        for origin, outcome in outcomes.items():
            waiting = self._waiting.get(origin)
            if waiting is not None and not isinstance(outcome, Queued):
                del self._waiting[origin]
                waiting.set_result(outcome)
            streamed = self._streamed.get(origin)
            if streamed is not None and not isinstance(outcome, Queued):
                del self._streamed[origin]
                streamed.answer(outcome)
        self.tell()
        return outcomes


@dataclass(frozen=True)
class BytesReader:
    """The payload of a backup."""

    payload: bytes

    def read(self, offset: int, length: int) -> bytes:
        return self.payload[offset : offset + length]

    def close(self) -> None: ...


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Any
    raw: bytes

    @property
    def body(self) -> Any:
        if self.headers["Content-Type"] == "application/msgpack":
            return msgspec.msgpack.decode(self.raw)
        return msgspec.json.decode(self.raw)

    @property
    def code(self) -> str:
        """The code of a problem, after checking that it is a well-formed one."""
        assert self.headers["Content-Type"] == "application/problem+json", self.raw
        body = msgspec.json.decode(self.raw)
        assert body["status"] == self.status
        assert body["type"] == f"urn:holdfast:problem:{body['code']}"
        assert body["title"]
        assert body["detail"]
        return str(body["code"])


class Caller:
    """Plain HTTP to one server."""

    def __init__(self, http: aiohttp.ClientSession, server: HttpServer) -> None:
        self.http = http
        self.url = f"http://127.0.0.1:{server.port}"
        self.port = server.port
        self.server = server

    async def send(self, method: str, path: str, **kwargs: Any) -> Reply:
        async with self.http.request(method, self.url + path, **kwargs) as response:
            return Reply(response.status, response.headers, await response.read())

    async def post(self, path: str, body: Any, query: str = "") -> Reply:
        return await self.send("POST", path + query, json=body)

    async def get(self, path: str, **query: Any) -> Reply:
        return await self.send("GET", path, params=query)

    async def acquire(self, key: str, **fields: Any) -> Reply:
        if "session" not in fields:
            fields.setdefault("ttl_ms", 10_000)
        return await self.post("/v1/locks/acquire", {"key": key, **fields})

    async def open(self, session: str, ttl_ms: int = 10_000) -> Reply:
        return await self.post("/v1/sessions", {"session": session, "ttl_ms": ttl_ms})


@pytest.fixture(scope="session")
def make_node() -> Callable[..., FakeNode]:
    return FakeNode


@pytest.fixture
async def node() -> FakeNode:
    return FakeNode()


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    """Start a server for a node: `caller = await serve(node, http_limits=...)`."""
    servers: list[HttpServer] = []
    async with aiohttp.ClientSession() as http:

        async def start(node: FakeNode, **options: Any) -> Caller:
            server = await start_http(node, "127.0.0.1", 0, **options)
            servers.append(server)
            return Caller(http, server)

        yield start
    for server in servers:
        await server.close()


@pytest.fixture
async def caller(serve: Callable[..., Any], node: FakeNode) -> Caller:
    return await serve(node)
