"""One process of many leads, in real Starlette and FastAPI applications."""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient as FastApiClient
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

import holdfast
from holdfast.contrib import leading
from holdfast.contrib.leading import Leadership, lead, stop
from holdfast.contrib.starlette import leader_lifespan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from conftest import Locks, Signals

KEY = "leaders/scheduler"


def application(name: str, locks: Locks, signals: Signals, **options: Any) -> Starlette:
    """An application that says when its work starts and ends, and tells over HTTP whether it leads."""

    async def work(grant: holdfast.Grant) -> None:
        signals.say(f"{name} leads")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            signals.say(f"{name} stopped")

    async def show(request: Any) -> JSONResponse:
        leadership: Leadership = request.state.leadership
        grant = leadership.grant
        return JSONResponse(
            {"leads": leadership.is_leading, "fence": None if grant is None else grant.fence}
        )

    return Starlette(
        routes=[Route("/", show)],
        lifespan=leader_lifespan(locks.address, KEY, work, ttl=1.0, **options),
    )


def test_one_of_two_leads_and_the_other_follows(locks: Locks, signals: Signals) -> None:
    """Both serve; one runs the work; when it ends, the other takes over at once, with a higher fence."""
    first = ExitStack()
    one = first.enter_context(TestClient(application("one", locks, signals)))
    signals.wait_for("one leads")
    with TestClient(application("two", locks, signals)) as two:
        assert two.get("/").json() == {"leads": False, "fence": None}
        before = one.get("/").json()
        assert before["leads"]
        first.close()
        signals.wait_for("two leads")
        after = two.get("/").json()
        assert after["leads"]
        assert after["fence"] > before["fence"]
    assert signals.said == ["one leads", "one stopped", "two leads", "two stopped"]


def test_who_loses_the_lead_stops_the_work_and_stands_again(locks: Locks, signals: Signals) -> None:
    """time 0: the work runs; time 1: the lease is over; time 2: the work is cancelled; time 3: it runs again under a new grant."""
    with TestClient(application("one", locks, signals)) as one:
        signals.wait_for("one leads")
        before = one.get("/").json()["fence"]
        locks.expire_all()
        signals.wait_for("one stopped")
        signals.wait_for("one leads", times=2)
        assert one.get("/").json()["fence"] > before
    assert signals.said == ["one leads", "one stopped"] * 2


def test_fastapi_takes_the_same_lifespan_around_its_own(locks: Locks, signals: Signals) -> None:
    """What the application opens for itself is there before the work starts, and is closed after it."""

    @asynccontextmanager
    async def own(_app: Any) -> AsyncIterator[dict[str, Any]]:
        signals.say("opened")
        yield {"pool": "a pool"}
        signals.say("closed")

    async def work(_grant: holdfast.Grant) -> None:
        signals.say("leads")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            signals.say("stopped")

    app = FastAPI(lifespan=leader_lifespan(locks.address, KEY, work, lifespan=own))

    @app.get("/")
    async def show(request: Request) -> dict[str, Any]:
        return {"pool": request.state.pool, "leads": request.state.leadership.is_leading}

    with FastApiClient(app) as client:
        signals.wait_for("leads")
        assert client.get("/").json() == {"pool": "a pool", "leads": True}
    assert signals.said == ["opened", "leads", "stopped", "closed"]


def test_a_wrong_argument_is_said_at_import(locks: Locks) -> None:
    """Not when the first worker starts."""

    async def work(_grant: holdfast.Grant) -> None:
        raise AssertionError("never")

    with pytest.raises(ValueError, match="ttl"):
        leader_lifespan(locks.address, KEY, work, ttl=-1.0)


async def test_work_that_is_done_is_not_done_by_another(locks: Locks) -> None:
    """The lead stays where it is: otherwise each process in turn would do the work of the one before."""
    runs: list[str] = []
    done = asyncio.Event()

    def once(name: str) -> leading.Work:
        async def work(_grant: holdfast.Grant) -> None:
            runs.append(name)
            done.set()

        return work

    async with holdfast.connect(locks.address) as one, holdfast.connect(locks.address) as other:
        leaders = [
            asyncio.create_task(lead(client, KEY, once(name), Leadership()))
            for name, client in (("one", one), ("other", other))
        ]
        await done.wait()
        assert (await one.read_lock(KEY)).holders
        for each in leaders:
            await stop(each)
        assert len(runs) == 1
        assert not (await one.read_lock(KEY)).holders


async def test_work_that_fails_gives_up_the_lead_for_a_while(
    locks: Locks, caplog: pytest.LogCaptureFixture
) -> None:
    """Its error is logged, whatever its type; another may lead in the pause; then it is tried again."""
    errors = iter([ValueError("a bug"), holdfast.NotAcquired("of a lock of its own")])
    pauses: list[float] = []
    works = asyncio.Event()

    async def work(_grant: holdfast.Grant) -> None:
        error = next(errors, None)
        if error is not None:
            raise error
        works.set()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        assert not (await client.read_lock(KEY)).holders

    async with holdfast.connect(locks.address) as client:
        leadership = Leadership()
        leader = asyncio.create_task(lead(client, KEY, work, leadership, pause=pause))
        await works.wait()
        assert leadership.is_leading
        assert repr(leadership) == "<Leadership leading>"
        await stop(leader)
    assert pauses == [leading.AFTER_FAILURE_SECONDS] * 2
    assert "a bug" in caplog.text
    assert repr(leadership) == "<Leadership not leading>"


async def test_a_coordinator_that_cannot_be_reached_is_asked_again() -> None:
    """Nobody leads meanwhile, and nobody believes to."""
    paused = asyncio.Event()

    async def pause(seconds: float) -> None:
        assert seconds == leading.STAND_AGAIN_SECONDS
        paused.set()
        await asyncio.get_running_loop().create_future()

    async def work(_grant: holdfast.Grant) -> None:
        raise AssertionError("without the lock")

    leadership = Leadership()
    async with holdfast.connect("http://127.0.0.1:9", timeout=0.1) as client:
        leader = asyncio.create_task(lead(client, KEY, work, leadership, pause=pause))
        await paused.wait()
        assert not leadership.is_leading
        await stop(leader)


def test_what_standing_again_would_not_mend_is_reported(
    locks: Locks, caplog: pytest.LogCaptureFixture
) -> None:
    """A key that no store takes: the application serves on, and the log says that it does not lead."""

    async def work(_grant: holdfast.Grant) -> None:
        raise AssertionError("without the lock")

    app = Starlette(lifespan=leader_lifespan(locks.address, "x" * 600, work))
    with caplog.at_level(logging.ERROR), TestClient(app) as client:
        for _ in range(1000):  # each is a round of the application's own loop
            assert client.get("/").status_code == 404
            if "does not stand for the lead any more" in caplog.text:
                break
    assert "does not stand for the lead any more" in caplog.text


async def test_work_that_does_not_end_does_not_keep_the_program(
    locks: Locks, caplog: pytest.LogCaptureFixture
) -> None:
    """It was cancelled and goes on: the program goes on ending, and says so."""
    started, let_go = asyncio.Event(), asyncio.Event()

    async def stubborn(_grant: holdfast.Grant) -> None:
        started.set()
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    async with holdfast.connect(locks.address) as client:
        leader = asyncio.create_task(lead(client, KEY, stubborn, Leadership()))
        await started.wait()
        await stop(leader, seconds=0.0)
        assert "has not ended" in caplog.text
        let_go.set()
        await stop(leader)
