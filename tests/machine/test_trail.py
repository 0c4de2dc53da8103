"""The trail: every record once, in order, bounded, and chained so that a copy of it cannot be changed unnoticed."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_coordinator.machine import (
    Acquire,
    Block,
    Complete,
    Entry,
    ForceRelease,
    InvariantViolation,
    Limits,
    Machine,
    NoLongerKept,
    OpenSession,
    Operation,
    Origin,
    Record,
    Release,
    Resolve,
    Terms,
    Trail,
    check_invariants,
)
from holdfast_coordinator.machine.limits import TRAIL_BLOCK_KEYS, TRAIL_BLOCK_RECORDS
from holdfast_coordinator.machine.trail import GENESIS, chain, records_of

KEYS = ("a", "b", "key-with-a-longer-name", "é")


def written(trail: Trail, count: int, keys: int = 1) -> None:
    for _ in range(count):
        token = trail.last_revision + 1
        names = tuple(f"{KEYS[(token + n) % len(KEYS)]}{n // len(KEYS) or ''}" for n in range(keys))
        trail.append(("granted", token * 10, 0, token, names), keys)


def kept(trail: Trail) -> list[Record]:
    return trail.read(trail.first_revision - 1, trail.last_revision)


def test_revisions_have_no_gaps_and_reads_go_on_where_the_last_ended() -> None:
    """Read in pages of any size, across full blocks and the open one: each record once, numbered one by one."""
    trail = Trail(10, 1_000_000)
    written(trail, 3 * TRAIL_BLOCK_RECORDS + 17)
    whole = trail.read(0, 10_000)
    assert [record.revision for record in whole] == list(range(1, trail.last_revision + 1))
    assert [record.token for record in whole] == [record.revision for record in whole]
    for page in (1, 7, TRAIL_BLOCK_RECORDS, 300):
        after, paged = 0, []
        while part := trail.read(after, page):
            assert len(part) <= page
            paged += part
            after = part[-1].revision
        assert paged == whole
    assert trail.read(trail.last_revision, 10) == []
    assert trail.read(trail.last_revision + 5, 10) == []


def test_nothing_was_written_and_everything_of_it_can_be_read() -> None:
    """An empty trail: the next revision is 1, and whoever follows it from the beginning misses nothing."""
    trail = Trail(1, 1)
    assert (trail.last_revision, trail.first_revision, trail.head) == (0, 1, GENESIS)
    assert trail.read(0, 10) == []
    assert list(trail.of_key("a", 0)) == []


@pytest.mark.parametrize("bounds", [(2, 1_000_000), (100, 12_000), (1, 1)])
def test_what_was_dropped_is_no_longer_kept_and_nothing_else(bounds: tuple[int, int]) -> None:
    """`NoLongerKept` exactly when a record that follows has been dropped; the bounds hold after every single record."""
    trail = Trail(*bounds)
    for _ in range(5 * TRAIL_BLOCK_RECORDS):
        written(trail, 1)
        assert len(trail.blocks) <= bounds[0]
        assert trail.size <= bounds[1]
        assert trail.size == sum(len(block.packed) for block in trail.blocks)
    assert trail.first_revision > 1
    for after in range(trail.last_revision + 1):
        if after + 1 < trail.first_revision:
            with pytest.raises(NoLongerKept):
                trail.read(after, 1)
        else:
            assert [r.revision for r in trail.read(after, 1)] == [after + 1][
                : trail.last_revision - after
            ]


def test_a_block_is_full_by_its_keys_too() -> None:
    """Records of many keys fill a block before there are many of them."""
    trail = Trail(10, 10_000_000)
    written(trail, TRAIL_BLOCK_KEYS // 64 - 1, keys=64)
    assert trail.blocks == []
    written(trail, 1, keys=64)
    assert [block.length for block in trail.blocks] == [TRAIL_BLOCK_KEYS // 64]


def verify(before: bytes, blocks: list[Block]) -> bool:
    """What a reader of a copy does."""
    following = blocks[0].first
    for block in blocks:
        if block.first != following or len(records_of(block)) != block.length:
            return False
        if chain(before, block.first, block.packed) != block.hash:
            return False
        before, following = block.hash, block.first + block.length
    return True


def test_the_chain_verifies_from_any_kept_block() -> None:
    """With the hash that the oldest kept block follows, or that of any block, the rest of the copy is checked."""
    trail = Trail(5, 1_000_000)
    written(trail, 8 * TRAIL_BLOCK_RECORDS)
    assert trail.before != GENESIS
    assert verify(trail.before, trail.blocks)
    for place in range(1, len(trail.blocks)):
        assert verify(trail.blocks[place - 1].hash, trail.blocks[place:])
    whole = Trail(100, 10_000_000)
    written(whole, 8 * TRAIL_BLOCK_RECORDS)
    assert verify(GENESIS, whole.blocks)
    assert whole.blocks[-5:] == trail.blocks
    assert whole.head == trail.head


@given(st.data())
def test_tampering_is_noticed(data: st.DataObject) -> None:
    """A byte changed, a block left out, put in twice or renumbered: the copy does not verify."""
    trail = Trail(5, 1_000_000)
    written(trail, 4 * TRAIL_BLOCK_RECORDS)
    blocks = list(trail.blocks)
    place = data.draw(st.integers(0, len(blocks) - 2))
    block = blocks[place]
    match data.draw(st.sampled_from(("byte", "hash", "drop", "twice", "swap", "number"))):
        case "byte":
            packed = bytearray(block.packed)
            at = data.draw(st.integers(0, len(packed) - 1))
            packed[at] ^= data.draw(st.integers(1, 255))
            assert chain(trail.before, block.first, bytes(packed)) != block.hash
            blocks[place] = block._replace(
                packed=bytes(packed),
                hash=chain(
                    blocks[place - 1].hash if place else trail.before, block.first, bytes(packed)
                ),
            )
            ends = chain(blocks[place].hash, blocks[place + 1].first, blocks[place + 1].packed)
            assert ends != blocks[place + 1].hash
            return
        case "hash":
            blocks[place] = block._replace(hash=bytes(32))
        case "drop":
            del blocks[place]
        case "twice":
            blocks.insert(place, block)
        case "swap":
            blocks[place : place + 2] = reversed(blocks[place : place + 2])
        case "number":
            blocks[place] = block._replace(first=block.first + 1)
    assert not verify(trail.before, blocks)


def test_the_records_of_a_key_are_those_a_scan_finds() -> None:
    """`of_key` passes over blocks by their bytes; it must find what reading everything finds, and no key by a part of it."""
    trail = Trail(3, 1_000_000)
    written(trail, 5 * TRAIL_BLOCK_RECORDS + 100, keys=2)
    trail.append(("granted", 1, 0, 9_999, ("only once",)), 1)
    records = kept(trail)
    for key in (*KEYS, "only once", "key", "name", "", "absent"):
        for after in (0, trail.first_revision, trail.open_first - 2, trail.open_first + 3, 10_000):
            wanted = [each for each in records if key in each.keys and each.revision > after]
            assert list(trail.of_key(key, after)) == wanted
    assert len(list(trail.of_key("only once", 0))) == 1


def busy(seed: int, machine: Machine) -> None:
    """Everything that leaves a record, over and over."""
    rng = random.Random(seed)  # noqa: S311 -- a reproducible walk
    for n in range(1_500):
        keys = tuple(rng.sample(KEYS, rng.choice((1, 1, 2))))
        terms = rng.choice((Terms(), Terms(on_unclean="refuse"), Terms("shared")))
        token = machine.last_token
        operations: list[Operation] = [
            OpenSession("s", 60_000, "owner"),
            Acquire(keys, "s", terms=terms, context="t"),
            rng.choice(
                (
                    Release("s", token),
                    Release("s", token + 1),
                    Complete("s", token + 1, "result", 1_000),
                    ForceRelease(keys[0], None, "hung", "olga"),
                )
            ),
        ]
        operations += [
            Resolve(closure.key, closure.token, "looked", "olga")
            for closure in machine.closures("", "in_doubt", None, 4)[0]
        ]
        last = machine.last_sequence("n1", 1)
        addressed = tuple((Origin("n1", 1, last + i), op) for i, op in enumerate(operations, 1))
        machine.apply(Entry(1, rng.choice((0, 100)), addressed, wall_ms=1_000 + n))


def test_the_trail_is_equal_on_replicas_and_after_a_restore() -> None:
    """Two replicas, and one that was restored in the middle, from a block that was half full: the same blocks and records."""
    first, second = Machine(Limits(trail_blocks_max=3)), Machine(Limits(trail_blocks_max=3))
    busy(1, first)
    busy(1, second)
    third = Machine.restore(first.snapshot(), Limits(trail_blocks_max=3))
    for machine in (first, second, third):
        busy(2, machine)
        check_invariants(machine)
    assert first.trail.blocks == second.trail.blocks == third.trail.blocks
    assert kept(first.trail) == kept(second.trail) == kept(third.trail)
    assert first.state_hash() == second.state_hash() == third.state_hash()
    assert {record.kind for record in kept(first.trail)} == {
        "granted",
        "ended",
        "resolved",
        "forgotten",
    }
    assert first.trail.first_revision > 1


def test_time_for_people_is_written_and_decides_nothing() -> None:
    """Two logs that differ in wall time only: the same outcomes, tokens and order; the records tell the leader's clock."""
    told = []
    for wall_ms in (0, 1_700_000_000_000):
        machine = Machine()
        operations = (OpenSession("s", 9_000), Acquire(("k",), "s"), Release("s", 1))
        addressed = tuple((Origin("n1", 1, n), op) for n, op in enumerate(operations, 1))
        outcomes = machine.apply(Entry(1, 0, addressed, wall_ms))
        records = machine.trail.read(0, 10)
        assert {record.wall_ms for record in records} == {wall_ms}
        told.append((outcomes, [record._replace(wall_ms=0) for record in records]))
    assert told[0] == told[1]


@pytest.mark.parametrize("field", ["first", "length", "packed", "hash"])
def test_the_invariants_notice_a_broken_chain(field: str) -> None:
    """Whatever is changed in a block of a living machine is found."""
    machine = Machine()
    busy(3, machine)
    check_invariants(machine)
    block = machine.trail.blocks[1]
    value = getattr(block, field)
    changed = value + 1 if isinstance(value, int) else value[:-1] + b"?"
    machine.trail.blocks[1] = block._replace(**{field: changed})
    with pytest.raises(InvariantViolation):
        check_invariants(machine)


def test_explanations_count_what_the_trail_has() -> None:
    """The median is the lower one, and `since` is the oldest revision that was counted."""
    machine = Machine()
    operations: list[Operation] = [OpenSession("s", 60_000)]
    for n in range(4):
        operations += [Acquire(("k",), "s"), Release("s", n + 1)]
    for n, operation in enumerate(operations, 1):
        machine.apply(Entry(1, 10 * n, ((Origin("n1", 1, n), operation),)))
    explained = machine.explain("k")
    assert msgspec.structs.astuple(explained.waited) == (4, 0, 0)
    assert msgspec.structs.astuple(explained.held) == (4, 50, 90)
    assert explained.since == 1
