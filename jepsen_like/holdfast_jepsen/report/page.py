"""One run as one HTML page that stands alone: no network, no script.

Rule: pure functions from a `Run` to strings; every text from the run is escaped. Knows nothing of how a run is made or judged;
the checker is asked once more, for the points at which operations took effect. Times are nanoseconds since the run began.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from holdfast_jepsen.checker.linearizability import Timeline
from holdfast_jepsen.report.lanes import Bar
from holdfast_jepsen.report.picture import Row, picture
from holdfast_jepsen.report.points import Prefix, points_of, smallest_illegal_prefix
from holdfast_jepsen.report.style import LEGEND, STYLE
from holdfast_jepsen.sim.world import MILLISECOND, SECOND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast_jepsen.history import History
    from holdfast_jepsen.history.history import Operation
    from holdfast_jepsen.report.points import Points
    from holdfast_jepsen.report.run import Run

PREFIX_SHOWN: Final = 14
"""Operations of an illegal prefix in the table and the picture of it: the last ones; what went wrong is among them."""
PREFIXES_MAX: Final = 3
"""Keys that are explained in full: one is enough to find the cause."""
REASONS_MAX: Final = 20
AROUND: Final = 20 * MILLISECOND


def page(run: Run) -> str:
    """The whole file."""
    points = points_of(run.history)
    return (
        f"<!DOCTYPE html>\n<html lang='en'><meta charset='utf-8'><title>{escape(run.title)}: {escape(run.verdict)}</title>"
        f"<style>{STYLE}</style>"
        f"<header class='{escape(run.verdict)}'><h1>{escape(run.title)}: {escape(run.verdict)}</h1>"
        f"{_list(run.reasons[:REASONS_MAX])}</header><main>"
        f"{_facts(run)}{_violations(run)}<h2>All of it</h2>{LEGEND}"
        f"<h3>By key</h3>{picture(_by_key(run, points), run.bands)}"
        f"<h3>By client</h3>{picture(_by_client(run, points), run.bands)}</main></html>\n"
    )


def describe(operation: Operation) -> str:
    """One line: who, what, when, with what answer."""
    until = "no answer" if operation.returned is None else f"{operation.returned / SECOND:.3f}"
    return (
        f"{operation.process} {operation.kind} {','.join(operation.keys)} "
        f"[{operation.called / SECOND:.3f}, {until}] {answer_of(operation)}"
    )


def answer_of(operation: Operation) -> str:
    """What it was told, in a few words."""
    words: str = operation.result
    if operation.token:
        words += f" token {operation.token}"
    if operation.holders:
        words += f" by {', '.join(str(each.token) for each in operation.holders)}"
    if operation.fences and operation.fences != (operation.token,):
        words += f" fence {', '.join(map(str, operation.fences))}"
    return words + (f" under {operation.done}" if operation.done else "")


def _list(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(each)}</li>' for each in items)}</ul>" if items else ""


def _facts(run: Run) -> str:
    fired = ", ".join(f"{kind} {count}" for kind, count in sorted(run.fired.items())) or "none"
    shrunk = f"<h3>The faults that it takes</h3>{_list(run.shrunk)}" if run.shrunk else ""
    return (
        f"<section>{_list([*run.facts, f'Faults that fired: {fired}'])}"
        f"<p>Again:</p><pre>{escape(run.command)}</pre>{shrunk}</section>"
    )


# The violation.


def _violations(run: Run) -> str:
    keys = dict.fromkeys(key for each in run.culprits for key in each.keys)
    found = [smallest_illegal_prefix(run.history, key) for key in list(keys)[:PREFIXES_MAX]]
    told = "".join(_prefix(each, run) for each in found if each is not None)
    if run.culprits and not told:
        told = f"<p>No order could place:</p>{_list([describe(each) for each in run.culprits])}"
    return (
        f"<section class='violation'><h2>What no lock would have done</h2>{LEGEND}{told}</section>"
        if told
        else ""
    )


def _prefix(prefix: Prefix, run: Run) -> str:
    shown = sorted(prefix.operations, key=lambda each: each.called)
    recent = [each for each in shown if each is not prefix.last][-PREFIX_SHOWN:]
    places = {_name(each): place for place, (each, _) in enumerate(prefix.points, 1)}
    rows = "".join(
        f"<tr class='{'culprit' if each is prefix.last else ''}'><td>{places.get(_name(each), '')}</td>"
        f"<td>{escape(each.process)}</td><td>{each.kind}</td><td>{each.called / SECOND:.6f}</td>"
        f"<td>{'' if each.returned is None else f'{each.returned / SECOND:.6f}'}</td>"
        f"<td>{escape(answer_of(each))}</td></tr>"
        for each in [*recent, prefix.last]
    )
    begin = min(each.called for each in [*recent, prefix.last]) - AROUND
    end = (prefix.last.returned or prefix.last.called) + AROUND
    points = {_name(each): at for each, at in prefix.points}
    rows_of_picture = [
        Row(process, [
            _bar(each, end, points.get(_name(each)), is_culprit=each is prefix.last)
            for each in [*recent, prefix.last] if each.process == process
        ])
        for process in sorted({each.process for each in [*recent, prefix.last]})
    ]  # fmt: skip
    rows_of_picture.insert(0, Row("holds", _holds(run.history, prefix.key, begin, end)))
    rows_of_picture.insert(1, Row("leases", _leases(run.history, prefix.operations, begin, end)))
    count = len(prefix.operations)
    part = f", of which the last {len(recent) + 1} are shown" if count > len(recent) + 1 else ""
    return (
        f"<h3>Key {escape(prefix.key)}</h3><p>This is the shortest beginning of the key's history that no order explains: "
        f"{count} operations{part}. Without the answer in the last line "
        f"the order in the first column explains all; with it, none does.</p>"
        f"<table><tr><th>order</th><th>client</th><th>asked for</th><th>at (s)</th><th>answered at (s)</th><th>answer</th></tr>"
        f"{rows}</table>{picture(rows_of_picture, run.bands, begin=begin, end=end)}"
    )


def _name(operation: Operation) -> tuple[str, int, str]:
    """What is the same of an operation and of what was known of it earlier."""
    return operation.process, operation.called, operation.kind


# The whole.


def _by_key(run: Run, points: dict[str, Points]) -> list[Row]:
    history, end = run.history, _end(run)
    culprits = {id(each) for each in run.culprits}
    by_key: dict[str, list[Operation]] = {key: [] for key in history.keys()}  # noqa: SIM118 - no dict
    for each in history.operations:
        for key in each.keys:
            by_key[key].append(each)
    rows = []
    for key, operations in by_key.items():
        at = {id(each): when for each, when in points.get(key, [])}
        rows.append(Row(f"{key} holds", _holds(history, key, 0, end)))
        bars = [_bar(e, end, at.get(id(e)), is_culprit=id(e) in culprits) for e in operations]
        rows.append(Row(f"{key} calls", bars))
    return rows


def _by_client(run: Run, points: dict[str, Points]) -> list[Row]:
    at = {id(each): when for found in points.values() for each, when in found}
    culprits = {id(each) for each in run.culprits}
    end = _end(run)
    rows: dict[str, list[Bar]] = {}
    for each in run.history.operations:
        bar = _bar(each, end, at.get(id(each)), is_culprit=id(each) in culprits)
        rows.setdefault(each.process, []).append(bar)
    names = sorted(rows, key=lambda name: (len(name), name))
    return [Row(name, rows[name]) for name in names]


def _bar(operation: Operation, end: int, point: int | None, *, is_culprit: bool) -> Bar:
    token = operation.token if operation.kind == "acquire" and operation.result == "ok" else 0
    # An operation without an answer may take effect at any later time: it fades out after a second.
    until = operation.returned or min(operation.called + SECOND, end)
    classes = operation.result + (" culprit" if is_culprit else "")
    return Bar(
        operation.called, until, classes, describe(operation), str(token or ""),
        None if operation.returned is None else point,
    )  # fmt: skip


def _holds(history: History, key: str, begin: int, end: int) -> list[Bar]:
    """From each grant to its end as clients know it: a release, the end of its session, or the end of their trust."""
    ended: dict[int, int] = {}
    for each in history.operations:
        if each.kind in ("release", "complete") and each.token:
            ended.setdefault(each.token, each.called)
    trusted = {each.token: each.ended for each in history.beliefs if each.key == key}
    bars = []
    for each in history.operations:
        if each.kind != "acquire" or each.result != "ok" or key not in each.keys:
            continue
        returned = each.returned or each.called
        until = min(ended.get(each.token, trusted.get(each.token, returned)), end)
        if until < begin or returned > end:
            continue
        told = f"token {each.token}, {each.process}: from {returned / SECOND:.3f} s"
        kind = "shared" if each.shared else "alone"
        bars.append(Bar(returned, max(until, returned), f"hold {kind}", told, str(each.token)))
    return bars


def _leases(history: History, operations: Sequence[Operation], begin: int, end: int) -> list[Bar]:
    """From each grant to the first moment at which it may have ended without a release that was answered."""
    ends = Timeline.of(history).by_token
    bars = []
    for each in operations:
        may_end = ends.get(each.token, 0)
        if each.kind == "acquire" and each.result == "ok" and max(each.called, begin) < may_end:
            told = f"token {each.token} cannot end by itself before {may_end / SECOND:.3f} s"
            bars.append(Bar(each.called, min(may_end, end), "lease", told, str(each.token)))
    return bars


def _end(run: Run) -> int:
    times = [each.returned or each.called for each in run.history.operations]
    return max([*times, *(band.end for band in run.bands), MILLISECOND])
