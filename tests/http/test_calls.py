"""Every call of the API, as its caller sees it."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from holdfast_coordinator.http import HttpFailure, new_session_id, start_http
from holdfast_coordinator.machine import Acquire, Detached, Passed, Refused, Withdrawn
from holdfast_coordinator.node_types import Unknown

ALICE = "alice-0123456789abcdef"
BOB = "bob-0123456789abcdef"


async def test_the_first_acquire_gets_token_1_and_the_next_is_told_who_holds_it(caller, node):
    """One caller works; the other learns at once that somebody does, and who, but not how to act as them."""
    granted = await caller.acquire("1234collectPayment", owner="worker 7")
    assert granted.status == 200
    session = granted.body["session"]
    assert granted.body == {
        "token": 1,
        "fence": 1,
        "keys": ["1234collectPayment"],
        "mode": "exclusive",
        "session": session,
        "remaining_ms": 10_000,
        "previous": None,
        "previous_horizon": 0,
        "checkpoint": None,
    }
    held = await caller.acquire("1234collectPayment")
    assert (held.status, held.code) == (409, "held")
    assert held.body["queue_length"] == 0
    assert held.body["holders"] == [
        {
            "token": 1,
            "session_ref": node.session_ref(session),
            "owner": "worker 7",
            "context": None,
            "mode": "exclusive",
            "limit": None,
            "held_ms": 0,
            "remaining_ms": 10_000,
        }
    ]
    assert session.encode() not in held.raw


async def test_a_release_can_be_repeated(caller):
    """A caller whose answer was lost asks again and hears the same."""
    grant = (await caller.acquire("k")).body
    body = {"token": grant["token"], "session": grant["session"]}
    for _ in range(2):
        released = await caller.post("/v1/locks/release", body)
        assert (released.status, released.body) == (200, {"released": True})
    again = await caller.acquire("k")
    assert again.body["previous"] == {"token": 1, "ended": "released"}


async def test_a_release_by_somebody_else_is_not_held(caller):
    """A token is not a secret: it takes the session's id as well to end a hold."""
    grant = (await caller.acquire("k")).body
    await caller.open(BOB)
    refused = await caller.post("/v1/locks/release", {"token": grant["token"], "session": BOB})
    assert refused.code in {"not_held", "no_such_session"}
    assert (await caller.get("/v1/locks/check", key="k", token=1)).body == {"current": True}


async def test_several_keys_are_granted_with_one_token_and_tell_of_each_what_was_before(caller):
    """`previous` of several keys is a mapping."""
    first = (await caller.acquire("a")).body
    await caller.post("/v1/locks/release", {"token": 1, "session": first["session"]})
    both = await caller.post("/v1/locks/acquire", {"keys": ["a", "b"], "ttl_ms": 5000})
    assert both.body["token"] == 2
    assert both.body["previous"] == {"a": {"token": 1, "ended": "released"}, "b": None}


async def test_a_session_is_opened_renewed_and_closed(caller, node):
    """Its id may be the client's own; closing tells which holds ended."""
    opened = await caller.post("/v1/sessions", {"session": ALICE, "ttl_ms": 10_000, "owner": "a"})
    assert opened.status == 201
    assert opened.body == {"session": ALICE, "ttl_ms": 10_000, "remaining_ms": 10_000}
    await caller.acquire("k", session=ALICE)
    node.advance(4_000)
    renewed = await caller.post("/v1/sessions/renew", {"session": ALICE})
    assert (renewed.status, renewed.body) == (200, {"remaining_ms": 10_000, "forced": []})
    closed = await caller.post("/v1/sessions/close", {"session": ALICE})
    assert (closed.status, closed.body) == (200, {"released": [1]})


async def test_a_session_without_an_id_gets_128_random_bits(caller):
    """Nobody guesses it, and it is a valid id."""
    ids = {(await caller.post("/v1/sessions", {"ttl_ms": 1000})).body["session"] for _ in range(3)}
    assert len(ids) == 3
    assert all(len(bytes.fromhex(session)) == 16 for session in ids)
    assert len(bytes.fromhex(new_session_id())) == 16


