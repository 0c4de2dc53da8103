"""Shared holds, semaphores, unclean ends, checkpoints, done records, force, deadlocks: each as its caller sees it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from holdfast_coordinator.machine import Acquire, Limits, Quota, Terms

if TYPE_CHECKING:
    from .conftest import Caller, FakeNode, Reply

ALICE = "alice-0123456789abcdef"
BOB = "bob-0123456789abcdef"
CAROL = "carol-0123456789abcdef"
BY_OPS = {"reason": "its machine burned", "operator": "ops@example.org"}


@pytest.fixture
async def workers(caller: Caller) -> Caller:
    """Three sessions are open, each good for ten seconds."""
    for session in (ALICE, BOB, CAROL):
        assert (await caller.open(session)).status == 201
    return caller


def _refused(reply: Reply, status: int, code: str) -> dict[str, Any]:
    assert (reply.status, reply.code) == (status, code)
    body: dict[str, Any] = reply.body
    return body


async def _expire(node: FakeNode, caller: Caller, *alive: str) -> None:
    """Everybody's lease runs out but that of `alive`."""
    for _ in range(3):
        node.advance(5_000)
        for session in alive:
            await caller.post("/v1/sessions/renew", {"session": session})


# -- modes -----------------------------------------------------------------------------------------------------------------


async def test_every_term_of_an_acquire_reaches_the_machine(workers, node):
    """No field is dropped on the way."""
    await workers.acquire("k", session=ALICE, mode="shared", limit=3, require_clean=True)
    terms = Terms("shared", 3, "grant", 0, require_clean=True)
    assert node.submitted[-1] == Acquire(("k",), ALICE, terms=terms)
    await workers.acquire("j", session=ALICE, on_unclean="delay", delay_ms=5_000)
    assert node.submitted[-1] == Acquire(
        ("j",), ALICE, terms=Terms("exclusive", None, "delay", 5_000)
    )


async def test_readers_of_one_phase_share_a_fence_and_a_writer_waits_for_them(workers):
    first = (await workers.acquire("k", session=ALICE, mode="shared")).body
    second = (await workers.acquire("k", session=BOB, mode="shared")).body
    assert (first["token"], second["token"]) == (1, 2)
    assert first["fence"] == second["fence"] == 1
    assert first["mode"] == "shared"
    assert "limit" not in first
    refused = _refused(await workers.acquire("k", session=CAROL), 409, "held")
    assert [holder["mode"] for holder in refused["holders"]] == ["shared", "shared"]


async def test_a_shared_hold_of_several_keys_has_a_fence_for_each(workers):
    """Their phases may have begun at different times."""
    await workers.acquire("a", session=ALICE, mode="shared")
    body = {"keys": ["a", "b"], "session": BOB, "mode": "shared"}
    both = (await workers.post("/v1/locks/acquire", body)).body
    assert both["token"] == 2
    assert both["fence"] == {"a": 1, "b": 2}
    assert both["checkpoint"] == {"a": None, "b": None}


async def test_a_semaphore_has_no_fence_and_refuses_another_limit(workers):
    """No check of a remembered highest can work where several hold at once; so nothing pretends to be one."""
    granted = (await workers.acquire("k", session=ALICE, mode="shared", limit=2)).body
    assert (granted["fence"], granted["limit"]) == (None, 2)
    other = await workers.acquire("k", session=BOB, mode="shared", limit=3)
    assert _refused(other, 409, "conflict")["field"] == "limit"
    assert (await workers.acquire("k", session=BOB, mode="shared", limit=2)).status == 200
    lock = (await workers.get("/v1/locks", key="k")).body
    assert [holder["limit"] for holder in lock["holders"]] == [2, 2]
    _refused(await workers.acquire("k", session=CAROL, mode="shared", limit=2), 409, "held")


# -- unclean ends ----------------------------------------------------------------------------------------------------------


