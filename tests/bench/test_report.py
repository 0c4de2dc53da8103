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
        "cpu_client": 0.5,
        "cpu_server": 1.0,
        "cpu_other_max": 0.02,
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
    assert "failed: gateway: no port" in told
    not_measured = [e.what for e in report.figures(run_of(cycles=CYCLES)) if e.reached is None]
    assert {"gateway", "handover", "overload", "failover"} <= set(not_measured)


def overload_of(**changed: Any) -> dict[str, Any]:
    row = {"per_second": 1_000.0, "acquire_p99_ms": 400.0, "refused_per_second": 50.0}
    peak = {"load": "peak", "callers": 300, "refused_p99_ms": None, "mib_max": 90.0, **row}
    over = {"load": "overload", "callers": 3_000, "refused_p99_ms": 80.0, "mib_max": 150.0, **row}
    over |= {key: changed.pop(key) for key in ("refused_p99_ms", "mib_max") if key in changed}
    return {"goodput_of_peak": 0.9, "steady_lost": None, "rows": [peak, over], **changed}


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"steady_lost": "a session was lost"}, "renewing sessions lost under overload"),
        ({"refused_p99_ms": 700.0}, "a refusal under overload, p99"),
        ({"mib_max": 900.0}, "memory of a node under overload, beyond the peak's"),
        ({"goodput_of_peak": 0.7}, "goodput under overload to the peak"),
    ],
)
def test_overload_is_judged_by_what_is_done_who_is_lost_how_fast_it_refuses_and_its_memory(
    report: Any, changed: dict[str, Any], what: str
) -> None:
    good = {each.what: each.reached for each in report.figures(run_of(overload=overload_of()))}
    assert good[what] is True
    result = run_of(overload=overload_of(**changed))
    found = {each.what: each for each in report.figures(result)}
    assert found[what].reached is False


def failover_of(**changed: Any) -> dict[str, Any]:
    row = {"contender": "holdfast", "kind": "killed", "p50_ms": 90.0, "p99_ms": 300.0}
    theirs = {"contender": "etcd", "kind": "killed", "p50_ms": 1_300.0, "p99_ms": 1_600.0}
    rows = [{**row, **changed}, theirs]
    return {"rows": [{**each, "max_ms": each["p99_ms"]} for each in rows]}


@pytest.mark.parametrize(
    ("changed", "reached"), [({}, True), ({"p50_ms": 500.0}, False), ({"p99_ms": 1_200.0}, False)]
)
def test_a_failover_is_judged_by_its_median_and_its_longest(
    report: Any, changed: dict[str, Any], reached: bool
) -> None:
    (ours,) = (
        each
        for each in report.figures(run_of(failover=failover_of(**changed)))
        if each.what.startswith("nobody gets a lock")
    )
    assert ours.reached is reached


def test_the_page_shows_the_peers_failover_beside_ours(report: Any) -> None:
    told = report.text(run_of(failover=failover_of()))
    assert "1,300 (1,600)" in told


def test_a_window_that_others_disturbed_is_named(report: Any) -> None:
    """Also if the medians of all windows look quiet."""
    spoilt = {**CYCLES, "rows": [*CYCLES["rows"][:1], {**CYCLES["rows"][1], "cpu_other_max": 0.4}]}
    assert report.disturbances(run_of(cycles=CYCLES)) == []
    assert report.disturbances(run_of(cycles=spoilt)) == [
        "disturbed: cycles: others used up to 0.40 cores meanwhile, in 1 of 2 rows"
    ]


def test_what_was_done_at_the_second_try_is_named(report: Any) -> None:
    told = report.disturbances(run_of(cycles={**CYCLES, "retried": ["etcd: a lease was lost"]}))
    assert told == ["done at the second try: cycles: etcd: a lease was lost"]


def test_a_cell_that_was_not_measured_leaves_its_place_empty(report: Any) -> None:
    """Else the figures behind it would stand under the wrong number of workers."""
    rows = [window("holdfast", n, 1_000.0) for n in (1, 16, 64)]
    rows += [window("etcd", n, 500.0) for n in (1, 64)]
    rates, _ = report.tables(run_of(cycles={**CYCLES, "rows": rows}))
    head, _, etcd = rates.grid()
    assert head == ["", "1", "16", "64"]
    assert etcd == ["etcd, grpc.aio", "500 (0.90)", "", "500 (0.90)"]


def test_fewer_held_locks_are_told_as_such(report: Any) -> None:
    """A quick run holds 20,000: a fifth of the locks, a fifth of the memory that they may take."""
    weighed = [
        {"contender": "holdfast", "mib_for_the_locks_max": 25.0},
        {"contender": "etcd", "mib_for_the_locks_max": 9.0},
    ]
    rows = [{"locks": 1_000, "per_second": 10.0}, {"locks": 20_000, "per_second": 10.0}]
    measured = {"memory": {"locks": 20_000, "rows": weighed}, "throughput": rows}
    memory, theirs, _ = report.figures(run_of(held_locks=measured))[4:7]
    assert memory.what == "20,000 held locks, memory of a node"
    assert memory.to_reach == "under 20 MiB"
    assert memory.reached is False
    assert theirs.measured == "9.00 MiB"


def test_what_the_lock_table_costs_is_told_beside_the_log_alone(report: Any) -> None:
    rows = [{"who": who, "in_flight": 64, "rate": rate, "p50_ms": 1.0, "sync_ms": 0.3}
            for who, rate in (("engine", 40_000.0), ("node", 10_000.0))]  # fmt: skip
    found = {each.what: each for each in report.figures(run_of(engine={"rows": rows}))}
    assert found["the log with the lock table to the log alone, 64 in flight"].measured == "0.25"


def test_the_page_has_the_place_where_the_figures_go(report: Any) -> None:
    page = report.PAGE.read_text()
    assert page.count(report.BEGIN) == page.count(report.END) == 1
    assert page.index(report.BEGIN) < page.index(report.END)


@pytest.mark.parametrize(
    "program", ["cycles", "handover", "gateway", "overload", "held_locks", "failover"]
)
def test_every_measurement_says_what_it_is(program: str) -> None:
    """Without etcd's, ZooKeeper's or PostgreSQL's libraries: they are loaded when they are used."""
    command = [sys.executable, BENCH / f"{program}.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - ours
    assert "--quick" in done.stdout
    assert "--json" in done.stdout
