"""Many writers on one ledger, in threads and in processes: every payment once, no floor goes down, the books balance."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from holdfast.fencing import Stale
from holdfast_ledger import Duplicate, Ledger

WRITERS = 6
PAYMENTS = 25
KEYS = ("k/0", "k/1", "k/2")


class Result(NamedTuple):
    """What one writer was told, and whether the floors that it looked at only rose."""

    captured: int
    duplicate: int
    stale: int
    only_rose: bool


def write_all(ledger: Ledger, seed: int) -> Result:
    """Try to capture every payment, in an order and with fences of one's own."""
    rng = random.Random(seed)  # noqa: S311 - a schedule, not a secret
    captured = 0
    duplicates: list[Duplicate] = []
    stales: list[Stale] = []
    floors = dict.fromkeys(KEYS, 0)
    only_rose = True
    for number in rng.sample(range(PAYMENTS), PAYMENTS):
        keys = rng.sample(KEYS, rng.randint(1, 2))
        for key in KEYS:
            floor = ledger.floor(key) or 0
            only_rose &= floor >= floors[key]
            floors[key] = floor
        try:
            ledger.capture(
                keys,
                payment=f"p-{number}",
                customer=f"c-{number % 4}",
                amount=100 + number,
                currency=("EUR", "USD")[number % 2],
                fence=rng.randint(1, 60),
            )
            captured += 1
        except Duplicate as error:
            duplicates.append(error)
        except Stale as error:
            stales.append(error)
    assert all(error.differences == () for error in duplicates)
    assert all(error.highest > error.fence for error in stales)
    return Result(captured, len(duplicates), len(stales), only_rose)


def check(ledger: Ledger, results: list[Result]) -> None:
    """What the writers were told adds up with what the books say."""
    books = ledger.check_balanced()
    assert books.captures == sum(result.captured for result in results)
    assert 0 < books.captures <= PAYMENTS
    assert (
        sum(result.captured + result.duplicate + result.stale for result in results)
        == len(results) * PAYMENTS
    )
    assert all(result.only_rose for result in results)
    per_currency: dict[str, int] = {}
    for (_account, currency), balance in ledger.balances().items():
        per_currency[currency] = per_currency.get(currency, 0) + balance
    assert set(per_currency.values()) == {0}


def test_threads_on_one_ledger(target: str) -> None:
    """Six threads fight for the same payments over one pool of connections."""
    with Ledger(target) as ledger, ThreadPoolExecutor(WRITERS) as pool:
        results = list(pool.map(lambda seed: write_all(ledger, seed), range(WRITERS)))
        check(ledger, results)


def test_processes_on_one_database(target: str) -> None:
    """Three processes that all find no ledger, all create it, and then fight for the same payments."""
    writers = [
        subprocess.Popen([sys.executable, __file__, target, str(seed)], stdout=subprocess.PIPE)  # noqa: S603 - this file
        for seed in range(3)
    ]
    printed = [writer.communicate()[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    results = [Result(*json.loads(line)) for line in printed]
    with Ledger(target) as ledger:
        check(ledger, results)


def test_of_many_holders_only_one_captures_and_the_last_fence_stays(target: str) -> None:
    """Every thread holds another fence of one key and captures the same payment: one capture, whoever arrives first."""
    start = threading.Barrier(WRITERS)

    def hold_and_capture(fence: int) -> str:
        start.wait()
        try:
            ledger.raise_floor("k", fence)
            ledger.capture("k", payment="p", customer="c", amount=5, currency="EUR", fence=fence)
        except (Stale, Duplicate) as error:
            return type(error).__name__
        return "captured"

    with Ledger(target) as ledger, ThreadPoolExecutor(WRITERS) as pool:
        outcomes = list(pool.map(hold_and_capture, range(1, WRITERS + 1)))
        assert outcomes.count("captured") == 1
        assert ledger.floor("k") == WRITERS
        assert ledger.check_balanced().captures == 1
        assert outcomes[-1] in ("captured", "Duplicate"), "the highest fence is never stale"


def test_writers_with_overlapping_keys_do_not_deadlock(target: str) -> None:
    """Two threads take the same keys, named in opposite order, again and again."""

    def raise_floors(keys: tuple[str, ...]) -> None:
        for fence in range(1, 30):
            try:
                ledger.raise_floor(keys, fence)
            except Stale:
                continue

    with Ledger(target) as ledger, ThreadPoolExecutor(2) as pool:
        list(pool.map(raise_floors, [("a", "b", "c"), ("c", "b", "a")]))
        assert [ledger.floor(key) for key in "abc"] == [29, 29, 29]


if __name__ == "__main__":  # one writer process of test_processes_on_one_database
    with Ledger(sys.argv[1]) as own:
        sys.stdout.write(json.dumps(write_all(own, int(sys.argv[2]))))
