"""Format levels: what a log may hold, and what its replicas do with it. The state has one level, and it only rises.

Rule: whatever is decided or written differently than at an earlier level is asked for here, by the level of the STATE, never by the
version of the program. So an old and a new version that apply one log at one level are in one state, byte by byte,
also in their snapshots; and a version that does not know a level never reads what was written at it.

    level  since  what it brings
    1      0.1    entries of version 1, snapshots of version 2
    2      0.1    entries say at which level they were written; the state and its snapshots (version 3) know their level

An entry of a higher level raises the state to it, before anything else in the entry. Who writes such an entry, and when, is decided
by the leader's node (`peer_levels.py`): docs/upgrading.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .operations import Operation

LOWEST: Final = 1
"""Of a log that this version can go on with."""

HIGHEST: Final = 2
"""That this version knows."""

LEVEL_MAX: Final = 100
"""No release brings a hundred; a larger number is not a level."""

NEEDED: Final[Mapping[type[Operation], int]] = {}
"""The level below which an operation is refused, of each that is younger than level 1: an older version would not know it."""


@dataclass(frozen=True, slots=True)
class Levels:
    """From the lowest to the highest that a version knows, both included. `held`: the configuration keeps the highest down."""

    lowest: int = LOWEST
    highest: int = HIGHEST
    held: bool = False

    def why_not(self, level: int) -> str | None:
        """A sentence for the operator if a log of this level is beyond this version; None: it is not."""
        if self.lowest <= level <= self.highest:
            return None
        if level > self.highest and self.held:
            return (
                f"is of format level {level}, and format_level_max holds this node at {self.highest}; the cluster has been raised, "
                "and a level never falls: remove format_level_max"
            )
        if level > self.highest:
            return (
                f"is of format level {level}, and this version of holdfast knows levels up to {self.highest}; "
                "start the newer version that wrote it"
            )
        return (
            f"is of format level {level}, and this version of holdfast knows levels from {self.lowest} on; "
            "upgrade one version after the other, and let each take a snapshot"
        )


KNOWN: Final = Levels()


def needed(operation: Operation) -> int:
    """The level from which on an operation is known."""
    return NEEDED.get(type(operation), LOWEST)
