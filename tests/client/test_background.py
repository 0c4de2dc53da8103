"""Background tasks of a client: what becomes of a failure that nobody waits for any more."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from holdfast.background import Chores


async def test_a_failure_whose_caller_has_gone_is_not_reported_as_a_defect() -> None:
    """time 0: a caller waits for a session to be opened; time 1: the caller is cancelled, the client closed; time 2: the opening
    fails because of that. Nobody is left to look, and there is nothing to report: no traceback appears."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    chores = Chores()

    async def fail() -> None:
        raise RuntimeError("the client was closed")

    chores.spawn(fail(), "open", awaited=True)
    await chores.finish()
    await asyncio.sleep(0)
    gc.collect()
    await asyncio.sleep(0)
    assert reported == []


async def test_tasks_are_cancelled_in_the_order_in_which_they_began() -> None:
    """The order of their addresses would be another one in each run, and a seed of the simulator would not repeat."""
    ended: list[int] = []
    chores = Chores()

    async def wait(number: int) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(number)

    for number in range(100):
        chores.spawn(wait(number), "wait")
    await asyncio.sleep(0)
    chores.cancel()
    await chores.finish()
    assert ended == list(range(100))
