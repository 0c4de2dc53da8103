"""What `make bench` makes of the programs: their options, their exit codes, and their end."""

from __future__ import annotations

import argparse
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"

STUBBORN = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
server = subprocess.Popen(
    [sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True, stdout=subprocess.DEVNULL
)
print(server.pid, flush=True)
server.wait()
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    import run

    return run


def options(**chosen: Any) -> argparse.Namespace:
    defaults = {"quick": False, "full": False, "prototype": None, "peers": None, "only": None}
    return argparse.Namespace(**{**defaults, **chosen})


BESIDE_PEERS = ("cycles", "gateway", "handover", "idle_sessions", "held_locks", "failover")


@pytest.mark.parametrize("quick", [True, False])
def test_the_peers_that_were_chosen_are_those_of_every_measurement(run: Any, quick: bool) -> None:
    commands = run.steps(options(quick=quick, peers="redis"))
    for name in BESIDE_PEERS:
        command = commands[name]
        assert command[command.index("--peers") + 1] == "redis"


def test_a_program_that_ends_with_an_error_has_failed_whatever_it_wrote(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A snapshot that differs from the machine, for one: its pause is worth nothing."""
    monkeypatch.setattr(run, "FOLDER", tmp_path)
    (tmp_path / "program.py").write_text("print('{}')\nraise SystemExit(1)\n")
    with pytest.raises(RuntimeError, match=r"program\.py ended with 1"):
        run.run_step(["program.py"], tmp_path)


def test_a_program_that_does_not_end_is_ended_with_the_servers_that_it_started(run: Any) -> None:
    command = [sys.executable, "-c", STUBBORN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:  # noqa: S603 - ours
        assert program.stdout is not None
        server = os.pidfd_open(int(program.stdout.readline()))
        try:
            run.end(program, 0.1)
            assert program.returncode == -signal.SIGKILL
            ended, _, _ = select.select([server], [], [], 10)
            assert ended
        finally:
            os.close(server)
