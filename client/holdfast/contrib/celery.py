"""A Celery task that runs once at a time for each of its keys (extra: `celery`).

    app.conf.holdfast_address = "http://n1:7601,http://n2:7601,http://n3:7601"

    @app.task(base=LockedTask, bind=True, lock="customers/{customer}/collect")
    def collect(self, customer: str, payment: str) -> None:
        ledger.capture(..., fence=self.grant.fence)

The rule: the body never runs without the lock, and a message is never lost to a lock. A task whose key is held goes back to the
queue (`lock_when_held="retry"`), without using up its own `max_retries`, and fails only after `lock_attempts_max`. With "ignore" it
is dropped: right where any later run does the same work, and wrong for payments, since the holder may die after that.

A body cannot be cancelled. If the lock is lost while it runs, the task fails with `LockLost` at its end; what it writes meanwhile
only the fence can stop. `lock_max_hold` bounds how long a body that hangs keeps the lock, as Celery's `time_limit` bounds the body.

It uses one client for each app and process, which survives the fork of Celery's workers.
"""

from __future__ import annotations

import logging
import threading
import weakref
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

from celery import Task
from celery.exceptions import Ignore, ImproperlyConfigured, Reject, Retry
from celery.utils.time import get_exponential_backoff_interval

import holdfast
from holdfast.contrib import process_owner
from holdfast.decorator import Keys, current_grant, locked_blocking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from celery import Celery

    from holdfast.grant import Grant

    _Task = Task[..., Any]  # what celery-types makes of it
else:
    _Task = Task

__all__ = ["LockedTask", "client_of"]

log: Final = logging.getLogger("holdfast")

ATTEMPTS_MAX: Final = 100
"""How often a task whose key is held goes back to the queue: with the pauses below for about an hour and a half, at most."""
RETRY_SECONDS_MIN: Final = 1
"""The first pause, doubled with each attempt; a random part of it is taken, so that tasks that met once do not meet again."""
RETRY_SECONDS_MAX: Final = 60
"""The longest pause: what a queue of one customer's messages waits after the last one was done."""

DOUBLINGS_MAX: Final = 6
"""2^6 s is above the longest pause."""

ATTEMPTS_HEADER: Final = "holdfast_attempts"
"""Where the message carries how often it went back."""

_COMES_AGAIN: Final = (
    holdfast.NotAcquired,
    holdfast.Unreachable,
    holdfast.UnknownOutcome,
    holdfast.SessionLost,
    holdfast.LimitReached,
)
"""What another attempt may mend. Of the last four nobody is known to work on the message, so it is not ignored either."""

_clients: weakref.WeakKeyDictionary[Celery, holdfast.Client] = weakref.WeakKeyDictionary()
_connecting = threading.Lock()


def client_of(app: Celery) -> holdfast.Client:
    """The client of `app` in this process: `app.conf.holdfast_address`, with the arguments in `app.conf.holdfast_options`, if any.

    Raises `ImproperlyConfigured` if no address was given.
    """
    with _connecting:
        client = _clients.get(app)
        if client is None:
            address = app.conf.get("holdfast_address")
            if not address:
                raise ImproperlyConfigured(
                    "app.conf.holdfast_address says where the locks are: the nodes of a cluster, or another store"
                )
            options = {"owner": process_owner(), **(app.conf.get("holdfast_options") or {})}
            client = _clients[app] = holdfast.connect_sync(address, **options)
        return client


