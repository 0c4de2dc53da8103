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

from failover import TARGETS_MS
from measuring import DISTURBED_CORES, FOLDER
from snapshot_pause import PAUSE_MS_MAX
from tables import tables

PAGE = FOLDER.parent / "docs" / "performance.md"
CHARTS = PAGE.parent / "performance"
BEGIN, END = "<!-- figures: written by bench/report.py -->", "<!-- end of figures -->"
HELD_LOCKS, HELD_MIB_MAX = 100_000, 100
REFUSED_P99_MS_MAX = 500
"""A node lets in what it can do within half a second: to say no must not take longer than to be let in."""
OVERLOAD_MIB_PER_CALLER_MAX = 0.03
"""What a node may grow by, beyond its memory at the peak, for each caller more, of whom it has a third: a connection with its
buffers and its task takes some 20 KiB of a node. It must not grow with what was refused."""


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
            yield _at_least(
                f"lock cycles to etcd, {workers} worker{'s' * (workers > 1)}", ratio, bound
            )
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
    locks = measured["memory"]["locks"]
    bound = HELD_MIB_MAX * locks / HELD_LOCKS
    grown = {row["contender"]: row["mib_for_the_locks_max"] for row in measured["memory"]["rows"]}
    yield _below(f"{locks:,} held locks, memory of a node", grown["holdfast"], bound, " MiB")
    if "etcd" in grown:
        yield Figure("the same of a node of etcd", f"{grown['etcd']:,.2f} MiB", "", None)
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
        ratio = rates["node", in_flight] / rates["engine", in_flight]
        what = f"the log with the lock table to the log alone, {in_flight} in flight"
        yield Figure(what, f"{ratio:.2f}", "", None)


def _pause(measured: dict[str, Any], _: dict[str, Any]) -> Iterator[Figure]:
    what = f"longest pause while a snapshot is taken, {measured['locks']:,} locks"
    yield _below(what, measured["pause_ms"], PAUSE_MS_MAX, " ms")


def _overload(measured: dict[str, Any], _: dict[str, Any]) -> Iterator[Figure]:
    yield _at_least("goodput under overload to the peak", measured["goodput_of_peak"], 0.8, "")
    lost = measured["steady_lost"]
    yield Figure("renewing sessions lost under overload", lost or "none", "none", lost is None)
    rows = {row["load"]: row for row in measured["rows"]}
    peak, over = rows["peak"], rows["overload"]
    if over["refused_p99_ms"] is not None:
        what = "a refusal under overload, p99"
        yield _below(what, over["refused_p99_ms"], REFUSED_P99_MS_MAX, " ms")
    more = over["mib_max"] - peak["mib_max"]
    bound = OVERLOAD_MIB_PER_CALLER_MAX * (over["callers"] - peak["callers"])
    yield _below("memory of a node under overload, beyond the peak's", more, bound, " MiB")


def _failover(measured: dict[str, Any], _: dict[str, Any]) -> Iterator[Figure]:
    for row in measured["rows"]:
        if row["contender"] == "holdfast":
            p50, p99 = TARGETS_MS[row["kind"]]
            # Of fewer than a hundred rounds the longest is the p99.
            told = f"p50 {row['p50_ms']:,.0f} ms, longest {row['max_ms']:,.0f} ms"
            bounds = f"p50 under {p50:,} ms" + (f", p99 under {p99:,} ms" if p99 else "")
            reached = row["p50_ms"] < p50 and (p99 is None or row["p99_ms"] < p99)
            yield Figure(f"nobody gets a lock, leader {row['kind']}", told, bounds, reached)


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
MARKS = {True: "reached", False: "not reached", None: ""}

# -- how it is told --------------------------------------------------------------------------------


def collected(result: dict[str, Any], fact: str) -> dict[str, str]:
    """`missing` or `versions` of all measurements together."""
    found: dict[str, str] = {}
    for measured in result["measurements"].values():
        found |= measured.get(fact, {})
    return found


def disturbances(result: dict[str, Any]) -> list[str]:
    """What strangers on the machine may have spoilt, and what was done only at the second try."""
    found = []
    for name, measured in result["measurements"].items():
        rows = measured.get("rows", measured.get("throughput", []))
        cores = [row.get("cpu_other_max", row.get("cpu_other", 0.0)) for row in rows]
        spoilt = [each for each in cores if each > DISTURBED_CORES]
        if spoilt:
            found.append(
                f"disturbed: {name}: others used up to {max(spoilt):.2f} cores meanwhile, "
                f"in {len(spoilt)} of {len(rows)} rows"
            )
        found += [f"done at the second try: {name}: {why}" for why in measured.get("retried", [])]
    return found


def remarks(result: dict[str, Any]) -> list[str]:
    """Whatever has to be known beside the figures."""
    return [
        *(f"not found: {name}: {why}" for name, why in collected(result, "missing").items()),
        *(f"failed: {name}: {why}" for name, why in result["failed"].items()),
        *disturbances(result),
        *(["a quick run: its figures are a first look"] if result.get("quick") else []),
    ]


def text(result: dict[str, Any]) -> str:
    """For a terminal."""
    lines = [
        f"{each.what:58} {each.measured:>24}   {each.to_reach:32} {MARKS[each.reached].upper()}"
        for each in figures(result)
    ]
    for table in tables(result):
        lines += ["", table.title]
        for label, *cells in table.grid():
            lines.append(f"{label:40}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join([*lines, "", *remarks(result)])


def markdown(result: dict[str, Any]) -> str:
    """The part of the page between its markers."""
    facts = result["machine"]
    told = ", ".join(f"{name} {version}" for name, version in collected(result, "versions").items())
    lines = [
        f"Measured on {result['at'][:10]} at commit `{facts['commit']}`: {facts['cores']} cores of {facts['cpu']}, "
        f"{facts['memory_gib']:.0f} GiB, Linux {facts['kernel']}, {facts['file_system']}, Python {facts['python']}; "
        f"before any server ran, one `fdatasync` of 4 KiB took {facts['fdatasync_us']:.0f} µs "
        f"({facts['fdatasync_of_three_us']:.0f} µs when three processes did it at a time, as three nodes do), "
        f"a round trip to another process over loopback {facts['round_trip_us']:.0f} µs, "
        f"and the load average was {facts['load_average']}. {told}.",
        "",
        *_markdown_grid([["figure", "measured", "to reach", ""], *map(_row, figures(result))]),
        "",
    ]
    for table in tables(result):
        lines += [f"{table.title}:", "", *_markdown_grid(table.grid()), ""]
    lines += [f"* {each}" for each in remarks(result)]
    lines += [
        "",
        *(f"![{path.stem}](performance/{path.name})" for path in sorted(CHARTS.glob("*.svg"))),
    ]
    return "\n".join(lines)


def _row(figure: Figure) -> list[str]:
    mark = MARKS[figure.reached]
    return [
        figure.what,
        figure.measured,
        figure.to_reach,
        f"**{mark}**" if mark == "not reached" else mark,
    ]


def _markdown_grid(grid: list[list[str]]) -> list[str]:
    head, *rows = ["| " + " | ".join(each) + " |" for each in grid]
    return [head, "| --- |" + " ---: |" * (len(grid[0]) - 1), *rows]


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
    if arguments.publish:
        publish(result)
    else:
        from charts import draw  # the table needs no matplotlib

        draw(result, FOLDER / "results" / "charts")


if __name__ == "__main__":
    main()
