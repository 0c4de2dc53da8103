"""Asking for locks: what is sent, what is repeated, what the caller is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import holdfast

ACQUIRE = "locks/acquire"


async def test_a_grant_shows_what_the_cluster_said(kit: Any) -> None:
    """Token, fence, keys, how the hold before ended, and how long it is sure."""
    async with kit.client().lock("1234collectPayment") as grant:
        assert (grant.token, grant.fence, grant.keys) == (1, 1, ("1234collectPayment",))
        assert grant.previous == holdfast.Previous(7, "expired")
        assert grant.remaining() == pytest.approx(9.89)
        assert grant.safe_for(9.8)
        assert not grant.safe_for(9.9)
        assert "1234" not in repr(grant)
    assert grant.remaining() == 0.0
    assert not grant.is_lost
    assert kit.cluster.holds == {}


async def test_several_keys_are_one_grant(kit: Any) -> None:
    """All or none, one token, and what is known of each key."""
    async with kit.client().lock(["order/1", "customer/2"]) as grant:
        assert grant.keys == ("order/1", "customer/2")
        assert grant.previous_by_key == {
            "order/1": holdfast.Previous(7, "expired"),
            "customer/2": None,
        }
        assert grant.previous == holdfast.Previous(7, "expired")
    assert kit.cluster.holds == {}


async def test_the_body_never_runs_without_the_lock(kit: Any) -> None:
    """A held lock raises, and says who holds it and how many wait."""
    token = kit.cluster.take("k")
    with pytest.raises(holdfast.NotAcquired) as refused:
        async with kit.client().lock("k"):
            pytest.fail("the body ran without the lock")
    assert refused.value.code == "held"
    assert refused.value.keys == ("k",)
    assert refused.value.queue_length == 2
    assert [each.token for each in refused.value.holders] == [token]


async def test_the_two_plain_calls(kit: Any) -> None:
    """True once, False while it is held, True again after the release; a second release is False."""
    first, second = kit.client(), kit.client()
    assert await first.acquire_lock("k") is True
    assert await second.acquire_lock("k") is False
    assert await first.acquire_lock("k") is False
    assert first.grant_of("k").fence == 1
    assert await second.release_lock("k") is False
    assert await first.release_lock("k") is True
    assert await first.release_lock("k") is False
    assert first.grant_of("k") is None
    assert await second.acquire_lock("k") is True


async def test_a_lock_belongs_to_the_task_that_acquired_it(kit: Any) -> None:
    """Another task of the same client can neither release it nor see its grant."""
    client = kit.client()
    assert await client.acquire_lock("k")

    async def other() -> tuple[bool, object]:
        return await client.release_lock("k"), client.grant_of("k")

    assert await asyncio.create_task(other()) == (False, None)
    assert await client.release_lock("k")


async def test_a_task_does_not_wait_for_itself(kit: Any) -> None:
    """Re-entry is refused at once, even with a wait, and without asking the cluster."""
    client = kit.client()
    async with client.lock("k"):
        asked = len(kit.cluster.seen)
        with pytest.raises(holdfast.NotAcquired):
            async with client.lock(["j", "k"], wait=60):
                pytest.fail("entered twice")
        assert await client.acquire_lock("k", wait=None) is False
        assert len(kit.cluster.seen) == asked


async def test_one_session_for_all_locks_opened_by_the_first(kit: Any) -> None:
    """Looking opens none; any number of concurrent acquires opens one."""
    client = kit.client(owner="worker-3")
    await client.status()
    assert kit.cluster.sessions == {}
    assert all(await asyncio.gather(*(client.acquire_lock(f"k{n}") for n in range(20))))
    assert len(kit.cluster.calls("sessions")) == 1
    assert kit.cluster.calls("sessions")[0].body["owner"] == "worker-3"


async def test_request_ids_count_up_and_are_settled(kit: Any) -> None:
    """1, 2, 3, ...; each acquire tells which outcomes the cluster may forget."""
    client = kit.client()
    for key in ("a", "b", "c"):
        await client.acquire_lock(key)
    bodies = [each.body for each in kit.cluster.calls(ACQUIRE)]
    assert [each["request_id"] for each in bodies] == [1, 2, 3]
    assert [each.get("settled") for each in bodies] == [None, 1, 2]


@pytest.mark.parametrize("fault", ["before", "after", "silent", "504", "proxy"])
async def test_a_lost_reply_is_asked_for_again_under_the_same_id(
    kit: Any, step: Any, eventually: Any, fault: str
) -> None:
    """Whether the request was lost or its reply: asked again elsewhere, it acts once, and the token is the one it got."""
    client = kit.client()
    await client.acquire_lock("warm")
    gate = kit.cluster.gate()
    if fault == "proxy":
        from aiohttp import web

        fault_step = step(raw=web.Response(status=502, text="<h1>Bad gateway</h1>"))
    else:
        fault_step = {
            "before": step(acts=False, loses_reply=True),
            "after": step(loses_reply=True),
            "silent": step(gate=gate),
            "504": step(refuse="unknown_outcome"),
        }[fault]
    kit.cluster.script(ACQUIRE, fault_step)
    asking = asyncio.create_task(client.acquire_lock("k"))
    await eventually(lambda: len(kit.cluster.calls(ACQUIRE)) == 2)
    if fault == "silent":
        kit.clock.advance(3.0)
    assert await asking is True
    first, second = kit.cluster.calls(ACQUIRE)[1:]
    assert first.body == second.body
    assert first.node != second.node
    assert kit.cluster.last_token == 2


@pytest.mark.parametrize("code", ["no_leader", "overloaded"])
async def test_a_busy_cluster_is_asked_again_after_a_pause(
    kit: Any, step: Any, eventually: Any, code: str
) -> None:
    """A refusal that took no effect is not the caller's business as long as there is time."""
    client = kit.client()
    await client.acquire_lock("warm")
    busy = step(refuse=code, extra={"retry_after_ms": 300})
    kit.cluster.script(ACQUIRE, busy, busy)
    asking = asyncio.create_task(client.acquire_lock("k"))
    for asked in (2, 3):
        await eventually(lambda asked=asked: len(kit.cluster.calls(ACQUIRE)) == asked)
        await eventually(lambda: pause_has_begun(kit))
        kit.clock.advance(0.29)
        assert not asking.done()
        kit.clock.advance(0.02)
    assert await asking is True


