"""A worker of the demo against a pretended cluster: what it tells the queue in every case, above all when it loses its lock."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest
from sqlalchemy.exc import OperationalError

from holdfast.closed import Closure
from holdfast.errors import AlreadyDone, LimitReached, LockLost, NotAcquired, Unreachable
from holdfast.fencing import MemoryGuard
from holdfast_coordinator.demo import link
from holdfast_coordinator.demo.messages import Message
from holdfast_coordinator.demo.worker import Worker
from holdfast_ledger import Duplicate, NotCaptured, Payment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from holdfast import AsyncClient

MESSAGE = Message("p-1", "1234", "collect", 500, "EUR")
SETTINGS = link.WorkerSettings("w1", "http://nowhere", "", False, 3.0, 0.0, 1)


@dataclass
class FakeGrant:
    fence: int
    client: FakeClient

    def fence_for(self) -> int:
        return self.fence

    async def complete(self, result: str, *, retain: float) -> None:
        if self.client.complete_fault is not None:
            raise self.client.complete_fault
        self.client.completed.append((result, retain))


class FakeClient:
    """Grants with rising fences, or raises what it is told to. `lose` does what the real client does: it cancels the body."""

    def __init__(self) -> None:
        self.fence = 6
        self.refusal: Exception | None = None
        self.complete_fault: Exception | None = None
        self.completed: list[tuple[str, float]] = []
        self._body: asyncio.Task[Any] | None = None
        self._lost = False

    def lose(self) -> None:
        assert self._body is not None
        self._lost = True
        self._body.cancel()

    @asynccontextmanager
    async def lock(self, key: str, *, wait: float) -> AsyncIterator[FakeGrant]:
        assert wait == 0
        if self.refusal is not None:
            raise self.refusal
        if key == "orders/p-1/collect":
            yield FakeGrant(0, self)
            return
        assert key == "payments/1234/collect"
        self.fence += 1
        self._body = asyncio.current_task()
        try:
            yield FakeGrant(self.fence, self)
        except asyncio.CancelledError:
            if not self._lost or self._body is None:
                raise
            self._body.uncancel()
            raise LockLost("lost", token=self.fence) from None


class FakeBooks:
    """The guard's rule and a set."""

    def __init__(self) -> None:
        self.guard = MemoryGuard()
        self.recorded: dict[tuple[str, str], int] = {}
        self.fault: Exception | None = None

    def begin(self, message: Message, fence: int) -> bool:
        self.guard.raise_floor(message.lock_key, fence)
        return message.order in self.recorded

    def write(self, message: Message, fence: int) -> None:
        self.guard.raise_floor(message.lock_key, fence)
        if self.fault is not None:
            raise self.fault
        self.recorded[message.order] = 1

    def times_recorded(self) -> dict[tuple[str, str], int]:
        return self.recorded

    def close(self) -> None:
        pass


@dataclass
class Stage:
    """A worker and the other end of its link."""

    client: FakeClient = field(default_factory=FakeClient)
    books: FakeBooks = field(default_factory=FakeBooks)
    at_gate: Callable[[int, int], None] = lambda _delivery, _fence: None
    events: list[dict[str, Any]] = field(default_factory=list)

    async def deliver(self, during: Callable[[], object] = lambda: None) -> dict[str, Any]:
        """Hand out one message; return what the worker says about it in the end. `during` runs once a lock was granted."""
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        worker_reader, worker_writer = await asyncio.open_connection(sock=theirs)
        client = cast("AsyncClient", self.client)
        worker = Worker(SETTINGS, client, self.books, worker_reader, worker_writer, self.at_gate)
        running = asyncio.create_task(worker.run())
        assert await link.receive(reader) == {"op": "take"}
        await link.send(writer, {"delivery": 7, "message": asdict(MESSAGE)})
        while (said := await link.receive(reader))["op"] == "event":
            self.events.append(said)
            if said["kind"] == "granted":
                during()
        await link.send(writer, {"ok": True})
        assert await link.receive(reader) == {"op": "take"}
        await link.send(writer, {"end": True})
        await running
        for stream in (writer, worker_writer):
            stream.close()
            await stream.wait_closed()
        return said


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def test_a_message_is_captured_and_acknowledged(stage: Stage) -> None:
    """The plain way; the grant is reported with its fence."""
    assert await stage.deliver() == {"op": "ack", "delivery": 7, "outcome": "captured"}
    assert stage.events == [{"op": "event", "kind": "granted", "delivery": 7, "fence": 7}]
    assert stage.books.recorded == {("p-1", "collect"): 1}


async def test_what_was_captured_is_remembered_as_done(stage: Stage) -> None:
    """With what it was about, for a day; a message of the same order is then answered by the cluster."""
    await stage.deliver()
    ((result, retain),) = stage.client.completed
    assert json.loads(result) == {"customer": "1234", "amount": 500, "currency": "EUR"}
    assert retain == 24 * 3600


@pytest.mark.parametrize(("amount", "differences"), [(500, []), (501, ["amount"])])
async def test_an_order_that_is_done_is_answered_and_not_worked_again(
    stage: Stage, amount: int, differences: list[str]
) -> None:
    """No lock is held, the books are not asked; a message that asks for something else is told apart."""
    result = json.dumps({"customer": "1234", "amount": amount, "currency": "EUR"})
    closed = Closure("orders/p-1/collect", "done", 3, "completed", 60.0, result)
    stage.client.refusal = AlreadyDone("done", closed=closed)
    said = await stage.deliver()
    assert said == {
        "op": "ack",
        "delivery": 7,
        "outcome": "already_done",
        "differences": differences,
    }
    assert stage.events == []
    assert stage.books.recorded == {}