async def test_after_an_expiry_the_key_stays_closed_for_as_long_as_the_hold_had_asked(
    workers, node
):
    """For a resource that cannot check tokens: the last holder's calls are over by then."""
    await workers.acquire("k", session=ALICE, on_unclean="delay", delay_ms=60_000)
    await _expire(node, workers, BOB)
    closed = _refused(await workers.acquire("k", session=BOB), 409, "closed")["closed"]
    assert closed["remaining_ms"] <= 60_000
    assert closed == {
        "key": "k",
        "by": "delay",
        "token": 1,
        "ended": "expired",
        "remaining_ms": closed["remaining_ms"],
        "result": None,
    }
    assert (await workers.get("/v1/locks", key="k")).body["closed"] == closed
    await _expire(node, workers, BOB)  # 15 s each
    for _ in range(4):
        await _expire(node, workers, BOB)
    granted = (await workers.acquire("k", session=BOB)).body
    assert granted["previous"] == {"token": 1, "ended": "expired"}


async def test_in_doubt_a_key_is_closed_until_somebody_resolves_it_by_name(workers, node):
    await workers.acquire("k", session=ALICE, on_unclean="refuse")
    await _expire(node, workers, BOB)
    refused = _refused(await workers.acquire("k", session=BOB, wait_ms=5_000), 409, "in_doubt")
    assert (refused["closed"]["by"], refused["closed"]["remaining_ms"]) == ("in_doubt", None)
    wrong = await workers.post("/v1/locks/resolve", {"key": "k", "token": 9, **BY_OPS})
    assert wrong.body == {"resolved": False}
    _refused(await workers.acquire("k", session=BOB), 409, "in_doubt")
    for resolved in (True, False):
        reply = await workers.post("/v1/locks/resolve", {"key": "k", "token": 1, **BY_OPS})
        assert (reply.status, reply.body) == (200, {"resolved": resolved})
    granted = (await workers.acquire("k", session=BOB)).body
    assert granted["previous"] == {"token": 1, "ended": "expired", "resolved": True}


async def test_who_requires_a_clean_end_is_refused_what_others_are_granted(workers, node):
    await workers.acquire("k", session=ALICE)
    await _expire(node, workers, BOB)
    refused = await workers.acquire("k", session=BOB, require_clean=True)
    assert _refused(refused, 409, "in_doubt")["closed"]["ended"] == "expired"
    assert (await workers.acquire("k", session=BOB)).status == 200


# -- checkpoints and done records ------------------------------------------------------------------------------------------


async def test_the_next_holder_reads_how_far_the_last_one_came(workers, node):
    """A clean end takes the checkpoint away; an expiry does not. Who has lost the hold writes nothing any more."""
    await workers.acquire("k", session=ALICE)
    note = {"session": ALICE, "token": 1, "value": "psp_called\nref=77"}
    for _ in range(2):
        written = await workers.post("/v1/locks/checkpoint", note)
        assert (written.status, written.body) == (200, {"written": True})
    assert (await workers.get("/v1/locks", key="k")).body["checkpoint"]["token"] == 1
    await _expire(node, workers, BOB, CAROL)
    granted = (await workers.acquire("k", session=BOB)).body
    assert granted["checkpoint"] == {"token": 1, "value": "psp_called\nref=77"}
    stale = _refused(await workers.post("/v1/locks/checkpoint", note), 409, "not_held")
    assert stale["ended"] == "expired"
    await workers.post("/v1/locks/release", {"session": BOB, "token": 2})
    assert (await workers.acquire("k", session=CAROL)).body["checkpoint"] is None


async def test_of_several_keys_each_tells_its_checkpoint(workers, node):
    await workers.acquire("a", session=ALICE)
    await workers.post("/v1/locks/checkpoint", {"session": ALICE, "token": 1, "value": "v"})
    await _expire(node, workers, BOB)
    both = await workers.post("/v1/locks/acquire", {"keys": ["a", "b"], "session": BOB})
    assert both.body["checkpoint"] == {"a": {"token": 1, "value": "v"}, "b": None}


