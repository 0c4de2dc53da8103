"""From the result of a run: the table of the figures that the project promises itself, the charts, and docs/performance.md.

    python bench/report.py bench/results/latest.json               the table, and charts into bench/results/charts
    python bench/report.py bench/results/published.json --publish  docs/performance.md and its charts anew

Rule: nothing is measured here, and nothing is left out because it looks bad: a figure that was not reached says so, and what was
not measured is named. The page is written by hand but for the part between its two markers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import FOLDER
from peers import CONTENDERS, contender

PAGE = FOLDER.parent / "docs" / "performance.md"
CHARTS = PAGE.parent / "performance"
BEGIN, END = "<!-- figures: written by bench/report.py -->", "<!-- end of figures -->"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. `reached` None: it could not be judged."""

    what: str
    measured: str
    to_reach: str
    reached: bool | None


def figures(result: dict[str, Any]) -> list[Figure]:
    """All that can be told from what was measured."""
    measured = result["measurements"]
    found: list[Figure] = []
    for name, judge in JUDGES.items():
        if name in measured:
            found += judge(measured[name], result)
        else:
            found.append(Figure(name, "not measured", "", None))
    return found


def _at_least(what: str, value: float, bound: float, unit: str = " x") -> Figure:
    return Figure(what, f"{value:.2f}{unit}", f"at least {bound:g}{unit}", value >= bound)


def _below(what: str, value: float, bound: float, unit: str) -> Figure:
    return Figure(what, f"{value:,.2f}{unit}", f"under {bound:,.4g}{unit}", value < bound)


def _rates(measured: dict[str, Any], figure: str = "per_second") -> dict[tuple[str, int], float]:
    return {(row["contender"], row["workers"]): row[figure] for row in measured["rows"]}


def _cycles(measured: dict[str, Any], result: dict[str, Any]) -> Iterator[Figure]:
    rates = _rates(measured)
    for workers, bound in ((1, 1.2), (64, 8), (256, 12)):
        if ("etcd", workers) in rates:
            ratio = rates["holdfast", workers] / rates["etcd", workers]
            yield _at_least(f"lock cycles to etcd, {workers} workers", ratio, bound)
    best = max(rates.get((f"zookeeper-{each}", 64), 0.0) for each in ("kazoo", "wire"))
    if best:
        ratio = rates["holdfast", 64] / best
        yield _at_least("lock cycles to ZooKeeper's best client, 64 workers", ratio, 2)
    for workers in (64, 256):
        if ("redis", workers) in rates:
            ratio = rates["holdfast", workers] / rates["redis", workers]
            yield _at_least(f"lock cycles to one fsyncing Redis, {workers} workers", ratio, 1)
    if ("holdfast", 1) in rates:
        facts = result["machine"]
        limit = 3 * (facts["fdatasync_us"] + 2 * facts["round_trip_us"]) / 1000
        p50 = _rates(measured, "acquire_p50_ms")["holdfast", 1]
        yield _below("acquire p50, 1 worker", p50, max(1.0, limit), " ms")


def _gateway(measured: dict[str, Any], _: dict[str, Any]) -> Iterator[Figure]:
    rates = {row["contender"]: row["per_second"] for row in measured["rows"]}
    if len(rates) == 2:
        ratio = rates["holdfast"] / rates["etcd"]
        yield _at_least("HTTP and JSON to etcd's gateway, 64 connections", ratio, 1.5)


def _handover(measured: dict[str, Any], _: dict[str, Any]) -> Iterator[Figure]:
    rows = {row["contender"]: row for row in measured["rows"]}
    ours = rows["holdfast"]
    if "etcd" in rows:
        ratio = ours["per_second"] / rows["etcd"]["per_second"]
        yield _at_least("hand-over to etcd, 16 waiters", ratio, 6)
    best = max((row["per_second"] for name, row in rows.items() if "zoo" in name), default=0)
    if best:
        yield _at_least("hand-over to ZooKeeper's best client", ours["per_second"] / best, 1.2)
    yield _at_least("hand-over, share of one commit at a time", ours["of_limit"], 0.8, "")
    yield _below("hand-over p99", ours["between_grants_p99_ms"], 5, " ms")
    uneven = ours["worker_max"] / max(1, ours["worker_min"]) - 1
    yield _below("hand-over, shares of the workers apart by", uneven * 100, 5, " %")


def _idle(measured: dict[str, Any], _: dict[str, Any]) -> Iterator[Figure]:
    for row in measured["rows"]:
        if row["contender"] == "holdfast":
            what = f"{row['sessions']:,} idle sessions of 10 s, CPU of all nodes"
            yield _below(what, row["cpu_server"] * 100, 30, " % of a core")


def _held(measured: dict[str, Any], _: dict[str, Any]) -> Iterator[Figure]:
    weighed = measured["memory"]
    per_100_000 = weighed["mib_for_the_locks_max"] * 100_000 / weighed["locks"]
    yield _below("100,000 held locks, memory of a node", per_100_000, 100, " MiB")
    first, *_, last = measured["throughput"]
    share = last["per_second"] / first["per_second"]
    what = f"throughput with {last['locks']:,} held locks to {first['locks']:,}"
    yield _at_least(what, share, 0.9, "")


def _engine(measured: dict[str, Any], _: dict[str, Any]) -> Iterator[Figure]:
    rates = {(row["who"], row["in_flight"]): row["rate"] for row in measured["rows"]}
    for in_flight in sorted({each for _, each in rates}):
        if ("prototype", in_flight) in rates:
            ratio = rates["engine", in_flight] / rates["prototype", in_flight]
            yield _at_least(f"the log alone to its prototype, {in_flight} in flight", ratio, 0.9)