async def test_a_result_that_cannot_be_remembered_costs_no_payment(stage: Stage) -> None:
    """The write decides: it is in the books, so the message is done."""
    stage.client.complete_fault = LimitReached("done_max")
    assert await stage.deliver() == {"op": "ack", "delivery": 7, "outcome": "captured"}


async def test_what_is_already_in_the_books_is_acknowledged_as_a_duplicate(stage: Stage) -> None:
    """The floor was raised first, so the look is good for as long as this holder can write."""
    stage.books.recorded[MESSAGE.order] = 1
    assert await stage.deliver() == {"op": "ack", "delivery": 7, "outcome": "duplicate"}


async def test_a_held_key_is_left_to_its_holder(stage: Stage) -> None:
    """Somebody else works on it: the message goes back to the queue."""
    stage.client.refusal = NotAcquired("held")
    assert await stage.deliver() == {"op": "nack", "delivery": 7, "reason": "held"}


async def test_a_cluster_that_does_not_answer_costs_a_redelivery_and_no_payment(
    stage: Stage,
) -> None:
    """No lock, no work."""
    stage.client.refusal = Unreachable("no leader")
    said = await stage.deliver()
    assert said == {"op": "nack", "delivery": 7, "reason": "cluster", "detail": "Unreachable"}
    assert stage.books.recorded == {}


async def test_a_lock_lost_before_the_write_means_no_write(stage: Stage) -> None:
    """The body is cancelled during the provider's call; the message goes back."""
    said = await stage.deliver(during=stage.client.lose)
    assert said == {"op": "nack", "delivery": 7, "reason": "lost"}
    assert stage.books.recorded == {}
    assert stage.events[-1]["kind"] == "lost"


async def test_the_write_of_a_frozen_worker_is_refused_as_stale_and_reported(stage: Stage) -> None:
    """time 0: at the gate; time 1: a later holder captures, the lock is lost, the body cancelled; time 2: the thread writes."""
    at_gate, go_on = threading.Event(), threading.Event()

    def gate(_delivery: int, _fence: int) -> None:
        at_gate.set()
        go_on.wait(10)

    stage.at_gate = gate

    async def overtake() -> None:
        await asyncio.to_thread(at_gate.wait, 10)
        stage.books.write(MESSAGE, 9)
        stage.client.lose()
        go_on.set()

    tasks: list[asyncio.Task[None]] = []
    said = await stage.deliver(during=lambda: tasks.append(asyncio.create_task(overtake())))
    await tasks[0]
    assert said == {"op": "nack", "delivery": 7, "reason": "stale"}
    assert [event["kind"] for event in stage.events] == ["granted", "lost", "stale"]
    assert (stage.events[-1]["fence"], stage.events[-1]["highest"]) == (7, 9)


async def test_a_write_that_took_effect_is_acknowledged_even_if_the_lock_is_lost_meanwhile(
    stage: Stage,
) -> None:
    """What is in the books is done: giving it back would only make a duplicate."""
    at_gate, go_on = threading.Event(), threading.Event()

    def gate(_delivery: int, _fence: int) -> None:
        at_gate.set()
        go_on.wait(10)

    stage.at_gate = gate

    async def lose() -> None:
        await asyncio.to_thread(at_gate.wait, 10)
        stage.client.lose()
        go_on.set()

    tasks: list[asyncio.Task[None]] = []
    said = await stage.deliver(during=lambda: tasks.append(asyncio.create_task(lose())))
    await tasks[0]
    assert said == {"op": "ack", "delivery": 7, "outcome": "captured"}


async def test_a_later_holder_that_was_here_first_stops_the_work_before_the_provider(
    stage: Stage,
) -> None:
    """`raise_floor` refuses: nothing was sent outside, nothing written."""
    stage.books.guard.raise_floor(MESSAGE.lock_key, 50)
    assert await stage.deliver() == {"op": "nack", "delivery": 7, "reason": "stale"}
    assert stage.events[-1]["kind"] == "stale"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (NotCaptured("nothing"), {"op": "nack", "reason": "not_captured", "detail": "nothing"}),
        (
            Duplicate(Payment("p-1", "capture", "1234", 1, "EUR", 1), ("amount",)),
            {"op": "ack", "outcome": "duplicate", "differences": ["amount"]},
        ),
        (
            OperationalError("insert", {}, Exception("database is locked")),
            {"op": "nack", "reason": "books", "detail": "OperationalError"},
        ),
    ],
)
async def test_what_the_books_answer_is_passed_on(
    stage: Stage, fault: Exception, said: dict[str, Any]
) -> None:
    """Refusals for now and refusals for good; a database that is not there is neither."""
    stage.books.fault = fault
    assert await stage.deliver() == said | {"delivery": 7}


async def test_a_worker_without_a_director_ends() -> None:
    """Nobody is left to work for."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=theirs)
    ours.close()
    client = cast("AsyncClient", FakeClient())
    with pytest.raises(link.LinkClosed):
        await Worker(SETTINGS, client, FakeBooks(), reader, writer, lambda _d, _f: None).run()
    writer.close()
