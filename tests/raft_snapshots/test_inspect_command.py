"""`holdfast snapshot inspect FILE`: an operator's look at what a node would start from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from holdfast.cli.app import command
from holdfast_coordinator.machine import Limits, Machine
from holdfast_coordinator.machine.operations import Acquire, Entry, Origin
from holdfast_coordinator.raft.disk import OsDirectory
from holdfast_coordinator.raft.snapshots import file_name, write_snapshot


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    machine = Machine(Limits())
    acquire = Acquire(("payments/1234",), "s" * 32, 10_000, owner="worker")
    machine.apply(Entry(1, 5, ((Origin("n1", 1, 1), acquire),)))
    write_snapshot(
        OsDirectory(tmp_path),
        file_name(42),
        cluster="holdfast-local",
        index=42,
        term=7,
        payload=machine.snapshot(),
    )
    return tmp_path / file_name(42)


def test_a_whole_file_says_what_it_holds_and_no_key(snapshot: Path) -> None:
    result = CliRunner().invoke(command, ["snapshot", "inspect", str(snapshot)])
    assert result.exit_code == 0
    assert "is whole" in result.output
    assert "payments" not in result.output
    assert "worker" not in result.output
    result = CliRunner().invoke(command, ["snapshot", "inspect", "--json", str(snapshot)])
    found = json.loads(result.output)
    assert (found["cluster"], found["last_index"], found["last_term"]) == ("holdfast-local", 42, 7)
    assert (found["holds"], found["last_token"]) == (1, 1)


def test_a_damaged_file_and_one_of_another_kind_are_refused_with_a_sentence(snapshot: Path) -> None:
    data = bytearray(snapshot.read_bytes())
    data[-1] ^= 1
    snapshot.write_bytes(data)
    result = CliRunner().invoke(command, ["snapshot", "inspect", str(snapshot)])
    assert result.exit_code == 1
    assert str(snapshot) in result.stderr
    assert "SHA-256" in result.stderr
    snapshot.write_bytes(b"notes" * 200)
    result = CliRunner().invoke(command, ["snapshot", "inspect", str(snapshot)])
    assert (result.exit_code, "foreign magic" in result.stderr) == (1, True)
