"""What a lock is asked for besides its keys, and what a refused one says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import holdfast

ACQUIRE = "locks/acquire"
CLOSED = {"key": "k", "token": 7, "ended": "expired", "remaining_ms": 1500, "result": None}


async def asked(kit: Any, lock: Any) -> dict[str, Any]:
    """What entering this lock sends, without what every request has."""
    async with lock:
        body = dict(kit.cluster.calls(ACQUIRE)[-1].body)
    for name in ("session", "request_id", "wait_ms", "key", "settled", "context"):
        body.pop(name, None)
    return body


async def test_a_plain_lock_says_nothing_of_terms(kit: Any) -> None:
    """So that it is the same request as ever, also for a store that knows no terms."""
    assert await asked(kit, kit.client().lock("k")) == {}


async def test_terms_travel_as_they_were_said(kit: Any) -> None:
    """Shared, a semaphore, and what becomes of the key after an unclean end; seconds become milliseconds."""
    client = kit.client()
    assert await asked(kit, client.shared("k")) == {"mode": "shared"}
    assert await asked(kit, client.semaphore("k", 3)) == {"mode": "shared", "limit": 3}
    delayed = client.lock("k", on_unclean="delay", delay=1.5, require_clean=True)
    assert await asked(kit, delayed) == {
        "on_unclean": "delay",
        "delay_ms": 1500,
        "require_clean": True,
    }


@pytest.mark.parametrize(
    "keywords",
    [
        {"mode": "read"},
        {"limit": 2},
        {"mode": "shared", "limit": 0},
        {"mode": "shared", "limit": True},
        {"on_unclean": "delay"},
        {"delay": 3.0},
        {"on_unclean": "refuse", "delay": 3.0},
        {"on_unclean": "delay", "delay": 4000.0},
        {"on_unclean": "perhaps"},
        {"context": "x" * 101},
    ],
)
def test_terms_that_mean_nothing_are_refused_before_anything_is_sent(keywords: Any) -> None:
    """As a `ValueError`, by both faces."""
    with pytest.raises(ValueError, match=r"\w"):
        holdfast.connect("http://127.0.0.1:1").lock("k", **keywords)
    with holdfast.connect_sync("http://127.0.0.1:1") as client, pytest.raises(ValueError):  # noqa: PT011
        client.lock("k", **keywords)


async def refused(kit: Any, step: Any, code: str, **extra: Any) -> Any:
    kit.cluster.script(ACQUIRE, step(refuse=code, extra=extra))
    with pytest.raises(holdfast.NotAcquired) as error:
        async with kit.client().lock("k"):
            pytest.fail("the body ran without the lock")
    assert error.value.code == code
    assert error.value.keys == ("k",)
    return error.value


async def test_work_that_is_done_is_answered_with_its_result(kit: Any, step: Any) -> None:
    """Not acquired, and there is nothing left to do."""
    done = CLOSED | {"by": "done", "ended": "completed", "result": "psp-77"}
    error = await refused(kit, step, "already_done", closed=done)
    assert isinstance(error, holdfast.AlreadyDone)
    assert (error.result, error.remaining) == ("psp-77", 1.5)


async def test_a_key_in_doubt_names_the_hold_that_left_it(kit: Any, step: Any) -> None:
    """Its token is what `resolve` asks for."""
    doubt = CLOSED | {"by": "in_doubt", "remaining_ms": None}
    error = await refused(kit, step, "in_doubt", closed=doubt)
    assert isinstance(error, holdfast.InDoubt)
    assert (error.closed.token, error.closed.ended, error.closed.remaining) == (7, "expired", None)


async def test_a_delayed_key_says_for_how_long(kit: Any, step: Any) -> None:
    error = await refused(kit, step, "closed", closed=CLOSED | {"by": "delay"})
    assert isinstance(error, holdfast.KeyClosed)
    assert error.remaining == 1.5


async def test_a_deadlock_shows_its_circle(kit: Any, step: Any) -> None:
    """Beginning with the request that would have closed it."""
    cycle = [
        {"session_ref": "a", "context": "task 1", "owner": None, "key": "k", "token": 1},
        {"session_ref": "b", "context": "task 2", "owner": "bert", "key": "j", "token": None},
    ]
    error = await refused(kit, step, "deadlock", cycle=cycle)
    assert isinstance(error, holdfast.Deadlock)
    assert [(each.context, each.key, each.token) for each in error.cycle] == [
        ("task 1", "k", 1),
        ("task 2", "j", None),
    ]


async def test_a_semaphore_has_no_fence_and_says_so(kit: Any, step: Any) -> None:
    """`fence` is None, and whoever must have one is told by a TypeError."""
    kit.cluster.script(ACQUIRE, step(extra={"fence": None, "mode": "shared", "limit": 2}))
    async with kit.client().semaphore("k", 2) as grant:
        assert (grant.fence, dict(grant.fences), grant.limit) == (None, {}, 2)
        with pytest.raises(TypeError):
            grant.fence_for("k")


async def test_several_shared_keys_have_a_fence_each(kit: Any, step: Any) -> None:
    """Their phases began at different times; one key has one fence however it is held."""
    kit.cluster.script(ACQUIRE, step(extra={"fence": {"a": 3, "b": 5}, "mode": "shared"}))
    async with kit.client().shared(["a", "b"]) as grant:
        assert grant.fence is None
        assert dict(grant.fences) == {"a": 3, "b": 5}
        assert (grant.fence_for("a"), grant.fence_for("b")) == (3, 5)
        with pytest.raises(KeyError):
            grant.fence_for("c")


async def test_two_tasks_of_a_client_share_a_key_and_each_gives_back_its_own(
    kit: Any, step: Any
) -> None:
    """The books of the client keep both; the second release is not lost because the first has gone."""
    client = kit.client()
    kit.cluster.script(ACQUIRE, step(extra={"mode": "shared"}))
    async with client.shared("k") as first:
        kit.cluster.holds.clear()  # the fake knows no sharing: it grants it again
        kit.cluster.script(ACQUIRE, step(extra={"mode": "shared"}))

        async def other() -> int:
            async with client.shared("k") as second:
                return int(second.token)

        token = await asyncio.create_task(other())
        assert token != first.token
    released = [each.body["token"] for each in kit.cluster.calls("locks/release")]
    assert sorted(released) == sorted([first.token, token])


async def context_of(kit: Any) -> str:
    return str(kit.cluster.calls(ACQUIRE)[-1].body["context"])


async def test_every_task_has_a_name_of_its_own(kit: Any) -> None:
    """The same for all it asks for, and no other task of the client has it."""
    client = kit.client()

    async def two_locks() -> tuple[str, str]:
        async with client.lock(f"{id(asyncio.current_task())}"):
            first = await context_of(kit)
            async with client.lock(f"{id(asyncio.current_task())} too"):
                return first, await context_of(kit)

    names = [await asyncio.create_task(two_locks()) for _ in range(3)]
    assert all(first == second for first, second in names)
    assert len({first for first, _ in names}) == 3
    assert names[0][0] == "task 1"


async def test_a_users_text_stands_before_the_name_and_not_in_its_place(kit: Any) -> None:
    """Two tasks with the same text must not be one to the cluster; and a task that holds something keeps its name."""
    client = kit.client()
    async with client.lock("a", context="collect"):
        assert await context_of(kit) == "collect (task 1)"
        async with client.lock("b", context="refund"):
            assert await context_of(kit) == "collect (task 1)"
    async with client.lock("c"):
        assert await context_of(kit) == "task 1"


async def test_a_repeat_has_the_same_context(kit: Any, step: Any) -> None:
    """Else it would be another request to the cluster, under the same id."""
    kit.cluster.script(ACQUIRE, step(loses_reply=True))
    async with kit.client().lock("k", context="collect"):
        first, second = kit.cluster.calls(ACQUIRE)
        assert first.body == second.body


async def test_re_entry_needs_the_same_mode(kit: Any, step: Any) -> None:
    """A reader that wants to write is not let in because it reads."""
    client = kit.client()
    kit.cluster.script(ACQUIRE, step(extra={"mode": "shared"}))
    async with client.shared("k", reentrant=True) as grant:
        async with client.shared("k", reentrant=True) as again:
            assert again is grant
        with pytest.raises(holdfast.NotAcquired):
            async with client.lock("k", reentrant=True):
                pytest.fail("an upgrade")
        assert grant.remaining() > 0


async def test_a_rate_says_when_to_come_again(kit: Any, step: Any) -> None:
    """In seconds, with the name of the quota."""
    extra = {"limit": "quota.acquires_per_second:pay/", "retry_after_ms": 250}
    kit.cluster.script(ACQUIRE, step(refuse="limit_reached", extra=extra))
    with pytest.raises(holdfast.LimitReached) as refused:
        async with kit.client().lock("pay/1"):
            pytest.fail("the body ran without the lock")
    assert (refused.value.limit, refused.value.retry_after) == (extra["limit"], 0.25)