async def test_the_implicit_sessions_id_is_the_callers_if_it_brings_one(caller):
    """So that it can ask again under the same request id."""
    first = await caller.acquire("k", session=ALICE, ttl_ms=5_000, request_id="r")
    again = await caller.acquire("k", session=ALICE, ttl_ms=5_000, request_id="r")
    assert first.body["session"] == ALICE
    assert again.body["token"] == first.body["token"] == 1


async def test_a_waiting_acquire_is_granted_when_the_holder_releases(caller, node):
    """It is pushed, not polled."""
    grant = (await caller.acquire("k")).body
    waiting = asyncio.create_task(caller.acquire("k", wait_ms=30_000))
    await node.queued.wait()
    await caller.post("/v1/locks/release", {"token": 1, "session": grant["session"]})
    assert (await waiting).body["token"] == 2


async def test_a_wait_ends_in_wait_timeout(caller, node):
    await caller.acquire("k", ttl_ms=60_000)
    waiting = asyncio.create_task(caller.acquire("k", wait_ms=1_000))
    await node.queued.wait()
    node.advance(1_000)
    timeout = await waiting
    assert (timeout.status, timeout.code) == (409, "wait_timeout")


async def test_a_cancel_gives_up_what_was_granted(caller):
    """The caller that never heard of its grant takes it back by its name."""
    await caller.open(ALICE)
    await caller.acquire("k", session=ALICE, request_id=1, settled=0)
    cancelled = await caller.post("/v1/locks/cancel", {"session": ALICE, "request_id": 1})
    assert (cancelled.status, cancelled.body) == (200, {"released": 1})


async def test_everything_that_an_acquire_may_say_reaches_the_machine(caller, node):
    """No field is dropped on the way."""
    await caller.open(ALICE)
    await caller.post(
        "/v1/locks/acquire",
        {
            "keys": ["a", "b"],
            "session": ALICE,
            "wait_ms": 5,
            "mode": "exclusive",
            "request_id": 4,
            "settled": 3,
            "owner": "o",
            "context": "c",
            "ttl_ms": None,
            "limit": None,
        },
    )
    assert node.submitted[-1] == Acquire(("a", "b"), ALICE, None, 5, 4, 3, "o", "c")


async def test_one_lock_is_shown_with_holder_and_queue_and_no_session_id(caller, node):
    """GET and POST read the same; the POST keeps the key out of the URL."""
    await caller.open(ALICE)
    await caller.open(BOB)
    await caller.acquire("k", session=ALICE, owner="a")
    waiting = asyncio.create_task(caller.acquire("k", session=BOB, wait_ms=9_000, owner="b"))
    await node.queued.wait()
    got = await caller.get("/v1/locks", key="k")
    assert got.status == 200
    assert got.body == {
        "key": "k",
        "holders": [
            {
                "token": 1,
                "session_ref": node.session_ref(ALICE),
                "owner": "a",
                "context": None,
                "mode": "exclusive",
                "limit": None,
                "held_ms": 0,
                "remaining_ms": 10_000,
            }
        ],
        "waiters": [
            {
                "session_ref": node.session_ref(BOB),
                "owner": "b",
                "context": None,
                "keys": ["k"],
                "mode": "exclusive",
                "limit": None,
                "waited_ms": 0,
                "remaining_wait_ms": 9_000,
            }
        ],
        "queue_length": 1,
        "closed": None,
        "checkpoint": None,
        "previous": None,
    }
    assert (await caller.post("/v1/locks/read", {"key": "k"})).body == got.body
    assert ALICE.encode() not in got.raw
    assert BOB.encode() not in got.raw
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_a_listing_is_paged_by_prefix(caller):
    """`next` of one page is `after` of the following; it is null at the end."""
    for key in ("pay/1", "pay/2", "pay/3", "other"):
        await caller.acquire(key)
    first = (await caller.get("/v1/locks", prefix="pay/", limit=2)).body
    assert [lock["key"] for lock in first["locks"]] == ["pay/1", "pay/2"]
    assert first["next"] == "pay/2"
    second = (await caller.get("/v1/locks", prefix="pay/", limit=2, after=first["next"])).body
    assert [lock["key"] for lock in second["locks"]] == ["pay/3"]
    assert second["next"] is None
    everything = (await caller.post("/v1/locks/read", {})).body
    assert [lock["key"] for lock in everything["locks"]] == ["other", "pay/1", "pay/2", "pay/3"]


