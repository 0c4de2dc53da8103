"""The leader's half of the node: what has been offered becomes log entries, stamped with the time that passed.

Rule: an entry is stamped in the step that appends it; a stamp never waits and never travels. The batcher belongs to one term: a
new term begins empty, because every origin offers again what it has not seen applied, and the machine skips what it has seen.
Wall time goes along for display. It does not know the network, the disk, or what an operation means: operations are bytes here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from .machine.codec import Addressed, Encoded, encode_batch
from .machine.levels import LOWEST

ELAPSED_MS_MAX: Final = 500
"""The most that one entry may count. What a longer stall of the leader took is dropped: it lengthens leases, it shortens none."""

TIME_PERIOD_MS: Final = 250
"""While a deadline exists, entries are at most this far apart."""

OPERATIONS_PER_ENTRY_MAX: Final = 64
"""Bounds the time of one apply to a millisecond, so that callers go on with the outcomes of one entry while the next one is
applied: with 256 callers at a time, entries of 64 gave 5,300 lock cycles/s where entries of 512 gave 4,100."""

ENTRY_BYTES_MAX: Final = 256 * 1024
"""Of an entry, and of a message between nodes. Below what the engine takes (512 KiB), above the largest single operation (half as
much: the most keys that a configuration may allow, each as long as a key can be)."""

ENTRIES_IN_FLIGHT_MAX: Final = 4
"""Uncommitted entries before what arrives is gathered for the next one: enough to hide a sync behind a round trip, few enough that
batches grow with the load."""

OFFERED_MAX: Final = 65_536
"""Operations that wait here. Each origin has a bounded number outstanding, so this is reached only by a peer that is not ours."""


ORIGIN_BYTES_MAX: Final = 96
"""Of what stands around an operation in an entry: the name of its node (63 bytes), two counters, the heads of lists."""

HEAD_BYTES_MAX: Final = 64
"""Of an entry or a message without its operations."""


def count_within_limit(operations: Iterable[Encoded], count_max: int) -> int:
    """How many of them travel together, from the first; one at least."""
    room = ENTRY_BYTES_MAX - HEAD_BYTES_MAX
    count = 0
    for encoded in operations:
        room -= len(encoded) + ORIGIN_BYTES_MAX
        if count == count_max or (room < 0 and count):
            break
        count += 1
    return count


def no_wall_clock() -> int:
    """The year 1970, for whoever does not care when things happened."""
    return 0


class Batcher:
    """Collects offered operations of one term, in the order of each origin, and cuts them into stamped entries."""

    def __init__(
        self, clock_ns: Callable[[], int], wall_ms: Callable[[], int] = no_wall_clock
    ) -> None:
        self._clock_ns = clock_ns
        self._wall_ms = wall_ms
        self._term = 0
        self._offered: deque[Addressed] = deque()
        self._last_offered: dict[str, tuple[int, int]] = {}
        self._accounted_ns = 0
        self._stamped_ns = 0
        self._time_only_index = 0

    @property
    def term(self) -> int:
        return self._term

    @property
    def backlog(self) -> int:
        return len(self._offered)

    def begin(self, term: int) -> None:
        """This node leads from now on in `term`: time counts from this instant, and nothing has been offered yet."""
        self._term = term
        self._offered.clear()
        self._last_offered.clear()
        self._accounted_ns = self._stamped_ns = self._clock_ns()
        self._time_only_index = 0

    def offer(
        self, node: str, boot: int, first_sequence: int, operations: Sequence[Encoded]
    ) -> None:
        """Take over the operations `first_sequence`, `first_sequence + 1`, ... of one boot of `node`. What was offered before in
        this term is passed over; what would leave a gap is not taken (its origin offers again)."""
        last_boot, last_sequence = self._last_offered.get(node, (0, 0))
        if boot < last_boot:
            return
        if boot > last_boot:
            last_sequence = first_sequence - 1
        for sequence, operation in enumerate(operations, first_sequence):
            if sequence <= last_sequence:
                continue
            if sequence != last_sequence + 1 or len(self._offered) >= OFFERED_MAX:
                break
            self._offered.append((node, boot, sequence, operation))
            last_sequence = sequence
        self._last_offered[node] = (boot, last_sequence)

    def next_entry(
        self,
        term: int,
        *,
        last_index: int,
        commit_index: int,
        has_deadlines: bool,
        level: int = LOWEST,
        raises: bool = False,
    ) -> bytes | None:
        """The entry to append now at `last_index + 1`, or None if there is nothing to say or enough is on its way. It is of format
        level `level`; `raises`: which the log has not reached yet, so that it is worth an entry of its own."""
        if term != self._term:
            self.begin(term)
        now_ns = self._clock_ns()
        if not self._offered:
            is_time = has_deadlines and now_ns - self._stamped_ns >= TIME_PERIOD_MS * 1_000_000
            due = is_time or raises
            # Never two uncommitted entries that carry nothing but time: without a majority they would pile up.
            if not due or self._time_only_index > commit_index:
                return None
            self._time_only_index = last_index + 1
        elif last_index - commit_index >= ENTRIES_IN_FLIGHT_MAX:
            return None
        elapsed_ms = self._elapsed_ms(now_ns)
        wall_ms = self._wall_ms()  # for people who read the trail; nothing compares it

        offered = self._offered
        count = count_within_limit((each[3] for each in offered), OPERATIONS_PER_ENTRY_MAX)
        operations = [offered.popleft() for _ in range(count)]
        return encode_batch(level, term, elapsed_ms, operations, wall_ms)

    def _elapsed_ms(self, now_ns: int) -> int:
        elapsed_ms = max(0, now_ns - self._accounted_ns) // 1_000_000
        self._stamped_ns = now_ns
        if elapsed_ms > ELAPSED_MS_MAX:
            self._accounted_ns = now_ns
            return ELAPSED_MS_MAX
        self._accounted_ns += elapsed_ms * 1_000_000
        return elapsed_ms
