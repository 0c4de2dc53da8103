"""Rows of bars over time, with the faults behind them, as SVG in HTML.

Rule: pure. Names stand still while the picture is scrolled. It knows bars and bands, and not what they mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

from holdfast_jepsen.report.lanes import Bar, packed
from holdfast_jepsen.sim.world import MILLISECOND, SECOND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast_jepsen.report.run import Band

LANE: Final = 13
BAR: Final = 9
BETWEEN: Final = 7
"""Pixels: of a lane, of a bar in it, between two rows."""
PIXELS_PER_SECOND: Final = 120.0
WIDTH_OF_PART: Final = 1100.0
"""Of a picture of a part of the time: it is as wide as a window, however short the part."""
LABEL: Final = 7.0
"""Pixels of a character."""
TICKS: Final = (1, 5, 10, 50, 100, 500, 1000, 5000)
"""Milliseconds between two marks of the time: the first that leaves room."""
TICK_PIXELS_MIN: Final = 70.0


@dataclass(frozen=True, slots=True)
class Row:
    """Its bars are packed into lanes."""

    name: str
    bars: list[Bar]


@dataclass(frozen=True, slots=True)
class _Scale:
    begin: int
    end: int
    pixels_per_second: float

    def x(self, at: int) -> float:
        return (min(max(at, self.begin), self.end) - self.begin) / SECOND * self.pixels_per_second

    @property
    def width(self) -> float:
        return self.x(self.end) + 50


def picture(
    rows: Sequence[Row], bands: Sequence[Band], *, begin: int = 0, end: int | None = None
) -> str:
    """From `begin` to `end`, in nanoseconds of the run; without `end`: all of it, at a fixed scale."""
    scale = _scale(rows, bands, begin, end)
    seen = [each for each in bands if each.end >= scale.begin and each.begin <= scale.end]
    faults = [
        Bar(each.begin, max(each.end, each.begin + _wide(each.kind, scale)), "fault", each.what, each.kind)
        for each in seen
    ]  # fmt: skip
    body, names, top = "", "", LANE + BETWEEN
    for row in ([Row("faults", faults)] if faults else []) + list(rows):
        placed, lanes = packed(row.bars, int(2 / scale.pixels_per_second * SECOND))
        names += f"<text x='4' y='{top + BAR}'>{escape(row.name)}</text>"
        body += "".join(_bar(bar, top + lane * LANE, scale) for bar, lane in placed)
        top += max(lanes, 1) * LANE + BETWEEN
        body += f"<path class='rule' d='M0 {top - BETWEEN / 2}H{scale.width:.0f}'/>"
    behind = "".join(_band(each, top, scale) for each in seen) + _ticks(scale, top)
    return (
        f"<div class='picture'><svg class='names' width='110' height='{top}'>{names}</svg>"
        f"<div class='scroll'><svg width='{scale.width:.0f}' height='{top}'>{behind}{body}</svg></div></div>"
    )


def _scale(rows: Sequence[Row], bands: Sequence[Band], begin: int, end: int | None) -> _Scale:
    if end is not None:
        return _Scale(begin, end, WIDTH_OF_PART / max((end - begin) / SECOND, 1e-6))
    bars = [bar for row in rows for bar in row.bars]
    ends = [each.end for each in bars] + [band.end for band in bands]
    # Nodes and clients take a while to start: the picture begins with the second of the first operation.
    first = min((bar.begin for bar in bars), default=0) // SECOND * SECOND
    return _Scale(max(begin, first), max([*ends, first + SECOND]), PIXELS_PER_SECOND)


def _wide(text: str, scale: _Scale) -> int:
    """Nanoseconds that a label takes."""
    return int(len(text) * LABEL / scale.pixels_per_second * SECOND)


def _bar(bar: Bar, top: int, scale: _Scale) -> str:
    left = scale.x(bar.begin)
    width = max(scale.x(bar.end) - left, 4.0)
    drawn = (
        f"<rect class='{escape(bar.classes)}' x='{left:.1f}' y='{top}' width='{width:.1f}' height='{BAR}'>"
        f"<title>{escape(bar.told)}</title></rect>"
    )
    if bar.label and (width >= len(bar.label) * 5 or bar.classes.startswith("fault")):
        drawn += f"<text x='{left + 2:.1f}' y='{top + BAR - 1}'>{escape(bar.label)}</text>"
    if bar.point is not None and scale.begin <= bar.point <= scale.end:
        drawn += f"<path class='point' d='M{scale.x(bar.point):.1f} {top + BAR - 3}v6'/>"
    return drawn


def _band(band: Band, height: int, scale: _Scale) -> str:
    left = scale.x(band.begin)
    width = max(scale.x(band.end) - left, 2.0)
    return (
        f"<rect class='band' x='{left:.1f}' y='0' width='{width:.1f}' height='{height}'>"
        f"<title>{escape(band.what)}</title></rect>"
    )


def _ticks(scale: _Scale, height: int) -> str:
    step_ms = next(
        (each for each in TICKS if each / 1000 * scale.pixels_per_second >= TICK_PIXELS_MIN),
        TICKS[-1],
    )
    step = step_ms * MILLISECOND
    drawn, at = "", -(-scale.begin // step) * step
    while at <= scale.end:
        x = scale.x(at)
        told = f"{at / SECOND:.3f}" if step < SECOND else f"{at // SECOND}"
        drawn += f"<path class='tick' d='M{x:.1f} 0V{height}'/><text class='time' x='{x + 2:.1f}' y='10'>{told} s</text>"
        at += step
    return drawn
