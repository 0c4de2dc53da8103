"""The charts of a run, as SVG: the same result gives the same file, byte for byte.

Rule: one colour for one contender in all of them. What was not measured has no chart.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from peers import CONTENDERS, contender

COLOURS = {
    "holdfast": "#0b6e4f",
    "etcd": "#3b7dd8",
    "zookeeper-kazoo": "#b5872b",
    "zookeeper-wire": "#d9b44a",
    "redis": "#c0392b",
    "postgresql": "#6c5b7b",
}
STYLE = {
    "svg.hashsalt": "holdfast",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "figure.figsize": (7.2, 4.0),
    "figure.autolayout": True,
}


def draw(result: dict[str, Any], directory: Path) -> list[Path]:
    """Those that can be drawn from this result, into `directory`; old ones there are removed."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("*.svg"):
        old.unlink()
    made = []
    for name, (needed, chart) in CHARTS.items():
        if any(each not in result["measurements"] for each in needed):
            continue
        with matplotlib.rc_context(STYLE):
            figure, axes = plt.subplots()
            chart(axes, result["measurements"])
            path = directory / f"{name}.svg"
            figure.savefig(path, metadata={"Date": None})
            plt.close(figure)
        made.append(path)
    return made


def _lines(axes: Any, measured: dict[str, Any], figure: str) -> None:
    for each in CONTENDERS:
        rows = sorted(
            (row["workers"], row[figure])
            for row in measured["rows"]
            if row["contender"] == each.name
        )
        if rows:
            width = 2.6 if each.name == "holdfast" else 1.4
            axes.plot(
                *zip(*rows, strict=True),
                marker="o",
                color=COLOURS[each.name],
                lw=width,
                label=each.title,
            )
    counts = sorted({row["workers"] for row in measured["rows"]})
    axes.set(xscale="log", yscale="log", xlabel="workers")
    axes.set_xticks(counts, [str(each) for each in counts])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)


def _throughput(axes: Any, measured: dict[str, Any]) -> None:
    _lines(axes, measured["cycles"], "per_second")
    axes.set(ylabel="lock cycles a second", title="Locks taken and given back (more is better)")


def _latency(axes: Any, measured: dict[str, Any]) -> None:
    _lines(axes, measured["cycles"], "acquire_p50_ms")
    axes.set(ylabel="acquire p50, ms", title="From asking to having (less is better)")


def _bars(axes: Any, rows: list[tuple[str, str, float]], form: str) -> None:
    """(label, colour, value) of each bar, from above."""
    labels, colours, values = zip(*reversed(rows), strict=True)
    bars = axes.barh(labels, values, color=colours)
    axes.bar_label(bars, [form.format(each) for each in values], padding=3)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.15)


def _of_contenders(measured: dict[str, Any], value: Callable[[dict[str, Any]], float]) -> Any:
    return [
        (contender(row["contender"]).title, COLOURS[row["contender"]], value(row))
        for row in measured["rows"]
    ]


def _handover(axes: Any, measured: dict[str, Any]) -> None:
    _bars(axes, _of_contenders(measured["handover"], lambda row: row["per_second"]), "{:,.0f}")
    limit = measured["handover"]["one_commit_at_a_time"]
    axes.axvline(limit, color="#888888", ls="--", lw=1)
    axes.annotate(
        " one commit at a time",
        (limit, 1),
        xycoords=("data", "axes fraction"),
        va="top",
        fontsize=8,
    )
    axes.set(xlabel="hand-overs a second", title="One key, 16 waiters (more is better)")


def _idle(axes: Any, measured: dict[str, Any]) -> None:
    idle = measured["idle_sessions"]
    rows = _of_contenders(
        idle, lambda row: (row["cpu_server"] - row["cpu_without"]) * 1e6 / idle["sessions"]
    )
    _bars(axes, rows, "{:.1f}")
    title = "What an idle session of 10 s adds, all nodes (less is better)"
    axes.set(xlabel="microseconds of CPU a second", title=title)


def _gateway(axes: Any, measured: dict[str, Any]) -> None:
    _bars(axes, _of_contenders(measured["gateway"], lambda row: row["per_second"]), "{:,.0f}")
    title = "Plain HTTP and JSON, wrk, 64 connections (more is better)"
    axes.set(xlabel="lock cycles a second", title=title)


def _failover(axes: Any, measured: dict[str, Any]) -> None:
    rows = measured["failover"]["rows"]
    colours = [COLOURS[row["contender"]] for row in rows]
    for shift, figure, alpha in ((-0.2, "p50_ms", 1.0), (0.2, "max_ms", 0.4)):
        bars = axes.bar(
            [place + shift for place in range(len(rows))],
            [row[figure] for row in rows],
            0.38,
            color=colours,
            alpha=alpha,
        )
        axes.bar_label(bars, fmt="{:,.0f}", fontsize=8)
    labels = [f"{contender(row['contender']).service},\nleader {row['kind']}" for row in rows]
    axes.set_xticks(range(len(rows)), labels)
    axes.grid(visible=False, axis="x")
    axes.set(
        ylabel="ms without a grant", title="Failover: median, and pale the longest (less is better)"
    )


def _held(axes: Any, measured: dict[str, Any]) -> None:
    rows = [(row["locks"], row["per_second"]) for row in measured["held_locks"]["throughput"]]
    axes.plot(*zip(*rows, strict=True), marker="o", color=COLOURS["holdfast"], lw=2.6)
    axes.set(xscale="log", xlabel="locks that are held meanwhile", ylabel="lock cycles a second")
    axes.set_xticks([row[0] for row in rows], [f"{row[0]:,}" for row in rows])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_title("Throughput, 64 workers, against the size of the table")


def _memory(axes: Any, measured: dict[str, Any]) -> None:
    weighed = measured["held_locks"]["memory"]
    rows = [
        (
            f"{contender(row['contender']).service}, {node}",
            COLOURS[row["contender"]],
            mib * 2**20 / weighed["locks"],
        )
        for row in weighed["rows"]
        for node, mib in row["mib_for_the_locks"].items()
    ]
    _bars(axes, rows, "{:,.0f}")
    axes.set(
        xlabel="bytes of a node's memory", title=f"Cost of a held lock, at {weighed['locks']:,}"
    )


def _overload(axes: Any, measured: dict[str, Any]) -> None:
    rows = [
        (f"{row['load']}: {row['callers']:,} callers", "#0b6e4f", row["per_second"])
        for row in measured["overload"]["rows"]
    ]
    _bars(axes, rows, "{:,.0f}")
    axes.set(xlabel="lock cycles a second", title="Ten times the load that it can take")


CHARTS: dict[str, tuple[tuple[str, ...], Callable[[Any, dict[str, Any]], None]]] = {
    "1-throughput": (("cycles",), _throughput),
    "2-latency": (("cycles",), _latency),
    "3-hand-over": (("handover",), _handover),
    "4-gateway": (("gateway",), _gateway),
    "5-failover": (("failover",), _failover),
    "6-idle-sessions": (("idle_sessions",), _idle),
    "7-held-lock": (("held_locks",), _memory),
    "8-table-size": (("held_locks",), _held),
    "9-overload": (("overload",), _overload),
}
