"""Holds that end although they could be renewed, and calls that are not started because they could not end in time."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import holdfast
from holdfast.grant import ttl_for, usable_of
from holdfast.lease import Bound, Lease
from holdfast.transport import Answer, NotSent

RENEW = "sessions/renew"


class CutOff:
    """No connection comes about."""

    async def attempt(self, endpoint: str, request: object, *, seconds: float) -> Answer:
        raise NotSent(f"{endpoint} cannot be reached")

    async def aclose(self) -> None: ...


async def turns(count: int = 30) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_max_hold_ends_the_hold_however_well_it_is_renewed(kit: Any) -> None:
    """The body is cancelled at the bound, warned before; the session is not renewed and not closed: it expires, as if the
    worker had died."""
    told: list[tuple[str, float]] = []
    client = kit.client(ttl=3.0)
    with pytest.raises(holdfast.LockLost) as lost:  # noqa: PT012
        async with client.lock(
            "k",
            max_hold=10.0,
            on_at_risk=lambda _, left: told.append(("risk", left)),
            on_lost=lambda grant: told.append(("lost", grant.remaining())),
        ) as grant:
            started = kit.clock.now()
            await kit.drive(lambda: kit.clock.now() > started + 9.9, by=0.01)
            assert len(kit.cluster.calls(RENEW)) >= 3
            assert 0.0 < grant.remaining() < 0.15
            kit.clock.advance(0.2)
            await asyncio.Event().wait()
    assert lost.value.code is holdfast.LossCode.MAX_HOLD
    assert "10 s" in str(lost.value)
    assert kit.clock.now() - started < 10.3
    await turns()
    assert [each[0] for each in told] == ["risk", "lost"]
    assert told[0][1] == pytest.approx(1.0, abs=0.1)
    renewals = len(kit.cluster.calls(RENEW))
    for _ in range(40):
        kit.clock.advance(0.2)
        await turns()
    assert len(kit.cluster.calls(RENEW)) == renewals
    assert kit.cluster.calls("sessions/close") == []
    assert "k" in kit.cluster.holds


async def test_progress_keeps_the_hold_and_silence_ends_it(kit: Any) -> None:
    """Each sign of progress counts anew; a body that gives none is taken for hung."""
    client = kit.client(ttl=3.0)
    with pytest.raises(holdfast.LockLost) as lost:  # noqa: PT012
        async with client.lock("k", progress_within=4.0) as grant:
            for _ in range(5):
                at = kit.clock.now() + 3.5
                await kit.drive(lambda at=at: kit.clock.now() >= at, by=0.01)
                grant.progress()
            last = kit.clock.now()
            await kit.drive(lambda: grant.is_lost, by=0.01)
            await asyncio.Event().wait()
    assert lost.value.code is holdfast.LossCode.NO_PROGRESS
    assert kit.clock.now() - last == pytest.approx(4.0, abs=0.3)
    with pytest.raises(holdfast.LockLost):
        grant.progress()


async def test_the_bound_of_one_hold_touches_no_other(kit: Any) -> None:
    """A hung worker loses its lock; whatever else the client holds goes on."""
    client = kit.client(ttl=9.0)
    async with client.lock("fine") as fine:
        with pytest.raises(holdfast.LockLost):  # noqa: PT012
            async with client.lock("hung", max_hold=2.0):
                kit.clock.advance(2.1)
                await asyncio.Event().wait()
        assert not fine.is_lost
        assert len({each.body["session"] for each in kit.cluster.calls("locks/acquire")}) == 2


async def test_a_loop_that_stood_still_does_not_renew_past_the_bound(kit: Any) -> None:
    """Nothing ran for a while. What runs first afterwards must not be one more renewal."""
    client = kit.client(ttl=60.0)
    with pytest.raises(holdfast.LockLost):  # noqa: PT012
        async with client.lock("k", max_hold=21.0) as grant:
            kit.clock.advance(
                25.0
            )  # past the renewal that is due at 20, and past the bound, but not past the lease
            assert grant.is_lost
            assert grant.lost_code is holdfast.LossCode.MAX_HOLD
            await asyncio.Event().wait()
    await turns()
    assert kit.cluster.calls(RENEW) == []


async def test_an_orderly_end_before_the_bound_is_a_release(kit: Any, eventually: Any) -> None:
    """The bound costs nothing to whoever keeps it, and the session goes with the lock."""
    client = kit.client(ttl=9.0)
    async with client.lock("k", max_hold=5.0, progress_within=3.0):
        pass
    await eventually(lambda: len(kit.cluster.calls("sessions/close")) == 1)
    assert kit.cluster.holds == {}
    assert await client.acquire_lock("k", max_hold=5.0) is True
    kit.clock.advance(5.1)
    await turns()
    assert client.grant_of("k") is None
    assert await client.release_lock("k") is False


async def test_bounds_are_checked_where_they_are_given(kit: Any) -> None:
    """A zero, a NaN and infinity are no bounds."""
    for name in ("max_hold", "progress_within"):
        for wrong in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=name):
                kit.client().lock("k", **{name: wrong})


async def test_a_hold_that_begins_at_risk_is_warned_too(kit: Any, step: Any) -> None:
    """Renewal was already failing when the lock was granted; nobody would warn it otherwise."""
    told: list[float] = []
    client = kit.client(ttl=9.0)
    assert await client.acquire_lock("first")
    session = client._sessions._shared
    kit.cluster.script(RENEW, *[step(refuse="no_leader")] * 1000)
    await kit.drive(lambda: session._warned, by=0.05)
    left = session.lease.remaining(kit.clock.now())
    # The grant brings no better news either.
    kit.cluster.script("locks/acquire", step(extra={"remaining_ms": 1}))
    async with client.lock("second", on_at_risk=lambda _, seconds: told.append(seconds)):
        await turns()
    assert told == [pytest.approx(left, abs=0.2)]
    kit.cluster._steps.clear()


async def test_failing_renewals_can_be_seen_before_they_matter(kit: Any, step: Any) -> None:
    """A count that goes back to zero, and the last failure in the reason of the loss."""
    client = kit.client(ttl=9.0)
    with pytest.raises(holdfast.LockLost) as lost:  # noqa: PT012
        async with client.lock("k") as grant:
            assert grant.renewals_failed == 0
            kit.cluster.script(RENEW, step(refuse="no_leader"))
            await kit.drive(lambda: grant.renewals_failed == 1, by=0.05)
            await kit.drive(lambda: grant.renewals_failed == 0, by=0.05)
            kit.cluster.script(RENEW, *[step(refuse="no_leader")] * 1000)
            await kit.drive(lambda: grant.is_lost, by=0.05)
            await asyncio.Event().wait()
    assert lost.value.code is holdfast.LossCode.NOT_RENEWED
    assert "no_leader" in lost.value.reason
    assert "attempts failed" in lost.value.reason


async def test_unreachable_and_lost_are_different_things(kit: Any, step: Any) -> None:
    """A cluster that cannot be reached loses nobody's lock before the deadline; new acquires are told, and change nothing."""
    client = kit.client(ttl=9.0, timeout=1.0)
    async with client.lock("k") as grant:
        real, client._requester.transport = client._requester.transport, CutOff()
        asking = asyncio.create_task(client.acquire_lock("other"))
        await kit.drive(asking.done, by=0.05)
        with pytest.raises(holdfast.Unreachable):
            await asking
        client._requester.transport = real
        assert not grant.is_lost
        assert not issubclass(holdfast.Unreachable, holdfast.LockLost)
        assert not issubclass(holdfast.LockLost, holdfast.Unreachable)