def _pause(measured: dict[str, Any], _: dict[str, Any]) -> Iterator[Figure]:
    what = f"longest pause while a snapshot is taken, {measured['locks']:,} locks"
    yield _below(what, measured["pause_ms"], 50, " ms")


def _overload(measured: dict[str, Any], _: dict[str, Any]) -> Iterator[Figure]:
    yield _at_least("goodput under overload to the peak", measured["goodput_of_peak"], 0.8, "")
    lost = measured["steady_lost"]
    yield Figure("renewing sessions lost under overload", lost or "none", "none", lost is None)


def _failover(measured: Any, _: dict[str, Any]) -> Iterator[Figure]:
    for row in measured:
        what = f"nobody gets a lock, leader {row['kind']}"
        told = f"p50 {row['p50_ms']:.0f} ms, longest {row['max_ms']:.0f} ms"
        yield Figure(what, told, "(see docs/engine.md)", None)


JUDGES = {
    "cycles": _cycles,
    "gateway": _gateway,
    "handover": _handover,
    "idle_sessions": _idle,
    "held_locks": _held,
    "engine": _engine,
    "snapshot_pause": _pause,
    "snapshot_pause_million": _pause,
    "overload": _overload,
    "failover": _failover,
}


# -- how it is told --------------------------------------------------------------------------------


def missing(result: dict[str, Any]) -> dict[str, str]:
    """Who was not found, and how to install it."""
    found: dict[str, str] = {}
    for measured in result["measurements"].values():
        if isinstance(measured, dict):
            found |= measured.get("missing", {})
    return found


def versions(result: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for measured in result["measurements"].values():
        if isinstance(measured, dict):
            found |= measured.get("versions", {})
    return found


def text(result: dict[str, Any]) -> str:
    """For a terminal."""
    marks = {True: "reached", False: "NOT REACHED", None: ""}
    lines = [
        f"{each.what:58} {each.measured:>24}   {each.to_reach:24} {marks[each.reached]}"
        for each in figures(result)
    ]
    lines += ["", *_rate_lines(result)]
    lines += [f"not found: {name}: {why}" for name, why in missing(result).items()]
    lines += [f"FAILED: {name}: {why}" for name, why in result["failed"].items()]
    return "\n".join(lines)


def _rate_lines(result: dict[str, Any]) -> list[str]:
    measured = result["measurements"].get("cycles")
    if measured is None:
        return []
    rates = _rates(measured)
    counts = sorted({workers for _, workers in rates})
    lines = [f"{'lock cycles/s with so many workers':36}" + "".join(f"{n:>10}" for n in counts)]
    lines += [
        f"{each.title:36}" + "".join(f"{rates[each.name, n]:>10,.0f}" for n in counts)
        for each in CONTENDERS
        if (each.name, counts[0]) in rates
    ]
    return lines


def markdown(result: dict[str, Any]) -> str:
    """The part of the page between its markers."""
    facts = result["machine"]
    told = ", ".join(f"{name} {version}" for name, version in versions(result).items())
    lines = [
        f"Measured on {result['at'][:10]} at commit `{facts['commit']}`: {facts['cores']} cores of {facts['cpu']}, "
        f"{facts['memory_gib']:.0f} GiB, Linux {facts['kernel']}, {facts['file_system']}, Python {facts['python']}; "
        f"one `fdatasync` of 4 KiB takes {facts['fdatasync_us']:.0f} µs, "
        f"a round trip over loopback {facts['round_trip_us']:.0f} µs. "
        f"Load average before: {facts['load_average']}. {told}.",
        "",
        "| figure | measured | to reach | |",
        "| --- | ---: | --- | --- |",
    ]
    marks = {True: "reached", False: "**not reached**", None: ""}
    lines += [
        f"| {each.what} | {each.measured} | {each.to_reach} | {marks[each.reached]} |"
        for each in figures(result)
    ]
    lines += ["", *_rate_table(result)]
    lines += [f"* not found: {name}: {why}" for name, why in missing(result).items()]
    lines += [f"* failed: {name}: {why}" for name, why in result["failed"].items()]
    lines += [
        "",
        *(f"![{path.stem}](performance/{path.name})" for path in sorted(CHARTS.glob("*.svg"))),
    ]
    return "\n".join(lines)


def _rate_table(result: dict[str, Any]) -> list[str]:
    measured = result["measurements"].get("cycles")
    if measured is None:
        return []
    rows = {(row["contender"], row["workers"]): row for row in measured["rows"]}
    counts = sorted({workers for _, workers in rows})
    lines = [
        "Lock cycles a second (acquire p50 in ms) with so many workers:",
        "",
        "| | " + " | ".join(str(each) for each in counts) + " |",
        "| --- |" + " ---: |" * len(counts),
    ]
    for each in CONTENDERS:
        cells = [
            f"{rows[each.name, n]['per_second']:,.0f} ({rows[each.name, n]['acquire_p50_ms']:.2f})"
            for n in counts
            if (each.name, n) in rows
        ]
        if cells:
            lines.append(f"| {contender(each.name).title} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def publish(result: dict[str, Any]) -> None:
    """Write the page's part and its charts anew."""
    from charts import draw

    draw(result, CHARTS)
    page = PAGE.read_text()
    before, found, rest = page.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise SystemExit(f"{PAGE} has lost its markers")
    PAGE.write_text(f"{before}{BEGIN}\n\n{markdown(result)}\n\n{END}{after}")


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("result", type=Path)
    options.add_argument("--publish", action="store_true")
    arguments = options.parse_args()
    result = json.loads(arguments.result.read_text())
    print(text(result))
    from charts import draw  # the table needs no matplotlib

    draw(result, FOLDER / "results" / "charts")
    if arguments.publish:
        publish(result)


if __name__ == "__main__":
    main()
