"""What every store does with repeats, releases of others' locks, cancellations, and requests that make no sense."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import holdfast

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from conformance.conftest import Raw

    Clients = Callable[..., holdfast.AsyncClient]
    QueueIs = Callable[[str, int], Awaitable[None]]
    IsFree = Callable[[str], Awaitable[None]]

pytestmark = pytest.mark.timeout(90)


async def test_a_repeat_gets_the_same_grant(raw: Raw, key: str) -> None:
    """Asked twice under one request id, granted once."""
    session = await raw.session()
    first = await raw.acquire(session, key, request_id=1)
    again = await raw.acquire(session, key, request_id=1)
    assert (first.status, again.status) == (200, 200)
    assert again.body["token"] == first.body["token"]
    assert again.body["previous"] == first.body["previous"]


async def test_repeats_at_the_same_time_act_once(raw: Raw, key: str) -> None:
    """Four calls under one request id, on their way together."""
    session = await raw.session()
    answers = await asyncio.gather(*(raw.acquire(session, key, request_id=1) for _ in range(4)))
    tokens = {each.body["token"] for each in answers if each.status == 200}
    assert len(tokens) == 1
    # One that could not be decided may say so (503, 504); none may say that it was refused.
    assert {each.status for each in answers} <= {200, 503, 504}
    assert (await raw.release(session, tokens.pop())).status == 200
    assert (await raw.acquire(session, key, request_id=2)).status == 200


async def test_a_repeat_after_the_release_does_not_acquire_again(raw: Raw, key: str) -> None:
    """An old packet that comes late finds the hold ended, and the lock stays free."""
    session = await raw.session()
    token = (await raw.acquire(session, key, request_id=1)).body["token"]
    assert (await raw.release(session, token)).status == 200
    late = await raw.acquire(session, key, request_id=1)
    assert late.body["code"] == "not_held"
    assert (await raw.acquire(await raw.session(), key)).status == 200


async def test_a_refusal_is_remembered(raw: Raw, key: str) -> None:
    """Refused stays refused, although the lock has become free."""
    one, other = await raw.session(), await raw.session()
    token = (await raw.acquire(one, key)).body["token"]
    assert (await raw.acquire(other, key, request_id=900)).body["code"] == "held"
    assert (await raw.release(one, token)).status == 200
    assert (await raw.acquire(other, key, request_id=900)).body["code"] == "held"
    assert (await raw.acquire(other, key, request_id=901)).status == 200


async def test_another_body_under_the_same_request_id_is_a_conflict(raw: Raw, key: str) -> None:
    """A request id names one request."""
    session = await raw.session()
    assert (await raw.acquire(session, key, request_id=1)).status == 200
    assert (await raw.acquire(session, f"{key}/b", request_id=1)).body["code"] == "conflict"


async def test_a_settled_request_is_never_executed_again(raw: Raw, key: str) -> None:
    """The client has said that it will not ask again; whatever still comes under that id is an old packet."""
    session = await raw.session()
    token = (await raw.acquire(session, key, request_id=1)).body["token"]
    assert (await raw.release(session, token)).status == 200
    for number in range(2, 60):
        settled = {"settled": number - 1}
        answer = await raw.acquire(session, f"{key}/other", request_id=number, **settled)
        assert (await raw.release(session, answer.body["token"])).status == 200
    late = await raw.acquire(session, key, request_id=1)
    assert late.body["code"] in ("conflict", "not_held")
    assert (await raw.acquire(session, key, request_id=60)).status == 200


async def test_a_repeat_keeps_the_place_in_the_queue(raw: Raw, key: str, queue_is: QueueIs) -> None:
    """Asked again while it waits: one waiter, and the newest call is told."""
    holder, first, second = await raw.session(), await raw.session(), await raw.session()
    token = (await raw.acquire(holder, key)).body["token"]
    older = asyncio.create_task(raw.acquire(first, key, request_id=1, wait_ms=30_000))
    await queue_is(key, 1)
    behind = asyncio.create_task(raw.acquire(second, key, request_id=1, wait_ms=30_000))
    await queue_is(key, 2)
    newest = asyncio.create_task(raw.acquire(first, key, request_id=1, wait_ms=30_000))
    told = await older
    assert told.status == 200 or told.body["code"] == "unknown_outcome"
    await queue_is(key, 2)
    assert (await raw.release(holder, token)).status == 200
    granted = await newest
    assert granted.status == 200
    assert not behind.done()
    assert (await raw.release(first, granted.body["token"])).status == 200
    assert (await behind).status == 200


async def test_the_release_of_somebody_elses_lock_does_nothing(
    clients: Clients, raw: Raw, key: str
) -> None:
    """A token alone is no right to release."""
    holder = clients()
    async with holder.lock(key) as grant:
        refused = await raw.release(await raw.session(), grant.token)
        assert refused.body["code"] == "not_held"
        other = clients()
        assert not await other.release_lock(key)
        assert [each.token for each in (await other.read_lock(key)).holders] == [grant.token]


async def test_a_release_may_be_repeated(raw: Raw, key: str) -> None:
    """Also when somebody else has got the lock since, whose hold it leaves alone."""
    one, other = await raw.session(), await raw.session()
    token = (await raw.acquire(one, key)).body["token"]
    assert (await raw.release(one, token)).status == 200
    assert (await raw.release(one, token)).status == 200
    assert (await raw.acquire(other, key)).status == 200
    assert (await raw.release(one, token)).status == 200
    assert (await raw.acquire(one, key)).body["code"] == "held"


async def test_a_cancelled_wait_leaves_nothing(
    clients: Clients, key: str, queue_is: QueueIs, is_free: IsFree
) -> None:
    """The task is cancelled while it waits: its waiter goes, and the lock is not given to nobody."""
    holder, other = clients(), clients()
    assert await holder.acquire_lock(key)
    waiting = asyncio.create_task(other.acquire_lock(key, wait=None))
    await queue_is(key, 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await queue_is(key, 0)
    assert await holder.release_lock(key)
    await is_free(key)


async def test_a_cancellation_at_any_moment_leaves_no_lock(
    clients: Clients, key: str, is_free: IsFree
) -> None:
    """Cancelled after so many turns of the event loop, the acquire has either not happened or is taken back."""
    client = clients()
    assert await client.acquire_lock(f"{key}/warm")
    for turns in range(0, 60, 4):
        mine = f"{key}/{turns}"
        asking = asyncio.create_task(client.acquire_lock(mine))
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        outcome = await asyncio.gather(asking, return_exceptions=True)
        if outcome != [True]:
            await is_free(mine)


async def test_what_was_cancelled_before_it_came_never_acts(raw: Raw, key: str) -> None:
    """The withdrawal overtakes the acquire on the way."""
    session = await raw.session()
    assert (await raw.cancel(session, 1)).body["released"] is None
    late = await raw.acquire(session, key, request_id=1, wait_ms=1000)
    assert late.body["code"] == "wait_timeout"
    assert (await raw.acquire(session, key, request_id=2)).status == 200


async def test_cancelling_a_grant_releases_it(raw: Raw, key: str) -> None:
    """The client never learned that it was granted."""
    session = await raw.session()
    token = (await raw.acquire(session, key, request_id=1)).body["token"]
    assert (await raw.cancel(session, 1)).body["released"] == token
    assert (await raw.cancel(session, 1)).body["released"] is None
    assert (await raw.acquire(await raw.session(), key)).status == 200


async def test_sessions_are_opened_once_and_end_once(raw: Raw, key: str) -> None:
    """Opening and closing may be repeated; another ttl is a conflict; an ended id is not opened again."""
    session = await raw.session(ttl=30.0)
    same = await raw.call("/sessions", session=session, ttl_ms=30_000)
    assert same.status in (200, 201)
    other = await raw.call("/sessions", session=session, ttl_ms=31_000)
    assert other.body["code"] == "conflict"
    assert (await raw.call("/sessions/renew", session=session)).body["remaining_ms"] > 29_000
    token = (await raw.acquire(session, key)).body["token"]
    assert (await raw.call("/sessions/close", session=session)).body["released"] == [token]
    assert (await raw.call("/sessions/close", session=session)).body["released"] == []
    for late in (
        await raw.call("/sessions/renew", session=session),
        await raw.call("/sessions", session=session, ttl_ms=30_000),
        await raw.acquire(session, key),
    ):
        assert late.body["code"] == "session_expired"
    unknown = await raw.call("/sessions/renew", session="no-such-session-was-opened")
    assert unknown.body["code"] == "no_such_session"


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("key", {"key": ""}),
        ("key", {"key": "a\nb"}),
        ("key", {"key": "x" * 513}),
        ("keys[1]", {"keys": ["a", "a"]}),
        ("wait_ms", {"key": "a", "wait_ms": 30_001}),
        ("colour", {"key": "a", "colour": "red"}),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(
    raw: Raw, field: str, body: dict[str, object]
) -> None:
    """The answer says which field to mend."""
    session = await raw.session()
    answer = await raw.call("/locks/acquire", session=session, request_id=1, **body)
    assert answer.body["code"] == "bad_request"
    assert answer.body["field"] == field
