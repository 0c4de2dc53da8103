"""`holdfast backup verify` and `holdfast restore`: what they refuse, and that the same restore on each machine is the same."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from holdfast.cli.app import command
from holdfast_coordinator.config import load
from holdfast_coordinator.founding import why_not_founded
from holdfast_coordinator.local_cluster import free_ports
from holdfast_coordinator.machine import Acquire, Entry, Limits, Machine, OpenSession, Origin
from holdfast_coordinator.raft.datadir import DataDirectory
from holdfast_coordinator.raft.disk import OsDirectory
from holdfast_coordinator.raft.snapshots import write_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable


def state() -> bytes:
    machine = Machine(Limits())
    operations = (
        OpenSession("s" * 32, 10_000),
        Acquire(("payments/1234",), "s" * 32, owner="worker"),
        Acquire(("payments/99",), "s" * 32),
    )
    addressed = tuple((Origin("n1", 1, n), each) for n, each in enumerate(operations, 1))
    machine.apply(Entry(1, 5, addressed))
    return machine.snapshot()


def write(folder: Path, payload: bytes, cluster: str = "test") -> Path:
    write_snapshot(
        OsDirectory(folder), "the.backup", cluster=cluster, index=42, term=7, payload=payload
    )
    return folder / "the.backup"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path, state())


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    """Write a cluster.yml on free ports."""

    def make(incarnation: int = 1, nodes: int = 3, more: str = "") -> Path:
        ports = free_ports(2 * nodes)
        lines = [f"cluster: test\ndata_dir: ./data\nincarnation: {incarnation}\nnodes:"]
        for number in range(1, nodes + 1):
            http, raft = (f"127.0.0.1:{ports.pop()}" for _ in range(2))
            lines.append(f"  - {{name: n{number}, http: '{http}', raft: '{raft}'}}")
        path = tmp_path / "cluster.yml"
        path.write_text("\n".join([*lines, more, ""]))
        return path

    return make


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(each) for each in arguments])


def done(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_verify_says_what_a_backup_is_of(file: Path) -> None:
    """Not which keys are in it."""
    found = done("backup", "verify", file)
    assert found["ok"] is True
    shown = {name: found[name] for name in ("cluster", "index", "term", "format", "incarnation")}
    assert shown == {"cluster": "test", "index": 42, "term": 7, "format": 1, "incarnation": 0}
    assert (found["holds"], found["sessions"], found["last_token"]) == (2, 1, 2)
    assert len(found["sha256"]) == 64
    result = run("backup", "verify", file)
    assert result.exit_code == 0
    assert "is whole" in result.stdout
    assert "payments" not in result.stdout


@pytest.mark.parametrize("what", ["verify", "restore"])
def test_a_damaged_backup_is_refused(file: Path, config: Callable[..., Path], what: str) -> None:
    """A flipped bit, a cut, a file of another kind, and a state that breaks the machine's own rules under a right hash."""
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    machine = Machine.restore(state())
    machine.state.last_token = 1
    impossible = write(file.parent, machine.snapshot()).read_bytes()
    for data, words in (
        (bytes(flipped), "SHA-256"),
        (whole[:-1], "the header says"),
        (b"notes" * 200, "foreign magic"),
        (impossible, "no hold has a token of the future"),
    ):
        file.write_bytes(data)
        arguments: tuple[object, ...] = ("backup", "verify", file)
        if what == "restore":
            arguments = ("restore", file, "--holds", "keep", "--config", config())
        result = run(*arguments)
        assert result.exit_code == 1
        assert words in result.stderr
    assert not (file.parent / "data").exists()


@pytest.mark.parametrize("nodes", [1, 3, 5])
def test_a_restore_machine_by_machine_is_the_same_as_one_of_all(
    file: Path, config: Callable[..., Path], nodes: int, tmp_path: Path
) -> None:
    """For any number of nodes: the state that each begins with has the same hash."""
    path = config(nodes=nodes)
    options = ("--holds", "keep", "--config", path)
    together = done("restore", file, *options)
    assert together["cluster"] == "test#1"
    assert (together["first_token"], together["holds"]) == (2**40 + 1, 2)
    for number in range(1, nodes + 1):
        place = tmp_path / f"machine-{number}"
        alone = done("restore", file, *options, "--node", f"n{number}", "--data-dir", place)
        assert alone["directories"] == {f"n{number}": str(place / f"n{number}")}
        assert alone["sha256"] == together["sha256"]
        assert (place / f"n{number}" / "identity.json").exists()


def test_dropping_the_holds_is_another_restore(file: Path, config: Callable[..., Path]) -> None:
    path = config()
    kept = done("restore", file, "--holds", "keep", "--config", path)
    other = path.parent / "other"
    dropped = done("restore", file, "--holds", "drop", "--config", path, "--data-dir", other)
    assert (dropped["holds"], dropped["sessions"]) == (0, 0)
    assert dropped["sha256"] != kept["sha256"]


