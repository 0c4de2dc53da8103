"""A Starlette or FastAPI application of which one process leads (extra: `starlette`).

    async def run_scheduler(grant: holdfast.Grant) -> None: ...

    app = FastAPI(lifespan=leader_lifespan("http://n1:7601,http://n2:7601", "leaders/scheduler", run_scheduler))

Every worker process (gunicorn's, uvicorn's) has a lifespan of its own, and stands for the lead while it lives; the work runs in
the one that leads. The rule is that of `holdfast.contrib.leading`. Nothing waits for the lead before the application starts: all of
them serve.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import holdfast
from holdfast.contrib import process_owner
from holdfast.contrib.leading import Leadership, lead, stop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from starlette.applications import Starlette

    from holdfast.contrib.leading import Work

    Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]

__all__ = ["leader_lifespan"]

log: Final = logging.getLogger("holdfast")


def leader_lifespan(
    address: str,
    key: str,
    work: Work,
    *,
    lifespan: Lifespan | None = None,
    state: str = "leadership",
    **options: Any,
) -> Callable[[Starlette], AbstractAsyncContextManager[Mapping[str, Any]]]:
    """A lifespan for `Starlette(lifespan=...)` and `FastAPI(lifespan=...)`, in which `work(grant)` runs while this process leads.

    `address` and `options` are those of `holdfast.connect`. `lifespan`: your own, which is entered before and left after. `state`:
    the name under which requests find the `Leadership`: `request.state.leadership.is_leading`. For two leads in one application
    make one the `lifespan` of the other, with another `state`. Raises `ValueError` for unusable arguments.
    """
    options.setdefault("owner", process_owner())
    holdfast.connect(address, **options)  # a wrong argument is said at import, not at the start

    @asynccontextmanager
    async def leading_lifespan(app: Starlette) -> AsyncIterator[Mapping[str, Any]]:
        leadership = Leadership()
        async with AsyncExitStack() as stack:
            inner = None if lifespan is None else await stack.enter_async_context(lifespan(app))
            client = await stack.enter_async_context(holdfast.connect(address, **options))
            leading = asyncio.create_task(
                lead(client, key, work, leadership), name="holdfast: leading"
            )
            leading.add_done_callback(_report)
            stack.push_async_callback(stop, leading)
            yield {**(inner or {}), state: leadership}

    return leading_lifespan


def _report(leading: asyncio.Task[None]) -> None:
    if not leading.cancelled() and leading.exception() is not None:
        log.error("this process does not stand for the lead any more: %s", leading.exception())
