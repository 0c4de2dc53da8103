"""The simulated cluster: real clients, real semantics; the test's time and the test's faults."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import holdfast
from holdfast.testing import Cluster

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def cluster(holdfast_cluster: Cluster) -> Cluster:
    return holdfast_cluster


async def test_one_holder_at_a_time(cluster: Cluster) -> None:
    """Two clients are two processes; who waits is granted at the release, in order."""
    first, second = cluster.connect(owner="first"), cluster.connect(owner="second")
    assert await first.acquire_lock("k")
    assert await second.acquire_lock("k") is False
    waiting = asyncio.create_task(second.acquire_lock("k", wait=5))
    await cluster.settle()
    assert cluster.waiting("k") == 1
    assert await first.release_lock("k")
    assert await waiting is True
    assert list(cluster.held()) == ["k"]
    assert (await first.read_lock("k")).holders[0].owner == "second"


async def test_time_moves_only_when_it_is_moved(cluster: Cluster) -> None:
    """A held lock is renewed for as long as the test likes, in no time at all; a wait ends at its instant."""
    hf, other = cluster.connect(), cluster.connect()
    async with hf.lock("k") as grant:
        await cluster.advance(600.0)
        assert grant.remaining() > 6.0
        started = cluster.now()
        waiting = asyncio.create_task(other.acquire_lock("k", wait=7.5))
        await cluster.advance(7.4)
        assert not waiting.done()
        await cluster.advance(0.2)
        assert await waiting is False
        assert cluster.now() == pytest.approx(started + 7.6)


async def test_what_has_just_begun_is_not_jumped_over(cluster: Cluster) -> None:
    """A session that is opened while the time is being moved is renewed in that time, too."""
    hf = cluster.connect(ttl=5.0)
    getting = asyncio.create_task(hf.acquire_lock("k"))
    await cluster.advance(100.0)
    assert await getting
    assert len(cluster.held()) == 1


async def test_a_lease_that_the_cluster_ended(cluster: Cluster) -> None:
    """The next holder is told, with a higher token; the old one hears of it at its next renewal, and its body is cancelled."""
    lost: list[int] = []
    hf, other = cluster.connect(on_lost=lambda grant: lost.append(grant.token)), cluster.connect()
    with pytest.raises(holdfast.LockLost) as raised:  # noqa: PT012
        async with hf.lock("k") as grant:
            cluster.expire(grant)
            assert not grant.is_lost
            async with other.lock("k") as next_grant:
                assert next_grant.token > grant.token
                assert next_grant.previous == holdfast.Previous(grant.token, "expired")
            await cluster.advance(5.0)
            pytest.fail("the body went on")
    assert raised.value.code is holdfast.LossCode.SESSION_ENDED
    await cluster.settle()
    assert lost == [grant.token]
    with pytest.raises(ValueError, match="nobody holds"):
        cluster.expire(grant)


async def test_a_partition(cluster: Cluster) -> None:
    """At risk first, lost at the client's own deadline, which is before the cluster's; healed, it works again."""
    told: list[tuple[str, float]] = []
    hf = cluster.connect(
        ttl=9.0, timeout=2.0, on_at_risk=lambda _, left: told.append(("risk", left))
    )
    other = cluster.connect()
    with pytest.raises(holdfast.LockLost) as raised:  # noqa: PT012
        async with hf.lock("k", on_lost=lambda _: told.append(("lost", cluster.now()))) as grant:
            sent_at = cluster.now()
            cluster.partition(hf)
            await cluster.advance(8.0)
            assert grant.renewals_failed > 0
            assert cluster.held() == {"k": grant.token}
            await cluster.advance(5.0)
    assert raised.value.code is holdfast.LossCode.NOT_RENEWED
    await cluster.settle()
    assert told[0] == ("risk", pytest.approx(3.0))
    assert told[1] == ("lost", pytest.approx(sent_at + 9.0 * 0.99 - 0.01))
    asking = asyncio.create_task(hf.acquire_lock("k"))
    await cluster.advance(3.0)
    with pytest.raises((holdfast.Unreachable, holdfast.UnknownOutcome)):
        await asking
    assert await other.acquire_lock("k")
    assert await other.release_lock("k")
    cluster.heal()
    assert await hf.acquire_lock("k") is True


async def test_what_was_on_its_way_stays_lost(cluster: Cluster) -> None:
    """A waiter is granted while its client is cut off: the cluster believes in the hold, the client never hears of it by
    that answer, and asks again when it can."""
    hf, other = cluster.connect(), cluster.connect()
    assert await other.acquire_lock("k")
    waiting = asyncio.create_task(hf.acquire_lock("k", wait=60))
    await cluster.settle()
    cluster.partition(hf)
    assert await other.release_lock("k")
    await cluster.settle()
    assert list(cluster.held()) == ["k"]
    assert not waiting.done()
    cluster.heal()
    await cluster.settle()
    assert not waiting.done()
    await cluster.advance(12.0)
    assert await waiting is True


async def test_a_pause(cluster: Cluster) -> None:
    """Nothing of the client runs, though time passes: no renewal, no cancellation. It wakes up and finds out."""
    hf, other = cluster.connect(ttl=5.0), cluster.connect()
    go_on = asyncio.Event()
    seen: list[str] = []

    async def work() -> None:
        async with hf.lock("k"):
            await go_on.wait()
            seen.append("woke up inside the block")
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await cluster.settle()
    cluster.pause(hf)
    await cluster.advance(60.0)
    assert await other.acquire_lock("k")
    assert not working.done()
    go_on.set()
    await cluster.settle()
    assert seen
    assert not working.done()
    cluster.resume(hf)
    with pytest.raises(holdfast.LockLost):
        await working


@pytest.mark.parametrize("lose", ["lose_reply", "lose_request"])
async def test_a_lost_message_costs_nothing(cluster: Cluster, lose: str) -> None:
    """Asked again under the same request id: one grant, whether the first one acted or not."""
    hf = cluster.connect()
    getattr(cluster, lose)(hf, "open")
    getattr(cluster, lose)()
    getattr(cluster, lose)(call="release", times=2)
    async with hf.lock("k") as grant:
        assert grant.token == 1
    assert cluster.held() == {}
    assert cluster._losses == []
    assert await hf.acquire_lock("k")
    assert hf.grant_of("k").token == 2  # type: ignore[union-attr]


async def test_an_unknown_outcome(cluster: Cluster) -> None:
    """Every reply is lost until the time is over: the caller is told that nobody knows, and the lock is given back."""
    hf = cluster.connect(timeout=3.0)
    await hf.acquire_lock("warm")
    cluster.lose_reply(hf, "acquire", times=1000)
    asking = asyncio.create_task(hf.acquire_lock("k"))
    await cluster.advance(5.0)
    with pytest.raises(holdfast.UnknownOutcome):
        await asking
    assert list(cluster.held()) == ["warm"]


async def test_mistakes_are_named(cluster: Cluster) -> None:
    """A client of another cluster, a call that there is not, time that goes back."""
    stranger = Cluster().connect()
    with pytest.raises(ValueError, match="not one of this cluster"):
        cluster.partition(stranger)
    with pytest.raises(ValueError, match="a call is one of"):
        cluster.lose_reply(call="acqire")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="back"):
        await cluster.advance(-1.0)
    assert "Cluster at 1000s" in repr(cluster)


async def test_a_cluster_is_closed_with_its_clients() -> None:
    """`async with` for those who do not use the fixture."""
    async with Cluster() as cluster:
        hf = cluster.connect()
        assert await hf.acquire_lock("k")
        cluster.partition(hf)
    assert cluster.held() == {}
    with pytest.raises(holdfast.ClientClosed):
        await hf.acquire_lock("k")


async def test_the_same_test_always_goes_the_same_way() -> None:
    """No real clock, no chance: two runs of a story tell it alike, to the instant."""

    async def story() -> list[tuple[str, float]]:
        told: list[tuple[str, float]] = []
        async with Cluster() as cluster:
            hf = cluster.connect(
                ttl=4.0,
                on_at_risk=lambda _, left: told.append(("risk", left)),
                on_lost=lambda _: told.append(("lost", cluster.now())),
            )
            other = cluster.connect()
            assert await hf.acquire_lock("k")
            waiting = asyncio.create_task(other.acquire_lock("k", wait=30))
            cluster.lose_reply(hf, "renew", times=3)
            await cluster.advance(10.0)
            cluster.partition(hf)
            await cluster.advance(10.0)
            told.append(("granted", float(waiting.done())))
        return told

    assert await story() == await story()


async def test_run_moves_the_time_as_far_as_it_has_to(cluster: Cluster) -> None:
    """A wait that has to end by itself, and one that never would."""
    hf, other = cluster.connect(), cluster.connect()
    assert await hf.acquire_lock("k")
    started = cluster.now()
    assert await cluster.run(other.acquire_lock("k", wait=42.0)) is False
    assert cluster.now() == pytest.approx(started + 42.0)
    with pytest.raises(TimeoutError, match="do not bring"):
        await cluster.run(other.acquire_lock("k", wait=None), limit=100.0)
    await cluster.settle()
    assert cluster.waiting("k") == 0
    with pytest.raises(ZeroDivisionError):
        await cluster.run(asyncio.to_thread(lambda: 1 / 0))


class TestBlocking:
    """The same for `connect_sync`: nothing sleeps there either."""

    def test_time_is_moved_from_the_test_s_thread(self, cluster: Cluster) -> None:
        """Renewals happen on the client's own thread, at their instants."""
        hf, other = cluster.connect_sync(ttl=5.0), cluster.connect_sync()
        with hf.lock("k") as grant:
            cluster.advance_sync(600.0)
            assert grant.remaining() > 3.0
            assert other.acquire_lock("k") is False
        assert other.acquire_lock("k") is True

    def test_a_waiting_call_waits_for_the_test(self, cluster: Cluster) -> None:
        """Until the lock is free, or the time is over."""
        hf, other = cluster.connect_sync(), cluster.connect_sync()
        assert hf.acquire_lock("k")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(other.acquire_lock, "k", 30.0)
            wait_for(lambda: cluster.waiting("k") == 1)
            cluster.advance_sync(29.0)
            assert not waiting.done()
            cluster.advance_sync(2.0)
            assert waiting.result(10) is False

    def test_a_lost_lock_is_told(self, cluster: Cluster) -> None:
        """On a thread, and by `LockLost` at the end of the block."""
        told = threading.Event()
        hf = cluster.connect_sync(on_lost=lambda _: told.set())
        with pytest.raises(holdfast.LockLost), hf.lock("k") as grant:  # noqa: PT012
            cluster.expire(grant)
            cluster.advance_sync(4.0)
            assert told.wait(10)
            assert grant.is_lost

    def test_a_lock_at_risk_is_told_too(self, cluster: Cluster) -> None:
        """With the seconds that are left, from a thread on which the client may be used; and it can still be released."""
        told: list[tuple[float, bool]] = []
        called = threading.Event()

        def on_at_risk(grant: holdfast.Grant, left: float) -> None:
            told.append((left, grant.is_lost))
            called.set()

        hf = cluster.connect_sync(ttl=9.0, on_at_risk=on_at_risk)
        with hf.lock("k"):
            cluster.partition(hf)
            cluster.advance_sync(6.0)
            assert called.wait(10)
            cluster.heal()
            cluster.advance_sync(2.0)
        assert told == [(pytest.approx(3.0), False)]
        assert cluster.held() == {}

    def test_a_hung_worker_loses_its_lock(self, cluster: Cluster) -> None:
        """`progress_within` in virtual time: the thread does nothing, and the client's own thread gives up for it."""
        hf, other = cluster.connect_sync(ttl=5.0), cluster.connect_sync()
        with pytest.raises(holdfast.LockLost), hf.lock("k", progress_within=20.0) as grant:  # noqa: PT012
            for _ in range(5):
                cluster.advance_sync(19.0)
                grant.progress()
            cluster.advance_sync(20.0)
            assert grant.is_lost
            cluster.advance_sync(5.0)
            with other.lock("k") as next_grant:
                assert next_grant.previous == holdfast.Previous(grant.token, "expired")

    async def test_both_faces_share_one_cluster(self, cluster: Cluster) -> None:
        """A blocking worker and an asynchronous one, in one test."""
        blocking, hf = cluster.connect_sync(), cluster.connect()
        assert await asyncio.to_thread(blocking.acquire_lock, "k")
        assert await hf.acquire_lock("k") is False
        await cluster.advance(120.0)
        assert await hf.acquire_lock("k") is False


def wait_for(condition: Callable[[], object]) -> None:
    """Another thread has to come so far; bounded, and only a turn at a time."""
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.005)
    pytest.fail("it never came true")


async def test_a_worker_may_sleep_on_the_cluster_s_time(cluster: Cluster) -> None:
    """What `asyncio.sleep` is outside."""
    sleeping = asyncio.create_task(cluster.sleep(100.0))
    await cluster.advance(99.9)
    assert not sleeping.done()
    await cluster.advance(0.2)
    assert sleeping.done()


def test_the_plugin_costs_nothing_until_it_is_used() -> None:
    """pytest loads it in every project in whose environment Holdfast is installed."""
    script = "import sys, holdfast.pytest_plugin; print([m for m in ('aiohttp', 'asyncio') if m in sys.modules])"
    told = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    assert told.stdout.strip() == "[]"
