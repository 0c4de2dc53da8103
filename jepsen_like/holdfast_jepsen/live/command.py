"""`holdfast-jepsen live`: its options, its progress line, its files.

Rule: the files of a run are in one directory, and what they are is in docs/testing.md. The exit code is that of every command here.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from holdfast_jepsen.workloads.mix import WORKLOADS

if TYPE_CHECKING:
    from holdfast_jepsen.live.run import LiveOutcome

EXIT_CODES: Final = {"valid": 0, "invalid": 1, "unknown": 2}
CANNOT: Final = 2
"""What was asked for cannot be done here: nothing is known of the product."""


def add_to(commands: Any) -> None:
    """The sub-command and its options."""
    live = commands.add_parser(
        "live", help="disturb real processes, and check what their clients saw"
    )
    live.add_argument(
        "--nemesis",
        default="partition,kill,pause",
        help="kinds of faults, or groups of them: kill, pause, partition, clients, slow, loss, clock, disk, hand-over, all",
    )
    live.add_argument("--time", type=float, default=60.0, help="seconds with faults")
    live.add_argument("--nodes", type=int, default=3, choices=(3, 5))
    live.add_argument(
        "--workload", default="many-keys", choices=WORKLOADS, help="as in the simulator"
    )
    live.add_argument("--seed", type=int, help="of the schedule; a new one each time if not given")
    live.add_argument(
        "--network",
        choices=("auto", "namespaces", "proxies"),
        default="auto",
        help="namespaces need root and iproute2; auto takes them where they can be had",
    )
    live.add_argument(
        "--mutant", default="", help="nodes that lack a guarantee: the run has to be invalid"
    )
    live.add_argument(
        "--out", type=Path, help="a directory for its files; live-runs/SEED if not given"
    )


def run(options: argparse.Namespace) -> int:
    """Returns the exit code. A run that does not even begin is unknown."""
    from holdfast_coordinator.local_cluster import LocalClusterError
    from holdfast_jepsen.live.network import Unavailable
    from holdfast_jepsen.live.run import Options, run_blocking

    seed = int.from_bytes(os.urandom(4), "little") if options.seed is None else options.seed
    directory = (options.out or Path("live-runs") / str(seed)).resolve()
    asked = Options(
        directory=directory, seed=seed, nemesis=tuple(options.nemesis.split(",")), seconds=options.time,
        nodes=options.nodes, workload=options.workload, network=options.network,
        mutant=options.mutant,
    )  # fmt: skip
    try:
        outcome = run_blocking(asked, say)
    except (Unavailable, LocalClusterError, ValueError) as error:
        print(f"holdfast-jepsen: {error}", file=sys.stderr)
        return CANNOT
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("holdfast-jepsen: interrupted; everything that ran is ended", file=sys.stderr)
        return CANNOT
    command = (
        f"holdfast-jepsen live --seed {seed} --nemesis {options.nemesis} --time {options.time:g} "
        f"--nodes {options.nodes} --workload {options.workload} --network {outcome.network}"
    )
    command += f" --mutant {options.mutant}" if options.mutant else ""
    _write(outcome, directory, command)
    _tell(outcome, directory, command)
    return EXIT_CODES[outcome.verdict]


def _write(outcome: LiveOutcome, directory: Path, command: str) -> None:
    from holdfast_jepsen.report.page import page
    from holdfast_jepsen.report.run import of_live

    (directory / "history.jsonl").write_text(outcome.history.to_json_lines())
    (directory / "faults.txt").write_text(
        "".join(f"{at / 1e9:8.3f} s  {fault.kind}: {what}\n" for fault, at, what in outcome.acts)
    )
    (directory / "report.html").write_text(page(of_live(outcome, command)), encoding="utf-8")


def _tell(outcome: LiveOutcome, directory: Path, command: str) -> None:
    faults = ", ".join(f"{kind} {count}" for kind, count in sorted(outcome.fired.items()))
    before, during, after = outcome.rates
    print(f"faults that fired: {faults or 'none'}")
    print(
        f"answers a second: {before:.0f} before, {during:.0f} during, {after:.0f} after the faults"
    )
    print(
        f"written: {directory}: report.html, history.jsonl, faults.txt, and the nodes' logs in cluster/"
    )
    print(f"the same schedule again: {command}")
    for reason in outcome.reasons:
        print(f"  {reason}")
    print(outcome.verdict)


def say(line: str) -> None:
    """One line of progress. One that begins with a carriage return is replaced by the next, where somebody watches."""
    is_watched = sys.stdout.isatty()
    if not line.startswith("\r"):
        print(f"\r{line}\x1b[K" if is_watched else line, flush=True)
    elif is_watched:
        print(f"{line}\x1b[K", end="", flush=True)
