"""Events on the stream: what `/v1/events` tells, on the connection that a client has anyway, and as fast as it says.

Rule: a watch keeps a revision and how many events its client has room for, and nothing else; what happened is read from the trail
when there is room. So a slow client costs no memory; if it is so slow that records are dropped meanwhile, it is told, and the watch
is over. Order, gaps and the beginning are those of `events`. It knows a connection only as something that says entries.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

from holdfast import stream_wire
from holdfast.wire import Code
from holdfast_coordinator.http import fields
from holdfast_coordinator.http.events import dropped, start_after
from holdfast_coordinator.http.history_views import record_view
from holdfast_coordinator.http.problems import Problem
from holdfast_coordinator.machine.trail import NoLongerKept

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from holdfast_coordinator.http.calls import Calls
    from holdfast_coordinator.http.stream_frames import WatchEntry
    from holdfast_coordinator.http.watchers import Watchers

EVENTS_PER_ENTRY_MAX: Final = 32
"""Between two looks at whether the connection takes what it is sent."""


class Speaker(Protocol):
    """The connection of a watch."""

    def say(self, entry: Sequence[Any]) -> None: ...

    def refuse(self, call: int, problem: Problem) -> None: ...

    def taken(self) -> Awaitable[bool]:
        """Returns when there is room on the connection. False: there will be none."""
        ...


class Watch:
    """One watch of one connection: `run` until it is cancelled, or over."""

    def __init__(
        self,
        calls: Calls,
        watchers: Watchers,
        speaker: Speaker,
        entry: WatchEntry,
        prefixes: tuple[str, ...],
    ) -> None:
        """`prefixes`: of the keys that are told. Raises `Problem`."""
        self.call: Final = entry.call
        self._prefixes = prefixes
        fields.in_range("window", entry.window, 1, stream_wire.EVENTS_WINDOW_MAX)
        if watchers.count >= calls.limits.watchers_max:
            detail = "as many watchers as this node takes are here; try another node"
            raise Problem(Code.LIMIT_REACHED, detail, limit="watchers_max")
        self._after = entry.after
        self._room = entry.window
        self._has_room = asyncio.Event()
        self._calls = calls
        self._watchers = watchers
        self._speaker = speaker

    def more(self, count: int) -> None:
        """The client has room for so many more. Raises `Problem` for more than a window may be."""
        fields.in_range("count", count, 1, stream_wire.EVENTS_WINDOW_MAX - self._room)
        self._room += count
        self._has_room.set()

    async def run(self) -> None:
        self._watchers.enter()
        try:
            after = await start_after(self._calls, self._after)
            first = self._calls.node.machine.trail.first_revision
            self._speaker.say((stream_wire.WATCH, self.call, after, first))
            await self._follow(after)
        except Problem as problem:
            self._speaker.refuse(self.call, problem)
        except NoLongerKept:
            self._speaker.refuse(self.call, dropped(self._calls.node.machine.trail.first_revision))
        finally:
            self._watchers.leave()

    async def _follow(self, after: int) -> None:
        """Raises `NoLongerKept`."""
        watchers = self._watchers
        while not watchers.stopping:
            records = await watchers.read(after)
            if not records:
                await watchers.grown(after)
                continue
            events: list[Any] = []
            for record in records:
                after = record.revision
                keys = [key for key in record.keys if key.startswith(self._prefixes)]
                if not keys:
                    continue
                if self._room == 0 or len(events) == EVENTS_PER_ENTRY_MAX:
                    if not await self._send(events):
                        return
                    events = []
                events.append(record_view(record, keys))
                self._room -= 1
            if not await self._send(events):
                return

    async def _send(self, events: list[Any]) -> bool:
        """False: the connection takes nothing any more."""
        if events:
            self._speaker.say((stream_wire.EVENTS, self.call, events))
            if not await self._speaker.taken():
                return False
        while self._room == 0:
            self._has_room.clear()
            await self._has_room.wait()
        return True
