"""Tasks that nobody awaits: renewals, withdrawals, callbacks.

Rule: every one of them is kept (an unreferenced task may vanish), has a name, ends with its owner, and a failure in it is
logged and never swallowed. How many there are is bounded by what the owner starts.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

log: logging.Logger = logging.getLogger("holdfast")

T = TypeVar("T")


class Chores:
    """The background tasks of one owner."""

    def __init__(self) -> None:
        # In the order in which they began, so that they also end in an order that a seed decides.
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def spawn(
        self, work: Coroutine[Any, Any, T], what: str, *, awaited: bool = False
    ) -> asyncio.Task[T]:
        """Start `work`. `awaited`: somebody looks at the outcome, so that a failure need not be logged."""
        task = asyncio.get_running_loop().create_task(work, name=f"holdfast: {what}")
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        task.add_done_callback(_look if awaited else _log_failure)
        return task

    def cancel(self) -> None:
        """Cancel them all, but not the task that asks for it."""
        current = asyncio.current_task()
        for task in [each for each in self._tasks if each is not current]:
            task.cancel()

    async def finish(self) -> None:
        """Wait until all have ended."""
        current = asyncio.current_task()
        while rest := {each for each in self._tasks if each is not current}:
            await asyncio.wait(rest)


def _look(task: asyncio.Task[Any]) -> None:
    """Whoever waited may have been cancelled meanwhile; then nobody is left to look, and asyncio would print a traceback."""
    if not task.cancelled():
        task.exception()


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s failed: %s", task.get_name(), error, exc_info=error)
