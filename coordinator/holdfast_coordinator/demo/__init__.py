"""The demo: a cluster of three processes, a crowd of workers, a queue full of duplicates, two accidents, and every payment once.

`run_demo` is all that others call. The rule: whatever happens, nothing is left running, and the exit code tells the truth.
The parts:

    messages, sample        what is to be done: the file and its lines
    message_queue           the at-least-once queue in the director's process
    books                   the ledger, and the naive table of `without_fence`
    worker, link            a worker process, and what it says to the director
    worker_process          the same worker, seen from the director
    director                who starts everything and causes the accidents
    scene, view, summary    what has happened, how it looks, whether the promises were kept
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import holdfast_ledger  # noqa: F401 - a missing extra shows itself when this package is imported, not in the middle of a run

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["run_demo"]


def run_demo(
    messages: Path | None,
    workers: int = 8,
    without_fence: bool = False,
    json_output: bool = False,
    seed: int | None = None,
) -> int:
    """Run the demo and return its exit code.

    `messages` is a file (JSON Lines or CSV), None the sample. `seed` fixes the random choices of the demo itself, though not the
    order in which processes run. 0: every promise was kept; 1: one was broken, or the demo could not go on; 2: the arguments or
    the file are no good; 130 or 143: interrupted.
    """
    from holdfast_coordinator.demo.stage import run

    return run(messages, workers, without_fence=without_fence, json_output=json_output, seed=seed)
