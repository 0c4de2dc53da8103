"""One client's way to the simulated cluster, and what goes wrong on it.

Rule: a fault does what it does in a real network. A request that is lost never acts; one whose reply is lost has acted; what was on
its way when the line was cut stays lost after it is mended; a client that stands still neither sends nor receives. It knows
nothing of locks: the calls are answered by `inner`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from holdfast import wire
from holdfast.transport import NoAnswer

if TYPE_CHECKING:
    from holdfast.testing.clock import VirtualClock
    from holdfast.transport import Answer, Request, Transport

Call = Literal["open", "renew", "close", "acquire", "release", "cancel", "read"]

What = Literal["request", "reply"]

PATHS: Final[dict[Call, str]] = {
    "open": f"{wire.API_PREFIX}/sessions",
    "renew": f"{wire.API_PREFIX}/sessions/renew",
    "close": f"{wire.API_PREFIX}/sessions/close",
    "acquire": f"{wire.API_PREFIX}/locks/acquire",
    "release": f"{wire.API_PREFIX}/locks/release",
    "cancel": f"{wire.API_PREFIX}/locks/cancel",
    "read": f"{wire.API_PREFIX}/locks/read",
}


@dataclass(frozen=True, slots=True)
class Loss:
    """The next request to `path` over `line` (None: any) is lost, or its reply."""

    path: str
    what: What
    line: Line | None


@dataclass(slots=True, eq=False)
class Line:
    """The state of one client's network and process, as the test wants it."""

    clock: VirtualClock
    is_cut: bool = False
    losses: list[Loss] = field(default_factory=list)
    """Shared by all lines of a cluster."""
    _turns: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = field(default_factory=list)

    def cut(self) -> None:
        """From now on nothing arrives, in either direction; what is on its way is lost."""
        self.is_cut = True
        self.turn()

    def mend(self) -> None:
        """What is sent from now on arrives."""
        self.is_cut = False

    def take_loss(self, path: str) -> What | None:
        """What is lost of a request that is being sent."""
        for each in self.losses:
            if each.path == path and each.line in (None, self):
                self.losses.remove(each)
                return each.what
        return None

    def watch(self) -> asyncio.Event:
        """An event of the calling loop that is set when the line's state turns."""
        event = asyncio.Event()
        self._turns.append((asyncio.get_running_loop(), event))
        return event

    def unwatch(self, event: asyncio.Event) -> None:
        """Nobody waits for it any more."""
        self._turns = [each for each in self._turns if each[1] is not event]

    def turn(self) -> None:
        """Tell everybody who watches."""
        for loop, event in list(self._turns):
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)


class Link:
    """The transport (the port `holdfast.transport.Transport`) over a `Line`."""

    def __init__(self, inner: Transport, line: Line) -> None:
        self._inner = inner
        self._line = line
        self._on_the_way: set[asyncio.Task[Answer]] = set()

    async def attempt(self, endpoint: str, request: Request, *, seconds: float) -> Answer:
        """As the port says."""
        line = self._line
        give_up_at = line.clock.now() + seconds
        await line.clock.sleep_until(line.clock.now())  # a client that stands still sends nothing
        loss = line.take_loss(request.path)
        if line.is_cut:
            return await self._silence(endpoint, give_up_at)
        if loss == "request":
            raise NoAnswer(f"{endpoint}: the request was lost")
        answer = await self._answered(endpoint, request, seconds)
        await line.clock.sleep_until(line.clock.now())
        if answer is None or line.is_cut:
            return await self._silence(endpoint, give_up_at)
        if loss == "reply":
            raise NoAnswer(f"{endpoint}: the reply was lost")
        return answer

    async def aclose(self) -> None:
        """Let go of what is still on its way."""
        for task in self._on_the_way:
            task.cancel()
        await self._inner.aclose()

    async def _answered(self, endpoint: str, request: Request, seconds: float) -> Answer | None:
        """The cluster's answer, or None: the line was cut while the cluster worked on it, which it goes on doing."""
        line = self._line
        task = asyncio.create_task(self._inner.attempt(endpoint, request, seconds=seconds))
        turned = line.watch()
        turning = asyncio.create_task(turned.wait())
        try:
            await asyncio.wait({task, turning}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self._on_the_way.add(task)
                task.add_done_callback(self._forget)
            return task.result() if task.done() else None
        except asyncio.CancelledError:
            task.cancel()
            raise
        finally:
            turning.cancel()
            line.unwatch(turned)

    def _forget(self, task: asyncio.Task[Answer]) -> None:
        self._on_the_way.discard(task)
        if not task.cancelled():
            task.exception()  # nobody is left to look

    async def _silence(self, endpoint: str, give_up_at: float) -> Answer:
        await self._line.clock.sleep_until(give_up_at)
        raise NoAnswer(f"{endpoint} did not answer in time")
