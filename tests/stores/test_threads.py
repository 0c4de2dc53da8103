"""The threads for calls that block: few, with a line of bounded length, and no reason for a process not to end."""

from __future__ import annotations

import asyncio
import threading

import pytest

from holdfast.errors import ClientClosed
from holdfast.stores import threads
from holdfast.stores.base import Refusal
from holdfast.stores.threads import Threads


async def test_a_full_line_refuses_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It did nothing, so it is a refusal that may be repeated; what stands in the line is done."""
    monkeypatch.setattr(threads, "LINE_MAX", 2)
    gate, ended = threading.Event(), threading.Event()
    few = Threads("test", 1, ended.set)
    begun = threading.Event()
    first = asyncio.create_task(few.run(lambda: (begun.set(), gate.wait())))
    await asyncio.to_thread(begun.wait)
    line = [asyncio.create_task(few.run(lambda: 1)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Refusal, match="waiting for the store"):
        await few.run(lambda: 1)
    gate.set()
    await first
    assert await asyncio.gather(*line) == [1, 1]
    few.close()
    await asyncio.to_thread(ended.wait)
    with pytest.raises(ClientClosed):
        await few.run(lambda: 1)


async def test_a_cancelled_call_that_has_not_begun_is_never_made() -> None:
    """The caller has gone, and withdraws by itself; a call from the past would only come too late."""
    gate, ended, made = threading.Event(), threading.Event(), []
    few = Threads("test", 1, ended.set)
    first = asyncio.create_task(few.run(gate.wait))
    await asyncio.sleep(0)
    second = asyncio.create_task(few.run(lambda: made.append(1)))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    gate.set()
    await first
    few.close()
    await asyncio.to_thread(ended.wait)
    assert made == []


async def test_what_a_call_raises_comes_to_its_caller() -> None:
    """Whatever it is."""
    few = Threads("test", 2, lambda: None)

    def fail() -> None:
        raise KeyError("no such row")

    with pytest.raises(KeyError):
        await few.run(fail)
    assert await few.run(lambda: threading.current_thread().daemon)
    few.close()
