"""The garbage collector does not walk the lock table again and again, and still finds cycles."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from holdfast_coordinator.collector import Collector


class Cycle:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector(collections_per_sweep=3)
    made.install()
    yield made
    made.remove()


def test_what_survived_a_full_collection_is_set_aside(collector: Collector) -> None:
    gc.collect()
    assert gc.get_freeze_count() > 1_000
    table = [[number] for number in range(1_000)]
    before = gc.get_freeze_count()
    gc.collect()
    assert gc.get_freeze_count() >= before + len(table)


def test_a_young_cycle_is_found_as_ever_and_an_old_one_at_the_next_sweep(
    collector: Collector,
) -> None:
    gc.collect()
    young = weakref.ref(Cycle())
    gc.collect()
    assert young() is None
    old_one = Cycle()
    gc.collect()
    old = weakref.ref(old_one)
    del old_one
    found = 0
    while old() is not None and found < 4:
        gc.collect()
        found += 1
    assert 0 < found < 4
