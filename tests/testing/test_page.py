"""docs/testing_workers.md: its test fails without the fence and passes with it; the page's code is what runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "testing_workers.md"
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(), re.DOTALL))

WITHOUT = [
    argument for name in ("cacheprovider", "schemathesis") for argument in ("-p", f"no:{name}")
]
"""Plugins that only cost time there."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of somebody who follows the page."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    return tmp_path


def run(project: Path) -> str:
    """What pytest prints there."""
    return subprocess.run(  # noqa: S603 - the page's own code
        [sys.executable, "-m", "pytest", "-v", "--tb=short", *WITHOUT],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout


def test_the_page_keeps_its_word(project: Path) -> None:
    """The fixture is found by itself; without the fence the customer pays twice, and that test alone fails."""
    assert set(FILES) == {"worker.py", "test_worker.py", "test_losing.py"}
    told = run(project)
    assert "[with_the_fence] PASSED" in told, told
    assert "[without_the_fence] FAILED" in told, told
    assert "assert ['p-1', 'p-1'] == ['p-1']" in told
    assert "1 failed, 3 passed" in told, told
