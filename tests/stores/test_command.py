"""The commands that take an address, on a store that is not a cluster."""

from __future__ import annotations

import sys
from pathlib import Path

from click.testing import CliRunner

from holdfast.cli.app import command


def test_lock_ls_and_show_work_on_any_store(tmp_path: Path) -> None:
    """`holdfast lock` holds it around a command; what looks at it from another process sees it."""
    address = f"sqlite:///{tmp_path / 'locks.db'}"
    seen = tmp_path / "seen"
    look = f"{sys.executable} -m holdfast ls --json --endpoints {address} > {seen}"
    held = CliRunner().invoke(
        command,
        ["lock", "-n", "--endpoints", address, "nightly", "--", "sh", "-c", look],
    )
    assert held.exit_code == 0, held.output
    assert '"key": "nightly"' in seen.read_text()
    shown = CliRunner().invoke(command, ["show", "nightly", "--endpoints", address])
    assert "nobody holds it" in shown.output


def test_locks_in_memory_are_refused_where_nobody_could_see_them() -> None:
    """The lock would end with the command, and protect from nobody."""
    refused = CliRunner().invoke(
        command, ["lock", "-n", "--endpoints", "memory://", "nightly", "--", "true"]
    )
    assert refused.exit_code == 2
    assert "no other process sees them" in refused.output
