"""How slowly a run goes: every period of the product and of the world around it, multiplied by one number.

Rule: all of them or none. Heartbeats, elections, time entries, leases, waits, pauses of clients, latencies, syncs and the
lengths of faults keep their proportions, so that a run of pace 20 has the same events in the same order of magnitude as one
of pace 1, over 20 times the virtual time: leases of some ten seconds on a network of some milliseconds, which is nearer to
what people run. What is not stretched gets relatively smaller, and so stricter: the client's margin of 10 ms, the whole
milliseconds of the machine. Some seeds run at pace 1, with the product's periods as they are shipped.

The nodes read their periods as constants of their modules; they are set for the time of a run, and given back. The client library
has a clock that is as much slower instead (`client`), so that of it only what is not stretched has to be set.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from holdfast import lease
from holdfast_coordinator import batcher, node
from holdfast_coordinator.machine import machine
from holdfast_coordinator.raft import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from holdfast_jepsen.sim.rng import Rng

STRETCH = 20
PACES = (1, *7 * (STRETCH,))
"""One seed in eight runs with the periods as shipped."""
PERIODS: tuple[tuple[ModuleType, tuple[str, ...]], ...] = (
    (batcher, ("ELAPSED_MS_MAX", "TIME_PERIOD_MS")),
    (machine, ("ELAPSED_MS_MAX",)),
    (node, ("TIME_PERIOD_MS", "NO_LEADER_AFTER_MS", "UNKNOWN_AFTER_MS", "FORWARD_AGAIN_MS")),
    (node, ("LAG_MS_MAX", "PEER_GONE_MS")),
    (kernel, ("HAND_OVER_SECONDS", "HAND_OVER_REPEAT_SECONDS")),
)
NOT_STRETCHED: tuple[tuple[ModuleType, tuple[str, ...]], ...] = ((lease, ("MARGIN_SECONDS",)),)
"""Of the client library."""


def draw(rng: Rng) -> int:
    """The pace of a seed."""
    return rng.choice(PACES)


@contextlib.contextmanager
def stretched(pace: int) -> Iterator[None]:
    """Every period is `pace` times as long."""
    changed = [(each, pace) for each in PERIODS] + [(each, 1 / pace) for each in NOT_STRETCHED]
    before = [
        (owner, name, getattr(owner, name), factor)
        for (owner, names), factor in changed
        for name in names
    ]
    for owner, name, value, factor in before:
        setattr(owner, name, value * factor)
    try:
        yield
    finally:
        for owner, name, value, _ in before:
            setattr(owner, name, value)
