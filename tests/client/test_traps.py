"""What went wrong in other lock clients, each as a test of this one.

The names in brackets are the public threads and sources in which the trap was seen. Two clients here are two processes; time and
faults come from `holdfast.testing`.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import TYPE_CHECKING

import pytest

import holdfast
from holdfast.fencing import MemoryGuard, Stale

if TYPE_CHECKING:
    from holdfast.testing import Cluster


@pytest.fixture
def cluster(holdfast_cluster: Cluster) -> Cluster:
    return holdfast_cluster


class TestLosing:
    """The lock is lost, or about to be."""

    async def test_a_loss_is_told_before_and_when_it_happens(self, cluster: Cluster) -> None:
        """Lock lost and nobody told [redisson#4698, etcd#6127, go-zookeeper#20, kazoo#565, db-scheduler#402]."""
        told: list[str] = []
        hf = cluster.connect(
            on_at_risk=lambda *_: told.append("at risk"), on_lost=lambda _: told.append("lost")
        )
        with pytest.raises(holdfast.LockLost):  # noqa: PT012
            async with hf.lock("k"):
                cluster.partition(hf)
                await cluster.advance(60.0)
                told.append("went on")
        await cluster.settle()
        assert told == ["at risk", "lost"]

    async def test_a_lost_lock_never_looks_held(self, cluster: Cluster) -> None:
        """`is_acquired` that stays True after LOST [kazoo]."""
        hf = cluster.connect()
        assert await hf.acquire_lock("k")
        grant = hf.grant_of("k")
        assert grant is not None
        cluster.partition(hf)
        await cluster.advance(60.0)
        assert grant.is_lost
        assert grant.remaining() == 0.0
        assert not grant.safe_for(0.0)
        assert hf.grant_of("k") is None

    async def test_the_deadline_counts_from_the_send(self, cluster: Cluster) -> None:
        """`now at receipt + TTL` believes for too long if the answer was slow [etcd Go client]. The answer to the opening takes
        three seconds here (less than a renewal would), and they are not added to the lease."""
        hf = cluster.connect(ttl=10.0)
        sent_at = cluster.now()
        entering = asyncio.create_task(hf.acquire_lock("k"))
        while not cluster._shared.table._sessions:  # noqa: ASYNC110 - the turn itself is meant
            await asyncio.sleep(0)
        cluster.pause(hf)  # the cluster has opened the session, and the answer is on its way
        await cluster.advance(3.0)
        cluster.resume(hf)
        assert await entering
        assert cluster.now() == sent_at + 3.0
        assert hf._sessions._shared is not None
        assert hf._sessions._shared.lease.deadline < sent_at + 10.0

    async def test_every_holder_ends_before_the_next_begins(self, cluster: Cluster) -> None:
        """Both active for 90 s after a partition [consul#9788, #1843; TTL is not exclusive: etcd#11457, curator#727]. Whatever the
        length of the lease: no instant at which two clients believe in the lock."""
        for ttl in (1.0, 5.0, 30.0):
            old, new = cluster.connect(ttl=ttl), cluster.connect()
            key = f"k/{ttl}"
            assert await old.acquire_lock(key)
            grant = old.grant_of(key)
            assert grant is not None
            waiting = asyncio.create_task(new.acquire_lock(key, wait=120))
            await cluster.settle()
            cluster.partition(old)
            while not waiting.done():
                await cluster.advance(0.05)
                assert grant.remaining() == 0.0 or list(cluster.held().values()).count(grant.token)
            assert grant.remaining() == 0.0
            assert await waiting

    async def test_an_election_ends_no_job(self, cluster: Cluster) -> None:
        """A leader election that ends every job [consul#1162, #5437, #830]: without a cluster for half of the lease the body goes
        on, and afterwards everything is well."""
        hf = cluster.connect(ttl=9.0)
        async with hf.lock("k") as grant:
            await cluster.advance(2.9)
            cluster.partition(hf)
            await cluster.advance(4.5)
            assert not grant.is_lost
            cluster.heal()
            await cluster.advance(60.0)
            assert grant.renewals_failed == 0
            assert grant.remaining() > 5.0

    async def test_an_outage_can_be_told_from_a_loss(self, cluster: Cluster) -> None:
        """Cannot tell outage from loss [dynamodb-lock-client#6, #29]."""
        hf, other = cluster.connect(timeout=1.0), cluster.connect()
        with pytest.raises(holdfast.LockLost) as lost:  # noqa: PT012
            async with hf.lock("k") as grant:
                cluster.partition(hf)
                await cluster.advance(5.0)
                assert (grant.is_lost, grant.renewals_failed > 0) == (False, True)
                with pytest.raises((holdfast.Unreachable, holdfast.UnknownOutcome)):
                    await cluster.run(hf.acquire_lock("other"))
                await cluster.advance(60.0)
        assert lost.value.code is holdfast.LossCode.NOT_RENEWED
        await cluster.advance(1.0)
        with pytest.raises(holdfast.LockLost) as ended:  # noqa: PT012
            async with other.lock("k") as grant:
                cluster.expire(grant)
                await cluster.advance(60.0)
        assert ended.value.code is holdfast.LossCode.SESSION_ENDED

    async def test_the_watchdog_goes_on_after_an_outage(self, cluster: Cluster) -> None:
        """A renewer that silently stops, after a reconnect for instance [redisson#5698, #3194, #3712, dynamolock#14,
        node-consul#54]."""
        hf = cluster.connect(ttl=6.0)
        async with hf.lock("k") as grant:
            for _ in range(20):
                cluster.partition(hf)
                await cluster.advance(2.0)
                cluster.heal()
                cluster.lose_reply(hf, "renew")
                await cluster.advance(4.0)
                assert not grant.is_lost
            assert grant.renewals_failed == 0

    async def test_the_renewer_does_not_outlive_the_work(self, cluster: Cluster) -> None:
        """A lock kept alive by a zombie [kubernetes python#2075, etcd#17470, redisson#7272, dynamodb-lock-client#1]: a body that
        hangs and even swallows its cancellation."""
        hf, other = cluster.connect(ttl=5.0), cluster.connect()
        over = asyncio.Event()

        async def zombie() -> None:
            async with hf.lock("k", progress_within=30.0):
                while not over.is_set():
                    try:
                        await over.wait()
                    except asyncio.CancelledError:
                        continue

        hanging = asyncio.create_task(zombie())
        await cluster.settle()
        await cluster.advance(30.0 + 5.0 + 0.1)
        async with other.lock("k") as grant:
            assert grant.previous is not None
            assert grant.previous.ended == "expired"
        over.set()
        with pytest.raises(holdfast.LockLost):
            await hanging

    async def test_a_task_that_forgets_its_lock_is_reported(
        self, cluster: Cluster, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Renewed on behalf of nobody: at least somebody is told [the same threads]. No key is in the log."""
        hf = cluster.connect()

        async def forget(key: str, *, release: bool) -> None:
            assert await hf.acquire_lock(key)
            if release:
                assert await hf.release_lock(key)

        await asyncio.create_task(forget("k1234", release=True))
        assert caplog.text == ""
        await asyncio.create_task(forget("k1234", release=False))
        await cluster.settle()
        assert "ended without releasing token 2" in caplog.text
        assert "k1234" not in caplog.text

    def test_a_thread_that_forgets_its_lock_is_reported(
        self, cluster: Cluster, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The same for a thread of a pool that is gone."""
        hf = cluster.connect_sync()

        def forget(key: str, release: bool) -> None:
            assert hf.acquire_lock(key)
            if release:
                assert hf.release_lock(key)

        for key, release in (("k1234", True), ("k1234", False)):
            thread = threading.Thread(target=forget, args=(key, release))
            thread.start()
            thread.join(10)
            assert not thread.is_alive()
            gc.collect()
            cluster.advance_sync(0.0)
            assert ("ended without releasing token 2" in caplog.text) is not release
        assert "k1234" not in caplog.text

    async def test_the_renewer_does_not_outlive_the_client(self, cluster: Cluster) -> None:
        """Renewed for ever by a task that nobody can reach [the same threads]."""
        hf, other = cluster.connect(), cluster.connect()
        assert await hf.acquire_lock("k")
        del cluster._lines[hf], hf
        gc.collect()
        assert await cluster.run(other.acquire_lock("k", wait=1.0))


class TestEntering:
    """What it means to have a lock."""

    async def test_the_body_never_runs_without_the_lock(self, cluster: Cluster) -> None:
        """`__enter__` that ignores acquire()'s False [etcd3gw, python-etcd3#599, #1314, redis-py#621, kazoo, shakenfist#276]: at
        once, after a wait in vain, when nobody can be reached, when nobody knows, and through the decorator."""
        holder, hf = cluster.connect(), cluster.connect(timeout=1.0)
        assert await holder.acquire_lock("k")

        @hf.locked("k")
        async def work() -> None:
            pytest.fail("the body ran without the lock")

        async def enter(wait: float) -> None:
            async with hf.lock("k", wait=wait):
                pytest.fail("the body ran without the lock")

        for attempt in (enter(0.0), enter(15.0), work()):
            with pytest.raises(holdfast.NotAcquired):
                await cluster.run(attempt)
        cluster.partition(hf)
        with pytest.raises((holdfast.Unreachable, holdfast.UnknownOutcome)):
            await cluster.run(enter(0.0))
        cluster.heal()
        cluster.lose_reply(hf, "acquire", times=1000)
        with pytest.raises(holdfast.UnknownOutcome):
            await cluster.run(enter(0.0))

    async def test_a_grant_for_a_dead_session_is_not_entered(self, cluster: Cluster) -> None:
        """Granted after the requester's own lease was dead [etcd#11456, #9921, curator#1121]: the process stands still between
        its acquire and the answer, for longer than its lease."""
        hf, other = cluster.connect(ttl=5.0), cluster.connect()
        assert await other.acquire_lock("k")
        tokens: list[int] = []

        async def work() -> None:
            async with hf.lock("k", wait=120) as grant:
                assert grant.remaining() > 0.0
                tokens.append(grant.token)

        working = asyncio.create_task(work())
        await cluster.settle()
        cluster.pause(hf)
        assert await other.release_lock("k")
        await cluster.settle()
        dead = cluster.held()["k"]
        await cluster.advance(20.0)
        assert cluster.held() == {}
        cluster.resume(hf)
        await cluster.run(working)
        assert len(tokens) == 1
        assert tokens[0] > dead

    async def test_wait_and_ttl_are_two_things(self, cluster: Cluster) -> None:
        """`timeout` that sets the lease and not the wait [tooz etcd3gw]; a lease time that the blocking call ignores [Redisson
        lockAndGetToken]."""
        hf, other = cluster.connect(), cluster.connect()
        blocking = cluster.connect_sync()
        async with hf.lock("k", ttl=2.0, wait=30.0) as grant:
            assert 1.9 < grant.remaining() < 2.0
            started = cluster.now()
            assert await cluster.run(other.acquire_lock("k", wait=7.0)) is False
            assert cluster.now() - started == pytest.approx(7.0, abs=0.1)
        lock = blocking.lock("j", ttl=3.0)
        blocking_grant = await asyncio.to_thread(lock.__enter__)
        assert 2.9 < blocking_grant.remaining() < 3.0
        await asyncio.to_thread(lock.__exit__, None, None, None)

    async def test_a_refusal_says_who_holds_it(self, cluster: Cluster) -> None:
        """Cannot see whose lock it is; contention invisible [hazelcast#1055, terraform#27033, ShedLock#317, OpenCTI#17341]."""
        hf, other = cluster.connect(owner="worker-3"), cluster.connect()
        assert await hf.acquire_lock("k")
        with pytest.raises(holdfast.NotAcquired) as refused:
            await other.lock("k").__aenter__()
        assert [each.owner for each in refused.value.holders] == ["worker-3"]
        assert refused.value.holders[0].remaining > 5.0


class TestTokens:
    """The number that the resource compares."""

    async def test_the_token_is_the_holder_s_own(self, cluster: Cluster) -> None:
        """A zombie that asks for "the token" gets the next holder's, and passes the fence [Redisson RFencedLock.getToken]."""
        zombie, heir = cluster.connect(ttl=5.0), cluster.connect()
        assert await zombie.acquire_lock("k")
        grant = zombie.grant_of("k")
        assert grant is not None
        before = grant.fence
        cluster.pause(zombie)
        await cluster.advance(60.0)
        assert await heir.acquire_lock("k")
        newer = heir.grant_of("k")
        assert newer is not None
        assert (grant.fence, grant.token) == (before, before)
        assert newer.fence > before
        guard = MemoryGuard()
        guard.raise_floor("k", newer.fence)
        with pytest.raises(Stale):
            guard.raise_floor("k", grant.fence)

    async def test_re_entry_does_not_change_it(self, cluster: Cluster) -> None:
        """Re-entry increments the token, and what the outer block started is refused [Redisson]."""
        hf = cluster.connect()
        async with hf.lock("k") as outer, hf.lock("k", reentrant=True) as inner:
            assert inner.fence == outer.fence

    async def test_it_rises_when_the_key_was_free_and_forgotten(self, cluster: Cluster) -> None:
        """LockIndex, sequence and leaseTransitions restart when the key is deleted [python-consul#164, ZooKeeper containers,
        fleetlock#4]; a random id has no order at all [redis-py, DynamoDB lock client]. Over all keys, and over clients."""
        tokens: list[int] = []
        for _ in range(20):
            hf = cluster.connect()
            for key in ("a", "b"):
                async with hf.lock(key) as grant:
                    tokens.append(grant.token)
            await hf.aclose()
        assert tokens == sorted(set(tokens))

    async def test_the_next_holder_learns_that_work_may_be_half_done(
        self, cluster: Cluster
    ) -> None:
        """A crashed attempt looks like none [powertools-lambda#8049, #1038]; a job outlives its lock and money moves twice
        [Truxify#14889, gumroad#7109, medusa#13301, lago-api#3017]: released, expired, and a client that gave up by itself."""
        hf, other = cluster.connect(ttl=5.0), cluster.connect()
        async with other.lock("k") as first:
            assert first.previous is None
        async with other.lock("k") as second:
            assert second.previous == holdfast.Previous(first.token, "released")
        with pytest.raises(holdfast.LockLost):  # noqa: PT012
            async with hf.lock("k") as third:
                cluster.partition(hf)
                await cluster.advance(60.0)
        cluster.heal()
        await cluster.advance(30.0)
        async with other.lock("k") as fourth:
            assert fourth.previous == holdfast.Previous(third.token, "expired")


class TestLongWork:
    """Work that takes longer than the lease."""

    async def test_it_is_renewed_for_as_long_as_it_takes(self, cluster: Cluster) -> None:
        """TTL as maximum run time [SuperteamDAO/earn#1493, celery#5306, kombu#337, ShedLock#9, factcast#2854]."""
        hf, other = cluster.connect(ttl=5.0), cluster.connect()
        async with hf.lock("k"):
            for _ in range(10):
                await cluster.advance(60.0)
                assert await other.acquire_lock("k") is False

    async def test_a_call_that_cannot_end_in_time_is_not_started(self, cluster: Cluster) -> None:
        """The lock expires in the middle of a transfer [gumroad#7109]."""
        hf = cluster.connect(ttl=10.0)
        with pytest.raises(holdfast.LockLost):  # noqa: PT012
            async with hf.lock("k") as grant:
                with grant.guard(5.0):
                    pass
                cluster.partition(hf)
                await cluster.advance(6.0)
                with pytest.raises(holdfast.NotEnoughTime), grant.guard(5.0):
                    pytest.fail("the transfer was started")
                await cluster.advance(60.0)


class TestGivingUp:
    """Cancelled, timed out, killed (each at every point: `test_cancellation.py`; processes: `test_ending.py`)."""

    async def test_a_cancelled_release_strands_nothing(self, cluster: Cluster) -> None:
        """async release cancelled, then a deadlock [redis-py#3847]."""
        hf, other = cluster.connect(), cluster.connect()
        assert await hf.acquire_lock("k")
        cluster.lose_reply(hf, "release", times=3)
        releasing = asyncio.create_task(hf.release_lock("k"))
        await asyncio.sleep(0)
        releasing.cancel()
        assert await cluster.run(other.acquire_lock("k", wait=5.0))

    async def test_a_wait_that_timed_out_is_not_granted_later(self, cluster: Cluster) -> None:
        """Timed out but granted [etcd-cpp-apiv3#115]; a waiter's node left behind blocks everybody [curator#600, #1193,
        kazoo#760, #732, aiozk#34]."""
        hf, gone, other = cluster.connect(), cluster.connect(), cluster.connect()
        assert await hf.acquire_lock("k")
        with pytest.raises(TimeoutError):  # noqa: PT012
            async with asyncio.timeout(None) as bound:
                asking = gone.acquire_lock("k", wait=60)
                bound.reschedule(asyncio.get_running_loop().time())
                await asking
        await cluster.settle()
        assert cluster.waiting("k") == 0
        assert await hf.release_lock("k")
        await cluster.settle()
        assert cluster.held() == {}
        assert await other.acquire_lock("k")

    async def test_wait_for_does_not_hide_the_owner(self, cluster: Cluster) -> None:
        """`wait_for` runs a call in a task of its own (Python 3.11), which then owns the lock, and nobody can release it."""
        hf = cluster.connect()
        assert await asyncio.wait_for(hf.acquire_lock("k"), 60)
        assert hf.grant_of("k") is not None
        assert await asyncio.wait_for(hf.release_lock("k"), 60)
        assert cluster.held() == {}

    async def test_a_release_never_takes_somebody_else_s_lock(self, cluster: Cluster) -> None:
        """Reacquire that deletes another's lock and returns True [redis-py#4279]: the late release of a holder that lost it."""
        hf, other = cluster.connect(ttl=5.0), cluster.connect()
        assert await hf.acquire_lock("k")
        cluster.pause(hf)
        await cluster.advance(60.0)
        assert await other.acquire_lock("k")
        cluster.resume(hf)
        assert await hf.release_lock("k") is False
        assert list(cluster.held()) == ["k"]
        assert await other.release_lock("k") is True

    async def test_a_dead_process_blocks_nobody_for_longer_than_its_lease(
        self, cluster: Cluster
    ) -> None:
        """Lock stuck after SIGKILL or a deploy [sidekiq-unique-jobs#546, celery-once#147, celery-singleton#40, terraform#16652]."""
        hf, other = cluster.connect(ttl=10.0), cluster.connect()
        assert await hf.acquire_lock("k")
        cluster.pause(hf)
        started = cluster.now()
        assert await cluster.run(other.acquire_lock("k", wait=60.0))
        assert cluster.now() - started <= 10.0


class TestCost:
    """What it costs the cluster, and the client."""

    async def test_waiting_is_not_polling(self, cluster: Cluster) -> None:
        """Herd and polling: 0.1 s [consul#7523, #9469, python-redis-lock#104, lablup/backend.ai#1501]. One call, asked again every
        10 s, and the release wakes it at once."""
        hf, other = cluster.connect(), cluster.connect()
        assert await hf.acquire_lock("k")
        sent: list[str] = []
        real = other._requester.transport.attempt

        async def attempt(endpoint: str, request: object, *, seconds: float) -> object:
            sent.append(request.path)  # type: ignore[attr-defined]
            return await real(endpoint, request, seconds=seconds)  # type: ignore[arg-type]

        other._requester.transport.attempt = attempt  # type: ignore[method-assign, assignment]
        waiting = asyncio.create_task(other.acquire_lock("k", wait=None))
        await cluster.advance(60.0)
        assert sent.count("/v1/locks/acquire") == 7
        before = cluster.now()
        assert await hf.release_lock("k")
        assert await waiting
        assert cluster.now() == before

    async def test_nothing_is_kept_for_a_lock_that_is_over(self, cluster: Cluster) -> None:
        """Per-lock state leaks, deadly with a lock for each payment [redisson#6510, Hazelcast]."""
        hf = cluster.connect()
        for number in range(500):
            async with hf.lock(f"payments/{number}"):
                pass
        session = hf._sessions._shared
        assert session is not None
        assert (len(hf._holds), len(hf._holds._plain), len(session._holds)) == (0, 0, 0)
        assert session.ids.spread == 0
        assert len(session.ids._done) == 0
        assert not any(each.done() for each in session._chores._tasks)
        assert len(session._chores._tasks) == 2  # the renewer and the watcher

    async def test_several_keys_in_any_order_do_not_deadlock(self, cluster: Cluster) -> None:
        """Two orders of two keys [redisson#1160, node-redlock#305, DistributedLock#236, medusa#16284]."""
        clients = [cluster.connect() for _ in range(6)]
        done: list[int] = []

        async def work(number: int, hf: holdfast.AsyncClient) -> None:
            keys = ["order", "customer", "invoice"]
            async with hf.lock(keys[number % 3 :] + keys[: number % 3], wait=None):
                await cluster.sleep(1.0)
                done.append(number)

        await cluster.run(asyncio.gather(*(work(n, hf) for n, hf in enumerate(clients))))
        assert sorted(done) == list(range(6))


class TestReaching:
    """The network is not there."""

    async def test_every_call_ends(self, cluster: Cluster) -> None:
        """Acquire hangs after a reconnect, calls without a deadline [kazoo#282, #646, python-etcd3#616, #2098, etcd#13097,
        hazelcast#17436, redisson#4822]."""
        hf = cluster.connect(timeout=5.0)
        assert await hf.acquire_lock("mine")
        cluster.partition(hf)
        for call in (hf.acquire_lock("k"), hf.acquire_lock("k", wait=3.0), hf.status()):
            with pytest.raises(holdfast.HoldfastError):
                await cluster.run(call, limit=60.0)
        assert await cluster.run(hf.release_lock("mine"), limit=60.0) is False
        await cluster.run(hf.aclose(), limit=60.0)

    async def test_a_wait_for_ever_survives_an_outage(self, cluster: Cluster) -> None:
        """Hangs after the reconnect, though the lock is free [kazoo#282, open since 2015]: the session is lost meanwhile, too."""
        hf, other = cluster.connect(ttl=5.0), cluster.connect()
        assert await other.acquire_lock("k")
        waiting = asyncio.create_task(hf.acquire_lock("k", wait=None))
        await cluster.settle()
        cluster.partition(hf)
        await cluster.advance(8.0)
        cluster.heal()
        assert await other.release_lock("k")
        assert await cluster.run(waiting, limit=120.0) is True

    async def test_a_wall_clock_decides_nothing(
        self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Leases compared on clients' wall clocks [kazoo NonBlockingLease, Consul lock-delay]."""

        def jumped() -> float:
            raise AssertionError("somebody looked at a wall clock")

        monkeypatch.setattr("time.time", jumped)
        hf = cluster.connect()
        async with hf.lock("k") as grant:
            await cluster.advance(60.0)
            assert grant.remaining() > 6.0

    def test_threads_share_a_client(self, cluster: Cluster) -> None:
        """Many threads, one client, one session; a lock belongs to its thread [python-etcd3#150, #1107]."""
        hf = cluster.connect_sync()
        together, got = threading.Barrier(8), []

        def compete(number: int) -> None:
            together.wait(10)
            if hf.acquire_lock("k"):
                got.append(number)
            with hf.lock(f"own/{number}") as grant:
                assert grant.safe_for(1.0)

        threads = [threading.Thread(target=compete, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(got) == 1
        assert hf._core is not None
        assert len(hf._core.client._sessions) == 1
