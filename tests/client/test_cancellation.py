"""Cancelled, or out of time, at every single step: no lock and no waiter stays behind, and the client goes on working.

A step is one turn of the event loop. Each story is told again and again, and each time it is cancelled one turn later, until it
ends before it can be cancelled; so no point at which the client waits is left out, known to the test or not.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

import holdfast
from holdfast.testing import Cluster

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Story = Callable[[holdfast.AsyncClient], Awaitable[object]]
    Setting = Callable[[Cluster, holdfast.AsyncClient, holdfast.AsyncClient], Awaitable[object]]

TURNS_MAX = 2000
"""Far more than any of the stories takes."""


async def fresh(cluster: Cluster, hf: holdfast.AsyncClient, other: holdfast.AsyncClient) -> None:
    """The session has to be opened first."""


async def warm(cluster: Cluster, hf: holdfast.AsyncClient, other: holdfast.AsyncClient) -> None:
    """The session is there."""
    async with hf.lock("warm"):
        pass


async def contended(
    cluster: Cluster, hf: holdfast.AsyncClient, other: holdfast.AsyncClient
) -> None:
    """Somebody holds it, and releases it on the way."""
    await warm(cluster, hf, other)
    assert await other.acquire_lock("k")
    holder = asyncio.current_task()

    async def release_soon() -> None:
        for _ in range(25):
            await asyncio.sleep(0)
        await other._release_plain("k", holder)

    cluster.releasing = asyncio.create_task(release_soon())  # type: ignore[attr-defined]


async def losing(cluster: Cluster, hf: holdfast.AsyncClient, other: holdfast.AsyncClient) -> None:
    """Every call loses a reply and a request before it gets through."""
    for call in ("open", "acquire", "release", "cancel", "close"):
        cluster.lose_reply(hf, call)  # type: ignore[arg-type]
        cluster.lose_request(hf, call)  # type: ignore[arg-type]


async def block(hf: holdfast.AsyncClient) -> None:
    async with hf.lock("k", wait=60):
        await asyncio.sleep(0)


async def block_of_its_own_session(hf: holdfast.AsyncClient) -> None:
    async with hf.lock(["k", "j"], wait=60, max_hold=100.0):
        await asyncio.sleep(0)


async def plain_calls(hf: holdfast.AsyncClient) -> None:
    if await hf.acquire_lock("k", wait=60):
        try:
            await asyncio.sleep(0)
        finally:
            await hf.release_lock("k")


async def wait_for_around_the_call(hf: holdfast.AsyncClient) -> None:
    if await asyncio.wait_for(hf.acquire_lock("k", wait=60), 1000):
        try:
            await asyncio.sleep(0)
        finally:
            await asyncio.wait_for(hf.release_lock("k"), 1000)


async def decorated(hf: holdfast.AsyncClient) -> None:
    @hf.locked("k", on_held="wait")
    async def work() -> None:
        await asyncio.sleep(0)

    await work()


STORIES = [block, block_of_its_own_session, plain_calls, wait_for_around_the_call, decorated]


@pytest.mark.parametrize("setting", [fresh, warm, contended, losing])
@pytest.mark.parametrize("story", STORIES)
async def test_cancelled_at_any_turn(setting: Setting, story: Story) -> None:
    """Whatever was on its way is taken back, and the next one gets the lock at once."""
    for turn in range(TURNS_MAX):
        async with Cluster() as cluster:
            hf, other = cluster.connect(), cluster.connect()
            await setting(cluster, hf, other)
            telling = asyncio.ensure_future(story(hf))
            for _ in range(turn):
                await asyncio.sleep(0)
            was_cancelled = telling.cancel()
            await cluster.advance(1.0)
            with suppress(asyncio.CancelledError):
                await telling
            # asyncio.wait_for of Python 3.11 may swallow a cancellation that meets the result; then the story ended by itself.
            assert telling.cancelled() == was_cancelled or story is wait_for_around_the_call
            await left_nothing(cluster, hf, other, turn)
        if not was_cancelled:
            break
    else:
        pytest.fail("the story never ended")
    assert turn > 5, "too short a story to be worth telling"


async def left_nothing(
    cluster: Cluster, hf: holdfast.AsyncClient, other: holdfast.AsyncClient, turn: int
) -> None:
    """Nothing is held, nobody waits, and both clients can have the lock."""
    assert cluster.held() == {}, f"a lock stayed behind after turn {turn}"
    assert cluster.waiting("k") == 0, f"a waiter stayed behind after turn {turn}"
    asking = asyncio.ensure_future(take_turns(hf, other))
    await cluster.advance(10.0)  # messages may still be being lost
    await asking
    assert len(hf._holds) == 0
    shared = hf._sessions._shared
    assert shared is not None
    assert shared.ids.spread == 0, f"a request stayed unsettled after turn {turn}"
    assert len(hf._sessions) == 1, f"a session stayed behind after turn {turn}"


async def take_turns(*clients: holdfast.AsyncClient) -> None:
    for client in clients:
        async with client.lock("k", reentrant=True):
            pass


@pytest.mark.parametrize("setting", [warm, losing])
async def test_a_cancelled_closing_closes(setting: Setting) -> None:
    """`aclose` that is cancelled at any turn goes on: what was held is not left to the TTL."""
    for turn in range(TURNS_MAX):
        async with Cluster() as cluster:
            hf, other = cluster.connect(), cluster.connect()
            await setting(cluster, hf, other)
            getting = asyncio.ensure_future(hf.acquire_lock("k"))
            await cluster.advance(1.0)
            assert await getting
            closing = asyncio.ensure_future(hf.aclose())
            for _ in range(turn):
                await asyncio.sleep(0)
            was_cancelled = closing.cancel()
            await cluster.advance(1.0)
            with suppress(asyncio.CancelledError):
                await closing
            if turn > 0:  # else it was cancelled before it had begun: then it is not closed
                assert cluster.held() == {}
        if not was_cancelled:
            break
    else:
        pytest.fail("the closing never ended")


@pytest.mark.parametrize("after", [n / 20 for n in range(1, 40)])
async def test_out_of_time_at_any_moment(after: float) -> None:
    """A caller's own time-out in the middle of lost messages: `TimeoutError`, and nothing stays behind."""
    async with Cluster() as cluster:
        hf, other = cluster.connect(), cluster.connect()
        cluster.lose_reply(hf, "acquire", times=4)
        cluster.lose_request(hf, "acquire", times=4)
        cluster.lose_reply(hf, "cancel", times=2)

        async def work() -> None:
            async with hf.lock("k", wait=60):
                await asyncio.Event().wait()

        working = asyncio.create_task(work())
        await cluster.advance(after)
        working.cancel()
        await cluster.advance(3.0)
        assert working.cancelled()
        await left_nothing(cluster, hf, other, turn=0)


async def test_a_second_cancellation_during_the_release() -> None:
    """Ctrl-C twice: the `finally` is cancelled as well, and the release goes on without it."""
    for turn in range(1, 60):
        async with Cluster() as cluster:
            hf, other = cluster.connect(), cluster.connect()
            entered = asyncio.Event()

            async def work(hf: holdfast.AsyncClient = hf, entered: asyncio.Event = entered) -> None:
                async with hf.lock("k"):
                    entered.set()
                    await asyncio.Event().wait()

            cluster.lose_reply(hf, "release")
            working = asyncio.create_task(work())
            await entered.wait()
            working.cancel()
            for _ in range(turn):
                await asyncio.sleep(0)
            working.cancel()
            await cluster.advance(1.0)
            assert working.cancelled()
            await left_nothing(cluster, hf, other, turn)
