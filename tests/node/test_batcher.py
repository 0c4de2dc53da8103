"""The leader's half of the node: stamps, sequences, and how much is on its way."""

from __future__ import annotations

from pathlib import Path

from holdfast_coordinator.batcher import (
    ELAPSED_MS_MAX,
    ENTRIES_IN_FLIGHT_MAX,
    ENTRY_BYTES_MAX,
    OPERATIONS_PER_ENTRY_MAX,
    TIME_PERIOD_MS,
    Batcher,
)
from holdfast_coordinator.config import KEYS_PER_ACQUIRE_CEILING
from holdfast_coordinator.machine import decode_entry, encode_operation
from holdfast_coordinator.machine.operations import Acquire, Barrier, Entry
from holdfast_coordinator.raft import EngineConfig

ENGINE_CONFIG = EngineConfig("n1", "c", b"", {}, Path())


class Clock:
    def __init__(self) -> None:
        self.now_ns = 1_000_000_000

    def __call__(self) -> int:
        return self.now_ns

    def advance_ms(self, elapsed_ms: float) -> None:
        self.now_ns += round(elapsed_ms * 1_000_000)


def cut(
    batcher: Batcher, *, last: int = 0, commit: int = 0, deadlines: bool = False
) -> Entry | None:
    data = batcher.next_entry(
        batcher.term, last_index=last, commit_index=commit, has_deadlines=deadlines
    )
    return None if data is None else decode_entry(data)


BARRIER = encode_operation(Barrier())


def leader(clock: Clock) -> Batcher:
    batcher = Batcher(clock)
    batcher.begin(1)
    return batcher


def sequences(entry: Entry | None) -> list[int]:
    assert entry is not None
    return [origin.sequence for origin, _ in entry.operations]


def test_an_entry_carries_the_whole_milliseconds_since_the_last_one_and_keeps_the_rest() -> None:
    """2,000 entries a second, half a millisecond apart, count one second: the remainder is carried on."""
    clock = Clock()
    batcher = leader(clock)
    total_ms = 0
    for sequence in range(1, 2_001):
        clock.advance_ms(0.5)
        batcher.offer("n1", 1, sequence, [BARRIER])
        entry = cut(batcher)
        assert entry is not None
        total_ms += entry.elapsed_ms
    assert total_ms == 1_000


def test_an_entry_says_what_the_leaders_wall_clock_said_whatever_it_said() -> None:
    """It is for people who read the trail. That it jumps back changes nothing of the time that counts."""
    clock, wall = Clock(), [1_700_000_000_000]
    batcher = Batcher(clock, lambda: wall[0])
    batcher.begin(1)
    stamps = []
    for sequence in (1, 2):
        clock.advance_ms(7)
        batcher.offer("n1", 1, sequence, [BARRIER])
        entry = cut(batcher)
        assert entry is not None
        stamps.append((entry.elapsed_ms, entry.wall_ms))
        wall[0] = 5
    assert stamps == [(7, 1_700_000_000_000), (7, 5)]


def test_time_starts_when_the_leadership_starts() -> None:
    """What passed before this node led is not counted: a lease never ends early by an election."""
    clock = Clock()
    batcher = Batcher(clock)
    clock.advance_ms(400)
    batcher.begin(2)
    batcher.offer("n1", 1, 1, [BARRIER])
    entry = cut(batcher)
    assert entry is not None
    assert (entry.term, entry.elapsed_ms) == (2, 0)


def test_a_stall_of_the_leader_counts_at_most_the_bound_and_the_rest_is_dropped() -> None:
    clock = Clock()
    batcher = leader(clock)
    clock.advance_ms(60_000)
    batcher.offer("n1", 1, 1, [BARRIER] * 2)
    entry = cut(batcher)
    assert entry is not None
    assert entry.elapsed_ms == ELAPSED_MS_MAX
    clock.advance_ms(3)
    batcher.offer("n1", 1, 3, [BARRIER])
    entry = cut(batcher)
    assert entry is not None
    assert entry.elapsed_ms == 3


