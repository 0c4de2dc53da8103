"""The faults that a violation needs: the plan of an invalid seed, with everything taken away that it is invalid without.

Rule: a fault has its own draw, so that leaving one out changes only what follows from it (`faults.plan`). Parts of the plan are
taken away, large ones first, as long as what is left is invalid (after Zeller's ddmin). Bounded by runs: the result is short, and
not always the shortest.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from holdfast_jepsen.sim.run import FAULT_SECONDS, Variant, run

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS_MAX: Final = 80
"""A run takes a second or two: some minutes at most."""


def shrink(
    seed: int,
    variant: Variant | None = None,
    *,
    fault_seconds: float = FAULT_SECONDS,
    runs_max: int = RUNS_MAX,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[int, ...]:
    """The numbers of the faults that are left, rising; for `Variant.only`. The seed must be invalid with all of them."""
    variant = variant or Variant()
    kept = tuple(range(len(run(seed, variant=variant, fault_seconds=fault_seconds).plan)))
    runs, part = 0, max(len(kept), 1)
    while part and runs < runs_max:
        start = 0
        while start < len(kept) and runs < runs_max:
            tried = kept[:start] + kept[start + part :]
            runs += 1
            say(f"{len(kept)} faults left, run {runs} of at most {runs_max}")
            only = replace(variant, only=tried)
            if run(seed, variant=only, fault_seconds=fault_seconds).verdict == "invalid":
                kept = tried
            else:
                start += part
        part //= 2
    return kept
