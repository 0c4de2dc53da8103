"""Virtual time: one queue of events, and an asyncio event loop for every actor that takes its turns from it.

Rules:
* One thread, one queue, ordered by (time, order of scheduling). Time passes only from event to event.
* An actor is a process with a clock of its own: it can be paused (its events wait, in order), and killed
  (they are dropped). Real asyncio code runs on it unchanged.
* Whatever an event raises ends the run: nothing is logged and passed over.

Not known here: nodes, clients, messages.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import inspect
from collections import deque
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    # asyncio's interface asks for sockets, threads and signals; nothing that runs here has any.
    _EventLoop = object
else:
    _EventLoop = asyncio.AbstractEventLoop

SECOND = 1_000_000_000
MILLISECOND = 1_000_000
EXECUTOR_SECONDS = 0.05
LINES_A_HASH = 512
CLOSINGS_MAX = 100
"""Of one coroutine, each of which gets it one await further on its way out."""
EVENTS_A_MILLISECOND_MAX = 100_000
"""Hundreds of times as many as the busiest millisecond of an honest run has. Beyond that the product goes in a circle, and virtual
time would never come to the end of the run."""


class Crashed(BaseException):
    """The process dies here, in the middle of what it does. Not an Exception: no code may survive it."""


class Livelock(Exception):
    """Things happen without end, and time does not pass."""


class Handle:
    """A callback that is due some time; what asyncio calls a handle."""

    __slots__ = ("actor", "args", "at", "callback")

    def __init__(
        self, actor: Actor | None, callback: Callable[..., Any], args: tuple[Any, ...], at: int
    ) -> None:
        self.actor = actor
        self.callback: Callable[..., Any] | None = callback
        self.args = args
        self.at = at

    def cancel(self) -> None:
        """It will not be called."""
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self.callback is None


class World:
    """The queue, the time, and the trace of a run."""

    def __init__(self, *, keep_trace: bool = False, pace: int = 1) -> None:
        self.pace = pace
        """What every period is multiplied by; see `pace`."""
        self.now = 0
        """Nanoseconds since the beginning: true time, which no actor can see."""
        self.events = 0
        self.trace: list[str] | None = [] if keep_trace else None
        self._order = 0
        self._queue: list[tuple[int, int, Handle]] = []
        self._lines: list[str] = []
        """Noted, and not yet in the hash."""
        self._digest = hashlib.blake2b(digest_size=16)

    def at(
        self, when: int, callback: Callable[..., Any], *args: Any, actor: Actor | None = None
    ) -> Handle:
        """Call `callback` at this true time, in the name of `actor`."""
        handle = Handle(actor, callback, args, when)
        self._order += 1
        heapq.heappush(self._queue, (max(when, self.now), self._order, handle))
        return handle

    def after(
        self, delay: int, callback: Callable[..., Any], *args: Any, actor: Actor | None = None
    ) -> Handle:
        """Call it after `delay` nanoseconds."""
        return self.at(self.now + delay, callback, *args, actor=actor)

    def run(self, until: int) -> None:
        """Everything that happens up to this time. Raises Livelock where it would never come there."""
        queue, pop, enter = self._queue, heapq.heappop, asyncio._set_running_loop
        running: Actor | None = None
        window_end, last_event = 0, 0
        try:
            while queue and queue[0][0] <= until:
                self.now, _, handle = pop(queue)
                callback, actor = handle.callback, handle.actor
                if callback is None:
                    continue
                if self.now >= window_end:
                    window_end, last_event = (
                        self.now + MILLISECOND,
                        self.events + EVENTS_A_MILLISECOND_MAX,
                    )
                elif self.events > last_event:
                    raise Livelock(
                        f"more than {EVENTS_A_MILLISECOND_MAX} events in one millisecond"
                    )
                if actor is not running:
                    running = actor
                    enter(cast("Any", actor))
                if actor is None:
                    self.events += 1
                    callback(*handle.args)
                elif not actor.is_dead:
                    if actor.is_paused or actor.held:
                        actor.held.append(handle)
                    else:
                        self.perform(handle, actor)
        finally:
            enter(None)
        self.now = until

    def perform(self, handle: Handle, actor: Actor) -> None:
        """Let an actor do one thing now."""
        callback = handle.callback
        if callback is None:
            return
        self.events += 1
        try:
            callback(*handle.args)
        except Crashed:
            actor.has_crashed = True
        if actor.has_crashed and not actor.is_dead and actor.on_crash is not None:
            actor.on_crash()

    def note(self, what: str) -> None:
        """A line of the trace. Two runs are the same run if their traces are."""
        self._lines.append(f"{self.now} {what}\n")
        if len(self._lines) >= LINES_A_HASH:
            self._hash_lines()

    def _hash_lines(self) -> None:
        self._digest.update("".join(self._lines).encode())
        if self.trace is not None:
            self.trace += self._lines
        self._lines.clear()

    @property
    def trace_hash(self) -> str:
        """Of everything noted so far."""
        self._hash_lines()
        return self._digest.hexdigest()


class Actor(_EventLoop):
    """One life of one process: the event loop that its code runs on. `rate` is how fast its clock runs."""

    def __init__(self, world: World, name: str, *, clock: Callable[[], int], rate: float) -> None:
        self.world = world
        self.name = name
        self.held: deque[Handle] = deque()
        self.is_dead = False
        self._coroutines: list[Coroutine[Any, Any, Any]] = []
        self.has_crashed = False
        """`Crashed` was raised somewhere in it; whoever swallowed it, the actor dies after this event."""
        self.on_crash: Callable[[], None] | None = None
        self.is_paused = False
        self._clock = clock
        self._rate = rate
        self._pauses = 0
        self._paused_until = 0

    # Faults.

    def set_rate(self, rate: float) -> None:
        """How fast its clock runs from now on."""
        self._rate = rate

    def pause(self, duration: int) -> None:
        """It does nothing for so long; what is due meanwhile happens afterwards, in order."""
        until = self.world.now + duration
        if self.is_dead or until <= self._paused_until:
            return
        self.is_paused = True
        self._paused_until = until
        self._pauses += 1
        self.world.at(until, self._resume, self._pauses)

    def kill(self) -> None:
        """It never does anything again."""
        self.is_dead = True
        self.held.clear()
        for coro in self._coroutines:
            if inspect.getcoroutinestate(coro) == inspect.CORO_CREATED:
                coro.close()  # or Python would say that it was never awaited
        self._coroutines.clear()

    def end(self) -> None:
        """The same for a process whose code cleans up behind itself: its coroutines are closed now, in their order, and
        not by whoever collects them some day. What they begin meanwhile never happens."""
        self.is_dead = True
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(cast("Any", self))
        try:
            while self._coroutines:
                _close(self._coroutines.pop(0))
        finally:
            asyncio._set_running_loop(before)
        self.kill()

    def _resume(self, pause: int) -> None:
        if pause != self._pauses or self.is_dead:
            return
        self.is_paused = False
        asyncio._set_running_loop(cast("Any", self))
        try:
            while self.held and not self.is_paused and not self.is_dead:
                self.world.perform(self.held.popleft(), self)
        finally:
            asyncio._set_running_loop(None)

    # asyncio's event loop, as far as futures, tasks, timers and sleeps need it.

    def time(self) -> float:
        return self._clock() / SECOND

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> Handle:
        del context
        return self.world.at(self.world.now, callback, *args, actor=self)

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> Handle:
        del context
        nanoseconds = int(delay * SECOND / self._rate) + 1
        return self.world.after(max(nanoseconds, 0), callback, *args, actor=self)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> Handle:
        return self.call_later(when - self.time(), callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Another thread or process works for a while; its result appears at once, later."""
        del executor
        future = self.create_future()
        self.call_later(EXECUTOR_SECONDS * self.world.pace, self._execute, future, func, args)
        return future

    @staticmethod
    def _execute(
        future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        if future.done():
            return
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it belongs to whoever awaits the future
            future.set_exception(error)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=cast("Any", self))

    def create_task(
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Any = None
    ) -> asyncio.Task[Any]:
        del context
        self._coroutines.append(coro)
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=cast("Any", self), name=name or "task")
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # a killed process ends no tasks
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.is_dead:
            return
        error = context.get("exception")
        if isinstance(error, BaseException):
            raise error
        raise RuntimeError(str(context.get("message")))

    def _timer_handle_cancelled(self, handle: Any) -> None: ...


def _close(coro: Coroutine[Any, Any, Any]) -> None:
    if inspect.getcoroutinestate(coro) == inspect.CORO_RUNNING:
        return
    for _ in range(CLOSINGS_MAX):
        try:
            return coro.close()
        except RuntimeError:
            continue  # it went on to another await, as leaving an `async with` does
    raise AssertionError(f"{coro!r} does not end")
