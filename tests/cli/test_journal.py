"""`holdfast journal verify` and `dump` on files that a journal wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from holdfast.cli.app import command
from holdfast_coordinator.machine import Entry, encode_entry
from holdfast_coordinator.machine.operations import Acquire, Origin
from holdfast_coordinator.raft.datadir import DataDirectory
from holdfast_coordinator.raft.journal import Journal
from holdfast_coordinator.raft.messages import ENTRY_NO_OP, ENTRY_OWN, admission_command

SESSION = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four entries of a node that was stopped."""
    path = tmp_path / "n1"
    directory = DataDirectory.open(path, cluster="c", node="n1")
    journal = Journal(directory)
    acquire = Acquire(("1234collectPayment",), SESSION, ttl_ms=5000, owner="worker-7")
    batch = encode_entry(Entry(2, 17, ((Origin("n2", 1, 9), acquire),)))
    journal.add(ENTRY_NO_OP, 1, 0)
    journal.add(ENTRY_NO_OP, 2, 2)
    journal.add(ENTRY_OWN + batch, 3, 2)
    journal.add(admission_command("n3", "ab" * 16), 4, 2)
    journal.sync()
    journal._destroy()
    directory.close()
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["journal", *arguments])


def snapshot_of(path: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in path.iterdir()}


def test_a_whole_journal_is_described_and_not_changed(data: Path) -> None:
    """Whose it is, what it spans, what was voted."""
    before = snapshot_of(data)
    result = run("verify", str(data), "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["ok"], found["node"], found["first_index"], found["last_index"]) == (
        True,
        "n1",
        1,
        4,
    )
    assert (found["entries"], found["torn_bytes"], found["unreadable_entries"]) == (4, 0, [])
    assert "is whole" in run("verify", str(data)).stdout
    assert snapshot_of(data) == before


def test_a_torn_tail_is_told_and_left_alone(data: Path) -> None:
    """A start would drop it; looking does not."""
    directory = DataDirectory.open(data, cluster="c", node="n1")
    journal = Journal(directory)
    journal.add(ENTRY_OWN + b"never synced whole", 5, 2)
    journal._write_group()
    offset = journal._offset
    directory.close()
    segment = next(data.glob("journal-*"))
    torn = bytearray(segment.read_bytes())
    torn[offset - 3 : offset] = bytes(3)
    segment.write_bytes(torn)
    before = snapshot_of(data)
    found = json.loads(run("verify", str(data), "--json").stdout)
    assert found["torn_bytes"] > 0
    assert found["last_index"] == 4
    assert snapshot_of(data) == before


def test_damage_is_refused_with_the_sentence_of_a_start(data: Path) -> None:
    """Which file, which offset, what to do; exit code 1."""
    segment = next(data.glob("journal-*"))
    damaged = bytearray(segment.read_bytes())
    damaged[100] ^= 1
    segment.write_bytes(damaged)
    for what in ("verify", "dump"):
        result = run(what, str(data))
        assert result.exit_code == 1
        assert segment.name in result.stderr
        assert "offset" in result.stderr


def test_entries_are_shown_in_words_and_the_session_is_not(data: Path) -> None:
    """An operator looks for a key; the id of a session would let them act as it."""
    result = run("dump", str(data))
    assert result.exit_code == 0
    assert "1234collectPayment" in result.stdout
    assert "worker-7" in result.stdout
    assert SESSION not in result.stdout
    assert "n3 has data directory abab" in result.stdout


def test_a_range_in_json(data: Path) -> None:
    """One object a line, both ends included."""
    result = run("dump", str(data), "--from", "2", "--to", "3", "--json")
    entries = [json.loads(line) for line in result.stdout.splitlines()]
    assert [entry["index"] for entry in entries] == [2, 3]
    assert entries[1]["operations"][0]["keys"] == ["1234collectPayment"]


def test_a_directory_without_a_journal_is_a_sentence(tmp_path: Path) -> None:
    """Somebody named the wrong one."""
    result = run("verify", str(tmp_path))
    assert result.exit_code == 1
    assert "not the data directory of a node" in result.stderr