def pause_has_begun(kit: Any) -> bool:
    return any(0.2 < when - kit.clock.now() <= 0.3 for when, _ in kit.clock._sleepers)


async def test_no_cluster_is_unreachable_and_definite(kit: Any) -> None:
    """No connection: nothing can have happened, and the caller is told so."""
    client = kit.client(urls=["http://127.0.0.1:1"], timeout=0.01)
    with pytest.raises(holdfast.Unreachable):
        await client.acquire_lock("k")
    with pytest.raises(holdfast.Unreachable):
        await client.status()


async def test_an_outcome_that_stays_unknown_is_said_to_be_and_withdrawn(
    kit: Any, step: Any, eventually: Any
) -> None:
    """Never a refusal; and what it may have got is given back in the background, under the same id."""
    client = kit.client(timeout=5.0)
    await client.acquire_lock("warm")
    kit.cluster.script(ACQUIRE, *[step(loses_reply=True)] * 100)
    asking = asyncio.create_task(client.acquire_lock("k"))
    await kit.drive(asking.done, by=0.01)
    with pytest.raises(holdfast.UnknownOutcome):
        await asking
    await eventually(lambda: "k" not in kit.cluster.holds)
    assert kit.cluster.calls("locks/cancel")[0].body["request_id"] == 2


async def test_unknown_stays_unknown_if_the_repeat_is_refused_at_the_door(
    kit: Any, step: Any, eventually: Any
) -> None:
    """A credential that is refused on the repeat says nothing about the first attempt, which took effect."""
    client = kit.client()
    await client.acquire_lock("warm")
    kit.cluster.script(ACQUIRE, step(loses_reply=True), step(refuse="unauthenticated"))
    with pytest.raises(holdfast.UnknownOutcome):
        await client.acquire_lock("k")
    await eventually(lambda: "k" not in kit.cluster.holds)


@pytest.mark.parametrize(
    ("code", "kind", "name", "value"),
    [
        ("bad_request", holdfast.BadRequest, "field", "key"),
        ("limit_reached", holdfast.LimitReached, "limit", "keys_held_max"),
        ("unauthenticated", holdfast.NotAllowed, "status", 401),
        ("conflict", holdfast.Refused, "code", "conflict"),
    ],
)
async def test_refusals_have_types(
    kit: Any, step: Any, code: str, kind: type[Exception], name: str, value: object
) -> None:
    """What the caller has to mend is in the exception."""
    kit.cluster.script(ACQUIRE, step(refuse=code, extra={"field": "key", "limit": "keys_held_max"}))
    with pytest.raises(kind) as refused:
        await kit.client().acquire_lock("k")
    assert getattr(refused.value, name) == value


