"""Try to show that Holdfast is wrong: `sim`, `live`, `replay`, `scoreboard`.

Exit codes: 0 valid, 1 invalid, 2 unknown. Unknown is a failure: a run that proves nothing must not pass.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from holdfast_jepsen.live import command as live_command
from holdfast_jepsen.live.command import EXIT_CODES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from holdfast_jepsen.sim.run import Outcome, Variant
    from holdfast_jepsen.sim.tally import Tally

EXAMPLES: Final = """\
examples:
  holdfast-jepsen sim --seeds 1000 --jobs 2
  holdfast-jepsen replay 2003 --out out/
  holdfast-jepsen replay 5 --mutant grants-twice --shrink --out out/
  holdfast-jepsen live --nemesis partition,kill,pause --time 60 --nodes 5
  holdfast-jepsen scoreboard answers-before-sync votes-forgotten
docs/testing.md explains what is checked and every file that is written.
"""
LINE_SECONDS = 2.0
"""Between progress lines where nobody watches."""
REPORTS_MAX: Final = 20
"""Of one `sim`: a broken build makes every seed invalid, and one page is a few hundred kilobytes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        "holdfast-jepsen",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    sim = commands.add_parser("sim", help="simulate many seeds")
    sim.add_argument("--seeds", type=int, default=100, help="how many")
    sim.add_argument("--start", type=int, default=0, help="the first")
    sim.add_argument("--minutes", type=float, help="stop after so many, whatever --seeds says")
    sim.add_argument(
        "--keep-going", action="store_true", help="do not stop at the first invalid seed"
    )
    sim.add_argument(
        "--reports",
        type=Path,
        help="write seeds.txt, verdict.txt and a page for each invalid seed here",
    )
    replay = commands.add_parser("replay", help="run one seed and tell its story")
    replay.add_argument("seed", type=int)
    replay.add_argument("--mutant", help="with this mutant of the scoreboard")
    replay.add_argument(
        "--out", type=Path, help="write report.html, trace.txt and history.jsonl here"
    )
    replay.add_argument(
        "--only", help="of its faults only those with these numbers: 3,7,12; or none"
    )
    replay.add_argument(
        "--shrink", action="store_true", help="if it is invalid: find the faults that it takes"
    )
    board = commands.add_parser("scoreboard", help="let the harness find every mutant")
    board.add_argument("--seeds", type=int, default=200, help="give up on a mutant after so many")
    board.add_argument(
        "--starts", type=int, default=1, choices=(1, 2, 3), help="hunts of each mutant"
    )
    board.add_argument("--no-stock", action="store_true", help="leave out the unchanged library")
    board.add_argument("--table", type=Path, help="write it here too, as a page of Markdown")
    board.add_argument("names", nargs="*", help="only these mutants")
    live_command.add_to(commands)
    sim.add_argument("--jobs", type=int, default=1, help="processes, each with seeds of its own")
    for each in (sim, replay):
        each.add_argument(
            "--fault-seconds",
            type=float,
            default=20.0,
            help="virtual time with faults, of a run at the shipped periods; others last longer",
        )
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except ModuleNotFoundError as error:
        print(
            f"holdfast-jepsen: {error}; it needs the server: pip install 'holdfast[server,ledger]'",
            file=sys.stderr,
        )
    except Exception:  # noqa: BLE001 - a fault of the harness says nothing about the product
        traceback.print_exc()
    return EXIT_CODES["unknown"]


def _run(options: argparse.Namespace) -> int:
    if options.command == "sim":
        return _sim(options)
    if options.command == "live":
        return live_command.run(options)
    if options.command == "replay":
        return _replay(options)
    return _scoreboard(options)


def _sim(options: argparse.Namespace) -> int:
    from holdfast_jepsen.sim.tally import Book, Tally

    began, last_line, tally = _now(), 0.0, Tally()
    book = Book(options.reports) if options.reports else None
    try:
        for outcome in _outcomes(options):
            tally.add(outcome)
            elapsed = _now() - began
            if book is not None:
                book.run(outcome)
            if outcome.verdict != "valid":
                _not_valid(outcome, options, tally)
            if elapsed - last_line >= (0.2 if sys.stdout.isatty() else LINE_SECONDS):
                last_line = elapsed
                _progress(tally, options.seeds, elapsed)
                if book is not None:
                    book.total(tally.lines(elapsed))
            if outcome.verdict == "invalid" and not options.keep_going:
                break
            if options.minutes is not None and elapsed >= options.minutes * 60:
                break
    except KeyboardInterrupt:
        pass  # whoever has seen enough gets the verdict on what there was
    _end_line()
    lines = tally.lines(_now() - began)
    print("\n".join(lines))
    if book is not None:
        book.total(lines)
        book.close()
    return EXIT_CODES[tally.verdict]


def _not_valid(outcome: Outcome, options: argparse.Namespace, tally: Tally) -> None:
    """Say so at once, and write a page of what is invalid."""
    from holdfast_jepsen.sim.tally import sentence

    _end_line()
    print(sentence(outcome), flush=True)
    if outcome.verdict == "invalid" and options.reports and tally.seen["invalid"] <= REPORTS_MAX:
        _report(outcome.seed, options)


