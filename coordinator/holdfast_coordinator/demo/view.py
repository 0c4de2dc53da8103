"""What the demo shows: live tables on a terminal, plain lines elsewhere, the summary at the end.

The rule: it reads the scene and writes to a console. Names from the messages are shown as they are, never as markup.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from holdfast_coordinator.demo.messages import Intake
    from holdfast_coordinator.demo.scene import Scene
    from holdfast_coordinator.demo.summary import Summary

STYLES: Final = {
    "leader": "bold green",
    "follower": "green",
    "killed": "bold red",
    "no answer": "red",
    "starting": "yellow",
    "working": "green",
    "frozen": "bold cyan",
    "dead": "bold red",
}

PLAIN_EVERY_SETTLED: Final = 50
"""Without a terminal, a line of progress after so many messages."""

WORKER_ROWS_MAX: Final = 10
"""So that the story below stays on a screen of 25 lines."""


class View:
    """A context manager whose `update` shows a scene. `quiet` shows nothing (for `--json`)."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._live: Live | None = None
        self._told = 0
        self._next_progress = PLAIN_EVERY_SETTLED

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._quiet:
            self._live = Live(console=self._console, refresh_per_second=8, transient=False)
            self._live.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, line: str) -> None:
        """Show one line now."""
        if not self._quiet:
            self._console.print(Text(line), soft_wrap=True)

    def update(self, scene: Scene) -> None:
        """Show the scene: all of it on a terminal, else what is new in it."""
        if self._quiet:
            return
        if self._live is not None:
            self._live.update(render(scene))
            return
        new = scene.told - self._told
        for line in list(scene.story)[max(0, len(scene.story) - new) :] if new else []:
            self.say(line)
        self._told = scene.told
        if scene.settled >= self._next_progress:
            self.say(_progress(scene))
            self._next_progress = (
                scene.settled - scene.settled % PLAIN_EVERY_SETTLED + PLAIN_EVERY_SETTLED
            )


def _progress(scene: Scene) -> str:
    return (
        f"{scene.settled}/{scene.messages} messages settled, {scene.captured} captured, "
        f"{scene.duplicates} duplicates ignored ({scene.already_done} were done already), "
        f"{scene.stale_writes} stale writes refused"
    )


def render(scene: Scene) -> RenderableType:
    """Draw the scene: nodes and workers side by side, the counters, the story."""
    nodes = Table(title="cluster", title_justify="left", box=None, pad_edge=False)
    for heading in ("node", "state", "term", "applied"):
        nodes.add_column(heading)
    for name, node in scene.nodes.items():
        state = Text(node.state, style=STYLES.get(node.state, ""))
        nodes.add_row(name, state, str(node.term or ""), str(node.applied_index or ""))
    workers = Table(title="workers", title_justify="left", box=None, pad_edge=False)
    for heading in ("worker", "state", "doing", "captured"):
        workers.add_column(heading)
    # Stable, so in their order but for those to whom something has happened.
    eventful = sorted(
        scene.workers.items(), key=lambda item: item[1].state not in ("frozen", "dead")
    )
    shown = (
        scene.workers.items() if len(eventful) <= WORKER_ROWS_MAX else eventful[:WORKER_ROWS_MAX]
    )
    for name, worker in shown:
        state = Text(worker.state, style=STYLES.get(worker.state, "dim"))
        workers.add_row(name, state, Text(worker.doing), str(worker.captured))
    if len(eventful) > WORKER_ROWS_MAX:
        workers.add_row("...", "", f"and {len(eventful) - WORKER_ROWS_MAX} more", "")
    both = Table.grid(padding=(0, 6))
    both.add_row(nodes, workers)
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        ProgressBar(total=max(1, scene.messages), completed=scene.settled, width=40),
        Text(_progress(scene)),
    )
    story = Group(*(Text(line, style=_story_style(line)) for line in scene.story))
    return Panel(Group(both, Text(), bar, Text(), story), title="holdfast demo")


def _story_style(line: str) -> str:
    if "STALE" in line:
        return "bold green"
    if "ACCEPTED" in line or "KILLED" in line or ": died" in line:
        return "bold red"
    return "bold cyan" if "FROZEN" in line else ""


def show_malformed(view: View, intake: Intake) -> None:
    """Name the lines that were skipped."""
    for bad in intake.malformed:
        view.say(f"line {bad.line} skipped: {bad.reason}")
    hidden = intake.malformed_count - len(intake.malformed)
    if hidden:
        view.say(f"and {hidden} more malformed lines")


def show_summary(console: Console, summary: Summary) -> None:
    """Print the figures and the promises."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in summary.figures.items():
        table.add_row(name.replace("_", " "), Text(_shown(value)))
    console.print()
    console.print(table)
    for what, times in summary.twice:
        console.print(Text(f"  {what}: {times} times", style="bold red"))
    console.print()
    for promise, kept in summary.promises:
        console.print(
            Text(
                f"{'kept  ' if kept else 'BROKEN'}  {promise}",
                style="green" if kept else "bold red",
            )
        )


def _shown(value: float | str | bool | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
