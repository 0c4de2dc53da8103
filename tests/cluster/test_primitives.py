"""The whole lock service through the client against three real processes: what the pages do not show, and the blocking face."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import holdfast
from holdfast.verifying import verify
from holdfast_coordinator.local_cluster import LocalCluster

if TYPE_CHECKING:
    pass

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(120)]


def test_the_blocking_face_has_all_of_it(cluster: LocalCluster) -> None:
    """Shared, semaphore, checkpoint, done record, election, watch, history, export, explain, operator: each by a plain call."""
    with (
        holdfast.connect_sync(cluster.endpoints, owner="one") as one,
        holdfast.connect_sync(cluster.endpoints, owner="two") as two,
        one.watch("blocking/", timeout=10) as watch,
    ):
        with one.shared("blocking/r") as first, two.shared("blocking/r") as second:
            assert first.fence == second.fence
        with one.semaphore("blocking/s", 1) as permit:
            assert permit.fence is None
            with pytest.raises(holdfast.NotAcquired), two.semaphore("blocking/s", 1):
                pytest.fail("a second permit of one")
        with one.lock("blocking/k") as grant:
            grant.checkpoint("half")
            explained = two.explain("blocking/k")
            assert explained.lock.checkpoint == holdfast.Checkpoint(grant.token, "half")
            assert explained.lock.holders[0].context == "thread 1"
            grant.complete("psp-1", retain=60)
        with pytest.raises(holdfast.AlreadyDone) as done, two.lock("blocking/k"):
            pytest.fail("worked again")
        assert done.value.result == "psp-1"
        assert [each.key for each in two.closures("blocking/", by="done").closed] == ["blocking/k"]
        assert two.resolve("blocking/k", token=grant.token, reason="r", operator="o")
        with one.election("blocking/e").campaign() as leadership:
            observing = two.election("blocking/e").observe(timeout=10)
            assert next(observing) == holdfast.Leader("one", leadership.epoch)
            assert leadership.resign()
            assert next(observing) is None
            observing.close()
            assert not leadership.is_leader
        with pytest.raises(holdfast.Refused) as refused:
            two.force_release("blocking/e", reason="r", operator="o")
        assert refused.value.code == "not_held"
        seen = []
        for event in watch:
            seen.append((event.kind, event.ended))
            if event.keys == ("blocking/e",) and event.kind == "ended":
                break
        assert seen.count(("ended", "completed")) == 1
        kinds = [record.kind for record in one.history("blocking/k")]
        assert kinds == ["granted", "ended", "resolved"]
        found = verify(b"".join(one.export_history()).splitlines())
        assert found.last_revision >= (watch.revision or 0)


def test_two_threads_that_wait_for_each_other_are_told(cluster: LocalCluster) -> None:
    """One client, one session: the cluster tells the threads apart by their names."""
    both = threading.Barrier(2)
    with holdfast.connect_sync(cluster.endpoints) as hf, ThreadPoolExecutor(2) as threads:

        def transfer(source: str, target: str) -> str:
            with hf.lock(source):
                both.wait(20)
                try:
                    with hf.lock(target, wait=20):
                        return "done"
                except holdfast.Deadlock as deadlock:
                    return f"deadlock of {len(deadlock.cycle)}"

        one, other = (
            threads.submit(transfer, *keys)
            for keys in (("thread/a", "thread/b"), ("thread/b", "thread/a"))
        )
        assert sorted([one.result(), other.result()]) == ["deadlock of 2", "done"]


def test_two_tasks_with_the_same_text_are_not_one(
    cluster: LocalCluster, runner: asyncio.Runner
) -> None:
    """time 0: A holds k, B holds j, both say "collect"; time 1: A waits for j, which is no circle: B goes on and A gets it."""

    async def story() -> int:
        async with holdfast.connect(cluster.endpoints) as hf:
            held, waiting = asyncio.Event(), asyncio.Event()

            async def holder() -> None:
                async with hf.lock("same/j", context="collect") as grant:
                    held.set()
                    await waiting.wait()
                    while not (await hf.read_lock("same/j")).waiters:
                        pass  # each round is a linearizable read over the network
                    assert grant.remaining() > 0

            holding = asyncio.create_task(holder())
            await held.wait()
            async with hf.lock("same/k", context="collect"):
                waiting.set()
                async with hf.lock("same/j", wait=20, context="collect") as grant:
                    await holding
                    return grant.token

    assert runner.run(story()) > 0


def test_a_watch_survives_the_death_of_its_node(
    cluster: LocalCluster, runner: asyncio.Runner
) -> None:
    """Every node is killed in turn while locks come and go: each event comes once, in order, and none is missing."""

    async def story() -> tuple[list[int], list[int]]:
        tokens: list[int] = []
        seen: list[int] = []
        async with (
            holdfast.connect(cluster.endpoints) as worker,
            holdfast.connect(cluster.endpoints) as observer,
            observer.watch("turn/") as watch,
        ):

            async def follow() -> None:
                async for event in watch:
                    if isinstance(event, holdfast.Record) and event.kind == "granted":
                        seen.append(event.token)
                        if event.keys == ("turn/last",):
                            return

            following = asyncio.create_task(follow())
            for name in cluster.names:
                for number in range(5):
                    async with worker.lock(f"turn/{number}", wait=20) as grant:
                        tokens.append(grant.token)
                await cluster.kill(name)
                async with worker.lock("turn/between", wait=20) as grant:
                    tokens.append(grant.token)
                await cluster.start(name)
            async with worker.lock("turn/last", wait=20) as grant:
                tokens.append(grant.token)
            await following
        return tokens, seen

    tokens, seen = runner.run(story())
    assert seen == tokens


def test_a_forced_out_holder_of_a_shared_session_keeps_its_other_locks(
    cluster: LocalCluster, runner: asyncio.Runner
) -> None:
    """One hold is lost, its body cancelled; the session and what else it holds go on, and the next holder has a greater token."""

    async def story() -> None:
        async with (
            holdfast.connect(cluster.endpoints, ttl=3) as worker,
            holdfast.connect(cluster.endpoints) as admin,
            worker.lock("forced/other") as other,
        ):
            with pytest.raises(holdfast.LockLost) as lost:  # noqa: PT012 - raised when the block is left
                async with worker.lock("forced/k"):
                    forced = await admin.force_release("forced/k", reason="hung", operator="olga")
                    await asyncio.get_running_loop().create_future()
            assert lost.value.code == holdfast.LossCode.FORCED
            assert other.remaining() > 0
            async with admin.lock("forced/k") as grant:
                assert grant.token > forced.floor
                assert grant.previous == holdfast.Previous(forced.tokens[0], "forced", forced.floor)

    runner.run(story())
