"""Holding a lock, being at risk, and losing it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import holdfast

RENEW = "sessions/renew"


def renewals(kit: Any) -> int:
    return len(kit.cluster.calls(RENEW))


async def turns(count: int = 30) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_one_renewal_for_however_many_locks(kit: Any, eventually: Any) -> None:
    """After a third of the TTL, and it moves the deadline of every grant."""
    client = kit.client(ttl=9.0)
    async with client.lock("a") as first, client.lock("b") as second:
        kit.clock.advance(2.9)
        await turns()
        assert renewals(kit) == 0
        kit.clock.advance(0.2)
        await eventually(lambda: first.remaining() > 8.8)
        assert second.remaining() == first.remaining()
        assert renewals(kit) == 1


async def test_the_deadline_counts_from_the_send_of_a_renewal(
    kit: Any, step: Any, eventually: Any
) -> None:
    """An answer that takes a second makes nobody believe a second longer."""
    client = kit.client(ttl=9.0)
    async with client.lock("k") as grant:
        gate = kit.cluster.gate()
        kit.cluster.script(RENEW, step(gate=gate))
        kit.clock.advance(3.1)
        await eventually(lambda: renewals(kit) == 1)
        kit.clock.advance(1.0)
        gate.set()
        await eventually(lambda: grant.remaining() > 5.0)
        assert grant.remaining() == pytest.approx(9.0 * 0.99 - 0.01 - 1.0)


async def test_a_silent_node_does_not_cost_the_lease(kit: Any, step: Any, eventually: Any) -> None:
    """A renewal that gets no answer is sent again, through another node."""
    client = kit.client(ttl=9.0)
    async with client.lock("k") as grant:
        kit.cluster.script(RENEW, step(acts=False, gate=kit.cluster.gate(), loses_reply=True))
        kit.clock.advance(3.1)
        await eventually(lambda: renewals(kit) == 1)
        kit.clock.advance(1.5)
        await eventually(lambda: grant.remaining() > 8.8)
        first, second = kit.cluster.calls(RENEW)
        assert first.node != second.node


async def test_a_renewal_that_one_node_refuses_is_asked_of_another(kit: Any, step: Any) -> None:
    """Its access file may be older than that of the others: that alone costs no lock."""
    client = kit.client(ttl=9.0)
    async with client.lock("k") as grant:
        node = kit.cluster.calls("locks/acquire")[0].node
        kit.cluster.script(RENEW, *[step(refuse="unauthenticated", node=node)] * 1000)
        await kit.drive(lambda: grant.is_lost or renewals(kit) == 4)
        assert not grant.is_lost
        assert grant.remaining() > 5.0
        assert [each.node for each in kit.cluster.calls(RENEW)].count(node) == 1


async def fail_renewals(kit: Any, step: Any, until_done: Any) -> None:
    kit.cluster.script(RENEW, *[step(refuse="no_leader")] * 1000)
    await kit.drive(until_done, by=0.05)


async def test_at_risk_comes_before_lost(kit: Any, step: Any) -> None:
    """With a third of the TTL left the holder is warned; at the deadline the body is cancelled and LockLost comes out."""
    told: list[tuple[str, float]] = []
    client = kit.client(
        ttl=9.0,
        hooks=holdfast.grant.Hooks(
            on_at_risk=(lambda grant, left: told.append(("risk", left)),),
            on_lost=(lambda grant: told.append(("lost", grant.remaining())),),
        ),
    )
    endings: list[str] = []
    raised: list[holdfast.LockLost] = []

    async def work() -> None:
        try:
            async with client.lock("k"):
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    endings.append("cancelled")
                    raise
        except holdfast.LockLost as lost:
            raised.append(lost)
            endings.append("lost")

    working = asyncio.create_task(work())
    await turns()
    await fail_renewals(kit, step, working.done)
    await working
    assert endings == ["cancelled", "lost"]
    assert (raised[0].token, raised[0].keys) == (1, ("k",))
    assert "lease ran out" in raised[0].reason
    assert [each[0] for each in told] == ["risk", "lost"]
    assert 2.5 < told[0][1] <= 3.0
    assert told[1][1] == 0.0
    assert working.cancelling() == 0


async def test_a_renewal_in_time_ends_the_risk(kit: Any, step: Any, eventually: Any) -> None:
    """Warned once for each time; the body goes on."""
    told: list[float] = []
    client = kit.client(ttl=9.0)
    async with client.lock("k", on_at_risk=lambda _, left: told.append(left)) as grant:
        await fail_renewals(kit, step, lambda: told)
        kit.cluster._steps.clear()
        await kit.drive(lambda: not (grant.remaining() < 8.0), by=0.05)
        await fail_renewals(kit, step, lambda: len(told) == 2)
        kit.cluster._steps.clear()
        await kit.drive(lambda: not (grant.remaining() < 8.0), by=0.05)


async def test_the_cluster_says_that_it_is_over(kit: Any, eventually: Any) -> None:
    """An ended session is lost at once, not at the deadline; async callbacks are awaited."""
    told = asyncio.Event()

    async def on_lost(grant: holdfast.Grant) -> None:
        assert grant.is_lost
        told.set()

    client = kit.client(ttl=9.0)
    with pytest.raises(holdfast.LockLost, match="session_expired"):  # noqa: PT012
        async with client.lock("k", on_lost=on_lost) as grant:
            kit.cluster.expire()
            kit.clock.advance(3.1)
            await asyncio.Event().wait()
    assert grant.remaining() == 0.0
    await told.wait()
    assert await client.acquire_lock("k") is True


async def test_a_body_that_ends_by_itself_after_the_loss_still_raises(kit: Any) -> None:
    """The loop was blocked past the deadline: nobody could cancel, but the caller has to know."""
    client = kit.client(ttl=9.0)
    with pytest.raises(holdfast.LockLost):  # noqa: PT012
        async with client.lock("k") as grant:
            kit.clock._now += 20.0
            assert grant.is_lost
            assert not grant.safe_for(0.0)


async def test_an_exception_of_the_body_is_not_hidden(kit: Any) -> None:
    """A refused fence tells more than that the lock was lost."""
    with pytest.raises(KeyError):  # noqa: PT012
        async with kit.client().lock("k"):
            kit.clock._now += 20.0
            raise KeyError("stale")


async def test_the_caller_s_own_cancellation_wins(kit: Any, eventually: Any) -> None:
    """Cancelled from outside and lost at the same time: it stays a cancellation."""
    client = kit.client(ttl=9.0)
    entered = asyncio.Event()

    async def work() -> None:
        async with client.lock("k"):
            entered.set()
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await entered.wait()
    client._sessions._shared.end("lost for a test")
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert working.cancelled()


async def test_cancelling_the_body_releases(kit: Any, eventually: Any) -> None:
    """A plain cancellation gives the lock back and stays what it is."""
    client = kit.client()
    entered = asyncio.Event()

    async def work() -> None:
        async with client.lock("k"):
            entered.set()
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await entered.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    await eventually(lambda: not kit.cluster.holds)


async def test_a_timeout_around_the_block_is_a_timeout(kit: Any) -> None:
    """`asyncio.timeout` and the lock do not confuse each other's cancellations."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0), kit.client().lock("k"):
            await asyncio.Event().wait()


