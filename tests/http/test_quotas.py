"""What one tenant may use: counted exactly by the machine, and how often it may ask by each node for itself."""

from __future__ import annotations

import asyncio

import pytest

from holdfast_coordinator.config import Rate
from holdfast_coordinator.http import Metrics
from holdfast_coordinator.http.problems import Problem
from holdfast_coordinator.http.rates import Rates
from holdfast_coordinator.machine import Limits, Quota

ALICE = "alice-0123456789abcdef"


class Clock:
    """Seconds; only the test moves it."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _refused(rates: Rates, *keys: str, owner: str | None = None) -> Problem | None:
    try:
        rates.ask(keys, owner)
    except Problem as problem:
        return problem
    return None


def test_a_second_may_come_at_once_and_then_one_at_a_time(clock):
    """A crowd that starts together is let in; who floods is told when there will be room."""
    rates = Rates([Rate("pay/", None, 4)], clock)
    assert [_refused(rates, "pay/1") for _ in range(4)] == [None] * 4
    refused = _refused(rates, "pay/2")
    assert refused is not None
    assert (refused.code, refused.limit) == ("limit_reached", "quota.acquires_per_second:pay/")
    assert refused.retry_after_ms == 250
    clock.now += 0.1
    refused = _refused(rates, "pay/2")
    assert refused is not None
    assert refused.retry_after_ms == 150
    clock.now += refused.retry_after_ms / 1000
    assert _refused(rates, "pay/2") is None
    assert _refused(rates, "pay/2") is not None
    clock.now += 3_600
    assert [_refused(rates, "pay/1") is None for _ in range(5)] == [True] * 4 + [False]


def test_a_rate_concerns_its_tenant_and_no_other(clock):
    """By prefix of any of the keys, or by owner; a refusal takes nothing from the other buckets that it would have counted for."""
    rates = Rates([Rate(None, "batch", 1), Rate("pay/", None, 1)], clock)
    assert _refused(rates, "other") is None
    assert _refused(rates, "a", "pay/1", owner="web") is None
    by_prefix = _refused(rates, "a", "pay/1", owner="batch")
    assert by_prefix is not None
    assert by_prefix.limit == "quota.acquires_per_second:pay/"
    assert _refused(rates, "a", owner="batch") is None
    by_owner = _refused(rates, "a", owner="batch")
    assert by_owner is not None
    assert by_owner.limit == "quota.acquires_per_second:owner batch"


def test_without_a_rate_nothing_is_asked(clock):
    assert not Rates([], clock)
    assert Rates([Rate("p", None, 1)], clock)


async def test_what_comes_too_often_is_refused_before_the_cluster_hears_of_it(serve, node, clock):
    """With the limit's name and when to come again; other tenants notice nothing."""
    metrics = Metrics(clock)
    caller = await serve(node, rates=[Rate("pay/", None, 2)], metrics=metrics)
    assert [(await caller.acquire(f"pay/{n}")).status for n in range(2)] == [200, 200]
    before, heard = node.machine.state_hash(), len(node.submitted)
    refused = await caller.acquire("pay/2")
    assert (refused.status, refused.code) == (429, "limit_reached")
    assert refused.body["limit"] == "quota.acquires_per_second:pay/"
    assert refused.body["retry_after_ms"] == 500
    assert refused.headers["Retry-After"] == "1"
    assert (node.machine.state_hash(), len(node.submitted)) == (before, heard)
    assert (await caller.acquire("other")).status == 200
    clock.now += 0.5
    assert (await caller.acquire("pay/2")).status == 200
    text = (await caller.get("/metrics")).raw.decode()
    line = 'holdfast_limit_reached_total{limit="quota.acquires_per_second:pay/"} 1.0'
    assert line in text.splitlines()


async def test_who_asks_again_is_not_asking_once_more(serve, node, clock):
    """time 0: the answer to a request is lost, or its wait goes on. time 1: it is asked again under the same id. A refusal now
    would look like the outcome of the request, and might cost it its place in the queue."""
    caller = await serve(node, rates=[Rate(None, "batch", 2)], metrics=Metrics(clock))
    await caller.post("/v1/sessions", {"session": ALICE, "ttl_ms": 60_000, "owner": "batch"})
    assert (await caller.acquire("k", session=ALICE, request_id=1)).body["token"] == 1
    waiting = [asyncio.create_task(caller.acquire("k", session=ALICE, request_id=2, wait_ms=9_000))]
    await node.queued.wait()
    assert (await caller.acquire("k", session=ALICE, request_id=3)).status == 429
    assert (await caller.acquire("k", session=ALICE, request_id=1)).body["token"] == 1
    node.queued.clear()
    waiting.append(
        asyncio.create_task(caller.acquire("k", session=ALICE, request_id=2, wait_ms=9_000))
    )
    await node.queued.wait()
    await caller.post("/v1/locks/release", {"session": ALICE, "token": 1})
    taken_over, granted = await asyncio.gather(*waiting)
    assert (taken_over.code, granted.body["token"]) == ("unknown_outcome", 2)


async def test_a_quota_of_holds_names_itself(serve, make_node):
    """Exact and the same on all nodes, because the machine counts; a release makes room."""
    limits = Limits(quotas=(Quota(prefix="pay/", holds=1, waiters=1),))
    node = make_node(limits)
    caller = await serve(node, machine_limits=limits)
    grant = (await caller.acquire("pay/1")).body
    before = node.hash_but_for_counters()
    refused = await caller.acquire("pay/2")
    assert (refused.status, refused.code) == (429, "limit_reached")
    assert refused.body["limit"] == "quota.holds:pay/"
    assert "retry_after_ms" not in refused.body
    assert node.hash_but_for_counters() == before
    assert (await caller.acquire("other")).status == 200
    await caller.post("/v1/locks/release", {"token": 1, "session": grant["session"]})
    assert (await caller.acquire("pay/2")).status == 200


async def test_a_quota_of_sessions_is_by_owner(serve, make_node):
    limits = Limits(quotas=(Quota(owner="batch", sessions=1),))
    caller = await serve(make_node(limits), machine_limits=limits)
    first = await caller.post("/v1/sessions", {"ttl_ms": 10_000, "owner": "batch"})
    assert first.status == 201
    refused = await caller.post("/v1/sessions", {"ttl_ms": 10_000, "owner": "batch"})
    assert (refused.status, refused.body["limit"]) == (429, "quota.sessions:owner batch")
    assert (await caller.post("/v1/sessions", {"ttl_ms": 10_000, "owner": "web"})).status == 201
