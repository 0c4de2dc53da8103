"""A node with a guarantee taken away: `python -m holdfast_jepsen.live.mutant NAME serve ...`, NAME being one of the scoreboard's.

The control of the live half: a run on such nodes has to be invalid. Only mutants that change a decision from outside can be had
here; those that put another class in place of a part belong to the simulator.
"""

from __future__ import annotations

import contextlib
import sys

from holdfast.__main__ import main
from holdfast_jepsen.scoreboard import mutants


def is_available(name: str) -> bool:
    """Whether it can be had in a real process."""
    mutant = mutants.BY_NAME.get(name)
    return mutant is not None and mutant.variant().around is not contextlib.nullcontext


if __name__ == "__main__":
    changed = mutants.BY_NAME[sys.argv[1]].variant().around
    sys.argv[1:] = sys.argv[2:]
    with changed():
        main()