async def test_a_lost_session_that_held_something_is_left_to_expire(kit: Any, step: Any) -> None:
    """Closing it would record the hold as released, and the next holder would think that the work is done."""
    client = kit.client(ttl=9.0)
    assert await client.acquire_lock("k")
    grant = client.grant_of("k")
    await fail_renewals(kit, step, lambda: grant.is_lost)
    kit.cluster._steps.clear()
    await turns()
    assert await client.release_lock("k") is False
    assert await client.acquire_lock("k") is False
    assert kit.cluster.calls("sessions/close") == []
    kit.cluster.expire()
    assert await client.acquire_lock("k") is True


async def test_a_lost_session_that_held_nothing_is_closed(kit: Any, step: Any) -> None:
    """Nobody's work is half done: the cluster need not keep it."""
    client = kit.client(ttl=9.0)
    assert await client.acquire_lock("k")
    assert await client.release_lock("k")
    await fail_renewals(kit, step, lambda: len(client._sessions) == 0)
    await kit.drive(lambda: kit.cluster.calls("sessions/close"), by=0.05)


async def test_a_session_that_the_cluster_ended_is_not_renewed_any_more(
    kit: Any, eventually: Any
) -> None:
    """One renewal learns of the end; asking on for ever would be a leak."""
    client = kit.client(ttl=9.0)
    assert await client.acquire_lock("k")
    kit.cluster.expire()
    kit.clock.advance(3.1)
    await eventually(lambda: len(client._sessions) == 0)
    for _ in range(20):
        kit.clock.advance(3.0)
        await turns()
    assert renewals(kit) == 1


async def test_closing_the_client_under_a_body_is_a_loss(kit: Any) -> None:
    """The lock is gone, so the body ends."""
    client = kit.client()
    entered = asyncio.Event()

    async def work() -> None:
        async with client.lock("k"):
            entered.set()
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await entered.wait()
    await client.aclose()
    with pytest.raises(holdfast.LockLost):
        await working


async def test_a_callback_that_fails_is_logged_and_harms_nothing(
    kit: Any, caplog: pytest.LogCaptureFixture, eventually: Any
) -> None:
    """Somebody else's mistake does not keep the body alive."""

    def on_lost(grant: holdfast.Grant) -> None:
        raise ZeroDivisionError

    client = kit.client()
    with pytest.raises(holdfast.LockLost):  # noqa: PT012
        async with client.lock("k", on_lost=on_lost):
            client._sessions._shared.end("for a test")
            await asyncio.Event().wait()
    await eventually(lambda: "callback failed" in caplog.text)


async def test_a_lock_object_is_entered_once_at_a_time(kit: Any) -> None:
    """Again after it was left, but not within itself."""
    lock = kit.client().lock("k")
    async with lock:
        with pytest.raises(RuntimeError):
            async with lock:
                pytest.fail("entered twice")
    async with lock as grant:
        assert grant.token == 2


async def test_each_renewal_tells_what_was_left_of_the_lease(kit: Any) -> None:
    """For metrics: two thirds of the TTL when all is well. One that fails does not stop the renewing."""
    told: list[float] = []

    def on_renewed(seconds_left: float) -> None:
        told.append(seconds_left)
        raise ZeroDivisionError

    client = kit.client(ttl=9.0, on_renewed=on_renewed)
    async with client.lock("k"):
        await kit.drive(lambda: len(told) >= 2)
    assert all(5.5 < left < 6.1 for left in told), told


def test_both_faces_take_whoever_is_told_of_renewals() -> None:
    """The blocking one calls it off its event loop."""
    told: list[float] = []
    client = holdfast.connect("http://127.0.0.1:1", on_renewed=told.append)
    assert client._settings.on_renewed == told.append
    blocking = holdfast.connect_sync("http://127.0.0.1:1", on_renewed=told.append)
    assert blocking._settings.on_renewed is not None
    assert blocking._settings.on_renewed != told.append
