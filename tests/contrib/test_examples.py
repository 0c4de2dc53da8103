"""The files in `examples/` do what their comments say: their own lines are run, against a real node."""

from __future__ import annotations

import asyncio
import configparser
import shlex
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from holdfast_coordinator.local_cluster import LocalCluster

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

EXAMPLES = Path(__file__).parents[2] / "examples"
PLACE = "http://n1:7601,http://n2:7601,http://n3:7601"


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One real node, on a loop of its own, since the tests wait for processes."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    cluster = LocalCluster(tmp_path_factory.mktemp("cluster"), nodes=1)
    asyncio.run_coroutine_threadsafe(cluster.__aenter__(), loop).result()
    yield cluster.endpoints
    asyncio.run_coroutine_threadsafe(cluster.stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """The programs that the examples name: each says that it runs, and under which token, and ends when its input does."""
    folder = tmp_path / "bin"
    folder.mkdir()
    work = f'#!/bin/sh\necho "$(basename "$0") $HOLDFAST_TOKEN"\nexec {sys.executable} -c "import sys; sys.stdin.read()"\n'
    for name, text in {
        "holdfast": f'#!/bin/sh\nexec {sys.executable} -m holdfast "$@"\n',
        "nightly-report": work,
        "dispatcher": work,
        "sleep": '#!/bin/sh\necho "sleeps $1"\n',
    }.items():
        (folder / name).write_text(text)
        (folder / name).chmod((folder / name).stat().st_mode | stat.S_IXUSR)
    return folder


class Run:
    """One machine that runs a line of an example."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - a line of our own example
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def said(self) -> str:
        """The next line on standard output; empty when it has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def end_input(self) -> None:
        """The program ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def ends(self) -> int:
        """Let the program end, and return the exit code."""
        if self._process.stdin is not None and self._process.stdin.closed:
            self._process.stdin = None
        self._process.communicate()
        return self._process.returncode

    def terminate(self) -> int:
        self._process.terminate()
        return self.ends()


def unit(name: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((EXAMPLES / "systemd" / name).read_text())
    return parser


def of_unit(name: str, endpoints: str, programs: Path) -> Run:
    """What systemd would start."""
    service = unit(name)["Service"]
    variable, _, value = service["Environment"].partition("=")
    assert value == PLACE
    line = service["ExecStart"].replace("/usr/local/bin/", f"{programs}/")
    environment = {variable: endpoints, "PATH": f"{programs}:/usr/bin:/bin"}
    return Run(shlex.split(line), environment)


def of_cron(endpoints: str, programs: Path) -> Run:
    """What cron would start."""
    lines = (EXAMPLES / "cron" / "nightly-report").read_text().splitlines()
    told = [line for line in lines if line and not line.startswith("#")]
    environment = dict(line.split("=", 1) for line in told[:-1])
    assert environment["HOLDFAST_ENDPOINTS"] == PLACE
    environment |= {"HOLDFAST_ENDPOINTS": endpoints, "PATH": f"{programs}:/usr/bin:/bin"}
    minute, hour, _day, _month, _weekday, user, command = told[-1].split(None, 6)
    assert (minute, hour, user) == ("0", "3", "reports")
    return Run([environment["SHELL"], "-c", command], environment)


def test_cron_makes_the_report_on_one_of_two_machines(endpoints: str, programs: Path) -> None:
    """The second leaves it, in silence; the first keeps the lock a while after a quick report."""
    first = of_cron(endpoints, programs)
    assert first.said().startswith("nightly-report ")
    second = of_cron(endpoints, programs)
    assert second.said() == ""
    assert second.ends() == 0
    first.end_input()
    assert first.said() == "sleeps 60"
    assert first.ends() == 0


def test_a_timer_of_systemd_makes_the_report_on_one_of_two_machines(
    endpoints: str, programs: Path
) -> None:
    """The second ends with the code that the unit calls a success."""
    first = of_unit("nightly-report.service", endpoints, programs)
    assert first.said().startswith("nightly-report ")
    second = of_unit("nightly-report.service", endpoints, programs)
    assert second.said() == ""
    assert str(second.ends()) == unit("nightly-report.service")["Service"]["SuccessExitStatus"]
    assert first.ends() == 0
    assert unit("nightly-report.timer")["Timer"]["OnCalendar"]


def test_a_service_of_systemd_works_on_one_machine_and_the_next_takes_over(
    endpoints: str, programs: Path
) -> None:
    """When systemd stops the first, the second gets the lock at once, with a higher fence."""
    first = of_unit("dispatcher.service", endpoints, programs)
    name, token = first.said().split()
    assert name == "dispatcher"
    second = of_unit("dispatcher.service", endpoints, programs)
    first.terminate()
    name, later = second.said().split()
    assert name == "dispatcher"
    assert int(later) > int(token)
    second.terminate()
    service = unit("dispatcher.service")["Service"]
    grace = shlex.split(service["ExecStart"])[3]
    assert int(service["TimeoutStopSec"]) > int(grace)
