"""A task that runs once at a time, in a real Celery worker on an in-memory broker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.exceptions import ImproperlyConfigured, Reject, Retry, TaskRevokedError

import holdfast
from holdfast.contrib import celery as contrib
from holdfast.contrib import process_owner
from holdfast.contrib.celery import ATTEMPTS_HEADER, LockedTask, client_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Locks, Signals

RESULT_WITHIN_SECONDS = 30
Body = Callable[[Any], object]


@dataclass(frozen=True)
class Running:
    """A worker with threads, since broker and locks are in this process, and tasks whose bodies a test brings."""

    app: Celery
    locks: Locks
    bodies: dict[str, Body]
    collect: Any
    once: Any
    ignoring: Any

    def send(self, task: Any, key: str, body: Body) -> Any:
        """A message of `task` with `body`, to be worked on under `key`."""
        name = str(len(self.bodies))
        self.bodies[name] = body
        return task.delay(key, body=name)


def never(_task: Any) -> object:
    raise AssertionError("the body ran without the lock")


@pytest.fixture(scope="module")
def celery(module_locks: Locks) -> Iterator[Running]:
    app = new_app(module_locks, broker_transport_options={"polling_interval": 0.02})
    app.conf.holdfast_options = {"ttl": 1.0}
    bodies: dict[str, Body] = {}

    def run(self: Any, customer: str, body: str) -> object:
        return bodies[body](self)

    options = {"shared": False, "base": LockedTask, "bind": True, "lock": "{customer}"}
    running = Running(
        app,
        module_locks,
        bodies,
        collect=app.task(name="collect", max_retries=0, **options)(run),
        once=app.task(name="once", lock_attempts_max=0, **options)(run),
        ignoring=app.task(name="ignoring", lock_when_held="ignore", **options)(run),
    )
    with (
        pytest.MonkeyPatch.context() as patch,
        start_worker(app, pool="threads", concurrency=3, perform_ping_check=False),
    ):
        patch.setattr(contrib, "RETRY_SECONDS_MAX", 1)  # the pauses are the worker's own timers
        yield running
    client_of(app).close()
    app.close()


@pytest.fixture
def app(locks: Locks) -> Iterator[Celery]:
    """An app without a worker."""
    app = new_app(locks)
    yield app
    client_of(app).close()
    app.close()


def new_app(locks: Locks, **settings: Any) -> Celery:
    app = Celery("tests", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(holdfast_address=locks.address, **settings)
    return app


def test_two_messages_of_one_key_run_one_after_the_other(celery: Running, signals: Signals) -> None:
    """time 0: the first runs; time 1: the second comes, finds the key held and goes back to the queue; time 2: the first ends;
    time 3: the second runs, with a higher fence. A message of another key does not wait."""
    let_go = threading.Event()

    def first_body(task: Any) -> int:
        signals.say("first begins")
        assert let_go.wait(RESULT_WITHIN_SECONDS)
        signals.say("first ends")
        return int(task.grant.fence)

    def second_body(task: Any) -> int:
        signals.say("second")
        return int(task.grant.fence)

    first = celery.send(celery.collect, "1234", first_body)
    signals.wait_for("first begins")
    second = celery.send(celery.collect, "1234", second_body)
    other = celery.send(celery.collect, "77", lambda task: task.grant.fence)
    assert other.get(RESULT_WITHIN_SECONDS) > 0
    with celery.locks.client() as client:
        (holder,) = client.read_lock("1234").holders
    assert holder.owner == process_owner()
    let_go.set()
    assert first.get(RESULT_WITHIN_SECONDS) < second.get(RESULT_WITHIN_SECONDS)
    assert signals.said == ["first begins", "first ends", "second"]


def test_going_back_to_the_queue_counts_as_no_retry_of_the_task(celery: Running) -> None:
    """The task's own `max_retries` (0 here) are for its own errors; each attempt keeps the id, so whoever waits for the result gets
    it."""
    seen: list[tuple[int, int]] = []
    gone_back = threading.Event()
    original = LockedTask._go_back

    def go_back(self: Any, error: holdfast.HoldfastError) -> None:
        gone_back.set()
        original(self, error)

    def body(task: Any) -> str:
        seen.append((task.request.retries, task.request.get(ATTEMPTS_HEADER)))
        return "done"

    with celery.locks.client() as client, pytest.MonkeyPatch.context() as patch:
        patch.setattr(LockedTask, "_go_back", go_back)
        assert client.acquire_lock("k")
        result = celery.send(celery.collect, "k", body)
        assert gone_back.wait(RESULT_WITHIN_SECONDS)
        assert client.release_lock("k")
        assert result.get(RESULT_WITHIN_SECONDS) == "done"
    ((retries, attempts),) = seen
    assert retries == 0
    assert attempts >= 1


def test_after_the_last_attempt_the_task_fails_and_is_seen(celery: Running) -> None:
    """A message that was never worked on is no success."""
    with celery.locks.client() as client:
        assert client.acquire_lock("k")
        with pytest.raises(holdfast.NotAcquired):
            celery.send(celery.once, "k", never).get(RESULT_WITHIN_SECONDS)


def test_a_task_that_is_ignored_while_its_key_is_held_says_so(celery: Running) -> None:
    """Whoever waits for the result is told, and does not wait for ever."""
    with celery.locks.client() as client:
        assert client.acquire_lock("a")
        with pytest.raises(TaskRevokedError, match="its lock is held"):
            celery.send(celery.ignoring, "a", never).get(RESULT_WITHIN_SECONDS)
        assert celery.send(celery.ignoring, "b", lambda _: "b").get(RESULT_WITHIN_SECONDS) == "b"


def test_what_the_body_raises_is_its_own(celery: Running) -> None:
    """A `NotAcquired` of a lock that the body wanted is no reason to go back to the queue, and the lock is released."""

    def wants_another(_task: Any) -> None:
        raise holdfast.NotAcquired("of another lock", keys=("other",))

    for _ in range(2):
        with pytest.raises(holdfast.NotAcquired, match="of another lock"):
            celery.send(celery.collect, "k", wants_another).get(RESULT_WITHIN_SECONDS)


def test_a_lock_that_is_lost_fails_the_task(celery: Running) -> None:
    """The body ran to its end, and another may have run meanwhile: that is no success."""

    def loses(task: Any) -> None:
        grant, again = task.grant, threading.Event()
        celery.locks.expire_all()
        while not grant.is_lost:  # the client learns of it at its next renewal
            again.wait(0.01)

    with pytest.raises(holdfast.LockLost):
        celery.send(celery.collect, "k", loses).get(RESULT_WITHIN_SECONDS)


def test_a_coordinator_that_cannot_be_reached_sends_the_task_back(app: Celery) -> None:
    """Nobody is known to work on the message, so it is kept, also where a held key would be ignored."""
    app.conf.update(holdfast_address="http://127.0.0.1:9", holdfast_options={"timeout": 0.1})

    @app.task(shared=False, base=LockedTask, lock="k", lock_when_held="ignore")
    def collect() -> None:
        raise AssertionError("without the lock")

    sent: list[dict[str, Any]] = []
    with as_a_worker(collect), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "celery.canvas.Signature.apply_async", lambda again: sent.append(dict(again.options))
        )
        with pytest.raises(Retry) as caught:
            collect()
    assert isinstance(caught.value.exc, holdfast.Unreachable)
    assert [(each["task_id"], each["headers"]) for each in sent] == [("1", {ATTEMPTS_HEADER: 1})]


@contextmanager
def as_a_worker(task: Any) -> Iterator[None]:
    """What the worker tells a task about the message."""
    task.push_request(called_directly=False, id="1", args=(), kwargs={}, is_eager=False)
    yield
    task.pop_request()


def test_called_directly_it_locks_too(app: Celery, locks: Locks) -> None:
    """Outside a worker there is no queue to go back to: it raises."""

    @app.task(shared=False, base=LockedTask, bind=True, lock="k", lock_when_held="ignore")
    def collect(self: Any) -> bool:
        assert holdfast.current_grant() is self.grant
        return bool(self.grant.remaining() > 0)

    assert collect()
    assert collect.apply().get()
    with locks.client() as client:
        assert client.acquire_lock("k")
        with pytest.raises(holdfast.NotAcquired):
            collect()
        with pytest.raises(holdfast.NotAcquired):
            collect.apply().get()
    with pytest.raises(LookupError):
        _ = collect.grant


@pytest.mark.parametrize("acks_late", [True, False])
def test_a_message_is_not_lost_when_the_broker_is_gone(
    app: Celery, locks: Locks, acks_late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With late acknowledgement the broker still has it, and gets it back; otherwise the task fails, which is seen."""

    @app.task(shared=False, base=LockedTask, lock="k", acks_late=acks_late)
    def collect() -> None:
        raise AssertionError("without the lock")

    def gone(*_args: object, **_kwargs: object) -> None:
        raise OSError("no broker")

    monkeypatch.setattr("celery.canvas.Signature.apply_async", gone)
    with locks.client() as client, as_a_worker(collect):
        assert client.acquire_lock("k")
        with pytest.raises(Reject if acks_late else holdfast.NotAcquired) as caught:
            collect()
    assert isinstance(caught.value.__cause__, OSError)
    if isinstance(caught.value, Reject):
        assert caught.value.requeue


def test_a_task_that_names_no_lock_is_refused_when_it_is_made(app: Celery) -> None:
    """And so is a template that names no argument of it: at the start of the worker, not at the first payment."""

    def unlocked(payment: str) -> None:
        raise AssertionError(payment)

    with pytest.raises(ImproperlyConfigured, match="says no `lock`"):
        _ = app.task(shared=False, base=LockedTask)(unlocked).name
    with pytest.raises(ValueError, match="no argument 'customer'"):
        _ = app.task(shared=False, base=LockedTask, name="odd", lock="c/{customer}")(unlocked).name


def test_an_app_without_an_address_is_refused(app: Celery) -> None:
    """With a sentence that names the setting."""
    bare = Celery("bare", set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match="holdfast_address"):
        client_of(bare)
    assert client_of(app) is client_of(app)
