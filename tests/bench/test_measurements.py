"""What the measurements themselves promise: when a clock begins, at which rate a load comes, that a run is a whole one."""

from __future__ import annotations

import asyncio
import resource
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(autouse=True)
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs find their neighbours beside them."""
    monkeypatch.syspath_prepend(str(BENCH))


class Clock:
    """Seconds, moved by whoever takes time."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_a_round_trip_goes_to_another_process() -> None:
    """Both ends on one event loop would take half of the time."""
    import measuring

    def of_children() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before = of_children()
    assert measuring.round_trip_us(200) > 0
    assert of_children() > before


def test_three_writers_leave_no_files(tmp_path: Path) -> None:
    import measuring

    assert measuring.fdatasync_of_three_us(tmp_path) > 0
    assert list(tmp_path.iterdir()) == []


async def test_the_clock_of_a_failover_begins_with_the_signal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Time 0: the signal is on its way. Time 1: the leader is gone. Time 1.5: somebody has a lock."""
    import failover

    clock = Clock()
    monkeypatch.setattr(failover, "time", clock)

    class Service:
        nodes = ("n1", "n2", "n3")
        is_led = True

        async def grant(self, node: str) -> bool:
            if not self.is_led:
                clock.now += 0.5
            return True

        def signal(self, node: str, number: signal.Signals) -> None:
            clock.now += 1.0
            self.is_led = False

    assert await failover.without(Service(), "n1", signal.SIGKILL) >= 1.5


async def test_the_load_beside_a_snapshot_comes_at_the_rate_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each operation takes a millisecond here: the pauses are so much shorter."""
    import snapshot_pause

    from holdfast_coordinator.machine.outcomes import Granted

    clock, done, turns = Clock(), 0, 0

    class Node:
        async def submit(self, operation: Any) -> Any:
            nonlocal done
            done += 1
            clock.now += 0.001
            return Granted(1, 1, ("k",), "exclusive", "s", 1000, (None,), 0)

    async def sleep(seconds: float) -> None:
        nonlocal turns
        turns += 1
        clock.now += max(0.0, seconds)
        if turns == 100:
            raise asyncio.CancelledError

    monkeypatch.setattr(snapshot_pause, "time", clock)
    monkeypatch.setattr(
        snapshot_pause, "asyncio", SimpleNamespace(gather=asyncio.gather, sleep=sleep)
    )
    with pytest.raises(asyncio.CancelledError):
        await snapshot_pause.load(Node(), 500, 0)
    assert done / clock.now == pytest.approx(500)


def test_a_run_of_the_simulator_without_invariants_is_a_whole_one() -> None:
    """The same events, and the same verdict, as with them."""
    import simulator

    whole, _ = simulator.measured("hot-key", 0, simulator.STRETCH)
    with simulator.without_invariants():
        without, _ = simulator.measured("hot-key", 0, simulator.STRETCH)
    assert (without.verdict, without.events) == (whole.verdict, whole.events)