async def test_a_waiter_is_granted_when_the_holder_releases(kit: Any, eventually: Any) -> None:
    """The wait is the cluster's: one call stays open, nobody polls."""
    kit.cluster.take("k")
    asking = asyncio.create_task(kit.client().acquire_lock("k", wait=20))
    await eventually(lambda: kit.cluster.waiters)
    assert kit.cluster.calls(ACQUIRE)[0].body["wait_ms"] == 20_000
    kit.cluster.give("k")
    assert await asking is True
    assert len(kit.cluster.calls(ACQUIRE)) == 1


async def test_a_long_wait_keeps_its_place(kit: Any, eventually: Any) -> None:
    """Well before the call ends it is asked again under the same id through another node; the superseded call is ignored."""
    kit.cluster.take("k")
    client = kit.client(ttl=600.0)
    asking = asyncio.create_task(client.acquire_lock("k", wait=100))
    for asked in range(1, 6):
        await eventually(lambda asked=asked: len(kit.cluster.calls(ACQUIRE)) == asked)
        await eventually(lambda: kit.cluster.waiters)
        kit.clock.advance(10.0)
    await eventually(lambda: len(kit.cluster.calls(ACQUIRE)) == 6)
    calls = kit.cluster.calls(ACQUIRE)
    assert {each.body["request_id"] for each in calls} == {1}
    assert {each.body["wait_ms"] for each in calls} == {30_000}
    assert len({each.node for each in calls}) == 3
    assert len(kit.cluster.waiters) == 1
    kit.cluster.give("k")
    assert await asking is True


async def test_a_wait_that_ends_too_early_goes_on_under_a_new_id(kit: Any, eventually: Any) -> None:
    """`wait_timeout` with time left is no answer yet; with none left it is the answer."""
    kit.cluster.take("k")
    client = kit.client()
    asking = asyncio.create_task(client.acquire_lock("k", wait=5))
    await eventually(lambda: kit.cluster.waiters)
    kit.clock.advance(2.0)
    kit.cluster.time_out(kit.cluster.waiters[0])
    await eventually(lambda: kit.cluster.waiters)
    assert [each.body["request_id"] for each in kit.cluster.calls(ACQUIRE)] == [1, 2]
    assert kit.cluster.calls(ACQUIRE)[1].body["wait_ms"] == 3000
    kit.clock.advance(3.0)
    kit.cluster.time_out(kit.cluster.waiters[0])
    assert await asking is False


async def test_a_node_that_dies_under_a_waiter_is_replaced(
    kit: Any, step: Any, eventually: Any
) -> None:
    """The connection breaks: asked again elsewhere at once, under the same id."""
    kit.cluster.take("k")
    kit.cluster.script(ACQUIRE, step(acts=False, loses_reply=True))
    asking = asyncio.create_task(kit.client().acquire_lock("k", wait=20))
    await eventually(lambda: kit.cluster.waiters)
    calls = kit.cluster.calls(ACQUIRE)
    assert len(calls) == 2
    assert calls[0].body == calls[1].body
    kit.cluster.give("k")
    assert await asking is True


async def test_a_cancelled_waiter_leaves_the_queue(kit: Any, eventually: Any) -> None:
    """Cancelling the acquire withdraws it, and it is a plain cancellation for the caller."""
    kit.cluster.take("k")
    client = kit.client()
    asking = asyncio.create_task(client.acquire_lock("k", wait=20))
    await eventually(lambda: kit.cluster.waiters)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await eventually(lambda: not kit.cluster.waiters)
    await eventually(lambda: client._sessions._shared.ids.spread == 0)


async def test_a_cancelled_acquire_strands_no_lock(kit: Any, step: Any, eventually: Any) -> None:
    """Granted by the cluster while the caller went away: given back."""
    client = kit.client()
    await client.acquire_lock("warm")
    kit.cluster.script(ACQUIRE, step(gate=kit.cluster.gate()))
    asking = asyncio.create_task(client.acquire_lock("k"))
    await eventually(lambda: "k" in kit.cluster.holds)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await eventually(lambda: "k" not in kit.cluster.holds)


async def test_a_withdrawal_is_insisted_on(kit: Any, step: Any, eventually: Any) -> None:
    """Lost or refused for now, it is sent again until it is acknowledged."""
    kit.cluster.take("k")
    client = kit.client()
    asking = asyncio.create_task(client.acquire_lock("k", wait=20))
    await eventually(lambda: kit.cluster.waiters)
    kit.cluster.script(
        "locks/cancel",
        step(acts=False, loses_reply=True),
        step(refuse="no_leader"),
        step(acts=False, loses_reply=True),
    )
    asking.cancel()
    await kit.drive(lambda: not (kit.cluster.waiters), by=0.05)


