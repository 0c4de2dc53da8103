"""The scoreboard: how many seeds, and seconds, it takes to find each mutant."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from holdfast_jepsen.scoreboard.mutants import BY_NAME, MUTANTS, Mutant
from holdfast_jepsen.sim.run import run

if TYPE_CHECKING:
    from collections.abc import Sequence


def hunt(
    mutant: Mutant, seeds: int, *, start: int = 0, fault_seconds: float = 20.0
) -> tuple[int | None, str]:
    """(the first seed that is invalid under this mutant, why); (None, "") if none of so many is."""
    for seed in range(start, start + seeds):
        outcome = run(seed, variant=mutant.variant(), fault_seconds=fault_seconds)
        if outcome.verdict == "invalid":
            return seed, outcome.reasons[0]
    return None, ""


def show(names: Sequence[str], seeds: int) -> int:
    """Print the table. Returns the exit code: 1 if a mutant survived."""
    chosen = [BY_NAME[name] for name in names] if names else list(MUTANTS)
    survivors = 0
    print(f"{'mutant':24}{'weakens':9}{'found':7}{'seeds':>6}{'seconds':>9}  by")
    for mutant in chosen:
        began = time.perf_counter()
        seed, why = hunt(mutant, seeds)
        seconds = time.perf_counter() - began
        if seed is None:
            why = mutant.named_test
        survivors += seed is None and not mutant.named_test
        tried = seeds if seed is None else seed + 1
        found = "yes" if seed is not None else "test" if mutant.named_test else "no"
        print(
            f"{mutant.name:24}{mutant.weakens:9}{found:7}{tried:6}{seconds:9.1f}  {why[:90]}",
            flush=True,
        )
    return 1 if survivors else 0