class LockedTask(_Task):
    """The base of a task that runs under a lock. Its attributes are options of `@app.task(base=LockedTask, ...)`."""

    lock: str | Sequence[str] | None = None
    """The template of the key, with arguments of the task in braces; or several, which are locked all or none."""
    lock_wait: float | None = 0.0
    """Seconds for which the worker waits for the lock, doing nothing else, before the task goes back to the queue."""
    lock_ttl: float | None = None
    """Seconds for which the lock outlives the process, should it die without a word; None: what the client has."""
    lock_max_hold: float | None = None
    """Seconds after which a body that hangs loses the lock; None: never."""
    lock_when_held: Literal["retry", "ignore"] = "retry"
    lock_attempts_max: int = ATTEMPTS_MAX

    abstract = True
    _locked: Callable[..., Any] | None = None

    @classmethod
    def on_bound(cls, app: Celery) -> None:
        """Celery's call when the task is made: a template that does not fit is an error at the start of the worker. Raises
        `ValueError`, and `ImproperlyConfigured` for a task that says no `lock`."""
        super().on_bound(app)
        if cls.lock is None:
            raise ImproperlyConfigured(f"the task {cls.name} says no `lock`")
        Keys(cls.run, cls.lock)

    @property
    def grant(self) -> Grant:
        """What the body holds. Raises `LookupError` outside of a body."""
        return current_grant()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body under its lock. Called directly, outside a worker, it raises where a worker would go back to the queue."""
        if self._locked is None:
            self._locked = locked_blocking(self.run, self.lock or (), self._lock_for, "raise")
        try:
            return self._locked(*args, **kwargs)
        except _NotGranted as refusal:
            error = refusal.error
        if not isinstance(error, _COMES_AGAIN):
            raise error
        if self.request.called_directly or self.request.is_eager:
            raise error  # there is no queue to go back to
        if isinstance(error, holdfast.NotAcquired) and self.lock_when_held == "ignore":
            self._ignore(error)
        self._go_back(error)

    def _lock_for(self, keys: list[str]) -> AbstractContextManager[Grant]:
        return _acquired(
            client_of(self.app).lock(
                keys, wait=self.lock_wait, ttl=self.lock_ttl, max_hold=self.lock_max_hold
            )
        )

    def _ignore(self, error: holdfast.NotAcquired) -> NoReturn:
        """Drop the message. Whoever waits for its result is told: `TaskRevokedError`."""
        log.info("task %s is ignored: its lock is held", self.request.id)
        self.backend.mark_as_revoked(
            self.request.id or "",
            "its lock is held",
            request=self.request,
            store_result=not (self.ignore_result or self.request.ignore_result),
        )
        raise Ignore(str(error)) from error

    def _go_back(self, error: holdfast.HoldfastError) -> NoReturn:
        """To the queue, under the same id. Not through `Task.retry`, which would count it as one of the task's own retries."""
        request = self.request
        attempts = int(request.get(ATTEMPTS_HEADER) or 0)
        if attempts >= self.lock_attempts_max:
            raise error
        seconds = get_exponential_backoff_interval(
            factor=RETRY_SECONDS_MIN,
            retries=min(attempts, DOUBLINGS_MAX),
            maximum=RETRY_SECONDS_MAX,
            full_jitter=True,
        )
        again = self.signature_from_request(
            request,
            countdown=seconds,
            retries=request.retries,
            headers={**(request.headers or {}), ATTEMPTS_HEADER: attempts + 1},
        )
        log.info("task %s goes back to the queue for %d s: %s", request.id, seconds, error)
        try:
            again.apply_async()
        except Exception as failure:
            log.exception("task %s cannot go back to the queue", request.id)
            if self.acks_late:  # the broker still has the message
                raise Reject(failure, requeue=True) from failure
            raise error from failure  # it was acknowledged already: a failure is seen, a message that is dropped is not
        raise Retry(exc=error, when=seconds, sig=again) from error  # type: ignore[arg-type]  # int is a Real


class _NotGranted(Exception):
    """Around what the lock said, so that it is not confused with what the body says."""

    def __init__(self, error: holdfast.HoldfastError) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def _acquired(lock: AbstractContextManager[Grant]) -> Iterator[Grant]:
    with ExitStack() as stack:
        try:
            grant = stack.enter_context(lock)
        except holdfast.HoldfastError as error:
            raise _NotGranted(error) from error
        yield grant