def test_a_cluster_that_lost_everything_begins_above_all_its_tokens(
    config: Callable[..., Path],
) -> None:
    """Without a backup: nobody holds anything. The incarnation must have been raised for it."""
    result = run("restore", "--without-backup", "--config", config(0))
    assert (result.exit_code, "write one more than ever before" in result.stderr) == (1, True)
    begun = done("restore", "--without-backup", "--config", config(2))
    assert (begun["cluster"], begun["first_token"]) == ("test#2", 2 * 2**40 + 1)
    assert (begun["sessions"], begun["holds"]) == (0, 0)


def test_no_cluster_is_founded_in_the_place_of_a_restore(
    config: Callable[..., Path], file: Path
) -> None:
    """`--bootstrap` on an empty directory would give out tokens of the incarnation before; on a restored one it does nothing."""
    path = config(1, nodes=1)
    result = run("serve", "--node", "n1", "--bootstrap", "--config", path)
    assert result.exit_code == 2
    loaded = load(path, {})
    assert "begins with a restore" in (why_not_founded(loaded, "n1") or "")
    done("restore", file, "--holds", "keep", "--config", path)
    assert why_not_founded(loaded, "n1") is None
    assert why_not_founded(load(config(0, nodes=1), {}), "n1") is None


@pytest.mark.parametrize("arguments", [(), ("--without-backup", "the.backup")])
def test_a_restore_is_from_a_file_or_from_nothing(
    config: Callable[..., Path], file: Path, arguments: tuple[str, ...]
) -> None:
    named = [file if each == "the.backup" else each for each in arguments]
    result = run("restore", *named, "--holds", "keep", "--config", config())
    assert (result.exit_code, "--without-backup" in result.stderr) == (2, True)


def test_holds_must_be_decided(file: Path, config: Callable[..., Path]) -> None:
    """Neither is right for everybody."""
    result = run("restore", file, "--config", config())
    assert result.exit_code == 2
    assert "--holds" in result.stderr


@pytest.mark.parametrize(("before", "configured"), [(0, 0), (3, 3), (3, 1)])
def test_an_incarnation_that_is_not_above_the_backups_is_refused(
    file: Path, config: Callable[..., Path], before: int, configured: int
) -> None:
    """With the line that has to stand in cluster.yml."""
    if before:
        machine = Machine.restore(state())
        machine.state.last_token += before << 40
        file = write(file.parent, machine.snapshot(), f"test#{before}")
    result = run("restore", file, "--holds", "keep", "--config", config(configured))
    assert result.exit_code == 1
    assert f"`incarnation: {before + 1}`" in result.stderr


def test_a_directory_that_is_not_empty_is_refused(
    file: Path, config: Callable[..., Path], tmp_path: Path
) -> None:
    """And so none of the others is written to; a second restore over the first is refused like any other."""
    options = ("restore", file, "--holds", "keep", "--config", config())
    place = tmp_path / "data" / "n2"
    place.mkdir(parents=True)
    (place / "journal-1").write_text("of somebody")
    result = run(*options)
    assert result.exit_code == 1
    assert f"data directory {place} is not empty" in result.stderr
    assert not (tmp_path / "data" / "n1" / "identity.json").exists()
    (place / "journal-1").unlink()
    assert run(*options).exit_code == 0
    result = run(*options)
    assert (result.exit_code, "is not empty" in result.stderr) == (1, True)


def test_a_directory_in_use_is_refused(
    file: Path, config: Callable[..., Path], tmp_path: Path
) -> None:
    running = DataDirectory.open(tmp_path / "data" / "n1", cluster="test", node="n1")
    result = run("restore", file, "--holds", "keep", "--config", config())
    running.close()
    assert result.exit_code == 1
    assert "in use by a running node" in result.stderr


def test_a_node_that_still_answers_is_refused(file: Path, config: Callable[..., Path]) -> None:
    """Also one of another machine, of which no directory is here."""
    path = config()
    address = path.read_text().split("raft: '")[1].split("'")[0]
    with socket.create_server(("127.0.0.1", int(address.split(":")[1]))):
        result = run("restore", file, "--holds", "keep", "--config", path, "--node", "n3")
    assert result.exit_code == 1
    assert f"somebody answers at {address}" in result.stderr


def test_a_node_that_is_not_in_the_configuration_is_named(
    file: Path, config: Callable[..., Path]
) -> None:
    result = run("restore", file, "--holds", "keep", "--config", config(), "--node", "n9")
    assert result.exit_code == 2
    assert "there is no node 'n9'" in result.stderr


def test_a_state_that_does_not_fit_the_limits_is_refused(
    file: Path, config: Callable[..., Path]
) -> None:
    path = config(more="limits: {keys_held_max: 1}")
    result = run("restore", file, "--holds", "keep", "--config", path)
    assert result.exit_code == 1
    assert "keys_held_max" in result.stderr


def test_a_backup_needs_a_node(tmp_path: Path) -> None:
    """And leaves nothing behind where there is none."""
    (port,) = free_ports(1)
    file = tmp_path / "the.backup"
    result = run("backup", "--endpoints", f"http://127.0.0.1:{port}", file)
    assert result.exit_code == 69
    assert list(tmp_path.iterdir()) == []
