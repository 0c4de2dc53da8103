"""Sets the stage for the demo: arguments, a temporary directory, signals, the cluster; and clears it away.

The rule: Ctrl-C or SIGTERM at any moment ends in the same clearing away as success does. The directory is kept only when something
went wrong, and then named.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console

from holdfast_coordinator.demo.books import FencedBooks, NaiveBooks
from holdfast_coordinator.demo.director import DemoError, Director, Plan
from holdfast_coordinator.demo.messages import Intake, MessagesError, read_messages
from holdfast_coordinator.demo.sample import SAMPLE_FILE
from holdfast_coordinator.demo.summary import Summary, summarise
from holdfast_coordinator.demo.view import View, show_malformed, show_summary
from holdfast_coordinator.local_cluster import LocalCluster, LocalClusterError

if TYPE_CHECKING:
    from holdfast_coordinator.demo.books import Books

WORKERS_MIN: Final = 2
"""Somebody must be there to overtake the frozen one."""

WORKERS_MAX: Final = 64
"""Each is a Python process of some 50 MB."""


class _Interrupted(Exception):
    """A signal asked the demo to end."""

    def __init__(self, number: int) -> None:
        self.number = number


def run(
    messages: Path | None, workers: int, *, without_fence: bool, json_output: bool, seed: int | None
) -> int:
    """See `holdfast_coordinator.demo.run_demo`."""
    out, err = Console(), Console(stderr=True)
    if not WORKERS_MIN <= workers <= WORKERS_MAX:
        err.print(
            f"the demo needs {WORKERS_MIN} to {WORKERS_MAX} workers, not {workers}", markup=False
        )
        return 2
    try:
        intake = read_messages(SAMPLE_FILE if messages is None else messages)
    except MessagesError as error:
        err.print(str(error), markup=False, soft_wrap=True)
        return 2
    view = View(out, quiet=json_output)
    show_malformed(view, intake)
    if not any(message.action == "collect" for message in intake.messages):
        found = "no collect" if intake.messages else "not one usable message"
        err.print(
            f"{messages}: {found} in it, so there is nothing to show", markup=False, soft_wrap=True
        )
        return 2
    plan = Plan(
        intake.messages, workers, without_fence, secrets.randbits(32) if seed is None else seed
    )
    directory = Path(tempfile.mkdtemp(prefix="holdfast-demo-"))
    try:
        summary = asyncio.run(_run_until_signalled(plan, intake, directory, view))
    except (DemoError, LocalClusterError) as error:
        err.print(
            f"the demo could not go on: {error}\nwhat the processes wrote is in {directory}",
            markup=False,
        )
        return 1
    except _Interrupted as interrupted:
        err.print("interrupted; everything was stopped", markup=False, soft_wrap=True)
        shutil.rmtree(directory, ignore_errors=True)
        return 128 + interrupted.number
    if json_output:
        out.file.write(json.dumps(summary.as_json() | {"seed": plan.seed}) + "\n")
    else:
        show_summary(out, summary)
    if summary.ok or without_fence:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        err.print(f"what the processes wrote is in {directory}", markup=False, soft_wrap=True)
    return 0 if summary.ok else 1


async def _run_until_signalled(plan: Plan, intake: Intake, directory: Path, view: View) -> Summary:
    """Run the play in a task that a signal cancels once, so that a second Ctrl-C cannot stop the clearing away."""
    loop = asyncio.get_running_loop()
    play = asyncio.ensure_future(_play(plan, intake, directory, view))
    received: list[int] = []

    def interrupt(number: int) -> None:
        if not received:
            play.cancel()
        received.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt, number)
    try:
        with suppress(asyncio.CancelledError):
            return await play
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    raise _Interrupted(received[0] if received else signal.SIGINT)


async def _play(plan: Plan, intake: Intake, directory: Path, view: View) -> Summary:
    path = directory / "books.db"
    books: Books
    if plan.without_fence:
        naive = NaiveBooks(path)
        naive.create()
        books = naive
    else:
        books = FencedBooks(path)
    try:
        view.say(
            f"starting a cluster of three nodes and {plan.workers} workers (seed {plan.seed}) in {directory}"
        )
        async with LocalCluster(directory / "cluster") as cluster:
            director = Director(plan, cluster, path, view.update)
            with view:
                await director.run()
        return summarise(intake, director.scene, books, director.rejected)
    finally:
        books.close()
