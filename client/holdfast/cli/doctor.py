"""`doctor`: looks at every node twice, and says what is wrong and what to do. Changes nothing in the cluster."""

from __future__ import annotations

import asyncio
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

import holdfast
from holdfast import diagnosis
from holdfast.cli import exit_codes
from holdfast.cli.common import connect_cluster, endpoints_option, json_option, print_json, run
from holdfast.clock import BootClock
from holdfast.diagnosis import Finding, Round

if TYPE_CHECKING:
    from collections.abc import Mapping

SECONDS_DEFAULT: Final = 3.0
"""Between the two looks. On one network, where an answer takes a millisecond, clocks are compared to a thousandth."""
PROBE_SYNCS: Final = 50
PROBE_BYTES: Final = 4096
"""Of each write: a small group of journal records."""
MARKS: Final = {"ok": "ok", "warning": "warning", "bad": "BAD"}


@click.command(short_help="What is wrong with the cluster, and what to do.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 600),
    default=SECONDS_DEFAULT,
    show_default=True,
    help="Between the two looks at each node; the longer, the closer clocks are compared.",
)
@click.option(
    "--data-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Also measure the disk under this directory of this machine, with syncs of our own.",
)
@endpoints_option
@json_option
def doctor(seconds: float, data_dir: Path | None, endpoints: str, as_json: bool) -> None:
    """Look at every node that --endpoints names: whether it answers, leads or follows, and keeps up; whether a majority is at risk;
    how its disk syncs; how fast its clock runs against the others'; versions and format levels; certificates near their end;
    settings that differ. Each finding says what to do.

    \b
    Exit codes: 0 nothing is bad (there may be warnings); 1 something is; 69 no node answered.
    """
    findings = run(_look(endpoints, seconds))
    if data_dir is not None:
        findings.append(measure_disk(data_dir))
    if as_json:
        print_json({"findings": [diagnosis.as_json(each) for each in findings]})
    else:
        for finding in findings:
            _print(finding)
    if any(each.check == "answers" and not each.nodes for each in findings):
        raise click.exceptions.Exit(exit_codes.UNREACHABLE)
    if any(each.severity == "bad" for each in findings):
        raise click.exceptions.Exit(exit_codes.FAILED)


def _print(finding: Finding) -> None:
    nodes = f" {', '.join(finding.nodes)}:" if finding.nodes and finding.severity != "ok" else ""
    click.echo(f"{MARKS[finding.severity]:8}{finding.check}:{nodes} {finding.seen}")
    if finding.advice:
        click.echo(f"{'':8}  -> {finding.advice}")


async def _look(endpoints: str, seconds: float) -> list[Finding]:
    async with connect_cluster(endpoints) as client:
        first = round_of(await client.reports())
        await asyncio.sleep(seconds)
        second = round_of(await client.reports())
    now = datetime.now(UTC)  # certificates end by the calendar
    return diagnosis.diagnose(first, second, now_ms=int(now.timestamp() * 1000))


def round_of(answers: Mapping[str, holdfast.NodeReport | holdfast.HoldfastError]) -> Round:
    """One look."""
    return Round(
        tuple(each for each in answers.values() if isinstance(each, holdfast.NodeReport)),
        {url: each for url, each in answers.items() if isinstance(each, holdfast.HoldfastError)},
    )


def measure_disk(directory: Path) -> Finding:
    """Some small writes, each synced as the journal syncs; the file is gone afterwards."""
    clock = BootClock()
    times = []
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            for _ in range(PROBE_SYNCS):
                began = clock.now()
                os.write(file.fileno(), bytes(PROBE_BYTES))
                os.fdatasync(file.fileno())
                times.append(clock.now() - began)
    except OSError as error:
        seen = f"{directory}: {error.strerror or error}"
        return Finding("disk here", "bad", (), seen, "the node has to be able to write there")
    times.sort()
    median_ms, longest_ms = times[len(times) // 2] * 1000, times[-1] * 1000
    seen = f"{directory}: a sync takes {median_ms:.2f} ms (the median of {PROBE_SYNCS}; the longest {longest_ms:.2f} ms)"
    if median_ms * 1000 > diagnosis.SYNC_US_WARNING:
        severity: diagnosis.Severity = (
            "bad" if median_ms * 1000 > diagnosis.SYNC_US_BAD else "warning"
        )
        return Finding("disk here", severity, (), seen, "put the data directory on a faster disk")
    return Finding("disk here", "ok", (), seen)
