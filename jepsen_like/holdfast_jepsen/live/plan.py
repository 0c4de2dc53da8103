"""Which faults a live run makes, and when: drawn from its seed, as data.

Rule: as `faults.plan`, of which it uses the faults; only names and pace are of real processes, which take a second to start. It
knows nothing of how a fault is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast_jepsen.faults.plan import Fault
from holdfast_jepsen.sim.world import MILLISECOND

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdfast_jepsen.sim.rng import Rng

GROUPS: Final = {
    "kill": ("kill", "kill-leader", "kill-all"),
    "restart": ("rolling-restart",),
    "pause": ("pause", "pause-leader", "pause-majority", "pause-all"),
    "partition": ("isolate", "isolate-leader", "halves", "bridge", "one-way", "ring"),
    "clients": ("pause-client", "crash-client", "cut-clients"),
    "slow": ("slow-links",),
    "loss": ("loss",),
    "clock": ("clock",),
    "disk": ("disk-full",),
    "hand-over": ("hand-over",),
}
"""What `--nemesis` takes, beside the kinds themselves."""
KINDS: Final = tuple(kind for kinds in GROUPS.values() for kind in kinds)
GAP_MS: Final = (300, 2_500)
"""From the end of a fault to the next: long enough now and then for the cluster to recover wholly."""
LENGTH_MS: Final = ((100, 700), (700, 2_000), (2_000, 5_000))
"""Shorter than an election, about as long, longer than most leases: each as often."""
OVERLAP: Final = 0.25
"""How often the next fault begins before the last one has ended."""


def kinds_of(names: Iterable[str]) -> tuple[str, ...]:
    """Groups and kinds, as the command line names them. Raises ValueError that names the unknown one."""
    chosen: list[str] = []
    for name in names:
        if name == "all":
            chosen += KINDS
        elif name not in GROUPS and name not in KINDS:
            known = ", ".join([*GROUPS, "all"])
            raise ValueError(f"there is no nemesis {name!r}; there are {known}, and each kind")
        else:
            chosen += GROUPS.get(name, (name,))
    return tuple(dict.fromkeys(chosen))


def draw(rng: Rng, *, begin: int, end: int, kinds: tuple[str, ...]) -> list[Fault]:
    """Every kind once before any comes again, in an order of the seed; in nanoseconds since the run began."""
    plan: list[Fault] = []
    left: list[str] = []
    at = begin
    while kinds:
        left = left or rng.sample(kinds, len(kinds))
        duration = rng.between(*rng.choice(LENGTH_MS)) * MILLISECOND
        if at + duration > end:
            break
        plan.append(Fault(at, left.pop(), duration, rng.bits()))
        after = 0.4 * duration if rng.chance(OVERLAP) else duration
        at += int(after) + rng.between(*GAP_MS) * MILLISECOND
    return plan
