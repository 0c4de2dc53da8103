"""A plugin of pytest: the tests of this process run under the mutant that an environment variable names; none, if it is empty."""

from __future__ import annotations

import os

from holdfast_jepsen.scoreboard.by_test import MUTANT_VARIABLE, enter

name = os.environ.get(MUTANT_VARIABLE, "")
if name:
    undo = enter(name)  # kept: with it would go what is in place
