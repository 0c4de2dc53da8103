"""The benchmark of the engine runs: three real processes, on uvloop."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "engine.py"


@pytest.mark.cluster
def test_three_processes_replicate(tmp_path: Path) -> None:
    """They elect a leader, carry a short load, and report it; on the other channel they say how far they are."""
    command = [sys.executable, str(BENCH), "--in-flight", "64", "--rounds", "1", "--seconds", "0.5"]
    done = subprocess.run(  # noqa: S603 - our own program
        [*command, "--directory", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    assert "operations/s" in done.stdout
    assert "Traceback" not in done.stderr
