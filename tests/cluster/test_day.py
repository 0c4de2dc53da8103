"""A day in the life of a cluster: restarts, a killed leader, a replaced node, new certificates, backup, upgrade, restore."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from holdfast_jepsen.live.namespaces import why_not
from servers.absent import cannot_run

DAY = Path(__file__).parents[2] / "tools" / "day.py"
STEPS = 7


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_no_lock_is_lost_and_no_payment_doubled_in_a_day(tmp_path: Path) -> None:
    """With HTTPS, mutual TLS between the nodes, identities and rights, each node in a namespace of its own."""
    if (reason := why_not()) is not None:
        cannot_run("namespaces", reason)
    command = [sys.executable, str(DAY), "--keep", str(tmp_path / "day")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=390, check=False)  # noqa: S603 - our own program
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 locks lost" in done.stdout
    told = [line for line in done.stdout.splitlines() if line.endswith((" ms", "(stopped for it)"))]
    assert len(told) == STEPS
