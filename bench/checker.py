"""How long the checker takes: 10,000 operations on 20 keys, and one hot key with 2,000 operations of which a tenth has no answer.

    python bench/checker.py

The histories are what clients of a real lock would see, each operation acting at one moment between its call and its return;
twelve clients ask for each key. Beside each, the same with one answer made wrong: it has to be found. CPU seconds; steps are the
placements that the search tried. Tokens are nearly an order already, so that it seldom takes one back.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from dataclasses import replace

from holdfast_jepsen.checker import linearizability
from holdfast_jepsen.history import History, Lease, Operation, Seen
from holdfast_jepsen.sim.rng import Rng

LATENCY = 1_000
"""Of one request at most, in nanoseconds of the history."""
LEASE = 50_000
CLIENTS = 12


def main() -> None:
    print(f"{'history':44}{'answer':>9}{'seconds':>9}{'steps':>10}")
    many, hot = many_keys(20, 500, 0.02), many_keys(1, 2_000, 0.1)
    decide("20 keys, 10,000 operations", many)
    decide("one key, 2,000 operations, 10 % unknown", hot)
    decide("one key, 2,000 operations, 30 % unknown", many_keys(1, 2_000, 0.3))
    decide("20 keys, one answer wrong", spoilt(many))
    decide("one key, one answer wrong", spoilt(hot))


def decide(name: str, history: History) -> None:
    began = time.process_time()
    verdicts = linearizability.check(history)
    seconds = time.process_time() - began
    answers = Counter(each.answer for each in verdicts)
    answer = next(name for name in ("illegal", "unknown", "ok") if answers[name])
    steps = sum(each.steps for each in verdicts)

    print(f"{name:44}{answer:>9}{seconds:9.2f}{steps:10}", flush=True)


def many_keys(keys: int, each: int, unknown: float) -> History:
    history = History()
    for number in range(keys):
        hot_key(history, f"k{number}", number, keys, Rng(number, "bench"), each, unknown)
    return history


def hot_key(
    history: History, key: str, first: int, step: int, rng: Rng, count: int, unknown: float
) -> None:
    """Clients of one lock ask, and release what they got; what nobody knows of ends with its lease."""
    token = first
    holder: tuple[int, str] | None = None
    ends = 0

    def asks(name: str, called: int, mine: int) -> tuple[int, int, str, int]:
        return called + 1 + rng.below(LATENCY), called, name, mine

    busy = [asks(f"{key}-c{place}", rng.below(LATENCY), 0) for place in range(CLIENTS)]
    heapq.heapify(busy)
    for _ in range(count):
        acts, called, name, mine = heapq.heappop(busy)
        returned = acts + 1 + rng.below(LATENCY)
        if holder is not None and acts >= ends:
            holder = None
        operation = Operation(
            name, "release" if mine else "acquire", (key,), f"{name}-{mine or called}", called
        )
        history.operations.append(operation)
        is_lost = rng.chance(unknown)
        operation.returned, operation.result = (None, "unknown") if is_lost else (returned, "ok")
        next_token = 0
        if mine:
            operation.token = mine
            operation.session = f"{name}-{mine}"
            if not is_lost and (holder is None or holder[0] != mine):
                operation.result = "not_held"
            elif holder is not None and holder[0] == mine and not (is_lost and rng.chance(0.5)):
                holder = None
        elif holder is not None:
            if not is_lost:
                operation.result, operation.holders = "held", (Seen(*holder),)
        elif not is_lost or rng.chance(0.5):
            token += step
            operation.session = f"{name}-{token}"
            holder, ends = (token, operation.session), acts + (LATENCY * 3 if is_lost else LEASE)
            if not is_lost:
                operation.token = next_token = token
                history.leases.append(Lease(operation.session, called, LEASE))
        heapq.heappush(busy, asks(name, returned + rng.below(LATENCY), next_token))


def spoilt(history: History) -> History:
    """In the middle of it all, one refusal names who held the key ten grants earlier."""
    operations = [replace(each) for each in history.operations]
    ago = 10 * len(history.keys())
    refusals = [
        each for each in operations if each.result == "held" and each.holders[0].token > ago
    ]
    wrong = refusals[len(refusals) // 2]
    seen = wrong.holders[0]
    wrong.holders = (replace(seen, token=seen.token - ago),)
    return History(operations, list(history.leases))


if __name__ == "__main__":
    main()
