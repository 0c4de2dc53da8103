"""The scoreboard: how many seeds, and seconds of one core, it takes to find each mutant; and what stock pysyncobj does.

Rule: every mutant has to be found, by an invalid run or by the test that it names; one that survives is a bug of the harness.
`stock` is a test that shows the unchanged library failing in the same way, under the schedule of the audit: it is run as well.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast_jepsen.scoreboard import by_test
from holdfast_jepsen.scoreboard.by_test import BY_TEST, ByTest
from holdfast_jepsen.scoreboard.mutants import MUTANTS, Mutant
from holdfast_jepsen.scoreboard.stock import STOCK
from holdfast_jepsen.sim.run import run

if TYPE_CHECKING:
    from collections.abc import Sequence

STARTS = (0, 10_000, 20_000)
"""Each hunt begins at several seeds: how soon a mutant is found is a matter of luck."""
BROKEN = ("TypeError(", "AttributeError(", "NameError(", "UnboundLocalError(", "ImportError(")
"""A reason that begins so says nothing of the product: the mutant fits it no more, and was found by nobody."""
SECONDS_MAX = 600.0
"""Of one core for one hunt."""


@dataclass(frozen=True, slots=True)
class Row:
    """Of one mutant: medians over the starts."""

    name: str
    weakens: str
    found: bool
    by: str
    seeds: float
    seconds: float
    slowest: float
    why: str


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
        is_found,
        "run",
        statistics.median(tried),
        statistics.median(seconds),
        max(seconds),
        why,
    )


def tested(mutant: ByTest, passes_without: bool | None) -> Row:
    """Run its test with it, and without it unless that is known."""
    began = time.perf_counter()
    is_found = by_test.is_found(mutant, passes_without=passes_without)
    seconds = time.perf_counter() - began
    by = "test" if mutant.change is not None else "absent"
    return Row(mutant.name, mutant.weakens, is_found, by, 0, seconds, seconds, mutant.test)


def show(names: Sequence[str], seeds: int, starts: int = 1, *, with_stock: bool = True) -> int:
    """Print the table. Returns the exit code: 1 if a mutant survived."""
    chosen = [each for each in (*MUTANTS, *BY_TEST) if not names or each.name in names]
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
        rows.append(row)
        stock = _stock(row.weakens, all_fail=stock_fails) if with_stock else ""
        print(
            f"{row.name:20}{row.weakens:9}{'yes' if row.found else 'NO':7}{row.by:8}{row.seeds:6.0f}"
            f"{row.seconds:9.1f}{row.slowest:9.1f}  {stock:7}{row.why[:100]}",
            flush=True,
        )
    survivors = [row.name for row in rows if not row.found]
    runs = [row.seconds for row in rows if row.by == "run"]
    if runs:
        print(f"median of the runs: {statistics.median(runs):.1f} s of one core")
    print(
        f"{len(rows)} mutants, {len(survivors)} survived{': ' if survivors else ''}{', '.join(survivors)}"
    )
    return 1 if survivors else 0


def _order(mutant: Mutant | ByTest) -> tuple[str, int, str]:
    letter, digits = mutant.weakens[:1], "".join(filter(str.isdigit, mutant.weakens.split(",")[0]))
    return letter, int(digits or 0), mutant.name


def _stock(weakens: str, *, all_fail: bool) -> str:
    """What the unchanged library does: `fails` if the test that shows it failing passes; nothing to show: empty."""
    test = STOCK.get(weakens.split(",")[0])
    if test is None:
        return ""
    return "fails" if all_fail or by_test.passes(test) else "?"
