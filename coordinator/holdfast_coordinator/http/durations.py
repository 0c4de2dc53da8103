"""How long something took, by its outcome: a histogram for Prometheus that costs next to nothing to feed.

Rule: an observation is one search among the bounds and two additions. prometheus_client's own histogram takes a lock for each of
them and goes through the bounds one by one, which for an acquire was a tenth of what the whole call costs a node. Read on the
event loop, as it is fed, so it needs no lock. It does not know what is measured.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.metrics_core import Metric


class Durations(Collector):
    """One metric with one label. `buckets`: upper bounds in seconds, rising."""

    def __init__(self, name: str, text: str, label: str, buckets: Sequence[float]) -> None:
        self._name = name
        self._text = text
        self._label = label
        self._bounds = tuple(buckets)
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def observe(self, value: str, seconds: float) -> None:
        """One more of `value`, which has to be one of a few that are known in advance."""
        counts = self._counts.get(value)
        if counts is None:
            counts = self._counts[value] = [0] * (len(self._bounds) + 1)
            self._sums[value] = 0.0
        counts[bisect_left(self._bounds, seconds)] += 1
        self._sums[value] += seconds

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=(self._label,))
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        for value, counts in self._counts.items():
            buckets = list(zip(names, map(float, accumulate(counts)), strict=True))
            family.add_metric((value,), buckets, self._sums[value])
        yield family