async def test_the_body_is_cancelled_before_the_cluster_ends_the_lease(kit: Any, step: Any) -> None:
    """The client's deadline counts from the send and keeps a margin, so the two never overlap."""
    client = kit.client(ttl=9.0)
    sent_at = kit.clock.now()
    kit.cluster.script(RENEW, *[step(refuse="no_leader")] * 10_000)
    with pytest.raises(holdfast.LockLost):  # noqa: PT012
        async with client.lock("k"):
            while True:
                kit.clock.advance(0.01)
                await asyncio.sleep(0)
    assert sent_at + 8.8 < kit.clock.now() < sent_at + 9.0
    kit.cluster._steps.clear()


class TestGuard:
    """`grant.guard(seconds)`: an outside call that could not end within the hold is not started."""

    async def test_it_lets_pass_what_fits_and_refuses_the_rest(self, kit: Any) -> None:
        """The refusal is a sentence with both numbers, and says what to do."""
        async with kit.client(ttl=9.0).lock("k") as grant:
            with grant.guard(5.0) as same:
                assert same is grant
            with pytest.raises(holdfast.NotEnoughTime) as refused, grant.guard(12.0):
                pytest.fail("started a call that cannot end in time")
            assert refused.value.needed == 12.0
            assert refused.value.remaining == pytest.approx(8.9)
            assert "8.90 s more" in str(refused.value)
            assert "ttl of" in str(refused.value)

    async def test_the_bare_call_is_a_check(self, kit: Any) -> None:
        """Whoever forgets `with` is not left unprotected."""
        async with kit.client(ttl=9.0).lock("k") as grant:
            with pytest.raises(holdfast.NotEnoughTime):
                grant.guard(9.0)
            kit.clock._now += 20.0
            with pytest.raises(holdfast.NotEnoughTime):
                grant.guard(0.0)
            grant._state = "held"
            kit.clock._now -= 20.0
        with pytest.raises(holdfast.NotEnoughTime, match="released"):
            grant.guard(0.0)

    async def test_a_stored_guard_is_checked_when_it_is_entered(self, kit: Any) -> None:
        """Time may have passed since it was made."""
        async with kit.client(ttl=9.0).lock("k") as grant:
            guard = grant.guard(5.0)
            kit.clock._now += 5.0
            with pytest.raises(holdfast.NotEnoughTime), guard:
                pytest.fail("started too late")

    async def test_leaving_it_after_a_loss_raises(self, kit: Any) -> None:
        """The call took longer than it said, and the lock is gone: nothing that follows may run. Errors of the call come first."""
        with pytest.raises(holdfast.LockLost):  # noqa: PT012
            async with kit.client(ttl=9.0).lock("k") as grant:
                with grant.guard(1.0):
                    kit.clock._now += 20.0
                pytest.fail("went on without the lock")
        with pytest.raises(KeyError):  # noqa: PT012
            async with kit.client(ttl=9.0).lock("j") as grant:
                with grant.guard(1.0):
                    kit.clock._now += 20.0
                    raise KeyError

    async def test_a_bound_counts_too(self, kit: Any) -> None:
        """What is left of `max_hold` is all that is left."""
        async with kit.client(ttl=9.0).lock("k", max_hold=2.0) as grant:
            grant.guard(1.9)
            with pytest.raises(holdfast.NotEnoughTime):
                grant.guard(2.0)

    @pytest.mark.parametrize("ttl", [1.0, 10.0, 60.0, 3600.0])
    def test_what_is_usable_at_any_moment_really_is(self, ttl: float) -> None:
        """Just before a renewal is due, at the worst moment, that much is left; and 60 % of the TTL is less (as documented)."""
        lease = Lease.opened(ttl, sent_at=0.0, remaining=ttl)
        assert lease.remaining(lease.renew_at()) == pytest.approx(usable_of(ttl))
        assert ttl < 2 or usable_of(ttl) > 0.6 * ttl
        assert usable_of(ttl_for(ttl)) >= ttl

    async def test_a_guard_is_for_a_number_of_seconds(self, kit: Any) -> None:
        """Not for a negative one."""
        async with kit.client().lock("k") as grant:
            with pytest.raises(ValueError, match="seconds"):
                grant.guard(-1.0)


