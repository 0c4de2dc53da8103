"""What the page needs to know of a run, whichever half it comes from.

Rule: pure. A simulated and a live run become the same thing here, and the page knows only that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast_jepsen.sim.world import SECOND

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast_jepsen.history import History
    from holdfast_jepsen.history.history import Operation
    from holdfast_jepsen.live.run import LiveOutcome
    from holdfast_jepsen.sim.run import Outcome


@dataclass(frozen=True, slots=True)
class Band:
    """A fault as the page draws it, as it was planned (simulated) or done (live); nanoseconds of the run."""

    kind: str
    begin: int
    end: int
    what: str


@dataclass(slots=True)
class Run:
    """See the module. `shrunk`: lines for people about the faults that the violation takes."""

    title: str
    verdict: str
    reasons: list[str]
    facts: list[str]
    command: str
    history: History
    bands: list[Band]
    fired: Mapping[str, int]
    culprits: tuple[Operation, ...] = ()
    shrunk: list[str] = field(default_factory=list)


def of_simulated(outcome: Outcome, command: str, shrunk: Sequence[str] = ()) -> Run:
    """Its bands are the plan, whether or not a fault hit something: `fired` says by kind how many did. `shrunk`: the faults that it
    takes, and how to make them alone."""
    return Run(
        title=f"Seed {outcome.seed}",
        verdict=outcome.verdict,
        reasons=outcome.reasons,
        facts=[
            f"Simulated: {outcome.workload} on {outcome.nodes} nodes, {outcome.virtual_seconds:.1f} virtual seconds, "
            f"{outcome.events} events",
            f"{len(outcome.history.operations)} operations, {outcome.answered} of them answered",
            f"Trace {outcome.trace_hash}",
        ],
        command=command,
        history=outcome.history,
        bands=[Band(f.kind, f.at, f.at + f.duration, f"planned: {f}") for f in outcome.plan],
        fired=outcome.fired,
        culprits=outcome.culprits,
        shrunk=list(shrunk),
    )


def of_live(outcome: LiveOutcome, command: str) -> Run:
    """Its bands are what was done, not what was planned."""
    before, during, after = outcome.rates
    return Run(
        title=f"Live run, seed {outcome.seed}",
        verdict=outcome.verdict,
        reasons=outcome.reasons,
        facts=[
            f"Real processes: {outcome.workload} on {outcome.nodes} nodes, network: {outcome.network}",
            f"Faults from {outcome.phases[0] / SECOND:.1f} s to {outcome.phases[1] / SECOND:.1f} s",
            f"Answers a second: {before:.0f} before, {during:.0f} during, {after:.0f} after the faults",
        ],
        command=command,
        history=outcome.history,
        bands=[
            Band(f.kind, at, at + f.duration, f"{f.kind}: {what}") for f, at, what in outcome.acts
        ],
        fired=outcome.fired,
        culprits=outcome.culprits,
    )
