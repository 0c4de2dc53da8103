"""A node with a guarantee taken away: `python -m holdfast_jepsen.live.mutant NAME serve ...`, NAME being one of the scoreboard's.

The control of the live half: a run on such nodes has to be invalid. Only mutants that change a decision from outside can be had
here; those that put another class in place of a part, or change the disk that is in memory, belong to the simulator.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Final

from holdfast.__main__ import main
from holdfast_jepsen.scoreboard import mutants

OF_THE_MEMORY_DISK: Final = ("sync-does-nothing",)
"""No real node has one: it would be as it is."""


def is_available(name: str) -> bool:
    """Whether it can be had in a real process."""
    mutant = mutants.BY_NAME.get(name)
    return (
        mutant is not None
        and name not in OF_THE_MEMORY_DISK
        and mutant.variant().around is not contextlib.nullcontext
    )


if __name__ == "__main__":
    changed = mutants.BY_NAME[sys.argv[1]].variant().around
    sys.argv[1:] = sys.argv[2:]
    with changed():
        main()
