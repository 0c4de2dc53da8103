"""Every measurement, one after the other, with the peers that are found; then the table and the charts.

    make bench                              about a quarter of an hour; writes bench/results/latest.json and charts beside it
    make bench ARGS=--quick                 under four minutes: is everything in working order, and where about are we
    make bench ARGS=--full                  with a million held locks: half an hour or more
    make bench-publish                      the same as --full, and docs/performance.md and its charts are written anew

Rule: a measurement is a program of its own, and one that fails is named in the result and makes this one fail; the others are made
all the same. What is not on this machine is named with how to install it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import report
from charts import draw
from measuring import FOLDER, machine_facts, parser, say

RESULTS = FOLDER / "results"
STEP_SECONDS_MAX = 3600.0
"""A backstop; each program bounds itself."""
END_SECONDS_MAX = 60.0
FAILOVER_ROUNDS = 8
SNAPSHOT_PROMISE_BROKEN = 1
"""What snapshot_pause.py says with its exit code is in its result, too."""


def steps(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Name of each measurement -> the program and its options."""
    quick = ["--quick"] if arguments.quick else []
    prototype = ["--prototype", str(arguments.prototype)] if arguments.prototype else []
    peers = ["--peers", arguments.peers] if arguments.peers is not None else []
    many = [] if arguments.full else ["--many", "200000"]
    made = {
        "cycles": ["cycles.py", *quick, *peers, *(["--workers", "1,64"] if quick else [])],
        "gateway": ["gateway.py", *quick],
        "handover": [
            "handover.py", *quick, *(["--peers", "etcd,zookeeper-wire"] if quick else peers),
        ],
        "idle_sessions": ["idle_sessions.py", *quick, *(["--peers", "etcd"] if quick else peers)],
        "held_locks": ["held_locks.py", *(quick or many)],
        "overload": ["overload.py", *quick],
        "snapshot_pause": ["snapshot_pause.py", *quick],
        "engine": ["engine.py", *prototype, *(["--quick", "--in-flight", "64"] if quick else ["--rounds", "2", "--seconds", "3"])],
    }  # fmt: skip
    if not quick:
        made["failover"] = ["failover.py", "--rounds", str(FAILOVER_ROUNDS)]
    if arguments.full:
        made["snapshot_pause_million"] = ["snapshot_pause.py", "--locks", "1000000"]
    chosen = arguments.only.split(",") if arguments.only else list(made)
    return {name: command for name, command in made.items() if name in chosen}


def run_step(command: list[str], directory: Path) -> Any:
    """The answer of one program. Raises RuntimeError if there is none."""
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
            process.terminate()
            process.wait(END_SECONDS_MAX)
    lines = told.strip().splitlines()
    is_answered = bool(lines) and lines[-1][:1] in ("{", "[")
    if not is_answered or process.returncode not in (0, SNAPSHOT_PROMISE_BROKEN):
        raise RuntimeError(f"{command[0]} ended with {process.returncode}")
    return json.loads(lines[-1])


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
    draw(result, RESULTS / "charts")
    if arguments.publish:
        report.publish(result)
    say(f"written: {written} and {RESULTS / 'charts'}")
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
