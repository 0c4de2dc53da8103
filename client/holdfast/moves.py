"""Which endpoint a client asks: the leader's, once it is known, since what is asked elsewhere is passed on to it.

Rule: a move never costs an answer. The new stream is open before anything is asked through it, what was asked through the old one
is answered there, and if no stream to the leader comes about, everything stays as it is until it is tried again. Moves are few,
whatever nodes say, and a fleet does not move at once. An endpoint that was not given to the client is never asked, whoever names
it: the client would show its credential to it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from holdfast.attempts import NotSent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast.clock import Clock
    from holdfast.transport import Endpoints

log: logging.Logger = logging.getLogger("holdfast")

MOVES_APART_SECONDS: Final = 10.0
"""From one move, or attempt at one, to the next. A node that is called the leader and does not answer costs one detour in this
time; whoever left a leader that was overloaded is elsewhere for no longer."""
SPREAD_SECONDS: Final = 0.5
"""Within which the clients that hear of a new leader at the same moment go there."""


class Moves:
    """Those of one client. `open_at` makes sure of a stream to an endpoint (False: there is none); `left` hears of the endpoint
    that is not asked any more."""

    def __init__(
        self,
        clock: Clock,
        open_at: Callable[[str], Awaitable[bool]],
        left: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._open_at = open_at
        self._left = left
        self._endpoints: Endpoints | None = None
        self._leader = ""
        self._not_before = 0.0
        self._moving: asyncio.Task[None] | None = None

    def steer(self, endpoints: Endpoints) -> None:
        """See `transport.Steering`."""
        self._endpoints = endpoints
        endpoints.on_overloaded = self._look

    def heard(self, leader: str) -> None:
        """A node says where the leader is."""
        self._leader = leader
        self._look()

    async def aclose(self) -> None:
        """No move any more."""
        self._endpoints = None
        if self._moving is not None:
            self._moving.cancel()
            await asyncio.gather(self._moving, return_exceptions=True)

    def _look(self) -> None:
        """Whether there is somewhere to go: after whatever may have changed that."""
        endpoints = self._endpoints
        if endpoints is not None and self._moving is None and self._is_elsewhere(endpoints):
            self._moving = asyncio.get_running_loop().create_task(
                self._move(endpoints), name="holdfast: move to the leader"
            )
            self._moving.add_done_callback(self._moved)

    def _is_elsewhere(self, endpoints: Endpoints) -> bool:
        return self._leader != endpoints.current and self._leader in endpoints.all

    async def _move(self, endpoints: Endpoints) -> None:
        """Try until the client is there, or there is nowhere to go."""
        while self._is_elsewhere(endpoints):
            leader = self._leader
            at = self._clock.now() + endpoints.draw() * SPREAD_SECONDS
            await self._clock.sleep_until(max(at, self._not_before))
            before = endpoints.current
            if leader != self._leader or leader == before:
                continue  # what was heard is not true any more
            self._not_before = self._clock.now() + MOVES_APART_SECONDS
            try:
                is_open = await self._open_at(leader)
            except NotSent as error:
                log.info("no stream to the leader (%s)", error)
                is_open = False
            if is_open and leader == self._leader and before == endpoints.current:
                endpoints.prefer(leader)
                self._left(before)

    def _moved(self, task: asyncio.Task[None]) -> None:
        self._moving = None
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            log.error("moving to the leader failed: %s", error, exc_info=error)
        else:
            self._look()  # what was heard since it had looked for the last time
