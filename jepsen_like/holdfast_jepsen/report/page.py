"""One run as one HTML page that stands alone: no network, no script.

Rule: pure functions from the outcome to strings; every text from the run is escaped. Knows nothing of how a run
is made or judged. Times are nanoseconds of true time.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from holdfast_jepsen.sim.world import MILLISECOND, SECOND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast_jepsen.faults.plan import Fault
    from holdfast_jepsen.history import History
    from holdfast_jepsen.history.history import Operation
    from holdfast_jepsen.sim.run import Outcome

LEFT: Final = 160
"""Pixels for the names of the rows."""
PIXELS_PER_SECOND: Final = 120
ROW: Final = 18
COLOURS: Final = {
    "ok": "#2a9d5c", "held": "#c9a227", "done": "#8a6fc9", "not_held": "#c97a27",
    "refused": "#999999", "unknown": "#5b8fd0", "pending": "#5b8fd0",
}  # fmt: skip
STYLE: Final = (
    "body{font:14px sans-serif;margin:1em}.picture{overflow-x:auto;border:1px solid #ccc}"
    "svg text{font:11px sans-serif}pre{background:#f4f4f4;padding:.5em}"
    ".valid{color:#2a7d3c}.invalid{color:#c00}.unknown{color:#a60}"
)


def page(run: Run) -> str:
    """The whole file. `command` runs the same again."""
    fired = ", ".join(f"{kind} {count}" for kind, count in sorted(outcome.fired.items()))
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in outcome.reasons)
    facts = (
        f"{outcome.workload} on {outcome.nodes} nodes, {outcome.virtual_seconds:.1f} virtual seconds, "
        f"{len(outcome.history.operations)} operations, {outcome.answered} answered"
    )
    culprits = "".join(f"<li>{escape(describe(each))}</li>" for each in outcome.culprits)
    return (
        f"<!DOCTYPE html><html lang='en'><meta charset='utf-8'><title>Seed {outcome.seed}</title>"
        f"<style>{STYLE}</style><h1>Seed {outcome.seed}: "
        f"<span class='{escape(outcome.verdict)}'>{escape(outcome.verdict)}</span></h1>"
        f"<p>{escape(facts)}</p><p>Faults that fired: {escape(fired or 'none')}</p>"
        f"<ul>{reasons}</ul><pre>{escape(command)}</pre>"
        + (f"<h2>No order could place</h2><ul>{culprits}</ul>" if culprits else "")
        + f"<h2>By client</h2>{_picture(outcome, by_key=False)}"
        + f"<h2>By key</h2>{_picture(outcome, by_key=True)}</html>\n"
    )


def describe(operation: Operation) -> str:
    """One line: who, what, when, with what answer."""
    until = "?" if operation.returned is None else f"{operation.returned / SECOND:.3f}"
    token = f" token {operation.token}" if operation.token else ""
    return (
        f"{operation.process} {operation.kind} {','.join(operation.keys)} "
        f"[{operation.called / SECOND:.3f}, {until}] {operation.result}{token}"
    )


def _picture(outcome: Outcome, *, by_key: bool) -> str:
    history = outcome.history
    end = _end(history, outcome.plan)
    names = history.keys() if by_key else sorted({each.process for each in history.operations})
    rows = {name: place for place, name in enumerate(names)}
    height = (len(rows) + 2) * ROW
    marks = "".join(
        _bar(each, rows[name], end, each in outcome.culprits)
        for each in history.operations
        for name in (each.keys if by_key else (each.process,))
    )
    labels = "".join(
        f"<text x='4' y='{(place + 2) * ROW - 5}'>{escape(name)}</text>"
        for name, place in rows.items()
    )
    bands = "".join(_band(fault, height) for fault in outcome.plan)
    return (
        f"<div class='picture'><svg width='{_x(end) + 40:.0f}' height='{height}'>"
        f"{bands}{labels}{marks}</svg></div>"
    )


def _bar(operation: Operation, row: int, end: int, is_culprit: bool) -> str:
    left, top = _x(operation.called), (row + 1) * ROW + 3
    right = _x(end if operation.returned is None else operation.returned)
    edge = " stroke='#c00' stroke-width='3'" if is_culprit else ""
    faint = " fill-opacity='0.25'" if operation.returned is None else ""
    token = (
        f"<text x='{left:.1f}' y='{top + 9}'>{operation.token}</text>"
        if operation.kind == "acquire" and operation.result == "ok"
        else ""
    )
    return (
        f"<rect x='{left:.1f}' y='{top}' width='{max(right - left, 2):.1f}' height='{ROW - 6}' "
        f"fill='{COLOURS[operation.result]}'{faint}{edge}><title>{escape(describe(operation))}</title>"
        f"</rect>{token}"
    )


def _band(fault: Fault, height: int) -> str:
    width = max(fault.duration / SECOND * PIXELS_PER_SECOND, 2)
    return (
        f"<rect x='{_x(fault.at):.1f}' y='0' width='{width:.1f}' height='{height}' fill='#d33' "
        f"fill-opacity='0.12'><title>{escape(str(fault))}</title></rect>"
        f"<text x='{_x(fault.at):.1f}' y='12' fill='#a00'>{escape(fault.kind)}</text>"
    )


def _end(history: History, plan: Sequence[Fault]) -> int:
    times = [each.returned or each.called for each in history.operations]
    return max([*times, *(fault.at + fault.duration for fault in plan), MILLISECOND])


def _x(at: int) -> float:
    return LEFT + at / SECOND * PIXELS_PER_SECOND
