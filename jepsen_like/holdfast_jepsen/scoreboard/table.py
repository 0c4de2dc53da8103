"""The scoreboard: how many seeds, and seconds of one core, it takes to find each mutant; and what stock pysyncobj does.

Rule: every mutant has to be found, by an invalid run or by the test that it names; one that survives is a bug of the harness.
`stock` is a test that shows the unchanged library failing in the same way, under the schedule of the audit: it is run as well.
"""

from __future__ import annotations

import os
import statistics
import sys
import textwrap
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from holdfast_jepsen.live.command import EXIT_CODES
from holdfast_jepsen.scoreboard import by_test
from holdfast_jepsen.scoreboard.by_test import BY_TEST, ByTest
from holdfast_jepsen.scoreboard.mutants import MUTANTS, Mutant
from holdfast_jepsen.scoreboard.stock import STOCK
from holdfast_jepsen.sim.run import run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

STARTS = (0, 10_000, 20_000)
"""Each hunt begins at several seeds: how soon a mutant is found is a matter of luck."""
BROKEN = ("TypeError(", "AttributeError(", "NameError(", "UnboundLocalError(", "ImportError(")
"""A reason that begins so says nothing of the product: the mutant fits it no more, and was found by nobody."""
REASON_CHARS_MAX = 160
"""Of a sentence in the page."""
SECONDS_MAX = 600.0
"""Of one core for one hunt."""


HEAD = """\
# The scoreboard

Written by `holdfast-jepsen scoreboard --starts {starts} --table docs/scoreboard.md`.
What it means: [How Holdfast is tested](testing.md).
Seeds, and seconds of one core, are medians over {starts} hunts that begin at different seeds; beside them the slowest hunt.
A row that is found by a test says which (one process, with the start of its interpreter). `stock`: the unchanged pysyncobj
was seen failing so.
"""
COLUMNS = (
    "| mutant | weakens | what is wrong | found | seeds | seconds | slowest | stock | what gave it away |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
)


@dataclass(frozen=True, slots=True)
class Row:
    """Of one mutant: medians over the starts."""

    name: str
    weakens: str
    story: str
    found: bool
    by: str
    seeds: float
    seconds: float
    slowest: float
    why: str
    """What gave it away, or the test that did."""
    stock: str = ""


def hunt(
    mutant: Mutant, seeds: int, *, start: int = 0, fault_seconds: float = 20.0
) -> tuple[int | None, str]:
    """(the first seed that is invalid under this mutant, why); (None, "") if none of so many is, (None, why) if it is broken."""
    began = time.process_time()
    for seed in range(start, start + seeds):
        outcome = run(seed, variant=mutant.variant(), fault_seconds=fault_seconds)
        if outcome.verdict == "invalid" and outcome.reasons[0].startswith(BROKEN):
            return None, f"the mutant does not fit the product any more: {outcome.reasons[0]}"
        if outcome.verdict == "invalid":
            return seed, outcome.reasons[0]
        if time.process_time() - began > SECONDS_MAX:
            break
    return None, ""


def simulated(mutant: Mutant, seeds: int, starts: Sequence[int]) -> Row:
    """Hunt from every start."""
    tried, seconds, why, is_found = [], [], "", True
    for start in starts:
        began = time.process_time()
        seed, reason = hunt(mutant, seeds, start=start)
        seconds.append(time.process_time() - began)
        tried.append(seeds if seed is None else seed - start + 1)
        is_found = is_found and seed is not None
        why = why or reason
    return Row(
        mutant.name,
        mutant.weakens,
        mutant.story,
        is_found,
        "run",
        statistics.median(tried),
        statistics.median(seconds),
        max(seconds),
        why,
    )


def tested(mutant: ByTest, passes_without: bool | None) -> Row:
    """Run its test with it, and without it unless that is known."""
    began, why = _seconds_of_children(), mutant.test
    try:
        is_found = by_test.is_found(mutant, passes_without=passes_without)
    except RuntimeError as error:
        is_found, why = False, str(error)
    seconds = _seconds_of_children() - began
    by = "test" if mutant.change is not None else "absent"
    name, weakens, story = mutant.name, mutant.weakens, mutant.story
    return Row(name, weakens, story, is_found, by, 0, seconds, seconds, why)


