"""The pages of docs/ about each primitive: every piece of their code runs, in order, against three real processes."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import holdfast
from holdfast_coordinator.local_cluster import LocalCluster

if TYPE_CHECKING:
    pass

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(120)]

DOCS = Path(__file__).parents[2] / "docs"
PAGES = (
    "shared-and-semaphores",
    "several-keys-and-deadlocks",
    "after-a-crash",
    "done-records",
    "leader-election",
    "watch-and-history",
    "operators",
)
CRASH_TTL_SECONDS = 1.0


def code_of(page: str) -> list[str]:
    """The pieces of a page, each with as many lines before it as on the page, so that a failure names the line."""
    text = (DOCS / f"{page}.md").read_text()
    found = re.finditer(r"```python\n(.*?)```", text, re.DOTALL)
    return ["\n" * text.count("\n", 0, each.start(1)) + each.group(1) for each in found]


async def run_page(page: str, endpoints: str) -> None:
    async def crash(key: str, checkpoint: str | None = None, **terms: Any) -> None:
        """A process that dies with the lock in its hands: nobody renews, and nobody closes the session."""
        dying = holdfast.connect(endpoints, ttl=CRASH_TTL_SECONDS)
        async with holdfast.connect(endpoints) as observer, observer.watch(key) as watch:
            grant = await dying.lock(key, **terms).__aenter__()
            grant._cancel_bodies.clear()
            if checkpoint is not None:
                await grant.checkpoint(checkpoint)
            grant._work.session._chores.cancel()  # the renewals of a process that is no more
            async for event in watch:
                if isinstance(event, holdfast.Record) and event.ended == "expired":
                    break
        await dying.aclose()

    names: dict[str, Any] = {"endpoints": endpoints, "crash": crash}
    try:
        for piece in code_of(page):
            code = compile(piece, f"{page}.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            outcome = eval(code, names)  # noqa: S307 - the page's own code
            if inspect.isawaitable(outcome):
                await outcome
    finally:
        for each in names.values():
            if isinstance(each, holdfast.AsyncClient):
                await each.aclose()


@pytest.mark.parametrize("page", PAGES)
def test_the_page_keeps_its_word(
    page: str, runner: asyncio.Runner, cluster: LocalCluster, tmp_path: Path
) -> None:
    """All of its code, against a cluster that other pages have used as well."""
    assert len(code_of(page)) >= 2
    runner.run(run_page(page, cluster.endpoints))
