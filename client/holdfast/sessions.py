"""The sessions of one client: the one that nearly everything shares, and those that a lock has to itself.

Rules:
* The shared session is opened by the first acquire, and by one opening however many ask for it; a cancelled caller leaves the
  opening to the others.
* The sessions do not keep their client alive: a client that is dropped without being closed is collected, and then they are
  closed (`abandon`), so that nothing goes on renewing locks that nobody can release.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from holdfast.background import Chores
from holdfast.errors import ClientClosed
from holdfast.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.holds import Holds
    from holdfast.requests import Requester

log: logging.Logger = logging.getLogger("holdfast")

CLOSE_SECONDS: Final = 3.0
"""Closing is a courtesy: without it a session ends by its TTL."""


class Sessions:
    """Opens, shares and closes sessions. Used on one event loop."""

    def __init__(
        self,
        requester: Requester,
        holds: Holds,
        *,
        ttl: float,
        owner: str | None,
        patience: float,
        new_session_id: Callable[[], str],
        on_renewed: Callable[[float], object] | None = None,
    ) -> None:
        self._requester = requester
        self._holds = holds
        self._ttl = ttl
        self._owner = owner
        self._patience = patience
        self._new_session_id = new_session_id
        self._on_renewed = on_renewed
        self._chores = Chores()
        self._shared: Session | None = None
        self._opening: asyncio.Task[Session] | None = None
        self._open: dict[Session, None] = {}
        self._is_closed = False
        self._ending: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    async def session(self, ttl: float | None) -> Session:
        """The session for a new acquire: the shared one, made anew if it is over; or, with a `ttl`, one of its own."""
        if ttl is not None:
            opening = self._chores.spawn(self._open_one(ttl), "open", awaited=True)
            try:
                return await self._shielded(opening)
            except asyncio.CancelledError:
                # Nobody else waits for this one: what comes of it is not needed.
                opening.add_done_callback(_retire)
                raise
        shared = self._shared
        if shared is not None and shared.is_usable:
            if not shared.is_crowded:
                return shared
            shared.retire()
        if self._opening is None:
            self._opening = self._chores.spawn(self._open_shared(), "open", awaited=True)
        return await self._shielded(self._opening)

    async def _shielded(self, opening: asyncio.Task[Session]) -> Session:
        await asyncio.wait({opening})
        if opening.cancelled():
            raise ClientClosed("the client was closed")
        return opening.result()

    async def _open_shared(self) -> Session:
        try:
            self._shared = await self._open_one(self._ttl)
            return self._shared
        finally:
            self._opening = None

    async def _open_one(self, ttl: float) -> Session:
        self._loop = asyncio.get_running_loop()
        session = await Session.open(
            self._requester,
            session_id=self._new_session_id(),
            ttl=ttl,
            owner=self._owner,
            patience=self._patience,
            callbacks=self._chores,
            forget=self._holds.forget,
            on_renewed=self._on_renewed,
        )
        if self._is_closed:
            await session.close(CLOSE_SECONDS)
            raise ClientClosed("the client was closed")
        self._open[session] = None
        session.ended.add_done_callback(lambda _: self._ended(session))
        return session

    def _ended(self, session: Session) -> None:
        self._open.pop(session, None)
        if self._shared is session:
            self._shared = None

    # -- the end

    async def aclose(self) -> None:
        """Close them all and the connections; bounded by `CLOSE_SECONDS` for the cluster and as much for callbacks. Whoever is
        cancelled while waiting for it leaves it going on."""
        await asyncio.shield(self._begin_end())

    async def _close_all(self) -> None:
        try:
            still_open = [each for each in self._open if not each.ended.done()]
            await asyncio.gather(*(each.close(CLOSE_SECONDS) for each in still_open))
            try:
                async with self._requester.clock.timeout(CLOSE_SECONDS):
                    await self._chores.finish()
            except TimeoutError:
                log.warning("callbacks or closings were still running when the client was closed")
        finally:
            self._chores.cancel()
            await self._requester.transport.aclose()

    def abandon(self) -> None:
        """Their client is gone without having been closed. From any thread, and never waiting: a collector calls it."""
        loop = self._loop
        if loop is None or self._is_closed:
            return
        try:
            loop.call_soon_threadsafe(self._begin_end)
        except (
            RuntimeError
        ):  # that loop is closed: nothing is renewed any more, and the TTL does the rest
            log.debug("a client was dropped after its event loop had ended")

    def _begin_end(self) -> asyncio.Task[None]:
        if self._ending is None:
            self._is_closed = True
            self._ending = asyncio.get_running_loop().create_task(
                self._close_all(), name="holdfast: close"
            )
        return self._ending


def _retire(opening: asyncio.Task[Session]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().retire()
