"""Who follows the trail of this node, and how they learn that it has grown.

Rule: a watcher keeps a revision and nothing else; what happened is read from the trail, so a slow one costs no memory, and none can
miss a record unless it was dropped from the trail, which it is told. Nobody polls: the node says when it has applied something.
What is shown is this node's own applied state; the order is that of the log, and the same on every node.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from holdfast_coordinator.machine.trail import Record
    from holdfast_coordinator.node_types import NodePort

GATHER_SECONDS: Final = 0.005
"""From a record to the waking of the first who wait: what happens meanwhile goes out together."""

SECONDS_PER_WATCHER: Final = 0.0008
"""Until the next are woken, for each that was. To serve one costs some 80 microseconds (most of them the kernel's, to send), so
that watchers take a tenth of the node's time, however many there are: a thousand see what happens within a second."""

RECORDS_PER_STEP_MAX: Final = 256
"""Read for one watcher in one step of the loop: about two milliseconds."""

WOKEN_TOGETHER: Final = 20
"""In one turn of the loop, which has others to serve: two milliseconds."""


class Watchers:
    """The watchers of one node. `count` is theirs who are there; the caller of `enter` holds to the bound."""

    def __init__(self, node: NodePort) -> None:
        self._node = node
        self._waiting: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._told = 0
        self._busy = False
        self._unsubscribe = node.on_applied(self._applied)
        self._turn = asyncio.Semaphore(1)
        self.count = 0
        self.stopping = False

    def enter(self) -> None:
        self.count += 1

    def leave(self) -> None:
        self.count -= 1

    async def grown(self, after: int) -> None:
        """Returns when the trail has a record after this revision, or the node is stopping."""
        while not self.stopping and self._node.machine.trail.last_revision <= after:
            woken = asyncio.get_running_loop().create_future()
            self._waiting[woken] = None
            try:
                await woken
            finally:
                self._waiting.pop(woken, None)

    async def read(self, after: int) -> list[Record]:
        """Some of the records after this revision; none if there are none yet. Raises `NoLongerKept`.

        Time 0: a node dies, and its thousand watchers come here. Each has to be read a block that has been packed, which takes two
        milliseconds; all of them in one turn of the loop would take longer than an election. So there is one such read a turn.
        """
        if after + 1 >= self._node.machine.trail.open_first:
            return self._node.machine.trail.read(after, RECORDS_PER_STEP_MAX)
        async with self._turn:
            # Another state may have been taken over meanwhile: the trail is asked for anew.
            records = self._node.machine.trail.read(after, RECORDS_PER_STEP_MAX)
            await asyncio.sleep(0)
        return records

    def stop(self) -> None:
        """The node stops: everybody is woken, once and for all."""
        self.stopping = True
        self._unsubscribe()
        self._wake(len(self._waiting))

    def _applied(self) -> None:
        """Called after every entry: it has to be cheap."""
        if self.count and not self._busy and self._node.machine.trail.last_revision != self._told:
            self._busy = True
            asyncio.get_running_loop().call_later(GATHER_SECONDS, self._tell)

    def _tell(self) -> None:
        self._told = self._node.machine.trail.last_revision
        self._tell_some(len(self._waiting))

    def _tell_some(self, count: int) -> None:
        """The first `count` of those who wait, a few at a time: who waits again meanwhile is behind them."""
        woken = self._wake(min(count, WOKEN_TOGETHER))
        pause_seconds = woken * SECONDS_PER_WATCHER
        asyncio.get_running_loop().call_later(pause_seconds, self._told_some, count - woken)

    def _told_some(self, rest: int) -> None:
        if rest > 0 and self._waiting:
            self._tell_some(rest)
        else:
            self._busy = False
            self._applied()  # what has happened since

    def _wake(self, count: int) -> int:
        count = min(count, len(self._waiting))
        for _ in range(count):
            woken, _ = self._waiting.popitem(last=False)
            if not woken.done():  # its caller has gone in this very turn of the loop
                woken.set_result(None)
        return count