async def test_work_that_is_done_is_answered_and_not_worked_again(workers, node):
    """The message that comes a second time an hour later gets the result. Completing is repeatable."""
    await workers.acquire("k", session=ALICE)
    done = {"session": ALICE, "token": 1, "result": '{"capture":"c-9"}', "retain_ms": 60_000}
    for _ in range(2):
        completed = await workers.post("/v1/locks/complete", done)
        assert (completed.status, completed.body) == (
            200,
            {"completed": True, "remaining_ms": 60_000},
        )
    node.advance(500)
    again = await workers.post("/v1/locks/complete", done)
    assert again.body == {"completed": True, "remaining_ms": 59_500}
    closed = _refused(await workers.acquire("k", session=BOB), 409, "already_done")["closed"]
    assert closed == {
        "key": "k",
        "by": "done",
        "token": 1,
        "ended": "completed",
        "remaining_ms": 59_500,
        "result": '{"capture":"c-9"}',
    }
    other = await workers.post("/v1/locks/complete", done | {"result": "another"})
    assert _refused(other, 409, "conflict")["field"] == "result"
    node.advance(59_500)
    granted = await workers.acquire("k")
    assert granted.body["previous"] == {"token": 1, "ended": "completed"}


async def test_at_the_limit_of_results_a_hold_cannot_be_completed_and_goes_on(serve, make_node):
    """A result is never forgotten early to make room for another."""
    limits = Limits(done_max=1)
    caller = await serve(make_node(limits), machine_limits=limits)
    await caller.open(ALICE)
    for token, key in ((1, "a"), (2, "b")):
        await caller.acquire(key, session=ALICE)
        body = {"session": ALICE, "token": token, "result": "r", "retain_ms": 60_000}
        reply = await caller.post("/v1/locks/complete", body)
        assert reply.status == (200 if key == "a" else 429)
    assert (reply.code, reply.body["limit"]) == ("limit_reached", "done_max")
    assert (await caller.get("/v1/locks/check", key="b", token=2)).body == {"current": True}


async def test_the_closed_keys_are_listed_by_prefix_and_by_what_closes_them(workers, node):
    """Paged like locks; GET and POST read the same."""
    for token, key in enumerate(("pay/1", "pay/2", "other"), start=1):
        await workers.acquire(key, session=ALICE)
        done = {"session": ALICE, "token": token, "result": key, "retain_ms": 600_000}
        await workers.post("/v1/locks/complete", done)
    await workers.acquire("pay/3", session=ALICE, on_unclean="refuse")
    await _expire(node, workers, BOB)
    first = (await workers.get("/v1/closed", prefix="pay/", limit=2)).body
    assert [each["key"] for each in first["closed"]] == ["pay/1", "pay/2"]
    assert first["next"] == "pay/2"
    rest = (await workers.get("/v1/closed", prefix="pay/", limit=2, after="pay/2")).body
    assert [(each["key"], each["by"]) for each in rest["closed"]] == [("pay/3", "in_doubt")]
    assert rest["next"] is None
    done = (await workers.get("/v1/closed", by="done")).body
    assert [each["result"] for each in done["closed"]] == ["other", "pay/1", "pay/2"]
    assert (await workers.post("/v1/closed/read", {"by": "done"})).body == done
    local = (await workers.get("/v1/closed", by="delay", consistency="local")).body
    assert local == {"closed": [], "next": None, "consistency": "local", "age_ms": 7}
    assert (await workers.get("/v1/locks")).body["locks"] == []


# -- an operator -----------------------------------------------------------------------------------------------------------


