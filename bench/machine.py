"""What one apply of the replicated lock table costs, and what a lock weighs: no network, no disk, one core.

    python bench/machine.py                    # 10 to 1,000,000 held locks
    python bench/machine.py --locks 10 1000

For each number of held locks: microseconds of CPU for one entry with one acquire, and with one release (the best of some
rounds, since everything else on the machine only adds), beside the cost at the smallest number; then shared holds, a semaphore, two
keys at once, a hold that completes, and a wait by a task that holds something (which looks for a deadlock). Bytes are what the
machine keeps for a held lock, counted by the allocator.
"""

from __future__ import annotations

import argparse
import gc
import time
import tracemalloc
from collections.abc import Callable, Iterator

from holdfast_coordinator.machine import (
    Acquire,
    Complete,
    Entry,
    Limits,
    Machine,
    OpenSession,
    Operation,
    Origin,
    Release,
    Terms,
)

SESSION = "bench-session-0123456789"
OTHER = "other-session-0123456789"
ROUNDS = 5
CYCLES = 4_000
TTL_MS = 24 * 3600 * 1000
LIMITS = Limits(keys_held_max=1_100_000, done_max=1_000_000)


class Table:
    """A machine with so many held locks. `tick` applies one operation as one entry."""

    def __init__(self, held: int) -> None:
        self.machine = Machine(LIMITS)
        self.sequence = 0
        self.tick(OpenSession(SESSION, TTL_MS))
        self.tick(OpenSession(OTHER, TTL_MS))
        for number in range(held):
            self.tick(Acquire((f"payments/{number:09d}/collect",), SESSION, context="t"))

    def entry(self, operation: Operation) -> Entry:
        self.sequence += 1
        return Entry(1, 1, ((Origin("n1", 1, self.sequence), operation),), 1_700_000_000_000)

    def tick(self, operation: Operation) -> None:
        self.machine.apply(self.entry(operation))


Make = Callable[[int, int], Iterator[Operation]]
"""(number of the cycle, the token that its grant will have) -> the operations of one cycle."""


def exclusive(number: int, token: int) -> Iterator[Operation]:
    yield Acquire((f"bench/{number}",), SESSION, request_id=number, settled=number - 1, context="t")
    yield Release(SESSION, token)


def shared(number: int, token: int) -> Iterator[Operation]:
    yield Acquire((f"bench/{number}",), SESSION, terms=Terms(mode="shared"))
    yield Release(SESSION, token)


def semaphore(number: int, token: int) -> Iterator[Operation]:
    yield Acquire((f"bench/{number}",), SESSION, terms=Terms(mode="shared", limit=5))
    yield Release(SESSION, token)


def two_keys(number: int, token: int) -> Iterator[Operation]:
    yield Acquire((f"bench/{number}", f"bench/{number}/2"), SESSION)
    yield Release(SESSION, token)


def completed(number: int, token: int) -> Iterator[Operation]:
    yield Acquire((f"bench/{number}",), SESSION)
    yield Complete(SESSION, token, "done", 1_000)


def cost(table: Table, make: Make) -> float:
    """Microseconds of CPU for each operation of a cycle, the best round."""
    best = float("inf")
    number = table.sequence
    for _ in range(ROUNDS):
        entries = []
        token = table.machine.last_token
        for _ in range(CYCLES):
            number, token = number + 1, token + 1
            entries += [table.entry(operation) for operation in make(number, token)]
        gc.collect()
        gc.disable()
        started = time.process_time()
        for entry in entries:
            table.machine.apply(entry)
        best = min(best, (time.process_time() - started) / len(entries))
        gc.enable()
        granted = table.machine.last_token
        if granted != token:
            raise SystemExit(f"a cycle was refused: {granted} tokens instead of {token}")
    return best * 1e6


def waiting_cost(table: Table) -> float:
    """One acquire that waits, by a task that holds a lock: a circle is looked for."""
    for number in range(CYCLES):
        table.tick(Acquire((f"wait/{number}",), OTHER, context=f"w{number}"))
    entries = [
        table.entry(Acquire((f"wait/{number}",), SESSION, wait_ms=30_000, context="t"))
        for number in range(CYCLES)
    ]
    started = time.process_time()
    for entry in entries:
        table.machine.apply(entry)
    return (time.process_time() - started) / len(entries) * 1e6


def bytes_per_lock(held: int) -> float:
    gc.collect()
    tracemalloc.start()
    table = Table(held)
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    if table.machine.counts().holds != held:
        raise SystemExit("not every lock was granted")
    return taken / held


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--locks", type=int, nargs="+", default=[10, 1_000, 100_000, 1_000_000])
    parser.add_argument("--bytes-at", type=int, default=100_000)
    arguments = parser.parse_args()
    first: float | None = None
    print("held locks   us per apply   to the first")
    for held in arguments.locks:
        table = Table(held)
        gc.freeze()  # as a node does it: what is held is no work for the collector
        each = cost(table, exclusive)
        first = first or each
        print(f"{held:>10,}   {each:>12.2f}   {each / first:>11.2f}x", flush=True)
    small = Table(10)
    plain = cost(small, exclusive)
    print("\nat 10 held locks            us per apply   to an exclusive one")
    for name, make in (
        ("exclusive", exclusive),
        ("shared", shared),
        ("semaphore of 5", semaphore),
        ("two keys", two_keys),
        ("completed, not released", completed),
    ):
        each = cost(Table(10), make)
        print(f"{name:<26}  {each:>12.2f}   {each / plain:>6.2f}x", flush=True)
    each = waiting_cost(Table(10))
    print(f"{'waits while it holds':<26}  {each:>12.2f}   {each / plain:>6.2f}x")
    held = arguments.bytes_at
    print(f"\n{bytes_per_lock(held):,.0f} bytes for each of {held:,} held locks of one session")


if __name__ == "__main__":
    main()
