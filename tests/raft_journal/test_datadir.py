"""Whose data directory it is, that only one process uses it, and how often it was started."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from holdfast_coordinator.raft.datadir import DataDirectory
from holdfast_coordinator.raft.errors import EngineFailure
from holdfast_coordinator.raft.memory_disk import MemoryDisk

PATH = Path("/data/n1")


def opened(disk: MemoryDisk, cluster: str = "c", node: str = "n1") -> DataDirectory:
    return DataDirectory.open(PATH, cluster=cluster, node=node, disk=disk)


def test_a_missing_directory_is_made_for_its_owner_only(tmp_path) -> None:
    directory = DataDirectory.open(tmp_path / "a" / "n1", cluster="c", node="n1")
    assert directory.path.stat().st_mode & 0o777 == 0o700
    assert directory.boot == 1
    assert len(directory.id) == 32
    directory.close()


def test_each_opening_counts_and_the_id_stays(tmp_path) -> None:
    identities = set()
    for boot in (1, 2, 3):
        directory = DataDirectory.open(tmp_path / "n1", cluster="c", node="n1")
        assert directory.boot == boot
        identities.add(directory.id)
        directory.close()
    assert len(identities) == 1


def test_a_directory_in_use_is_refused_and_named_with_its_process(tmp_path) -> None:
    first = DataDirectory.open(tmp_path / "n1", cluster="c", node="n1")
    with pytest.raises(EngineFailure, match=rf"in use by a running node \(pid {os.getpid()}\)"):
        DataDirectory.open(tmp_path / "n1", cluster="c", node="n1")
    first.close()
    second = DataDirectory.open(tmp_path / "n1", cluster="c", node="n1")
    assert second.boot == 2, "the refused opening counts nothing"
    second.close()


@pytest.mark.parametrize(("cluster", "node"), [("other", "n1"), ("c", "n2")])
def test_the_directory_of_another_node_is_refused_unchanged(cluster, node) -> None:
    disk = MemoryDisk()
    opened(disk).close()
    steps = disk.steps
    with pytest.raises(EngineFailure, match="belongs to node n1 of cluster c, not to node"):
        opened(disk, cluster, node)
    assert disk.steps == steps
    opened(disk).close()  # and the lock was given back


def test_a_directory_with_somebody_elses_files_is_refused(tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(EngineFailure, match=r"not empty \(thesis\.txt\)"):
        DataDirectory.open(tmp_path, cluster="c", node="n1")
    (tmp_path / "thesis.txt").unlink()
    DataDirectory.open(tmp_path, cluster="c", node="n1").close()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'{"format": 1, "cluster": "c", "node": "n1"}']
)
def test_an_unreadable_identity_is_never_guessed(content) -> None:
    disk = MemoryDisk()
    opened(disk).close()
    disk.damage(PATH, "identity.json", content)
    with pytest.raises(EngineFailure, match=r"identity\.json cannot be read"):
        opened(disk)


def test_a_newer_format_asks_for_the_newer_program() -> None:
    disk = MemoryDisk()
    opened(disk).close()
    fields = json.loads(disk.contents(PATH, "identity.json")) | {"format": 2}
    disk.damage(PATH, "identity.json", json.dumps(fields).encode())
    with pytest.raises(EngineFailure, match="has format 2"):
        opened(disk)


@pytest.mark.parametrize("content", [b"", b"4", b"four\n", b"-4\n", b"\n"])
def test_an_unreadable_boot_counter_is_never_guessed(content) -> None:
    disk = MemoryDisk()
    opened(disk).close()
    disk.damage(PATH, "boot", content)
    with pytest.raises(EngineFailure, match="boot cannot be read"):
        opened(disk)


def test_a_flipped_bit_in_the_boot_counter_is_refused() -> None:
    """A lower number would give two lives of the node one boot, and each the other's outcomes."""
    disk = MemoryDisk()
    for _ in range(3):
        opened(disk).close()
    content = disk.contents(PATH, "boot")
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        disk.damage(PATH, "boot", bytes(flipped))
        with pytest.raises(EngineFailure, match="boot cannot be read"):
            opened(disk)


def test_a_boot_counter_that_was_mended_by_hand_is_taken() -> None:
    """As the sentence of the refusal says."""
    disk = MemoryDisk()
    opened(disk).close()
    disk.damage(PATH, "boot", b"70\n")
    assert opened(disk).boot == 71


def test_a_path_that_is_a_file_is_a_sentence(tmp_path) -> None:
    (tmp_path / "n1").write_text("")
    with pytest.raises(EngineFailure, match="cannot be used"):
        DataDirectory.open(tmp_path / "n1", cluster="c", node="n1")


def test_no_power_cut_ever_repeats_a_boot_or_blocks_a_start() -> None:
    """At every step of the first and of the second opening, whatever survives: the next opening works,
    and its boot is larger than every one that was returned before.
    """
    disk = MemoryDisk()
    returned = 0
    tried = 0

    def cut(_) -> None:
        nonlocal tried
        for left in disk.power_cuts():
            assert opened(left).boot > returned
            tried += 1

    disk.before = cut
    for _ in range(2):
        directory = opened(disk)
        returned = directory.boot
        directory.close()
    assert tried > 100
