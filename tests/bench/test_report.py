"""What is told of a run: every promised figure, whether it was reached, and who was not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Any:
    """bench/report.py, which is a program: it finds its neighbours beside it."""
    monkeypatch.syspath_prepend(str(BENCH))
    import report

    return report


def window(contender: str, workers: int, per_second: float) -> dict[str, Any]:
    return {
        "contender": contender,
        "workers": workers,
        "per_second": per_second,
        "acquire_p50_ms": 0.9,
    }


def run_of(**measurements: Any) -> dict[str, Any]:
    machine = {"fdatasync_us": 250.0, "round_trip_us": 100.0}
    return {"machine": machine, "measurements": measurements, "failed": {"gateway": "no port"}}


CYCLES = {
    "rows": [
        window("holdfast", 64, 20_000.0),
        window("etcd", 64, 2_000.0),
        window("zookeeper-wire", 64, 12_500.0),
        window("zookeeper-kazoo", 64, 1_000.0),
    ],
    "missing": {"redis": "redis-server: apt-get install redis-server"},
    "versions": {"etcd": "3.5.1"},
}


def test_a_figure_that_was_not_reached_says_so(report: Any) -> None:
    """Ten times etcd is enough; 1.6 times what ZooKeeper's better client shows is not."""
    found = {each.what: each for each in report.figures(run_of(cycles=CYCLES))}
    assert found["lock cycles to etcd, 64 workers"].reached is True
    assert found["lock cycles to etcd, 64 workers"].measured == "10.00 x"
    assert found["lock cycles to ZooKeeper's best client, 64 workers"].reached is False
    assert "NOT REACHED" in report.text(run_of(cycles=CYCLES))


def test_who_is_missing_what_failed_and_what_was_not_measured_is_named(report: Any) -> None:
    told = report.text(run_of(cycles=CYCLES))
    assert "not found: redis: redis-server: apt-get install redis-server" in told
    assert "FAILED: gateway: no port" in told
    not_measured = [e.what for e in report.figures(run_of(cycles=CYCLES)) if e.reached is None]
    assert {"gateway", "handover", "overload", "failover"} <= set(not_measured)


@pytest.mark.parametrize("lost", [None, "a session was lost"])
def test_a_lost_session_is_a_figure_that_was_not_reached(report: Any, lost: str | None) -> None:
    overload = {"goodput_of_peak": 0.9, "steady_lost": lost}
    found = {each.what: each for each in report.figures(run_of(overload=overload))}
    assert found["renewing sessions lost under overload"].reached is (lost is None)


def test_the_page_has_the_place_where_the_figures_go(report: Any) -> None:
    page = report.PAGE.read_text()
    assert page.count(report.BEGIN) == page.count(report.END) == 1
    assert page.index(report.BEGIN) < page.index(report.END)


@pytest.mark.parametrize("program", ["cycles", "handover", "gateway", "overload", "held_locks"])
def test_every_measurement_says_what_it_is(program: str) -> None:
    """Without etcd's, ZooKeeper's or PostgreSQL's libraries: they are loaded when they are used."""
    command = [sys.executable, BENCH / f"{program}.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - ours
    assert "--quick" in done.stdout
    assert "--json" in done.stdout
