"""Bars that overlap, put beneath each other.

Rule: pure. The first lane that is free takes the next bar; there are at most so many, and what finds none is drawn over others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

LANES_MAX = 12
"""A picture with more is read by nobody."""


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that lasts. `classes`: of the style sheet; `told`: what a pointer that rests on it is told."""

    begin: int
    end: int
    classes: str
    told: str
    label: str = ""
    point: int | None = None
    """When it took effect."""


def packed(bars: Iterable[Bar], gap: int) -> tuple[list[tuple[Bar, int]], int]:
    """([(bar, lane)], how many lanes); `gap` between two bars of one lane, in their unit."""
    free: list[int] = []
    placed: list[tuple[Bar, int]] = []
    for bar in sorted(bars, key=lambda each: (each.begin, each.end)):
        lane = next((n for n, until in enumerate(free) if until + gap <= bar.begin), len(free))
        if lane == LANES_MAX:
            lane = min(range(LANES_MAX), key=free.__getitem__)
        if lane == len(free):
            free.append(0)
        free[lane] = max(free[lane], bar.end)
        placed.append((bar, lane))
    return placed, len(free)
