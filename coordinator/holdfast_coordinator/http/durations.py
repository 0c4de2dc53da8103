"""How long something took: a histogram for Prometheus that costs next to nothing to feed.

Rule: an observation is one search among the bounds and two additions. prometheus_client's own histogram takes a lock for each of
them and goes through the bounds one by one: four microseconds, for each entry that is applied and each that is synced. Read on
the event loop, as it is fed, so it needs no lock. It does not know what is measured.
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
    """One metric. `buckets`: upper bounds in seconds, rising."""

    def __init__(
        self, name: str, text: str, labels: tuple[str, ...], buckets: Sequence[float]
    ) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._bounds = tuple(buckets)
        self._series: dict[tuple[str, ...], Series] = {}

    def of(self, *values: str) -> Series:
        """The series of these values of the labels, each of which has to be one of a few that are known in advance."""
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = Series(self._bounds)
        return series

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        for values, series in self._series.items():
            buckets = list(zip(names, map(float, accumulate(series.counts)), strict=True))
            family.add_metric(values, buckets, series.seconds)
        yield family


class Series:
    """What was observed under one set of labels: how often between two bounds, and how many seconds in all."""

    __slots__ = ("_bounds", "counts", "seconds")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.seconds = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.seconds += seconds