async def test_a_key_of_any_script_survives_the_query(caller):
    """Percent-encoding, spaces, plus signs and four-byte characters."""
    key = "zahlung/ü 1+1=2&x/\U0001f4b6"
    await caller.acquire(key)
    assert (await caller.get("/v1/locks", key=key)).body["key"] == key
    assert (await caller.get("/v1/locks/check", key=key, token=1)).body == {"current": True}


async def test_a_check_tells_the_present_token_from_an_old_one(caller):
    await caller.acquire("k")
    assert (await caller.get("/v1/locks/check", key="k", token=1)).body == {"current": True}
    assert (await caller.get("/v1/locks/check", key="k", token=2)).body == {"current": False}


async def test_a_local_read_needs_no_leader_and_says_how_old_it_is(caller, node):
    """While there is no leader a linearizable read is refused, definitely; the node's own view is not."""
    await caller.acquire("k")
    node.read_refusal = Refused("no_leader", "there is none")
    refused = await caller.get("/v1/locks", key="k")
    assert (refused.status, refused.code) == (503, "no_leader")
    lock = await caller.get("/v1/locks", key="k", consistency="local")
    assert (lock.body["consistency"], lock.body["age_ms"]) == ("local", 7)
    page = await caller.get("/v1/locks", consistency="local")
    assert (page.body["consistency"], page.body["age_ms"]) == ("local", 7)
    check = await caller.get("/v1/locks/check", key="k", token=1, consistency="local")
    assert check.body == {"current": True, "consistency": "local", "age_ms": 7}
    node.lag_ms = None
    read = await caller.post("/v1/locks/read", {"key": "k"}, "?consistency=local")
    assert read.body["age_ms"] is None


async def test_a_read_that_cannot_be_confirmed_is_never_an_unknown_outcome(caller, node):
    """Reading has no effect, so there is nothing to be unsure of."""
    node.read_refusal = Unknown("no majority answered")
    refused = await caller.get("/v1/locks", key="k")
    assert (refused.status, refused.code) == (503, "no_leader")


async def test_the_cluster_is_shown_as_the_node_sees_it(caller):
    cluster = await caller.get("/v1/cluster")
    assert cluster.body == {
        "cluster": "test",
        "node": "n1",
        "leader": "n1",
        "term": 2,
        "nodes": [
            {
                "name": "n1",
                "http": "http://127.0.0.1:7601",
                "raft": "127.0.0.1:7701",
                "state": "leader",
                "match_index": 3,
            },
            {
                "name": "n2",
                "http": "http://127.0.0.1:7602",
                "raft": "127.0.0.1:7702",
                "state": "unreachable",
                "match_index": None,
            },
        ],
        "commit_index": 4,
        "applied_index": 3,
        "cluster_time_ms": 0,
        "epoch": 0,
    }


async def test_the_hash_of_the_state_is_shown_when_asked_for(caller, node):
    """Nodes that have applied the same entries show the same; so it changes with the state, and with nothing else."""
    assert "state_hash" not in (await caller.get("/v1/cluster", state_hash="false")).body
    before = (await caller.get("/v1/cluster", state_hash="true")).body["state_hash"]
    assert before == node.machine.state_hash().hex()
    assert (await caller.get("/v1/cluster", state_hash="true")).body["state_hash"] == before
    await caller.post("/v1/sessions", {"ttl_ms": 10_000})
    assert (await caller.get("/v1/cluster", state_hash="true")).body["state_hash"] != before