async def test_a_forced_release_answers_a_floor_and_the_old_holder_is_told(workers):
    """The floor is above the token that was forced out and below every grant to come: a ledger refuses the old one by it."""
    await workers.acquire("k", session=ALICE)
    for _ in range(2):  # with the token, a repeat is answered as the first time
        body = {"key": "k", "token": 1, **BY_OPS}
        forced = await workers.post("/v1/locks/force-release", body)
        assert (forced.status, forced.body) == (200, {"released": [1], "floor": 2})
    for _ in range(2):
        renewed = await workers.post("/v1/sessions/renew", {"session": ALICE})
        assert renewed.body == {"remaining_ms": 10_000, "forced": [1]}
    granted = (await workers.acquire("k", session=BOB)).body
    assert granted["token"] == 3
    assert granted["previous"] == {"token": 1, "ended": "forced", "floor": 2}
    let_go = await workers.post("/v1/locks/release", {"session": ALICE, "token": 1})
    assert _refused(let_go, 409, "not_held")["ended"] == "forced"
    renewed = await workers.post("/v1/sessions/renew", {"session": ALICE})
    assert renewed.body["forced"] == []


async def test_nothing_is_forced_where_nobody_holds_or_somebody_else_does(workers):
    """An operator who looked a minute ago does not strike the next holder."""
    nobody = await workers.post("/v1/locks/force-release", {"key": "k", **BY_OPS})
    _refused(nobody, 409, "not_held")
    await workers.acquire("k", session=ALICE)
    other = await workers.post("/v1/locks/force-release", {"key": "k", "token": 9, **BY_OPS})
    _refused(other, 409, "not_held")
    assert (await workers.get("/v1/locks/check", key="k", token=1)).body == {"current": True}
    all_of_them = await workers.post("/v1/locks/force-release", {"key": "k", **BY_OPS})
    assert all_of_them.body["released"] == [1]


# -- waiting in a circle, and why somebody waits ---------------------------------------------------------------------------


async def _crossed(workers: Caller, node: FakeNode) -> tuple[asyncio.Task[Reply], Reply]:
    """Alice holds a and waits for b; Bob holds b and asks for a."""
    await workers.acquire("a", session=ALICE, context="task 1", owner="alice")
    await workers.acquire("b", session=BOB, context="task 2", owner="bob")
    waiting = asyncio.create_task(
        workers.acquire("b", session=ALICE, context="task 1", wait_ms=9_000, owner="alice")
    )
    await node.queued.wait()
    asked = workers.acquire("a", session=BOB, context="task 2", wait_ms=9_000, owner="bob")
    return waiting, await asked


async def test_who_would_close_a_circle_of_waits_is_refused_and_shown_it(workers, node):
    """Its sessions are shown as references: nobody learns to act as another."""
    waiting, reply = await _crossed(workers, node)
    refused = _refused(reply, 409, "deadlock")
    assert refused["cycle"] == [
        {
            "session_ref": node.session_ref(BOB),
            "context": "task 2",
            "owner": "bob",
            "key": "a",
            "token": 1,
        },
        {
            "session_ref": node.session_ref(ALICE),
            "context": "task 1",
            "owner": "alice",
            "key": "b",
            "token": 2,
        },
    ]
    assert ALICE.encode() not in reply.raw
    await workers.post("/v1/locks/release", {"session": BOB, "token": 2})
    assert (await waiting).status == 200


