"""Following events: in order, each once, over the death of a node, and never with a silent gap."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest
from aiohttp import web

import holdfast
from holdfast.sse import EVENT_BYTES_MAX, Malformed, Parser
from holdfast.watch import QUIET_SECONDS_MAX

EVENTS = "events"


def event(kind: str, data: dict[str, Any], revision: int | None) -> str:
    head = "" if revision is None else f"id: {revision}\n"
    return f"{head}event: {kind}\ndata: {json.dumps(data)}\n\n"


def at(revision: int) -> str:
    return event("at", {"revision": revision, "first_revision": 1, "node": "n1"}, revision)


def fields(
    revision: int, kind: str = "granted", token: int | None = None, **more: Any
) -> dict[str, Any]:
    return {
        "revision": revision,
        "kind": kind,
        "cluster_ms": 1,
        "wall_ms": 1_700_000_000_000,
        "token": token or revision,
        "keys": ["k"],
        **more,
    }


def record(revision: int, kind: str = "granted", **more: Any) -> str:
    return event(kind, fields(revision, kind, **more), revision)


def gone(reason: str) -> str:
    return event("gone", {"reason": reason, "detail": "why", "first_revision": 40}, None)


def stream(step: Any, *parts: str, **more: Any) -> Any:
    """A stream that ends (as when its node dies) after these parts."""
    body = "".join(parts)
    return step(raw=web.Response(text=body, content_type="text/event-stream"), **more)


def asked_after(kit: Any) -> list[str | None]:
    return [each.headers.get("Last-Event-ID") for each in kit.cluster.calls(EVENTS)]


async def take(watch: Any, count: int) -> list[int]:
    return [(await anext(watch)).revision for _ in range(count)]


async def test_events_go_on_at_another_node_without_gap_or_repeat(kit: Any, step: Any) -> None:
    """Three nodes die one after the other; one of them sends again what was had already."""
    kit.cluster.script(
        EVENTS,
        stream(step, at(4), record(5)),
        stream(step, at(5), record(5), record(6)),
        stream(step, at(6), record(7)),
    )
    async with kit.client().watch("k") as watch:
        assert watch.revision == 4
        taking = asyncio.create_task(take(watch, 3))
        await kit.drive(taking.done)
        assert await taking == [5, 6, 7]
        assert watch.revision == 7
    assert asked_after(kit) == [None, "5", "6"]
    nodes = [each.node for each in kit.cluster.calls(EVENTS)]
    assert nodes[0] != nodes[1] != nodes[2]


async def test_an_event_that_was_cut_off_is_had_whole_from_the_next_node(
    kit: Any, step: Any
) -> None:
    """Half an event is none."""
    half = record(6)[:40]
    kit.cluster.script(EVENTS, stream(step, at(4), record(5), half), stream(step, at(5), record(6)))
    async with kit.client().watch() as watch:
        taking = asyncio.create_task(take(watch, 2))
        await kit.drive(taking.done)
        assert await taking == [5, 6]


async def test_a_sign_of_life_moves_the_revision_on(kit: Any, step: Any) -> None:
    """So that a prefix to which nothing happens does not fall behind what is kept."""
    kit.cluster.script(EVENTS, stream(step, at(4), ": alive\nid: 90\n\n"), stream(step, at(90)))
    async with kit.client().watch("quiet/") as watch:
        waiting = asyncio.create_task(anext(watch))
        await kit.drive(lambda: len(kit.cluster.calls(EVENTS)) >= 2)
        waiting.cancel()
        assert asked_after(kit)[:2] == [None, "90"]
        assert watch.revision == 90


async def test_a_dead_connection_is_noticed(kit: Any, step: Any, eventually: Any) -> None:
    """A node that is silent for longer than its signs of life are apart is left."""
    never = kit.cluster.gate()

    async def silent(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(at(4).encode())
        await never.wait()
        return response

    kit.cluster.script(EVENTS, step(handler=silent), stream(step, at(4), record(5)))
    async with kit.client().watch() as watch:
        taking = asyncio.create_task(take(watch, 1))
        await eventually(lambda: any(kit.clock._timeouts))
        kit.clock.advance(QUIET_SECONDS_MAX)
        await eventually(taking.done)
        assert await taking == [5]


@pytest.mark.parametrize("how", ["410", "gone"])
async def test_a_gap_is_said_and_not_hidden(kit: Any, step: Any, how: str) -> None:
    """Whether the node refuses to begin there, or says so in the stream."""
    refused = step(refuse="no_longer_kept", extra={"first_revision": 40})
    said = stream(step, at(4), gone("no_longer_kept"))
    kit.cluster.script(EVENTS, refused if how == "410" else said)
    watch = kit.client().watch(after=4)
    with pytest.raises(holdfast.NoLongerKept) as lost:
        await anext(watch)
    assert lost.value.first_revision == 40
    watch.close()


async def test_a_watch_that_may_restart_marks_the_gap(kit: Any, step: Any) -> None:
    """The marker comes when the new stream has begun: a state that is read then misses nothing of what follows."""
    kit.cluster.script(
        EVENTS,
        step(refuse="no_longer_kept", extra={"first_revision": 40}),
        stream(step, at(44), record(45)),
    )
    async with kit.client().watch(after=4, restart=True) as watch:
        assert await anext(watch) == holdfast.Restarted(44)
        assert await take(watch, 1) == [45]
    assert asked_after(kit) == ["4", None]


@pytest.mark.parametrize("reason", ["slow_reader", "stopping"])
async def test_being_dropped_costs_a_reader_nothing(kit: Any, step: Any, reason: str) -> None:
    """It goes on after the last event that it had."""
    kit.cluster.script(
        EVENTS, stream(step, at(4), record(5), gone(reason)), stream(step, at(5), record(6))
    )
    async with kit.client().watch() as watch:
        taking = asyncio.create_task(take(watch, 2))
        await kit.drive(taking.done)
        assert await taking == [5, 6]


async def test_nobody_answers(kit: Any) -> None:
    """It gives up after the client's `timeout`, and may be iterated on: nothing is lost by that."""
    client = kit.client(urls=["http://127.0.0.1:1"], timeout=2.0)
    watch = client.watch(after=4)
    asking = asyncio.create_task(anext(watch))
    await kit.drive(asking.done)
    with pytest.raises(holdfast.Unreachable):
        await asking
    assert watch.revision == 4


