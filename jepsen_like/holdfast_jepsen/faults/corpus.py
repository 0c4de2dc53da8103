"""Runs that are kept: small JSON files, each a seed with its faults, and why somebody keeps it.

Rule: a kept run says all that it needs, so that it changes as little as can be when seeds draw other things: either `kinds`
(the faults are drawn) or `plan` (they are listed, as Hypothesis shrank them). `make test` replays every file of the corpus.

    {"seed": 8, "fault_seconds": 8.0, "kinds": ["truncate", "kill-leader"], "why": "..."}
    {"seed": 3, "fault_seconds": 6.0, "plan": [[4000000000, "power", 1500000000, 7]], "why": "..."}

A fault of a plan: when (nanoseconds at the periods as shipped; a stretched run multiplies), its kind, for how long, and what
seeds the rest of its choices.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast_jepsen.faults.plan import KINDS, Fault
from holdfast_jepsen.sim.run import Outcome, Variant, run

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Kept:
    """One run. `kinds` or `plan`; neither: the seed's own faults. `workload`, `nodes`, `pace`: empty or 0, as the seed says."""

    seed: int
    fault_seconds: float
    kinds: tuple[str, ...] = ()
    plan: tuple[Fault, ...] | None = None
    workload: str = ""
    nodes: int = 0
    pace: int = 0
    why: str = ""

    def run(self) -> Outcome:
        """Run it."""
        variant = Variant(
            size=self.nodes,
            workload=self.workload,
            pace=self.pace,
            kinds=self.kinds,
            plan=self.plan,
        )
        return run(self.seed, variant=variant, fault_seconds=self.fault_seconds)


def write(kept: Kept, path: Path) -> None:
    """As one file of the corpus."""
    fields: dict[str, object] = {"seed": kept.seed, "fault_seconds": kept.fault_seconds}
    fields |= {
        name: value
        for name in ("kinds", "workload", "nodes", "pace")
        if (value := getattr(kept, name))
    }
    if kept.plan is not None:
        fields["plan"] = [[f.at, f.kind, f.duration, f.draw] for f in kept.plan]
    fields["why"] = kept.why
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields) + "\n", encoding="utf-8")


def read(path: Path) -> Kept:
    """Raises ValueError for a file that is none of ours."""
    fields = json.loads(path.read_text(encoding="utf-8"))
    plan = fields.pop("plan", None)
    kinds = tuple(fields.pop("kinds", ()))
    faults = None if plan is None else tuple(Fault(*each) for each in plan)
    unknown = {*kinds, *(fault.kind for fault in faults or ())} - set(KINDS)
    if unknown:
        raise ValueError(f"{path} names faults that are not known: {', '.join(sorted(unknown))}")
    return Kept(**fields, kinds=kinds, plan=faults)
