"""An exported trail is checked without the cluster: against what the server itself writes, whole and damaged in every line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from holdfast.verifying import MEMBERS, Tampered, verify
from holdfast_coordinator.http.export import export
from holdfast_coordinator.machine.limits import TRAIL_BLOCK_RECORDS
from holdfast_coordinator.machine.trail import GENESIS, Record, Trail

BLOCKS = 2
OPEN = 3


@pytest.fixture(scope="module")
def trail() -> Trail:
    """Two full blocks and a bit, with every kind of record."""
    trail = Trail(10, 10_000_000)
    for number in range(BLOCKS * TRAIL_BLOCK_RECORDS + OPEN):
        token = number // 2 + 1
        common = (number, 1_700_000_000_000 + number, token, (f"k{number % 7}", "ключ"), "owner")
        if number % 2 == 0:
            trail.append(("granted", *common, "task 1", "exclusive", None, 5), 2)
        else:
            nothing = (None, None, None, None)
            trail.append(("ended", *common, *nothing, 9, "forced", "olga", "hung"), 2)
    return trail


@pytest.fixture
def lines(trail: Trail) -> list[bytes]:
    return b"".join(export(trail, "c", 0)).splitlines(keepends=True)


def test_the_members_are_those_of_the_record() -> None:
    """In the order in which the cluster hashes them."""
    assert tuple(name for name in Record._fields if name != "revision") == MEMBERS


def test_what_the_server_writes_is_whole(lines: list[bytes], trail: Trail) -> None:
    """Every record is counted, and those that no hash covers yet are said to be."""
    found = verify(lines)
    assert (found.blocks, found.uncovered) == (BLOCKS, OPEN)
    assert (found.first_revision, found.last_revision) == (1, trail.last_revision)
    assert found.records == trail.last_revision
    assert (found.before, found.head) == (GENESIS.hex(), trail.head.hex())


def test_a_later_file_continues_an_older_one(lines: list[bytes], trail: Trail) -> None:
    """Its first `before` is the hash that the older one ended that block with."""
    later = verify(b"".join(export(trail, "c", TRAIL_BLOCK_RECORDS)).splitlines())
    assert later.first_revision == TRAIL_BLOCK_RECORDS + 1
    assert later.before == json.loads(lines[1])["hash"]
    assert later.head == verify(lines).head


def test_no_line_that_a_hash_covers_can_be_changed_dropped_or_doubled(lines: list[bytes]) -> None:
    """Each of them, one after the other; and the error names the block from which on nothing is to be believed."""
    covered = 2 + BLOCKS * (TRAIL_BLOCK_RECORDS + 1)
    for number in range(1, covered - 1, 17):
        for damaged in (
            lines[:number] + lines[number + 1 :],
            lines[:number] + [lines[number]] * 2 + lines[number + 1 :],
        ):
            with pytest.raises(Tampered):
                verify(damaged)


CHANGES: list[tuple[str, Any]] = [
    ("token", 999),
    ("wall_ms", 1),
    ("owner", "somebody else"),
    ("keys", ["k0"]),
    ("operator", None),
    ("reason", "a better one"),
    ("held_ms", 8),
    ("revision", 5),
    ("comment", "a field that no hash covers"),
]


@pytest.mark.parametrize(("name", "value"), CHANGES)
def test_a_changed_record_is_found_and_its_block_named(
    lines: list[bytes], name: str, value: Any
) -> None:
    """Whatever member of it was changed, taken away or put in."""
    number = 2 + TRAIL_BLOCK_RECORDS + 2  # the second record of the second block: an end
    record = json.loads(lines[number])
    assert record["kind"] == "ended"
    record[name] = value
    lines[number] = json.dumps(record).encode()
    with pytest.raises(Tampered) as found:
        verify(lines)
    assert found.value.block == TRAIL_BLOCK_RECORDS + 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: lines[:-1],
        lambda lines: lines[:1],
        lambda lines: [],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [b"no json\n", *lines[1:]],
        lambda lines: [lines[0].replace(b'"format":1', b'"format":2'), *lines[1:]],
        lambda lines: [lines[0].replace(b'"first_revision":1', b'"first_revision":2'), *lines[1:]],
        lambda lines: [*lines[:-2], lines[-1]],
    ],
)
def test_a_file_that_is_not_whole_is_said_to_be(lines: list[bytes], damage: Any) -> None:
    """Cut off, continued, or not ours at all."""
    with pytest.raises(Tampered):
        verify(damage(lines))


def test_a_forged_chain_has_another_head(lines: list[bytes]) -> None:
    """Who computes every hash anew makes a file that fits together; the head that was noted elsewhere tells."""
    from holdfast.verifying import _chained

    forged = [json.loads(line) for line in lines]
    forged[2]["owner"] = "nobody"
    before = GENESIS.hex()
    at = 1
    for _ in range(BLOCKS):
        block, records = forged[at], forged[at + 1 : at + 1 + TRAIL_BLOCK_RECORDS]
        packed = []
        for record in records:
            members = [record.get(name) for name in MEMBERS]
            while members[-1] is None:
                members.pop()
            packed.append(members)
        block["before"], before = before, _chained(before, block["first"], packed)
        block["hash"] = before
        at += 1 + TRAIL_BLOCK_RECORDS
    forged[at]["before"] = forged[0]["head"] = before
    assert verify([json.dumps(each) for each in forged]).head != verify(lines).head