def _seconds_of_children() -> float:
    """Of one core, by the processes that were started and have ended."""
    times = os.times()
    return times.children_user + times.children_system


def show(
    names: Sequence[str],
    seeds: int,
    starts: int = 1,
    *,
    with_stock: bool = True,
    table: Path | None = None,
) -> int:
    """Print the table, and write it to the file `table` as a page. Returns the exit code: 1 if a mutant survived, 2 if one of
    `names` is none."""
    mutants = (*MUTANTS, *BY_TEST)
    if unknown := set(names) - {each.name for each in mutants}:
        print(f"there is no mutant {', '.join(sorted(unknown))}", file=sys.stderr)
        return EXIT_CODES["unknown"]
    chosen = [each for each in mutants if not names or each.name in names]
    print(
        f"{'mutant':20}{'weakens':9}{'found':7}{'by':8}{'seeds':>6}{'seconds':>9}{'slowest':>9}  {'stock':7}why, or the test"
    )
    rows = []
    # All at once: most of the time of one test is the start of its process.
    tests = sorted({each.test for each in chosen if isinstance(each, ByTest)})
    product_passes = True if not tests or by_test.passes(*tests) else None
    weakened = [each.weakens.split(",")[0] for each in chosen]
    shown = sorted({STOCK[each] for each in weakened if each in STOCK}) if with_stock else []
    stock_fails = bool(shown) and by_test.passes(*shown)
    for mutant in sorted(chosen, key=_order):
        row = (
            simulated(mutant, seeds, STARTS[:starts])
            if isinstance(mutant, Mutant)
            else tested(mutant, product_passes)
        )
        if with_stock:
            row = replace(row, stock=_stock(row.weakens, all_fail=stock_fails))
        rows.append(row)
        print(
            f"{row.name:20}{row.weakens:9}{'yes' if row.found else 'NO':7}{row.by:8}{row.seeds:6.0f}"
            f"{row.seconds:9.1f}{row.slowest:9.1f}  {row.stock:7}{row.why[:100]}",
            flush=True,
        )
    total = _total(rows)
    print("\n".join(total))
    if table is not None:
        table.write_text(page(rows, starts, total), encoding="utf-8")
    return 0 if all(row.found for row in rows) else 1


def _total(rows: Sequence[Row]) -> list[str]:
    survivors = [row.name for row in rows if not row.found]
    runs = [row for row in rows if row.by == "run"]
    lines = []
    if runs:
        slowest = max(runs, key=lambda row: row.slowest)
        lines.append(
            f"median of the runs: {statistics.median(row.seconds for row in runs):.1f} s of one core; "
            f"the slowest hunt: {slowest.slowest:.1f} s ({slowest.name})"
        )
    survived = f"{len(survivors)} survived{': ' if survivors else ''}{', '.join(survivors)}"
    return [*lines, f"{len(rows)} mutants, {survived}"]


def page(rows: Sequence[Row], starts: int, total: Sequence[str]) -> str:
    """The table for readers (Markdown)."""
    head = [*HEAD.format(starts=starts).splitlines(), "", f"{'; '.join(total)}.", ""]
    return "\n".join([*head, *COLUMNS, *map(_line, rows)]) + "\n"


def _line(row: Row) -> str:
    """Of the page."""
    by_run = row.by == "run"
    how = {"run": "yes", "test": "yes, by test", "absent": "impossible, watched by test"}[row.by]
    why = (
        textwrap.shorten(row.why.replace("|", "/"), REASON_CHARS_MAX) if by_run else f"`{row.why}`"
    )
    cells = (row.name, row.weakens, row.story, how if row.found else "**NO**", f"{row.seeds:.0f}" if by_run else "",
             f"{row.seconds:.1f}", f"{row.slowest:.1f}", row.stock, why)  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _order(mutant: Mutant | ByTest) -> tuple[str, int, str]:
    letter, digits = mutant.weakens[:1], "".join(filter(str.isdigit, mutant.weakens.split(",")[0]))
    return letter, int(digits or 0), mutant.name


def _stock(weakens: str, *, all_fail: bool) -> str:
    """What the unchanged library does: `fails` if the test that shows it failing passes; nothing to show: empty."""
    test = STOCK.get(weakens.split(",")[0])
    if test is None:
        return ""
    return "fails" if all_fail or by_test.passes(test) else "?"
