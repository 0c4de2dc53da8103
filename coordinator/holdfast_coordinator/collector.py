"""Python's garbage collector, kept from stopping a node for long.

The rule: what has survived a full collection is set aside (`gc.freeze`), and is not looked at again until the
COLLECTIONS_PER_SWEEP-th collection after it. By default each full collection walks every object of the lock table, and holds up
the loop meanwhile: 110 to 300 ms at 100,000 locks, again and again under load. The table has no cycles; what leaves it is freed
at once, frozen or not. What a sweep is for are the few long-lived objects elsewhere (connections) that may die in a cycle.
"""

from __future__ import annotations

import gc
from typing import Any, Final

COLLECTIONS_PER_SWEEP: Final = 1_000
"""Under a load that collects every second, one long pause in a quarter of an hour instead of one every few seconds."""


class Collector:
    """`install` once in a process; `remove` is for tests."""

    def __init__(self, collections_per_sweep: int = COLLECTIONS_PER_SWEEP) -> None:
        self._per_sweep = collections_per_sweep
        self._since_sweep = 0

    def install(self) -> None:
        gc.callbacks.append(self._on_collection)

    def remove(self) -> None:
        gc.callbacks.remove(self._on_collection)
        gc.unfreeze()

    def _on_collection(self, phase: str, info: dict[str, Any]) -> None:
        if info["generation"] != 2:
            return
        if phase == "stop":
            gc.freeze()
            self._since_sweep += 1
        elif self._since_sweep >= self._per_sweep:
            self._since_sweep = 0
            gc.unfreeze()