async def test_an_explanation_names_the_holds_that_each_waiter_waits_for(workers, node):
    """On whichever of its keys; and how long grants of the key have taken."""
    await workers.acquire("a", session=ALICE, owner="alice")
    await workers.acquire("b", session=BOB, context="c")
    node.advance(400)
    keys = {"keys": ["a", "b"], "session": CAROL, "wait_ms": 9_000}
    waiting = asyncio.create_task(workers.post("/v1/locks/acquire", keys))
    await node.queued.wait()
    node.advance(300)
    reply = await workers.get("/v1/locks/explain", key="a")
    assert reply.status == 200
    lock = (await workers.get("/v1/locks", key="a")).body
    explained = reply.body
    waits_for = explained["waiters"][0].pop("waits_for")
    grants = explained.pop("grants")
    assert explained == lock
    assert (lock["holders"][0]["held_ms"], lock["waiters"][0]["waited_ms"]) == (700, 300)
    assert waits_for == [
        {
            "key": "a",
            "token": 1,
            "session_ref": node.session_ref(ALICE),
            "owner": "alice",
            "context": None,
        },
        {
            "key": "b",
            "token": 2,
            "session_ref": node.session_ref(BOB),
            "owner": None,
            "context": "c",
        },
    ]
    assert grants == {
        "count": 1,
        "waited_ms": {"p50": 0, "max": 0},
        "held_ms": None,
        "since_revision": 1,
    }
    await workers.post("/v1/locks/release", {"session": ALICE, "token": 1})
    await workers.post("/v1/locks/release", {"session": BOB, "token": 2})
    assert (await waiting).status == 200
    after = (await workers.post("/v1/locks/explain", {"key": "a"})).body
    assert after["grants"]["waited_ms"] == {"p50": 0, "max": 300}
    assert after["grants"]["held_ms"] == {"p50": 700, "max": 700}
    local = await workers.get("/v1/locks/explain", key="unknown", consistency="local")
    assert (local.body["grants"]["count"], local.body["age_ms"]) == (0, 7)


# -- nothing is left of a refusal ------------------------------------------------------------------------------------------

REFUSALS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "held": ("held", "/v1/locks/acquire", {"key": "held", "session": BOB}),
    "shared beside exclusive": (
        "held",
        "/v1/locks/acquire",
        {"key": "held", "session": BOB, "mode": "shared"},
    ),
    "another limit": (
        "conflict",
        "/v1/locks/acquire",
        {"key": "permits", "session": BOB, "mode": "shared", "limit": 5},
    ),
    "closed": ("closed", "/v1/locks/acquire", {"key": "delayed", "session": BOB}),
    "in doubt": ("in_doubt", "/v1/locks/acquire", {"key": "doubt", "session": BOB, "wait_ms": 9}),
    "unclean for one who minds": (
        "in_doubt",
        "/v1/locks/acquire",
        {"key": "unclean", "session": BOB, "require_clean": True},
    ),
    "done": (
        "already_done",
        "/v1/locks/acquire",
        {"keys": ["free", "done"], "ttl_ms": 10_000, "wait_ms": 9},
    ),
    "deadlock": (
        "deadlock",
        "/v1/locks/acquire",
        {"key": "circle/1", "session": BOB, "context": "b", "wait_ms": 9_000},
    ),
    "complete what is not held": (
        "not_held",
        "/v1/locks/complete",
        {"session": BOB, "token": 1, "result": "r", "retain_ms": 1_000},
    ),
    "complete a shared hold": (
        "conflict",
        "/v1/locks/complete",
        {"session": CAROL, "token": 2, "result": "r", "retain_ms": 1_000},
    ),
    "complete again otherwise": (
        "conflict",
        "/v1/locks/complete",
        {"session": CAROL, "token": 3, "result": "another", "retain_ms": 1_000},
    ),
    "checkpoint what is not held": (
        "not_held",
        "/v1/locks/checkpoint",
        {"session": BOB, "token": 1, "value": "v"},
    ),
    "checkpoint a shared hold": (
        "conflict",
        "/v1/locks/checkpoint",
        {"session": CAROL, "token": 2, "value": "v"},
    ),
    "force where nobody holds": ("not_held", "/v1/locks/force-release", {"key": "free", **BY_OPS}),
    "force another's token": (
        "not_held",
        "/v1/locks/force-release",
        {"key": "held", "token": 2, **BY_OPS},
    ),
}