PASSING = ["unauthenticated", "limit_reached"]


@pytest.mark.parametrize("code", PASSING)
async def test_a_withdrawal_that_is_refused_for_a_reason_that_may_pass_is_insisted_on(
    kit: Any, step: Any, eventually: Any, code: str
) -> None:
    """The hold that it may have got would be renewed until the client is closed. Its id is settled when it is withdrawn."""
    client = kit.client()
    await client.acquire_lock("warm")
    kit.cluster.script(ACQUIRE, step(gate=kit.cluster.gate()))
    kit.cluster.script("locks/cancel", *[step(refuse=code)] * 3)
    asking = asyncio.create_task(client.acquire_lock("k"))
    await eventually(lambda: "k" in kit.cluster.holds)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await eventually(lambda: kit.cluster.calls("locks/cancel"))
    session = client._sessions._shared
    await kit.drive(lambda: "k" not in kit.cluster.holds or session.ids.spread == 0)
    assert "k" not in kit.cluster.holds
    await eventually(lambda: session.ids.spread == 0)


@pytest.mark.parametrize("ttl", [None, 5.0], ids=["shared session", "its own"])
@pytest.mark.parametrize("code", PASSING)
async def test_a_release_that_is_refused_for_a_reason_that_may_pass_is_insisted_on(
    kit: Any, step: Any, code: str, ttl: float | None
) -> None:
    """Nobody holds it any more, and its session goes on being renewed: without that the lock would be stranded."""
    client = kit.client()
    kit.cluster.script("locks/release", *[step(refuse=code)] * 3)
    async with client.lock("k", ttl=ttl):
        pass
    assert "k" in kit.cluster.holds
    await kit.drive(lambda: "k" not in kit.cluster.holds)
    assert len(kit.cluster.calls("locks/release")) == 4


async def test_a_release_of_what_is_over_is_not_insisted_on(
    kit: Any, step: Any, eventually: Any
) -> None:
    """`not_held` says that there is nothing left to release."""
    client = kit.client()
    kit.cluster.script("locks/release", step(refuse="not_held", extra={"ended": "expired"}))
    assert await client.acquire_lock("k")
    assert await client.release_lock("k") is False
    assert await client.acquire_lock("other")
    await kit.drive(lambda: len(kit.cluster.calls("sessions/renew")) == 2)
    assert len(kit.cluster.calls("locks/release")) == 1


async def test_a_cancelled_release_is_completed(kit: Any, step: Any, eventually: Any) -> None:
    """Whoever cancels the `finally` does not strand the lock."""
    client = kit.client()
    gate = kit.cluster.gate()
    kit.cluster.script("locks/release", step(acts=False, gate=gate, loses_reply=True))
    assert await client.acquire_lock("k")

    releasing = asyncio.create_task(client.release_lock("k"))
    await eventually(lambda: kit.cluster.calls("locks/release"))
    releasing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await releasing
    assert "k" in kit.cluster.holds
    gate.set()
    await eventually(lambda: "k" not in kit.cluster.holds)


async def test_release_returns_false_instead_of_raising(
    kit: Any, step: Any, eventually: Any
) -> None:
    """Nothing out of a `finally`; and the release goes on in the background."""
    client = kit.client(timeout=1.0)
    assert await client.acquire_lock("k")
    kit.cluster.script("locks/release", *[step(refuse="no_leader")] * 40)
    releasing = asyncio.create_task(client.release_lock("k"))
    await kit.drive(releasing.done, by=0.05)
    assert releasing.result() is False
    kit.cluster._steps.clear()
    await kit.drive(lambda: "k" not in kit.cluster.holds, by=0.05)


async def test_a_session_that_ended_while_idle_is_replaced(kit: Any) -> None:
    """The caller never hears of it."""
    client = kit.client()
    assert await client.acquire_lock("a")
    assert await client.release_lock("a")
    kit.cluster.expire()
    assert await client.acquire_lock("b") is True
    assert len(kit.cluster.calls("sessions")) == 2
    assert kit.cluster.calls(ACQUIRE)[-1].body["request_id"] == 1


async def test_a_session_that_ends_under_a_waiter_is_replaced(kit: Any, eventually: Any) -> None:
    """It queues again, through a new session, for the time that is left."""
    kit.cluster.take("k")
    asking = asyncio.create_task(kit.client().acquire_lock("k", wait=8))
    await eventually(lambda: kit.cluster.waiters)
    kit.cluster.expire()
    await eventually(lambda: kit.cluster.waiters)
    kit.cluster.give("k")
    assert await asking is True