def _report(seed: int, options: argparse.Namespace) -> None:
    """The seed runs again: outcomes of many seeds come without their history."""
    from holdfast_jepsen.report.page import page
    from holdfast_jepsen.report.run import of_simulated
    from holdfast_jepsen.sim.run import run

    command = f"holdfast-jepsen replay {seed} --fault-seconds {options.fault_seconds}"
    options.reports.mkdir(parents=True, exist_ok=True)
    outcome = run(seed, fault_seconds=options.fault_seconds)
    text = page(of_simulated(outcome, command))
    (options.reports / f"seed-{seed}.html").write_text(text, encoding="utf-8")


def _outcomes(options: argparse.Namespace) -> Iterator[Outcome]:
    """In the order of the seeds, whoever was faster."""
    from holdfast_jepsen.sim.run import run_briefly

    one = functools.partial(run_briefly, fault_seconds=options.fault_seconds)
    seeds = range(options.start, options.start + options.seeds)
    if options.jobs == 1:
        yield from map(one, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        yield from pool.imap(one, seeds)


def _progress(tally: Tally, of: int, elapsed: float) -> None:
    virtual = tally.virtual_hours
    text = (
        f"{sum(tally.seen.values())}/{of} seeds  {virtual:.2f} virtual hours  {virtual * 3600 / elapsed:.0f}x  "
        f"{tally.seen['invalid']} invalid  {tally.seen['unknown']} unknown"
    )
    print(
        f"\r{text}\x1b[K" if sys.stdout.isatty() else text, end="" if sys.stdout.isatty() else "\n"
    )
    sys.stdout.flush()


def _end_line() -> None:
    if sys.stdout.isatty():
        print("\r\x1b[K", end="")


def _replay(options: argparse.Namespace) -> int:
    from holdfast_jepsen.report.page import page
    from holdfast_jepsen.report.run import of_simulated
    from holdfast_jepsen.scoreboard import mutants
    from holdfast_jepsen.sim.run import Variant, run

    variant = mutants.BY_NAME[options.mutant].variant() if options.mutant else Variant()
    if options.only is not None:
        numbers = tuple(int(each) for each in options.only.split(",") if each.isdigit())
        variant = replace(variant, only=numbers)
    outcome = run(
        options.seed,
        variant=variant,
        keep_trace=options.out is not None,
        fault_seconds=options.fault_seconds,
    )
    print(
        f"seed {outcome.seed}: {outcome.workload} on {outcome.nodes} nodes, {len(outcome.plan)} faults"
    )
    for number, fault in enumerate(outcome.plan):
        print(f"{number if variant.only is None else variant.only[number]:4} {fault}")
    print(
        f"{outcome.virtual_seconds:.1f} virtual seconds, {outcome.events} events, "
        f"{len(outcome.history.operations)} operations, {outcome.answered} answered"
    )
    print(f"trace {outcome.trace_hash}")
    command = f"holdfast-jepsen replay {options.seed} --fault-seconds {options.fault_seconds:g}"
    command += f" --mutant {options.mutant}" if options.mutant else ""
    shrunk = _shrunk(outcome, options, variant, command) if options.shrink else []
    command += f" --only {options.only}" if options.only is not None else ""
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "trace.txt").write_text("".join(outcome.trace or []))
        (options.out / "history.jsonl").write_text(outcome.history.to_json_lines())
        text = page(of_simulated(outcome, command, shrunk))
        (options.out / "report.html").write_text(text, encoding="utf-8")
        print(f"written: {options.out}: report.html, trace.txt, history.jsonl")
    for reason in outcome.reasons:
        print(f"  {reason}")
    print(outcome.verdict)
    return EXIT_CODES[outcome.verdict]


def _shrunk(
    outcome: Outcome, options: argparse.Namespace, variant: Variant, command: str
) -> list[str]:
    """The faults that it takes, and how to make them alone; for people. Nothing, if the run is not invalid."""
    from holdfast_jepsen.sim.shrink import shrink

    if outcome.verdict != "invalid" or variant.only is not None:
        return []
    kept = shrink(options.seed, variant, fault_seconds=options.fault_seconds, say=_passing)
    _end_line()
    told = [str(outcome.plan[number]) for number in kept] or ["none: it is invalid without faults"]
    told.append(f"{command} --only {','.join(map(str, kept)) or 'none'}")
    print(f"the faults that it takes: {len(kept)} of {len(outcome.plan)}")
    for line in told:
        print(f"  {line}")
    return told


def _passing(line: str) -> None:
    if sys.stdout.isatty():
        print(f"\r{line}\x1b[K", end="", flush=True)


def _scoreboard(options: argparse.Namespace) -> int:
    from holdfast_jepsen.scoreboard import table

    return table.show(
        options.names,
        options.seeds,
        options.starts,
        with_stock=not options.no_stock,
        table=options.table,
    )


def _now() -> float:
    """Wall time: for the figures of the progress line, and for nothing else."""
    return time.perf_counter()
