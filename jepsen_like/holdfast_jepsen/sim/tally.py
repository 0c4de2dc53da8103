"""What many runs add up to: their verdict, the seeds, the virtual hours at each pace, and which faults fired under which workload.

Rule: pure, but for `Book`, which writes the seeds down as they come, so that a run that is killed has told what it did. One seed
that is unknown, or one fault that was planned often and never fired, and the whole is not valid.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path
    from typing import TextIO

    from holdfast_jepsen.sim.run import Outcome

NEVER_FIRED_MIN: Final = 200
"""Planned so often, a fault must have had an effect; some need a leader, or a snapshot, at that moment."""
TOLD_MAX: Final = 1000
"""Of the runs that are not valid, in the verdict; `seeds.txt` has all."""
WEIGHT: Final = {"valid": 0, "unknown": 1, "invalid": 2}


@dataclass(slots=True)
class Tally:
    """See the module."""

    seen: Counter[str] = field(default_factory=Counter)
    planned: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By kind of fault and workload."""
    fired: Counter[tuple[str, str]] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    """By workload."""
    virtual: Counter[int] = field(default_factory=Counter)
    """Whole virtual seconds, by pace."""
    cpu_seconds: float = 0.0
    first: int | None = None
    last: int = 0
    told: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """One more run."""
        self.seen[outcome.verdict] += 1
        self.runs[outcome.workload] += 1
        for fault in outcome.plan:
            self.planned[fault.kind, outcome.workload] += 1
        for kind, count in outcome.fired.items():
            self.fired[kind, outcome.workload] += count
        self.points += outcome.points
        self.virtual[outcome.pace] += round(outcome.virtual_seconds)
        self.cpu_seconds += outcome.cpu_seconds
        self.first, self.last = (
            (outcome.seed if self.first is None else self.first),
            outcome.seed,
        )
        if outcome.verdict != "valid" and len(self.told) < TOLD_MAX:
            self.told.append(sentence(outcome))

    @property
    def virtual_hours(self) -> float:
        return sum(self.virtual.values()) / 3600

    @property
    def blind(self) -> list[str]:
        """Faults that were planned often enough and never had an effect: at all, or under one workload."""
        total = {(kind, ""): self._of(self.planned, kind) for kind in self._kinds}
        return [
            f"{kind} under {workload}" if workload else kind
            for (kind, workload), planned in sorted({**total, **self.planned}.items())
            if planned >= NEVER_FIRED_MIN
            and not (self.fired[kind, workload] if workload else self._of(self.fired, kind))
        ]

    @property
    def verdict(self) -> str:
        """Invalid outweighs unknown, which outweighs valid. Of no run at all nothing is known."""
        if not self.seen:
            return "unknown"
        worst = max(self.seen, key=WEIGHT.__getitem__)
        return "unknown" if worst == "valid" and self.blind else worst

    def lines(self, elapsed: float) -> list[str]:
        """For people. `elapsed`: seconds of wall time."""
        found = [*self._coverage(), ""]
        if self.points:
            found += [
                "killed " + ", ".join(f"{point} {n}" for point, n in sorted(self.points.items()))
            ]
        found += [f"not valid: {each}" for each in self.told]
        found += [f"never fired, so nothing is known of it: {each}" for each in self.blind]
        counts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(self.seen.items()))
        found.append(f"{sum(self.seen.values())} seeds, {self.first} to {self.last}: {counts}")
        for pace, seconds in sorted(self.virtual.items()):
            periods = "the periods as shipped" if pace == 1 else f"{pace} times the periods"
            found.append(f"{seconds / 3600:.2f} virtual hours at {periods}")
        found.append(
            f"{self.virtual_hours:.2f} virtual hours in {elapsed:.0f} s: "
            f"{self.virtual_hours * 3600 / max(elapsed, 1e-9):.0f} an hour, "
            f"{self.virtual_hours * 3600 / max(self.cpu_seconds, 1e-9):.0f} an hour of one core"
        )
        return [*found, f"verdict: {self.verdict}"]

    @property
    def _kinds(self) -> list[str]:
        return sorted({kind for kind, _ in self.planned})

    @staticmethod
    def _of(counter: Counter[tuple[str, str]], kind: str) -> int:
        return sum(count for (each, _), count in counter.items() if each == kind)

    def _coverage(self) -> list[str]:
        """How often each kind was planned and fired, and how often it fired under each workload."""
        names = sorted(self.runs)
        heads = "".join(f"{name:>{len(name) + 2}}" for name in names)
        rows = [f"{'fault':17}{'planned':>8}{'fired':>8}{heads}"]
        for kind in self._kinds:
            cells = "".join(f"{self.fired[kind, name]:{len(name) + 2}}" for name in names)
            planned, fired = self._of(self.planned, kind), self._of(self.fired, kind)
            rows.append(f"{kind:17}{planned:8}{fired:8}{cells}")
        runs = "".join(f"{self.runs[name]:{len(name) + 2}}" for name in names)
        return [*rows, f"{'runs':17}{'':8}{sum(self.runs.values()):8}{runs}"]


class Book:
    """`seeds.txt`, a line for each run as it ends, and `verdict.txt`, of a directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._verdict = directory / "verdict.txt"
        self._seeds: TextIO = (directory / "seeds.txt").open("w", encoding="utf-8", buffering=1)

    def run(self, outcome: Outcome) -> None:
        """One more has ended."""
        self._seeds.write(
            f"{outcome.seed} {outcome.verdict} {outcome.workload} {outcome.nodes} nodes pace {outcome.pace} "
            f"{outcome.virtual_seconds:.0f} virtual seconds {sum(outcome.fired.values())} faults {outcome.trace_hash}\n"
        )

    def total(self, lines: list[str]) -> None:
        """What they add up to so far."""
        self._verdict.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def close(self) -> None:
        """No more runs."""
        self._seeds.close()


def sentence(outcome: Outcome) -> str:
    """What to say of a run that is not valid."""
    return f"seed {outcome.seed} is {outcome.verdict} ({outcome.workload}, {outcome.nodes} nodes): {outcome.reasons[0]}"