async def test_sessions_that_keep_ending_are_reported(kit: Any, step: Any) -> None:
    """Not for ever: the caller is told that nothing is held."""
    kit.cluster.script(ACQUIRE, *[step(refuse="session_expired")] * 10)
    asking = asyncio.create_task(kit.client().acquire_lock("k"))
    await kit.drive(asking.done, by=0.1)
    with pytest.raises(holdfast.SessionLost):
        await asking


async def test_a_grant_that_comes_too_late_is_given_back(
    kit: Any, step: Any, eventually: Any
) -> None:
    """The answer took longer than the lease: never entered; the lock is asked for again in a new session."""
    client = kit.client(ttl=2.0, timeout=60.0)
    await client.acquire_lock("warm")
    gate = kit.cluster.gate()
    kit.cluster.script(ACQUIRE, step(gate=gate))
    entered: list[holdfast.Grant] = []

    async def work() -> None:
        async with client.lock("k") as grant:
            entered.append(grant)

    working = asyncio.create_task(work())
    await eventually(lambda: "k" in kit.cluster.holds)
    late_token = kit.cluster.last_token
    kit.clock._now += 2.5  # the machine was suspended: no timer ran
    gate.set()
    await working
    assert entered[0].token > late_token
    await eventually(lambda: "k" not in kit.cluster.holds)


async def test_a_lock_with_a_ttl_has_a_session_of_its_own(kit: Any, eventually: Any) -> None:
    """It is renewed by itself, and gone with the lock."""
    client = kit.client()
    async with client.lock("k", ttl=60.0) as grant:
        assert grant.remaining() > 50
        assert list(kit.cluster.sessions.values()) == [60_000]
    await eventually(lambda: not kit.cluster.sessions)
    kit.cluster.take("k")
    with pytest.raises(holdfast.NotAcquired):
        async with client.lock("k", ttl=60.0):
            pytest.fail("entered")
    await eventually(lambda: not kit.cluster.sessions)


async def test_a_long_wait_does_not_make_the_cluster_remember_for_ever(
    kit: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many outcomes behind one old wait: new acquires get a fresh session, the old one lives as long as it is needed."""
    monkeypatch.setattr("holdfast.session.REQUEST_SPREAD_MAX", 3)
    kit.cluster.take("k")
    client = kit.client()

    async def wait_for_k() -> None:
        async with client.lock("k", wait=30):
            await eventually(lambda: len(kit.cluster.sessions) == 2)

    waiting = asyncio.create_task(wait_for_k())
    await eventually(lambda: kit.cluster.waiters)
    for number in range(6):
        assert await client.acquire_lock(f"k{number}")
    assert len(kit.cluster.sessions) == 2
    for number in range(6):
        assert await client.release_lock(f"k{number}")
    kit.cluster.give("k")
    await waiting
    await eventually(lambda: len(kit.cluster.sessions) == 1)


async def test_closing_releases_everything(kit: Any) -> None:
    """One call ends the session; afterwards the client refuses to be used."""
    client = kit.client()
    assert await client.acquire_lock("a")
    assert await client.acquire_lock("b")
    await client.aclose()
    assert kit.cluster.holds == {}
    assert len(kit.cluster.calls("sessions/close")) == 1
    with pytest.raises(holdfast.ClientClosed):
        await client.acquire_lock("a")
    assert await client.release_lock("a") is False
    await client.aclose()


async def test_closing_ends_a_wait(kit: Any, eventually: Any) -> None:
    """A task that waits hears of it at once."""
    kit.cluster.take("k")
    client = kit.client()
    asking = asyncio.create_task(client.acquire_lock("k", wait=None))
    await eventually(lambda: kit.cluster.waiters)
    await client.aclose()
    with pytest.raises(holdfast.ClientClosed):
        await asking


async def test_looking(kit: Any) -> None:
    """Cluster, one lock, a list; unknown fields of a newer node disturb nothing."""
    client = kit.client(urls=[*kit.cluster.urls, "http://127.0.0.1:1"])
    assert (await client.status()).nodes[0].match_index == 9
    everybody = await client.statuses()
    assert [type(each).__name__ for each in everybody.values()] == [
        *["ClusterInfo"] * 3,
        "Unreachable",
    ]
    await client.acquire_lock("a/1")
    assert [each.token for each in (await client.read_lock("a/1")).holders] == [1]
    assert (await client.read_lock("b")).holders == ()
    page = await client.list_locks("a/")
    assert [each.key for each in page.locks] == ["a/1"]
    assert page.next is None
