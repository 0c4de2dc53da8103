"""What every version since the first has written is read by this one, and means what it meant."""

from __future__ import annotations

from pathlib import Path

import kept
import msgpack
import pytest

from holdfast_coordinator import compaction
from holdfast_coordinator.machine import Limits, Machine, check_invariants, decode_entry, level_of
from holdfast_coordinator.machine.codec import EMPTY_ENTRY
from holdfast_coordinator.machine.levels import HIGHEST, LOWEST
from holdfast_coordinator.machine.limits import LATER, digest
from holdfast_coordinator.machine.operations import Malformed
from holdfast_coordinator.node import MESSAGE_VERSION
from holdfast_coordinator.raft import frames, messages, offline

pytestmark = pytest.mark.parametrize("level", kept.LEVELS)

ENTRY_BYTES_MAX = 512 * 1024
DIGEST_OF_THE_DEFAULTS = "af82e199c71bc989ee55d227d6c12f95"


def replayed(level: int) -> Machine:
    machine = Machine(Limits())
    for each in kept.read_json(level, "entries.json")["entries"]:
        entry = decode_entry(bytes.fromhex(each))
        assert entry is not EMPTY_ENTRY
        machine.apply(entry)
        check_invariants(machine)
    return machine


def test_entries_are_read_and_lead_to_the_state_that_they_led_to(level: int) -> None:
    """To the byte: a node of the older version that applies the same log has the same hash."""
    told = kept.read_json(level, "entries.json")
    assert {level_of(bytes.fromhex(each)) for each in told["entries"]} == {level}
    machine = replayed(level)
    assert machine.level == level
    assert machine.state_hash().hex() == told["state_hash"]


def test_a_snapshot_is_read_and_written_again_as_it_was(level: int) -> None:
    """An older version can go on with what this one writes at its level: whoever takes the snapshot, the bytes are the same."""
    data = (kept.folder(level) / "snapshot.bin").read_bytes()
    machine = Machine.restore(data)
    assert machine.level == level
    check_invariants(machine)
    assert machine.snapshot() == data
    assert replayed(level).snapshot() == data


def test_the_frames_of_a_connection_are_understood(level: int) -> None:
    """Hello, proof, verdict, every kind of message, and forwarded operations of every kind."""
    told = {
        name: bytes.fromhex(text) for name, text in kept.read_json(level, "frames.json").items()
    }
    dialer, acceptor = told["hello of the dialer"], told["hello of the acceptor"]
    assert frames.parse_hello(dialer)[:3] == ("kept", "n1", "n2")
    assert frames.parse_hello(acceptor)[:3] == ("kept", "n2", "n1")
    proof = frames.proof(kept.SECRET, b"acceptor", dialer, acceptor)
    assert proof == told["proof of the acceptor"]
    key = frames.proof(kept.SECRET, b"dialer key", dialer, acceptor)
    said = {
        name: frames.open_frame(key, sequence, told[name][frames.LENGTH.size :])
        for name, sequence in (
            ("verdict", frames.VERDICT_SEQUENCE),
            ("messages", 0),
            ("forwarded operations", 1),
        )
    }
    assert frames.decode_verdict(said["verdict"]).code == "accepted"
    kind, understood = frames.decode_body(said["messages"], ENTRY_BYTES_MAX)
    assert kind == frames.KIND_RAFT
    packed = [msgpack.packb(messages.encode(each)) for each in understood]
    assert frames.pack_body(frames.KIND_RAFT, packed) == said["messages"]
    kind, payloads = frames.decode_body(said["forwarded operations"], ENTRY_BYTES_MAX)
    version, boot, first, raws = msgpack.unpackb(payloads[0])
    assert (kind, version, boot, first) == (frames.KIND_APPLICATION, MESSAGE_VERSION, 3, 17)
    decoded = [compaction.decode_entry(_alone(raw)).operations[0][1] for raw in raws]
    assert [each for each in decoded if isinstance(each, Malformed)] == [
        Malformed("not an operation")
    ]


def _alone(operation: object) -> bytes:
    packed: bytes = msgpack.packb([1, 1, 0, [["n", 1, 1, operation]]])
    return packed


@pytest.mark.parametrize("node", ["n1", "n2", "n3"])
def test_a_data_directory_is_read_offline(level: int, node: str, tmp_path: Path) -> None:
    """Journal and snapshot together give the locks that were held when the nodes were stopped."""
    kept.unpack_directories(level, tmp_path)
    directory = tmp_path / "data" / node
    found = offline.inspect(directory)
    assert (found.cluster, found.node, found.torn_bytes) == ("kept", node, 0)
    newest = max(path for path in directory.iterdir() if path.name.startswith("snapshot-"))
    assert compaction.inspect(newest)["holds"]
    machine = Machine.restore(newest.read_bytes()[512:])
    index = int(newest.name.removeprefix("snapshot-"))
    for command, at, _ in found.entries:
        if at > index and command[:1] == messages.ENTRY_OWN:
            machine.apply(decode_entry(command[1:]))
    told = kept.read_json(level, "cluster.json")
    assert machine.level == level
    held = {key: machine.lock(key).holders[0].token for key in told["held"]}
    assert held == told["held"]
    for key, note in told["checkpoint"].items():
        checkpoint = machine.lock(key).checkpoint
        assert checkpoint is not None
        assert checkpoint.value == note


def test_the_digest_of_the_limits_is_that_of_the_first_release(level: int) -> None:
    """Or nodes of two versions would refuse each other. A limit that is added goes into `LATER`; a default is never changed."""
    del level
    assert digest(Limits()).hex() == DIGEST_OF_THE_DEFAULTS
    assert digest(Limits(waiters_max=7)) != digest(Limits())
    assert all(name in Limits.__dataclass_fields__ for name in LATER)


def test_every_level_that_this_version_reads_is_kept(level: int) -> None:
    """Whoever adds a level runs tools/format_fixtures.py."""
    assert list(range(LOWEST, HIGHEST + 1)) == kept.LEVELS
    assert LOWEST <= level <= HIGHEST