async def test_a_full_node_is_left_for_another(kit: Any, step: Any) -> None:
    """The number of watchers is bounded on each node."""
    kit.cluster.script(
        EVENTS,
        step(refuse="limit_reached", extra={"limit": "watchers_max"}),
        stream(step, at(4), record(5)),
    )
    async with kit.client().watch() as watch:
        assert await take(watch, 1) == [5]


async def test_a_cancelled_wait_loses_no_event_and_a_closed_watch_ends(kit: Any, step: Any) -> None:
    """Cancelling is how one bounds a wait."""
    gate = kit.cluster.gate()

    async def later(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(at(4).encode())
        await gate.wait()
        await response.write(record(5).encode())
        return response

    kit.cluster.script(EVENTS, step(handler=later))
    async with kit.client().watch() as watch:
        waiting = asyncio.create_task(anext(watch))
        for _ in range(5):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        gate.set()
        assert await take(watch, 1) == [5]
    assert [each async for each in watch] == []


async def test_a_store_has_no_events_and_says_so() -> None:
    """At once, and not by waiting for some that never come."""
    async with holdfast.connect("memory://") as client:
        with pytest.raises(holdfast.Refused):
            client.watch()


def test_the_blocking_watch_is_an_iterator_with_a_timeout(threaded_cluster: Any, step: Any) -> None:
    """It ends when nothing came in time, and may be iterated on."""
    cluster = threaded_cluster
    gate = cluster.gate()

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write((at(4) + record(5) + record(6)).encode())
        await gate.wait()
        return response

    cluster.script(EVENTS, step(handler=slow))
    with (
        holdfast.connect_sync(cluster.urls) as client,
        client.watch("k", timeout=0.05) as watch,
    ):
        assert watch.revision == 4
        assert [each.revision for each in watch] == [5, 6]
        assert list(watch) == []
        assert watch.revision == 6


FORKING = """
import gc, json, os, signal, sys, weakref
import holdfast

def is_refused(items):
    try:
        next(items)
    except holdfast.ClientClosed:
        return True

with holdfast.connect_sync(sys.argv[1].split(",")) as hf:
    history = hf.history("k")
    told = [next(history).revision]
    rest = hf.export_history()  # not begun
    read, write = os.pipe()
    with hf.watch("k") as watch:
        told.append(next(watch).revision)
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)  # a child that hangs is not left behind
            told = [is_refused(watch)]
        else:
            os.close(write)
            told.append(json.loads(os.read(read, 65536)))
            os.waitpid(pid, 0)
            hf.read_lock("k")
            told += [next(watch).revision, next(history).revision]
    if pid == 0:
        inherited = [weakref.ref(watch._watch), weakref.ref(history.gi_frame.f_locals["items"])]
        history.close()
        told.append(is_refused(rest))
        del history, watch
        gc.collect()
        told.append(all(each() is not None for each in inherited))
        os.write(write, json.dumps(told).encode())
        os._exit(0)
    print(json.dumps(told))
"""


def test_a_child_leaves_what_its_parent_has_open(threaded_cluster: Any, step: Any) -> None:
    """It neither waits for a thread that it does not have, nor ends or collects what is the parent's, which reads on."""
    cluster = threaded_cluster
    child_has_ended, end = cluster.gate(), cluster.gate()

    async def events(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write((at(4) + record(5)).encode())
        await child_has_ended.wait()
        await response.write(record(6).encode())
        await end.wait()
        return response

    async def read(request: web.Request) -> web.Response:
        child_has_ended.set()
        return web.json_response(lock_body(None))

    def page(*revisions: int, **more: Any) -> Any:
        records = [fields(each) for each in revisions]
        body = {"key": "k", "records": records, "first_revision": 1, "last_revision": 6, **more}
        return step(raw=web.json_response(body))

    cluster.script(EVENTS, step(handler=events))
    cluster.script("locks/read", step(handler=read))
    cluster.script("history/read", page(5, next=5), page(6, next=None))
    run = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING, ",".join(cluster.urls)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert json.loads(run.stdout) == [5, 5, [True, True, True], 6, 6]


def lock_body(token: int | None, previous: int | None = None) -> dict[str, Any]:
    holder = {"token": token, "session_ref": "r", "owner": f"node {token}", "remaining_ms": 1}
    return {
        "key": "k",
        "holders": [] if token is None else [holder],
        "waiters": [],
        "queue_length": 0,
        "previous": None if previous is None else {"token": previous, "ended": "released"},
    }


async def test_observing_tells_who_leads_and_each_change(kit: Any, step: Any) -> None:
    """The stream begins before the state is read, so its first events may be older than the state: they change nothing."""
    kit.cluster.script(
        EVENTS,
        stream(
            step,
            at(4),
            record(5, token=3, owner="node 3"),
            record(6, "ended", token=3, ended="released"),
            record(7, token=4, owner="node 4"),
            record(8, "ended", token=4, ended="expired"),
            record(9, token=5, owner="node 5"),
        ),
    )
    kit.cluster.script("locks/read", step(raw=web.json_response(lock_body(4, previous=3))))
    seen = []
    observing = kit.client().election("k").observe()
    async for leader in observing:
        seen.append(leader)
        if len(seen) == 3:
            break
    await observing.aclose()
    assert seen == [holdfast.Leader("node 4", 4), None, holdfast.Leader("node 5", 5)]


async def test_a_leader_that_resigns_leaves_cleanly(kit: Any) -> None:
    """Its epoch is its token; after `resign` it leads no more, and leaving the block raises nothing."""
    client = kit.client()
    async with client.election("boss").campaign() as leadership:
        assert leadership.is_leader
        assert leadership.epoch == leadership.grant.token
        assert await leadership.resign() is True
        assert not leadership.is_leader
        assert await leadership.resign() is False
    assert kit.cluster.holds == {}
    assert len(kit.cluster.calls("locks/release")) == 1


# -- the format ------------------------------------------------------------------------------------------------------------


def test_the_stream_may_be_cut_anywhere() -> None:
    """Byte by byte it says the same as in one piece."""
    whole = (at(4) + ": alive\nid: 5\n\n" + record(6).replace("\n", "\r\n")).encode()
    pieces = Parser()
    found = [frame for byte in whole for frame in pieces.feed(bytes([byte]))]
    assert found == Parser().feed(whole)
    assert [(each.id, each.data is None) for each in found] == [
        ("4", False),
        ("5", True),
        ("6", False),
    ]


def test_a_stream_without_end_is_refused() -> None:
    """In one line or in many."""
    with pytest.raises(Malformed):
        Parser().feed(b"x" * (EVENT_BYTES_MAX + 1))
    parser = Parser()
    line = b"data: " + b"x" * 60_000 + b"\n"
    for _ in range(EVENT_BYTES_MAX // len(line)):
        parser.feed(line)
    with pytest.raises(Malformed):
        parser.feed(line)
