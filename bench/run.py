"""Every measurement, one after the other, with the peers that are found; then the table and the charts.

    make bench                              some twenty minutes; writes bench/results/latest.json and charts beside it
    make bench ARGS=--quick                 some five minutes: is everything in working order, and where about are we
    make bench ARGS=--full                  with a million held locks: half an hour or more
    make bench-publish                      the same as --full, and docs/performance.md and its charts are written anew

Rule: a measurement is a program of its own, and one that fails is named in the result and makes this one fail; the others are made
all the same. What is not on this machine is named with how to install it.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import report
from measuring import FOLDER, family, machine_facts, parser, say

RESULTS = FOLDER / "results"
STEP_SECONDS_MAX = 1800.0
"""A backstop; each program bounds itself."""
END_SECONDS_MAX = 60.0
"""For a program that was told to end, and its servers with it."""
FAILOVER_ROUNDS = 8
QUICK_PEERS = {"handover": "etcd,zookeeper-wire", "idle_sessions": "etcd"}
"""Beside whom a first look is taken, unless --peers says so."""


def steps(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Name of each measurement -> the program and its options."""
    quick = ["--quick"] if arguments.quick else []
    prototype = ["--prototype", str(arguments.prototype)] if arguments.prototype else []
    many = [] if arguments.full else ["--many", "200000"]

    def peers(name: str) -> list[str]:
        chosen = arguments.peers
        if chosen is None and arguments.quick:
            chosen = QUICK_PEERS.get(name)
        return [] if chosen is None else ["--peers", chosen]

    made = {
        "cycles": ["cycles.py", *quick, *peers("cycles"), *(["--workers", "1,64"] if quick else [])],
        "gateway": ["gateway.py", *quick, *peers("gateway")],
        "handover": ["handover.py", *quick, *peers("handover")],
        "idle_sessions": ["idle_sessions.py", *quick, *peers("idle_sessions")],
        "held_locks": ["held_locks.py", *(quick or many), *peers("held_locks")],
        "overload": ["overload.py", *quick],
        "snapshot_pause": ["snapshot_pause.py", *quick],
        "engine": ["engine.py", *prototype, *(["--quick", "--in-flight", "64"] if quick else ["--rounds", "2", "--seconds", "3"])],
        "failover": ["failover.py", *(quick or ["--rounds", str(FAILOVER_ROUNDS)]), *peers("failover")],
    }  # fmt: skip
    if arguments.full:
        made["snapshot_pause_million"] = ["snapshot_pause.py", "--locks", "1000000"]
    chosen = arguments.only.split(",") if arguments.only else list(made)
    return {name: command for name, command in made.items() if name in chosen}


def run_step(command: list[str], directory: Path) -> Any:
    """The answer of one program. Raises RuntimeError if there is none, or if the program says that it is not to be trusted."""
    where = ["--directory", str(directory), "--json"]
    process = subprocess.Popen(  # noqa: S603 - a program of ours
        [sys.executable, str(FOLDER / command[0]), *command[1:], *where],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        told, _ = process.communicate(timeout=STEP_SECONDS_MAX)
    finally:
        # Whatever has happened here: it ends its servers before it ends.
        if process.poll() is None:
            end(process, END_SECONDS_MAX)
    lines = told.strip().splitlines()
    is_answered = bool(lines) and lines[-1][:1] in ("{", "[")
    if not is_answered or process.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}")
    return json.loads(lines[-1])


def end(process: subprocess.Popen[str], seconds_max: float) -> None:
    """Tell a program to end. If it does not, end it and all that it started: its servers are in sessions of their own."""
    process.terminate()
    try:
        process.wait(seconds_max)
    except subprocess.TimeoutExpired:
        for pid in family([process.pid]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    directory = arguments.directory
    directory.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": arguments.quick,
        "machine": machine_facts(directory),
        "measurements": {},
        "failed": {},
    }
    for name, command in steps(arguments).items():
        say(f"-- {name}")
        began = time.perf_counter()
        try:
            result["measurements"][name] = run_step(command, directory)
        except (RuntimeError, subprocess.TimeoutExpired, ValueError) as error:
            result["failed"][name] = str(error)
            say(f"FAILED: {name}: {error}")
        say(f"   {time.perf_counter() - began:.0f} s")
    return result


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--full", action="store_true", help="a million held locks, too")
    options.add_argument("--publish", action="store_true", help="write docs/performance.md anew")
    options.add_argument("--only", help="some of them, e.g. cycles,handover")
    options.add_argument("--peers", help="some of them, e.g. etcd,redis; '' for none")
    options.add_argument("--prototype", type=Path, help="the file of the engine's prototype")
    arguments = options.parse_args()
    result = run(arguments)
    RESULTS.mkdir(exist_ok=True)
    written = RESULTS / ("published.json" if arguments.publish else "latest.json")
    written.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    print(json.dumps(result) if arguments.json else report.text(result))
    say(f"written: {written}")
    if arguments.publish:
        report.publish(result)
    else:
        from charts import draw  # what is measured, and how, needs no matplotlib

        draw(result, RESULTS / "charts")
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
