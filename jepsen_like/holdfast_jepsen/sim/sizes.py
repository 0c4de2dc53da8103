"""How small the pieces are in which a run moves things: entries, appends, pieces of snapshots.

Rule: a simulated state is a few kilobytes, and a simulated batch a few operations, so that at the sizes as shipped every snapshot
is one piece and every append has all there is: what happens between two pieces would never happen. Each seed draws its sizes, the
shipped ones among them. None of them is part of what nodes agree on, so every node may have its own; one run has one of each.

The product reads its sizes as constants of its modules; they are set for the time of a run, and given back.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from holdfast_coordinator import batcher, node
from holdfast_coordinator.raft import kernel, library, snapshot_transfer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from holdfast_jepsen.sim.rng import Rng

SHIPPED = 0
SIZES: tuple[tuple[ModuleType, str, tuple[int, ...]], ...] = (
    (snapshot_transfer, "SNAPSHOT_CHUNK_BYTES", (128, 512, SHIPPED)),
    (batcher, "OPERATIONS_PER_ENTRY_MAX", (1, 3, SHIPPED)),
    (node, "OPERATIONS_PER_MESSAGE_MAX", (1, 3, SHIPPED)),
    (library, "ENTRIES_PER_APPEND_MAX", (1, 2, SHIPPED)),
    (kernel, "REPLICATION_BYTES_PER_TICK", (100, 1000, SHIPPED)),
)


def draw(rng: Rng) -> tuple[int, ...]:
    """One for each of `SIZES`."""
    return tuple(rng.choice(choices) for _, _, choices in SIZES)


@contextlib.contextmanager
def cut(sizes: tuple[int, ...]) -> Iterator[None]:
    """The product's own sizes are these."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in SIZES]
    for (owner, name, shipped), size in zip(before, sizes, strict=True):
        setattr(owner, name, size or shipped)
    try:
        yield
    finally:
        for owner, name, shipped in before:
            setattr(owner, name, shipped)
