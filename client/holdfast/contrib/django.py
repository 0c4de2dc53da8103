"""A Django management command that runs once at a time, on however many machines (extra: `django`).

    class Command(LockedCommand):
        lock = "reports/nightly"

        def handle(self, *args, **options):
            write_report(fence=self.grant.fence)

`settings.HOLDFAST_ADDRESS` says where the locks are. The rule: `handle` never runs without the lock. If it is lost, the command
is interrupted (`KeyboardInterrupt` in the main thread, which rolls back its transactions) and ends as an error; what it has
sent already, only the fence can stop.

The exit codes are those of `holdfast lock`: 1 held, 69 unreachable, 75 lost.
"""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, OutputWrapper

import holdfast
from holdfast.cli import exit_codes
from holdfast.contrib import process_owner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.grant import Grant

__all__ = ["LockedCommand"]


class LockedCommand(BaseCommand):
    """The base of a command that runs under a lock. With a base of your own: `class Command(LockedCommand, YourBase)`."""

    lock: str | None = None
    """The key. For one that depends on the options override `lock_key`."""
    lock_wait: float | None = 0.0
    """Seconds to wait for it; None: as long as it takes."""
    lock_ttl: float = 30.0
    """Seconds for which the lock outlives this process, should it die without a word. It is renewed while the command runs."""
    lock_max_hold: float | None = None
    """Seconds after which a run that hangs loses the lock; None: never."""
    lock_when_held: Literal["fail", "skip"] = "fail"
    """`fail`: a `CommandError`, exit code 1. `skip`: a line on standard error, exit code 0."""

    grant: Grant
    """What this run holds; its `fence` is for whatever the command writes. Set while `handle` runs."""

    def lock_key(self, *_args: Any, **_options: Any) -> str:
        """The key of this run, from its arguments: `return f"reports/{options['tenant']}"`."""
        if self.lock is None:
            raise ImproperlyConfigured(f"{type(self).__module__} says no `lock`")
        return self.lock

    def execute(self, *args: Any, **options: Any) -> Any:
        """Django's entry for the command line and for `call_command`: acquire, run, release."""
        key = self.lock_key(*args, **options)
        losing = _Losing()
        try:
            with ExitStack() as stack:
                client = stack.enter_context(_connect())
                lock = client.lock(
                    key,
                    wait=self.lock_wait,
                    ttl=self.lock_ttl,
                    max_hold=self.lock_max_hold,
                    on_lost=losing.lost,
                )
                try:
                    self.grant = stack.enter_context(lock)
                except holdfast.NotAcquired as error:
                    if self.lock_when_held == "skip":
                        self._say(f"skipped: {error}", options)
                        return None
                    raise CommandError(str(error), returncode=exit_codes.CONFLICT) from error
                except holdfast.HoldfastError as error:
                    raise CommandError(str(error), returncode=exit_codes.UNREACHABLE) from error
                with losing.interrupts():
                    return super().execute(*args, **options)
        except holdfast.LockLost as error:
            if error.token != self.grant.token:
                raise  # of a lock that `handle` took
            raise CommandError(str(error), returncode=exit_codes.LOST) from error

    def _say(self, sentence: str, options: dict[str, Any]) -> None:
        """On standard error, which `call_command` may have put elsewhere; `execute` of Django looks at that later."""
        stderr = options.get("stderr")
        (self.stderr if stderr is None else OutputWrapper(stderr)).write(sentence)


def _connect() -> holdfast.Client:
    address = getattr(settings, "HOLDFAST_ADDRESS", None)
    if not address:
        raise ImproperlyConfigured(
            "settings.HOLDFAST_ADDRESS says where the locks are: the nodes of a cluster, or another store"
        )
    options = {"owner": process_owner(), **getattr(settings, "HOLDFAST_OPTIONS", {})}
    return holdfast.connect_sync(address, **options)


class _Losing:
    """Interrupts the body when the lock is lost, and only the body: an interrupt that came later would hit anybody.

    `lost` runs on a thread of its own. It interrupts while it has the gate, and the body is over only when the main thread has had
    the gate, so that the interrupt arrives within `interrupts`.
    """

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._is_running = False
        self._has_interrupted = False

    def lost(self, _grant: Grant) -> None:
        with self._gate:
            if self._is_running:
                self._has_interrupted = True
                # A real signal: it also ends a call that waits in the system, for a socket above all.
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Around the body. Swallows its own interrupt: the lock says `LockLost` in its place."""
        # Python gives interrupts to the main thread; a command that runs elsewhere learns of the loss at its end.
        self._is_running = threading.current_thread() is threading.main_thread()
        try:
            try:
                yield
            finally:
                with self._gate:
                    self._is_running = False
        except KeyboardInterrupt:
            if not self._has_interrupted:
                raise
