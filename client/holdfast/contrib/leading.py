"""A coroutine that runs in one process of many: in the one that leads, as long as it leads.

The rule: to lead is to hold a lock. The work starts after the grant, and is cancelled when the lock is lost or the program ends;
what the work cannot do twice it does with the fence of its grant, since a cancelled task may be at its last write. Whoever lost the
lead, or whose work failed, stands for it again, after a pause in which another may lead.

It knows no framework (`starlette.py` is one for it), and no elections but those of the lock's queue.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from holdfast.errors import BadRequest, HoldfastError, LockLost, NotAllowed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast.client import AsyncClient
    from holdfast.grant import Grant

    Work = Callable[[Grant], Awaitable[object]]

__all__ = ["Leadership", "lead", "stop"]

log: Final = logging.getLogger("holdfast")

STAND_AGAIN_SECONDS: Final = 1.0
"""After the coordinator could not be reached: the client itself has asked for some fifteen seconds by then."""
AFTER_FAILURE_SECONDS: Final = 5.0
"""After the work failed: long enough for another process to lead meanwhile, and a fault that comes at once fills no log."""
STOP_SECONDS: Final = 10.0
"""For work that is cancelled to tidy up. After that the program goes on ending; the lock ends with its session."""


class Leadership:
    """Whether this process leads, for the rest of the program. It changes while you look: decide nothing on it that a fence
    should decide."""

    def __init__(self) -> None:
        self._grant: Grant | None = None

    @property
    def grant(self) -> Grant | None:
        """The grant under which the work runs; None: another leads, or nobody yet."""
        return self._grant

    @property
    def is_leading(self) -> bool:
        """Whether the lead is surely still held at this moment."""
        return self._grant is not None and self._grant.remaining() > 0.0

    def __repr__(self) -> str:
        return f"<Leadership {'leading' if self.is_leading else 'not leading'}>"


async def lead(
    client: AsyncClient,
    key: str,
    work: Work,
    leadership: Leadership,
    *,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Stand for `key`, run `work(grant)` whenever it is granted, for ever: end it by cancelling.

    Work that returns leaves the lead where it is, so that no other process does it once more. Raises `BadRequest` and `NotAllowed`,
    which standing again would not mend. `pause`: waits that many seconds.
    """
    while True:
        seconds = 0.0
        try:
            async with client.lock(key, wait=None) as grant:
                leadership._grant = grant
                try:
                    await _until_failure(work, grant)
                finally:
                    leadership._grant = None
            seconds = AFTER_FAILURE_SECONDS
        except LockLost as error:
            log.warning("the lead was lost (%s); standing for it again", error.reason)
        except (BadRequest, NotAllowed):
            raise
        except HoldfastError as error:
            log.warning("could not stand for the lead: %s", error)
            seconds = STAND_AGAIN_SECONDS
        if seconds:
            await pause(seconds)


async def _until_failure(work: Work, grant: Grant) -> None:
    """Returns only if the work fails; its own errors stay here, whatever their type, and are never taken for the lock's."""
    task = asyncio.current_task()
    try:
        await work(grant)
    except Exception:
        log.exception("the leader's work failed; giving up the lead")
        return
    if task is not None and task.cancelling():
        raise asyncio.CancelledError  # the work has swallowed it
    await asyncio.get_running_loop().create_future()


async def stop(leading: asyncio.Task[None], *, seconds: float = STOP_SECONDS) -> None:
    """Cancel `leading` and wait until its work has tidied up, `seconds` at most."""
    leading.cancel()
    await asyncio.wait({leading}, timeout=seconds)
    if not leading.done():
        log.error("the leader's work has not ended %g s after it was cancelled", seconds)
