"""What has happened in the demo so far: counters, the state of every node and worker, the last lines of the story.

The rule: facts go in through methods, with `now` where time matters (seconds of the director's clock); the view and the summary
only read. Nothing here acts.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final

STORY_LINES_KEPT: Final = 8
"""What fits below the tables of the live view."""


class GrantGaps:
    """The longest time without a grant, counted from the first one (before it the workers are still starting), and only while
    there was work for which a lock could have been granted."""

    def __init__(self) -> None:
        self.longest_seconds = 0.0
        self._since: float | None = None
        self._has_begun = False

    def work_is_there(self, there: bool, now: float) -> None:
        """Begin to count when work appears, stop when there is none."""
        if not there:
            self._close(now)
            self._since = None
        elif self._since is None and self._has_begun:
            self._since = now

    def granted(self, now: float) -> None:
        """A lock was granted."""
        self._close(now)
        if self._since is not None or not self._has_begun:
            self._since = now
        self._has_begun = True

    def _close(self, now: float) -> None:
        if self._since is not None:
            self.longest_seconds = max(self.longest_seconds, now - self._since)


@dataclass
class NodeLine:
    """A node as the view shows it. `state`: leader, follower, candidate, killed, starting, no answer."""

    state: str = "starting"
    term: int = 0
    applied_index: int = 0


@dataclass
class WorkerLine:
    """A worker as the view shows it. `state`: idle, working, frozen, dead."""

    state: str = "idle"
    doing: str = ""
    captured: int = 0


@dataclass
class Frozen:
    """The one write that was stopped at the gate, and what became of it."""

    worker: str
    delivery: int
    order: tuple[str, str]
    lock_key: str
    fence: int
    overtaken_by: str | None = None
    late_write: str | None = None
    """`stale`, `captured` or `duplicate`, once the worker has been woken up; `died` if it never could be."""


@dataclass
class Scene:
    """Everything that the live view and the summary are drawn from."""

    nodes: dict[str, NodeLine]
    workers: dict[str, WorkerLine]
    messages: int
    gaps: GrantGaps = field(default_factory=GrantGaps)
    granted: int = 0
    captured: int = 0
    duplicates: int = 0
    already_done: int = 0
    """Duplicates that the cluster answered from a done record, without a lock and without a look at the books."""
    stale_writes: int = 0
    found_held: int = 0
    lost: int = 0
    settled: int = 0
    redelivered: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    conflicting: int = 0
    """Duplicates that asked for another amount, currency or customer than the one that was recorded."""
    workers_died: int = 0
    leader_killed: str | None = None
    leader_back: bool = False
    frozen: Frozen | None = None
    story: deque[str] = field(default_factory=lambda: deque(maxlen=STORY_LINES_KEPT))
    told: int = 0
    """How many lines the story has had, so that a plain view knows which are new."""

    def tell(self, line: str) -> None:
        """Add a line to the story."""
        self.story.append(line)
        self.told += 1
