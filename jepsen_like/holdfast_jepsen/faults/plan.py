"""The faults of one run, as data: when, what, to whom, for how long. Drawn from the seed; printed with a verdict.

Rule: a plan names faults and decides nothing at run time, so that leaving one out changes only what follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from holdfast_jepsen.sim.rng import Rng
from holdfast_jepsen.sim.world import MILLISECOND, SECOND

DRAWN = (
    "kill", "kill-leader", "power", "power-all", "crash-at-step", "pause", "pause-leader",
    "pause-client", "crash-client", "isolate", "isolate-leader", "halves", "bridge", "one-way",
    "ring", "slow-links", "slow-client", "cut-client", "reset", "supersede",
    "duplicates",
    "hand-over",
    "kill-at-point", "rolling-restart", "suspend", "swizzle", "losses", "corrupt", "lost-chunks",
    "disk-full", "write-error", "sync-error", "slow-disk", "wipe", "bit-flip", "truncate",
    "skew", "strobe", "skew-client", "strobe-client", "wall-jump",
    "upgrade",
)  # fmt: skip
"""Of which each seed has a few."""
WIDER = {
    "kill": ("kill-minority", "kill-majority", "kill-all"),
    "pause": ("pause-minority", "pause-majority", "pause-all"),
    "pause-client": ("suspend-client",),
}
"""What comes in place of a drawn kind now and then: by the fault's own draw, so that it changes nothing else of a plan."""
WIDER_PART = 0.25
SUSPENSION = 4 * SECOND
"""A machine that sleeps does so at least so long: longer than its peers keep its connections, and than most leases last."""
KINDS = (*DRAWN, *(kind for kinds in WIDER.values() for kind in kinds))

CERTAIN = ("kill", "pause", "isolate", "power", "skew", "slow-links")
"""Kinds that need nothing to be under way. Every seed has one of them or another: a run that nothing has hit proves nothing."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`draw` seeds whatever the fault still has to choose: which node, which side."""

    at: int
    kind: str
    duration: int
    draw: int

    def __str__(self) -> str:
        return f"{self.at / SECOND:7.3f} s  {self.kind}  for {self.duration / SECOND:.3f} s"


def draw(
    rng: Rng, *, begin: int, end: int, kinds: tuple[str, ...] = (), pace: int = 1
) -> list[Fault]:
    """A swarm: each seed has its own few kinds of faults and its own rate. `kinds`: these, and a high rate."""
    mean_gap = (300 if kinds else rng.choice((300, 800, 2000))) * MILLISECOND * pace
    is_swarm = not kinds
    if is_swarm:
        kinds = tuple(rng.sample(DRAWN, rng.between(1, 6)))
        if not set(kinds) & set(CERTAIN):
            kinds += (rng.choice(CERTAIN),)
    plan: list[Fault] = []
    at = begin
    while True:
        at += int(mean_gap * (0.2 + 1.6 * rng.random()))
        if at >= end:
            return [_widened(fault) for fault in plan] if is_swarm else plan
        longest = rng.choice((50, 400, 1500, 5000)) * MILLISECOND * pace
        plan.append(Fault(at, rng.choice(kinds), 1 + rng.below(longest), rng.bits()))


def _widened(fault: Fault) -> Fault:
    rng = Rng(fault.draw, "wider")
    if fault.kind not in WIDER or not rng.chance(WIDER_PART):
        return fault
    return replace(fault, kind=rng.choice(WIDER[fault.kind]))
