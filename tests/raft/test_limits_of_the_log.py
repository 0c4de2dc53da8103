"""A log means what it meant: a node does not replay it under other limits than it was decided under."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast_coordinator.machine import Limits, Quota
from holdfast_coordinator.machine.limits import digest
from holdfast_coordinator.raft.datadir import DataDirectory, check_limits
from holdfast_coordinator.raft.errors import EngineFailure

if TYPE_CHECKING:
    from pathlib import Path

TWO = Limits(quotas=(Quota(owner="a", holds=2),))
THREE = Limits(quotas=(Quota(owner="a", holds=3),))


def start(path: Path, limits: Limits) -> None:
    directory = DataDirectory.open(path, cluster="c", node="n1")
    try:
        check_limits(directory.files, digest(limits))
    finally:
        directory.close()


def test_a_directory_keeps_the_limits_that_its_log_was_decided_under(tmp_path: Path) -> None:
    """Under others the node does not start, and says what to do; under the old ones it does, as often as it likes."""
    start(tmp_path, THREE)
    start(tmp_path, THREE)
    for others in (TWO, Limits(), Limits(keys_held_max=7)):
        with pytest.raises(EngineFailure, match="put the old ones back"):
            start(tmp_path, others)
    start(tmp_path, THREE)