async def test_a_state_too_large_to_hash_between_two_heartbeats_is_refused(caller, monkeypatch):
    monkeypatch.setattr("holdfast_coordinator.http.cluster.STATE_HASH_ITEMS_MAX", 0)
    await caller.post("/v1/sessions", {"ttl_ms": 10_000})
    refused = await caller.get("/v1/cluster", state_hash="true")
    assert (refused.status, refused.code) == (429, "limit_reached")


async def test_alive_is_not_ready(caller, node):
    """A node without a leader must not be restarted for it, and must not be sent callers."""
    assert (await caller.get("/readyz")).body == {"ready": True}
    node.is_ready = False
    assert (await caller.get("/readyz")).code == "overloaded"
    node.leader = None
    not_ready = await caller.get("/readyz")
    assert (not_ready.status, not_ready.code) == (503, "no_leader")
    assert (await caller.get("/healthz")).body == {"alive": True}


@pytest.mark.parametrize("path", ["/v1/locks/acquire", "/v1/sessions"])
async def test_msgpack_goes_both_ways(caller, path):
    """The body by Content-Type, the answer by Accept, independently."""
    body = {"ttl_ms": 5_000} | ({"key": "k"} if "locks" in path else {})
    packed = await caller.send(
        "POST",
        path,
        data=msgspec.msgpack.encode(body),
        headers={"Content-Type": "application/msgpack", "Accept": "application/msgpack"},
    )
    assert packed.headers["Content-Type"] == "application/msgpack"
    assert packed.body["session"]
    plain = await caller.send(
        "POST",
        path.replace("acquire", "read"),
        data=msgspec.msgpack.encode({"key": "k"} if "locks" in path else body),
        headers={"Content-Type": "application/msgpack"},
    )
    assert plain.headers["Content-Type"] == "application/json"


async def test_a_body_without_a_content_type_is_json(caller):
    reply = await caller.send(
        "POST",
        "/v1/locks/acquire",
        data=b'{"key":"k","ttl_ms":1000}',
        skip_auto_headers=["Content-Type"],
    )
    assert reply.status == 200


async def test_an_unknown_outcome_is_504_and_not_a_refusal(caller, node):
    """The caller has to be able to tell 'no' from 'nobody knows'."""
    node.answers = [Unknown("the leader changed"), Detached()]
    for _ in range(2):
        unknown = await caller.acquire("k")
        assert (unknown.status, unknown.code) == (504, "unknown_outcome")


async def test_a_wait_that_the_leader_ended_is_a_definite_refusal(caller, node):
    """The leader took this node for dead: nothing was acquired, and the caller may ask again."""
    node.answers = [Withdrawn(removed=True)]
    refused = await caller.acquire("k")
    assert (refused.status, refused.code) == (503, "no_leader")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("no_such_session", 404),
        ("held", 409),
        ("wait_timeout", 409),
        ("not_held", 409),
        ("deadlock", 409),
        ("conflict", 409),
        ("session_expired", 410),
        ("limit_reached", 429),
        ("no_leader", 503),
        ("overloaded", 503),
        ("bad_request", 400),
    ],
)
async def test_each_refusal_has_its_status(caller, node, code, status):
    """And carries what the machine said of it; the two that pass by themselves say when to come again."""
    node.answers = [Refused(code, "because", "keys", "sessions_max", "expired")]
    refused = await caller.acquire("k")
    assert (refused.status, refused.code) == (status, code)
    assert refused.body["detail"] == "because"
    assert refused.body["limit"] == "sessions_max"
    assert refused.body["field"] == "keys"
    assert refused.body["ended"] == "expired"
    assert ("retry_after_ms" in refused.body) == (status == 503)
    assert ("Retry-After" in refused.headers) == (status == 503)
    assert ("holders" in refused.body) == (code == "held")


async def test_an_answer_that_fits_no_call_is_a_fault_not_a_success(caller, node):
    node.answers = [Passed()]
    assert (await caller.acquire("k")).code == "internal"


async def test_a_port_in_use_is_one_clear_sentence(caller, node):
    """Nothing is left running by the attempt."""
    with pytest.raises(HttpFailure, match=rf"cannot listen for HTTP on 127.0.0.1:{caller.port}: "):
        await start_http(node, "127.0.0.1", caller.port)