async def _set_the_stage(caller: Caller, node: FakeNode) -> asyncio.Task[Reply]:
    """A key in each of the ways in which a request for it can be refused; Bob and Carol are alive."""
    for session in (ALICE, BOB, CAROL):
        await caller.open(session, 60_000 if session != ALICE else 10_000)
    await caller.acquire("held", session=CAROL)  # 1
    await caller.acquire("permits", session=CAROL, mode="shared", limit=3)  # 2
    await caller.acquire("done", session=CAROL)  # 3
    done = {"session": CAROL, "token": 3, "result": "r", "retain_ms": 600_000}
    await caller.post("/v1/locks/complete", done)
    await caller.acquire("delayed", session=ALICE, on_unclean="delay", delay_ms=600_000)
    await caller.acquire("doubt", session=ALICE, on_unclean="refuse")
    await caller.acquire("unclean", session=ALICE)
    await caller.acquire("circle/1", session=CAROL, context="c")
    await caller.acquire("circle/2", session=BOB, context="b")
    wait = {"key": "circle/2", "session": CAROL, "context": "c", "wait_ms": 30_000}
    waiting = asyncio.create_task(caller.post("/v1/locks/acquire", wait))
    await node.queued.wait()
    node.advance(10_000)
    return waiting


COMPLETE = ("/v1/locks/complete", {"token": 2, "result": "r", "retain_ms": 600_000})
CHECKPOINT = ("/v1/locks/checkpoint", {"token": 2, "value": "v"})
WAIT = ("/v1/locks/acquire", {"key": "j", "wait_ms": 9})


@pytest.mark.parametrize(
    ("limits", "limit", "ask"),
    [
        ({"done_max": 1}, "done_max", COMPLETE),
        ({"done_bytes_max": 1}, "done_bytes_max", COMPLETE),
        ({"checkpoints_max": 1}, "checkpoints_max", CHECKPOINT),
        ({"checkpoint_bytes_max": 1}, "checkpoint_bytes_max", CHECKPOINT),
        ({"quotas": (Quota(prefix="k", holds=2),)}, "quota.holds:k", ("/v1/locks/acquire", {"key": "k/3"})),
        ({"quotas": (Quota(owner="o", waiters=1),)}, "quota.waiters:owner o", WAIT),
    ],
)  # fmt: skip
async def test_a_limit_that_is_reached_is_named_and_leaves_no_trace(
    serve, make_node, limits, limit, ask
):
    """Neither a result nor a checkpoint of another key is forgotten to make room; the hold goes on."""
    node = make_node(Limits(**limits))
    caller = await serve(node, machine_limits=Limits(**limits))
    await caller.post("/v1/sessions", {"session": ALICE, "ttl_ms": 600_000, "owner": "o"})
    for key in ("k/1", "k/2"):
        await caller.acquire(key, session=ALICE)
    await caller.acquire("j", ttl_ms=600_000)
    waiting = asyncio.create_task(caller.acquire("j", session=ALICE, wait_ms=30_000))
    await node.queued.wait()
    if ask in (COMPLETE, CHECKPOINT):
        path, body = ask
        first = await caller.post(path, {**body, "session": ALICE, "token": 1})
        assert first.status == 200
    before = node.hash_but_for_counters()
    refused = await caller.post(ask[0], {**ask[1], "session": ALICE})
    assert (refused.status, refused.code, refused.body["limit"]) == (429, "limit_reached", limit)
    assert node.hash_but_for_counters() == before
    waiting.cancel()
    await asyncio.wait([waiting])


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_refused_request_leaves_no_trace(caller, node, refusal):
    """The state is the same to the last bit, but for what counts requests."""
    waiting = await _set_the_stage(caller, node)
    code, path, body = REFUSALS[refusal]
    before = node.hash_but_for_counters()
    refused = await caller.post(path, body)
    assert refused.code == code
    assert node.hash_but_for_counters() == before
    waiting.cancel()
    await asyncio.wait([waiting])
