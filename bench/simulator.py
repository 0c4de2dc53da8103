"""How fast the simulator is: virtual hours for each hour of one core.

    python bench/simulator.py [--seeds 6] [--pace 20]

Figures are of CPU time, so that other work on the machine hardly changes them. A part's cost is what the same seeds
take less without it: the faults are such as need no volatile disk, or the run without it would be another one. A run that found
something wrong ends the program: it was not a whole one.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

from holdfast_coordinator.raft.memory_disk import MemoryDisk
from holdfast_jepsen.checker.raft_invariants import RaftInvariants
from holdfast_jepsen.checker.watched_host import WatchedHost
from holdfast_jepsen.sim import run as runs
from holdfast_jepsen.sim.pace import STRETCH
from holdfast_jepsen.sim.watched_journal import WatchedJournal
from holdfast_jepsen.workloads.mix import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = ("kill", "kill-leader", "pause", "pause-client", "isolate", "isolate-leader", "halves", "one-way",
         "slow-links", "reset", "supersede", "hand-over")  # fmt: skip
ROUNDS = 3
"""Where parts are compared, each figure is the smallest of so many: what disturbs only ever adds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=6, help="of each workload")
    parser.add_argument(
        "--pace", type=int, default=STRETCH, help="1: the product's periods as shipped"
    )
    options = parser.parse_args()
    speed(options.seeds, options.pace)


def speed(seeds: int, pace: int) -> None:
    print(f"three nodes, faults on, pace {pace}, {seeds} seeds of each workload")
    print(
        f"{'workload':14}{'virtual h/core h':>17}{'us/event':>10}{'events/s':>10}{'ops':>7}{'faults':>8}"
    )
    virtual = cpu = 0.0
    for name in NAMES:
        results = [measured(name, seed, pace) for seed in range(seeds)]
        outcomes, seconds = [each for each, _ in results], sum(each for _, each in results)
        hours = sum(each.virtual_seconds for each in outcomes)
        events = sum(each.events for each in outcomes)
        operations = sum(len(each.history.operations) for each in outcomes)
        fired = sum(sum(each.fired.values()) for each in outcomes)
        virtual, cpu = virtual + hours, cpu + seconds
        print(f"{name:14}{hours / seconds:17.0f}{seconds / events * 1e6:10.1f}{events / hours:10.1f}{operations:7}{fired:8}",
              flush=True)  # fmt: skip
    print(f"{'all':14}{virtual / cpu:17.0f}")
    parts(seeds, pace)


def parts(seeds: int, pace: int) -> None:
    """What each part costs. Every seed runs with and without each in turn, so that all meet the same machine."""
    arounds = {
        "everything": contextlib.nullcontext,
        "checkers": without_checkers,
        "invariants": without_invariants,
        "a disk that can lose": without_volatility,
    }
    seconds = dict.fromkeys(arounds, 0.0)
    for seed in range(seeds):
        best = dict.fromkeys(arounds, float("inf"))
        for _ in range(ROUNDS):
            for name, around in arounds.items():
                with around():
                    best[name] = min(best[name], measured("hot-key", seed, pace)[1])
        for name, each in best.items():
            seconds[name] += each
    for name in list(arounds)[1:]:
        part = 1 - seconds[name] / seconds["everything"]
        print(f"hot-key without {name}: {100 * part:.1f} % less CPU time")


def measured(workload: str, seed: int, pace: int) -> tuple[runs.Outcome, float]:
    """The outcome, and the CPU seconds. Raises SystemExit if the run broke a promise, or broke off."""
    variant = runs.Variant(size=3, workload=workload, kinds=KINDS, pace=pace)
    began = time.process_time()
    outcome = runs.run(seed, variant=variant)
    took = time.process_time() - began
    if outcome.verdict == "invalid":
        raise SystemExit(f"{workload}, seed {seed}: {'; '.join(outcome.reasons)}")
    return outcome, took


def finds_nothing(*_: Any) -> list[Any]:
    return []


def does_nothing(*_: Any, **__: Any) -> None: ...


@contextlib.contextmanager
def without_checkers() -> Iterator[None]:
    with (
        mock.patch.object(runs.linearizability, "check", finds_nothing),
        mock.patch.object(runs.orders, "token_order", finds_nothing),
        mock.patch.object(runs.orders, "beliefs", finds_nothing),
        mock.patch.object(runs.orders, "first_come_first_served", finds_nothing),
        mock.patch.object(runs.orders, "nothing_happened", finds_nothing),
        mock.patch.object(runs.orders, "sessions_last", finds_nothing),
        mock.patch.object(runs.story, "check", finds_nothing),
    ):
        yield


@contextlib.contextmanager
def without_invariants() -> Iterator[None]:
    def apply(host: WatchedHost, index: int, term: int, payload: bytes) -> bool:
        return host._node.apply(index, term, payload)

    with (
        mock.patch.object(RaftInvariants, "after_event", does_nothing),
        mock.patch.object(RaftInvariants, "on_send", does_nothing),
        mock.patch.object(RaftInvariants, "on_append", does_nothing),
        mock.patch.object(RaftInvariants, "on_cut", does_nothing),
        mock.patch.object(RaftInvariants, "after_start", does_nothing),
        mock.patch.object(WatchedJournal, "_compare", does_nothing),
        mock.patch.object(WatchedHost, "apply", apply),
    ):
        yield


@contextlib.contextmanager
def without_volatility() -> Iterator[None]:
    """Whatever is written is safe at once, and kept once."""

    def do(disk: MemoryDisk, effect: Any) -> None:
        disk._seen.take(effect)

    with (
        mock.patch.object(MemoryDisk, "do", do),
        mock.patch.object(MemoryDisk, "settle", does_nothing),
    ):
        yield


if __name__ == "__main__":
    main()