def test_time_alone_is_proposed_while_a_deadline_exists_and_never_twice_uncommitted() -> None:
    clock = Clock()
    batcher = leader(clock)
    clock.advance_ms(TIME_PERIOD_MS)
    assert cut(batcher, last=5, commit=5, deadlines=False) is None
    assert cut(batcher, last=5, commit=5, deadlines=True) is not None
    clock.advance_ms(TIME_PERIOD_MS)
    assert cut(batcher, last=6, commit=5, deadlines=True) is None
    assert cut(batcher, last=6, commit=6, deadlines=True) is not None


def test_an_origin_is_appended_once_in_sequence_and_a_gap_waits_for_its_origin() -> None:
    clock = Clock()
    batcher = leader(clock)
    batcher.offer("n2", 7, 1, [BARRIER] * 2)
    batcher.offer("n2", 7, 1, [BARRIER] * 3)
    batcher.offer("n2", 7, 5, [BARRIER])
    assert sequences(cut(batcher)) == [1, 2, 3]
    batcher.offer("n2", 7, 4, [BARRIER] * 2)
    assert sequences(cut(batcher)) == [4, 5]


def test_an_older_boot_is_passed_over_and_a_newer_one_starts_anew() -> None:
    batcher = leader(Clock())
    batcher.offer("n2", 7, 1, [BARRIER])
    batcher.offer("n2", 8, 1, [BARRIER])
    batcher.offer("n2", 7, 2, [BARRIER])
    entry = cut(batcher)
    assert entry is not None
    assert [(origin.boot, origin.sequence) for origin, _ in entry.operations] == [(7, 1), (8, 1)]


def test_a_new_term_begins_empty() -> None:
    """Whatever was offered to an earlier leadership is offered again by its origin; nothing queued travels across terms."""
    batcher = leader(Clock())
    batcher.offer("n2", 7, 1, [BARRIER])
    batcher.begin(2)
    assert cut(batcher) is None
    batcher.offer("n2", 7, 1, [BARRIER])
    assert sequences(cut(batcher)) == [1]


def test_what_arrives_while_enough_is_on_its_way_is_gathered_into_one_bounded_entry() -> None:
    batcher = leader(Clock())
    count = OPERATIONS_PER_ENTRY_MAX + 10
    batcher.offer("n1", 1, 1, [BARRIER] * count)
    assert cut(batcher, last=ENTRIES_IN_FLIGHT_MAX, commit=0) is None
    assert (
        len(sequences(cut(batcher, last=ENTRIES_IN_FLIGHT_MAX, commit=1)))
        == OPERATIONS_PER_ENTRY_MAX
    )
    assert batcher.backlog == 10


def test_an_entry_stays_within_what_the_engine_takes_however_large_the_operations() -> None:
    """A crowd of acquires of many long keys becomes several entries, in order, and none of them is left behind."""
    batcher = leader(Clock())
    keys = tuple("k" * 500 + str(number) for number in range(64))
    batcher.offer("n1", 1, 1, [encode_operation(Acquire(keys, "s" * 32, ttl_ms=1_000))] * 100)
    taken: list[int] = []
    while (
        data := batcher.next_entry(1, last_index=0, commit_index=0, has_deadlines=False)
    ) is not None:
        assert len(data) <= ENTRY_BYTES_MAX
        taken += sequences(decode_entry(data))
    assert taken == list(range(1, 101))


def test_the_largest_operation_that_a_configuration_may_allow_fits_into_an_entry() -> None:
    """Otherwise one caller could bring down every leader in turn."""
    batcher = leader(Clock())
    key = "\U0001f512" * 127
    keys = tuple(key + f"{number:03}" for number in range(KEYS_PER_ACQUIRE_CEILING))
    largest = Acquire(
        keys, "s" * 64, 1, 1, request_id="\U0001f512" * 128, owner="o" * 256, context="c" * 128
    )
    batcher.offer("n" * 63, 2**53, 1, [encode_operation(largest)])
    data = batcher.next_entry(1, last_index=0, commit_index=0, has_deadlines=False)
    assert data is not None
    assert len(data) <= ENTRY_BYTES_MAX < ENGINE_CONFIG.max_entry_bytes
