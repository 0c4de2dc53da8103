"""Checkpoints, done records, and holds that an operator ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

import holdfast
from holdfast.errors import LossCode

RENEW, RELEASE = "sessions/renew", "locks/release"
COMPLETE, CHECKPOINT = "locks/complete", "locks/checkpoint"


def answers(step: Any, body: dict[str, Any], **more: Any) -> Any:
    return step(raw=web.json_response(body), **more)


def not_held(step: Any, ended: str) -> Any:
    return step(refuse="not_held", extra={"ended": ended})


async def test_a_holder_notes_how_far_it_has_come(kit: Any, step: Any) -> None:
    """With its token; a lost answer is asked for again, as the same request."""
    kit.cluster.script(
        CHECKPOINT,
        step(refuse="unknown_outcome"),
        answers(step, {"written": True}),
    )
    async with kit.client().lock("k") as grant:
        await grant.checkpoint("psp_called")
        first, second = kit.cluster.calls(CHECKPOINT)
        assert first.body == second.body
        assert (first.body["token"], first.body["value"]) == (grant.token, "psp_called")
        assert first.body["number"] == 1
        kit.cluster.script(CHECKPOINT, answers(step, {"written": True}))
        await grant.checkpoint("psp_answered")
        assert kit.cluster.calls(CHECKPOINT)[-1].body["number"] == 2


async def test_the_next_holder_reads_it_in_its_grant(kit: Any, step: Any) -> None:
    """Of one key and of several; None where nobody noted anything."""
    note = {"token": 7, "value": "psp_called"}
    client = kit.client()
    kit.cluster.script("locks/acquire", step(extra={"checkpoint": note}))
    async with client.lock("k") as grant:
        assert grant.previous_checkpoint == holdfast.Checkpoint(7, "psp_called")
        assert grant.checkpoint_of("k") == holdfast.Checkpoint(7, "psp_called")
    kit.cluster.script("locks/acquire", step(extra={"checkpoint": {"a": None, "b": note}}))
    async with client.lock(["a", "b"]) as grant:
        assert grant.checkpoint_of("a") is None
        assert grant.previous_checkpoint == holdfast.Checkpoint(7, "psp_called")
        with pytest.raises(KeyError):
            grant.checkpoint_of("c")


async def test_completing_ends_the_hold_and_leaving_is_clean(kit: Any, step: Any) -> None:
    """No release is sent after it, nothing is lost, and the key may be asked for again."""
    kit.cluster.script(COMPLETE, answers(step, {"completed": True, "remaining_ms": 60_000}))
    client = kit.client()
    async with client.lock("k") as grant:
        await grant.complete("psp-77", retain=60)
        assert grant.remaining() == 0.0
        assert not grant.is_lost
    body = kit.cluster.calls(COMPLETE)[0].body
    assert (body["token"], body["result"], body["retain_ms"]) == (grant.token, "psp-77", 60_000)
    assert kit.cluster.calls(RELEASE) == []
    kit.cluster.holds.clear()
    async with client.lock("k"):
        pass


async def test_a_complete_that_is_refused_leaves_the_hold(kit: Any, step: Any) -> None:
    """The cluster can remember no more: the holder goes on, and releases as ever."""
    kit.cluster.script(COMPLETE, step(refuse="limit_reached", extra={"limit": "done_max"}))
    async with kit.client().lock("k") as grant:
        with pytest.raises(holdfast.LimitReached):
            await grant.complete("psp-77", retain=60)
        assert grant.remaining() > 0
    assert len(kit.cluster.calls(RELEASE)) == 1


async def test_an_unknown_complete_may_be_asked_again(kit: Any, step: Any) -> None:
    """Its outcome is not taken for a refusal, and asking again with the same result is answered."""
    client = kit.client(timeout=1.0)
    async with client.lock("k") as grant:
        kit.cluster.script(COMPLETE, *[step(refuse="unknown_outcome")] * 500)
        asking = asyncio.create_task(grant.complete("psp-77", retain=60))
        await kit.drive(asking.done)
        with pytest.raises(holdfast.UnknownOutcome):
            await asking
        assert grant.remaining() > 0
        kit.cluster._steps[COMPLETE].clear()
        kit.cluster.script(COMPLETE, answers(step, {"completed": True, "remaining_ms": 1}))
        await grant.complete("psp-77", retain=60)


@pytest.mark.parametrize("call", [CHECKPOINT, COMPLETE])
async def test_a_stale_token_can_do_nothing_but_be_told_so(kit: Any, step: Any, call: str) -> None:
    """`not_held` from the cluster: the lock is lost here and now, not when the lease would have told."""
    kit.cluster.script(call, not_held(step, "expired"))
    with pytest.raises(holdfast.LockLost) as lost:  # noqa: PT012 - raised when the block is left
        async with kit.client().lock("k") as grant:
            if call == CHECKPOINT:
                await grant.checkpoint("late")
            else:
                await grant.complete("late", retain=60)
    assert lost.value.code == LossCode.SESSION_ENDED


async def test_values_that_cannot_be_kept_are_refused_at_once(kit: Any) -> None:
    """Before anything is sent, and the hold goes on."""
    async with kit.client().lock("k") as grant:
        with pytest.raises(TypeError):
            await grant.complete(b"bytes", retain=60)
        with pytest.raises(TypeError):
            await grant.checkpoint(77)
        for retain in (0.5, 31 * 24 * 3600.0, float("nan")):
            with pytest.raises(ValueError, match="retain"):
                await grant.complete("x", retain=retain)
        assert grant.remaining() > 0
    assert kit.cluster.calls(COMPLETE) == kit.cluster.calls(CHECKPOINT) == []


async def test_a_hold_that_an_operator_ended_is_lost_with_the_next_renewal(
    kit: Any, step: Any, eventually: Any
) -> None:
    """Its body is cancelled, `on_lost` called, and its token released, which tells the cluster that we know; the session and its
    other locks go on."""
    told: list[Any] = []
    client = kit.client(ttl=9.0)
    async with client.lock("other") as other:
        with pytest.raises(holdfast.LockLost) as lost:  # noqa: PT012 - raised when the block is left
            async with client.lock("k", on_lost=told.append) as grant:
                kit.cluster.script(RENEW, step(extra={"forced": [grant.token]}))
                kit.clock.advance(3.1)
                await asyncio.get_running_loop().create_future()
        assert lost.value.code == LossCode.FORCED
        assert "operator" in lost.value.reason
        await eventually(lambda: told == [grant])
        await eventually(lambda: len(kit.cluster.calls(RELEASE)) == 1)
        assert kit.cluster.calls(RELEASE)[0].body["token"] == grant.token
        assert other.remaining() > 0


@pytest.mark.parametrize("how", ["renewal", "checkpoint"])
async def test_a_lock_that_is_taken_anew_after_a_loss_is_released_by_name(
    kit: Any, step: Any, eventually: Any, how: str
) -> None:
    """What was lost is out of the books: the fence and the release by name are those of the new hold, in the same task."""
    client = kit.client(ttl=9.0)
    assert await client.acquire_lock("k")
    lost = client.grant_of("k")
    if how == "renewal":
        kit.cluster.script(RENEW, step(extra={"forced": [lost.token]}))
        kit.clock.advance(3.1)
        await eventually(lambda: lost.is_lost)
    else:
        kit.cluster.script(CHECKPOINT, not_held(step, "expired"))
        with pytest.raises(holdfast.LockLost):
            await lost.checkpoint("late")
    assert client.grant_of("k") is None
    kit.cluster.holds.clear()
    assert await client.acquire_lock("k")
    grant = client.grant_of("k")
    assert grant.token > lost.token
    assert await client.release_lock("k") is True
    assert not kit.cluster.holds


async def test_a_forced_token_that_nobody_knows_is_acknowledged_too(
    kit: Any, step: Any, eventually: Any
) -> None:
    """Else the cluster would tell it for ever."""
    client = kit.client(ttl=9.0)
    async with client.lock("k"):
        kit.cluster.script(RENEW, step(extra={"forced": [999]}))
        kit.clock.advance(3.1)
        await eventually(lambda: len(kit.cluster.calls(RELEASE)) == 1)
        assert kit.cluster.calls(RELEASE)[0].body["token"] == 999


async def test_a_grant_that_was_forced_while_it_was_on_its_way_is_lost(
    kit: Any, step: Any, eventually: Any
) -> None:
    """A renewal told of it before anybody knew the grant: the cluster must tell it again, or it is believed in for ever."""
    client = kit.client(ttl=3.0)
    async with client.lock("warm"):
        gate = kit.cluster.gate()
        kit.cluster.script("locks/acquire", step(gate=gate))
        asking = asyncio.create_task(client.acquire_lock("k"))
        await eventually(lambda: "k" in kit.cluster.holds)
        token = kit.cluster.holds.pop("k")[0]

        def forced() -> dict[str, Any]:
            return {} if kit.cluster.calls(RELEASE) else {"forced": [token]}

        kit.cluster.script(RENEW, step(extra=forced()))
        kit.clock.advance(1.1)
        await eventually(lambda: len(kit.cluster.calls(RENEW)) == 1)
        for _ in range(30):
            await asyncio.sleep(0)
        gate.set()
        assert await asking
        grant = client.grant_of("k")
        kit.cluster.script(RENEW, step(extra=forced()))
        kit.clock.advance(1.1)
        await eventually(lambda: len(kit.cluster.calls(RENEW)) == 2)
        await eventually(lambda: grant.is_lost)
        assert grant.lost_code == LossCode.FORCED
        await eventually(lambda: len(kit.cluster.calls(RELEASE)) == 1)


def test_the_blocking_face_does_the_same(threaded_cluster: Any, step: Any) -> None:
    """`checkpoint` and `complete` wait, and leaving the block afterwards is clean."""
    cluster = threaded_cluster
    cluster.script(CHECKPOINT, answers(step, {"written": True}))
    cluster.script(COMPLETE, answers(step, {"completed": True, "remaining_ms": 1}))
    with holdfast.connect_sync(cluster.urls) as client, client.lock("k") as grant:
        grant.checkpoint("psp_called")
        grant.complete("psp-77", retain=60)
        assert not grant.is_lost
    assert cluster.calls(RELEASE) == []
    assert cluster.calls("locks/acquire")[0].body["context"] == "thread 1"


async def test_force_names_the_hold_that_it_means(kit: Any, step: Any) -> None:
    """Without a token the holder is looked up first: a repeat after a lost answer must never strike the next one."""
    token = kit.cluster.take("k")
    kit.cluster.script(
        "locks/force-release",
        step(refuse="unknown_outcome"),
        answers(step, {"released": [token], "floor": 9}),
    )
    client = kit.client()
    forced = await client.force_release("k", reason="hung", operator="olga")
    assert forced == holdfast.Forced((token,), 9)
    bodies = [each.body for each in kit.cluster.calls("locks/force-release")]
    assert bodies[0] == bodies[1]
    assert bodies[0] == {"key": "k", "token": token, "reason": "hung", "operator": "olga"}
    with pytest.raises(holdfast.Refused) as refused:
        await client.force_release("free", reason="hung", operator="olga")
    assert refused.value.code == "not_held"


def semaphore_of(*tokens: int) -> dict[str, Any]:
    holder = {"session_ref": "r", "owner": None, "remaining_ms": 1500, "mode": "shared", "limit": 3}
    holders = [{"token": token, **holder} for token in tokens]
    return {"key": "k", "holders": holders, "waiters": [], "queue_length": 0}


async def test_forcing_a_semaphore_passes_over_who_has_ended_meanwhile(kit: Any, step: Any) -> None:
    """What was ended is told. Only if all had ended by themselves it is a refusal, which says that nothing was done."""
    force = {"reason": "hung", "operator": "olga"}
    client = kit.client()
    for released in ([17], [18], []):
        kit.cluster.script("locks/read", answers(step, semaphore_of(17, 18)))
        for token in (17, 18):
            forced = answers(step, {"released": [token], "floor": token + 10})
            gone = not_held(step, "released")
            kit.cluster.script("locks/force-release", forced if token in released else gone)
        if released:
            done = await client.force_release("k", **force)
            assert done == holdfast.Forced(tuple(released), released[0] + 10)
    with pytest.raises(holdfast.Refused) as refused:
        await client.force_release("k", **force)
    assert refused.value.code == "not_held"


async def test_forcing_a_part_of_a_semaphore_is_no_refusal(kit: Any, step: Any) -> None:
    """A refusal would say that nothing was done."""
    kit.cluster.script("locks/read", answers(step, semaphore_of(17, 18)))
    kit.cluster.script(
        "locks/force-release",
        answers(step, {"released": [17], "floor": 27}),
        step(refuse="unauthenticated"),
    )
    with pytest.raises(holdfast.UnknownOutcome, match="17"):
        await kit.client().force_release("k", reason="hung", operator="olga")