class TestBound:
    """The pure part."""

    def test_progress_only_moves_the_end_later(self) -> None:
        """And never past `max_hold`."""
        bound = Bound(100.0, max_hold=10.0, progress_within=4.0)
        assert bound.ends_at() == 104.0
        bound.progressed(103.0)
        assert bound.ends_at() == 107.0
        bound.progressed(109.0)
        assert bound.ends_at() == 110.0
        assert bound.risk_at(ttl=30.0) == pytest.approx(110.0 - 4.0 / 3)
        assert not bound.is_out_of_time(109.9)
        assert bound.is_out_of_time(110.0)


def test_a_hung_thread_loses_its_lock(threaded_cluster: Any) -> None:
    """The thread cannot be stopped, but its hold is not renewed any more: the background thread sees to that, and says so."""
    told = threading.Event()
    with holdfast.connect_sync(threaded_cluster.urls) as hf:
        lock = hf.lock("k", progress_within=0.05, on_lost=lambda _: told.set())
        with pytest.raises(holdfast.LockLost) as lost, lock as grant:  # noqa: PT012
            assert told.wait(10)
            assert grant.remaining() == 0.0
            with pytest.raises(holdfast.NotEnoughTime):
                grant.guard(0.0)
        assert lost.value.code is holdfast.LossCode.NO_PROGRESS
    assert "k" in threaded_cluster.holds  # left to expire


async def test_reprs_show_state_and_no_keys(kit: Any) -> None:
    """Keys may be personal data, endpoints may carry credentials."""
    client = kit.client()
    lock = client.lock("1234collectPayment")
    shown = [repr(client), repr(lock)]
    async with lock as grant:
        shown += [repr(client), repr(lock), repr(grant), repr(grant.guard(1.0)), str(grant)]
        kit.clock._now += 60.0
        shown.append(repr(grant))
        assert "lost" in shown[-1]
        kit.clock._now -= 60.0
    await client.aclose()
    shown.append(repr(client))
    blocking = holdfast.connect_sync("http://user:secret@127.0.0.1:1")
    shown += [repr(blocking), repr(blocking.lock("1234collectPayment"))]
    blocking.close()
    shown.append(repr(blocking))
    for each in shown:
        assert each.startswith("<")
        assert "1234" not in each
        assert "127.0.0.1" not in each
        assert "0x" not in each
    assert "closed" in shown[-1]
