"""The programs that judge the deployment kit: found, or the test says loudly what it could not run.

Rule: in CI (the variable CI is set) a missing tool fails its tests; elsewhere they are skipped with a sentence that says how to
get it. `.ci/run` brings them all: most are Python packages of the group `deploy`, promtool and systemd-analyze are Debian's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, NoReturn

import pytest

ROOT: Final = Path(__file__).parents[2]
KIT: Final = ROOT / "deploy"
SECONDS_MAX: Final = 50
"""For one run of a tool. Each needs a second or two; a machine with two busy cores more."""

_WHENCE: Final = {
    "promtool": "tools/get_promtool.sh puts Debian's into .venv",
    "systemd-analyze": "it comes with systemd",
}


def tool(name: str) -> str:
    """The path of the program. Ends the test if there is none."""
    beside_python = Path(sys.executable).parent / name
    found = str(beside_python) if beside_python.exists() else shutil.which(name)
    return found or cannot_run(name, _WHENCE.get(name, "pip install --group deploy"))


def cannot_run(name: str, whence: str) -> NoReturn:
    sentence = f"{name} is not here, so this was NOT checked ({whence})"
    if os.environ.get("CI"):
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)


def run(name: str, *arguments: str, cwd: Path = ROOT, **environ: str) -> str:
    """What the tool says, on both of its outputs. Fails the test if it is not content."""
    done = subprocess.run(  # noqa: S603 - a tool, and what the tests give it
        [tool(name), *arguments],
        cwd=cwd,
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=SECONDS_MAX,
    )
    assert done.returncode == 0, f"{name} {' '.join(arguments)}:\n{done.stdout}"
    return done.stdout
