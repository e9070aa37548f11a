"""Rate against quality as drawings: places and labels, computed here; lines and text are up to the template.

The horizontal axis is logarithmic: listeners and metrics care about a doubling of the rate, not about a
kilobit. Every point carries the 95 % interval of its mean.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from telucodec.evaluate.listening.systems import HEADLINE, System
from telucodec.evaluate.report import Column

WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 44, 92, 14, 42  # margins; family names stand in the right one
PLOTTED = tuple(column for column in HEADLINE if column.name in {"pesq_wb", "stoi", "visqol", "snr_db"})
_LABEL_HEIGHT = 16.0
_KBPS_TICKS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0, 128.0, 256.0)


@dataclass(frozen=True, slots=True)
class Point:
    """A system: where its mean lies, where its interval ends, what it says."""

    x: float
    y: float
    y_low: float
    y_high: float
    text: str


@dataclass(frozen=True, slots=True)
class Series:
    """A family of systems, by rate."""

    family: str
    index: int  # of `family_indices`
    points: tuple[Point, ...]
    label_y: float

    @property
    def line(self) -> str:
        """The SVG points of the line through the means."""
        return " ".join(f"{point.x:.1f},{point.y:.1f}" for point in self.points)


@dataclass(frozen=True, slots=True)
class Plot:
    """One metric against rate; without series if nothing was measured."""

    column: Column
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    start: float  # where ``low`` is drawn
    end: float

    def place(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def rate_plots(systems: Sequence[System]) -> list[Plot]:
    """PESQ, STOI, ViSQOL and SNR against the mean payload rate."""
    return [_plot(systems, column) for column in PLOTTED]


def family_indices(systems: Sequence[System]) -> dict[str, int]:
    """A number for each family, for its color and marker: 0 for ours, then 1 to 5 in turn."""
    others = dict.fromkeys(system.family for system in systems if not system.is_ours)
    ours = {system.family: 0 for system in systems if system.is_ours}
    return ours | {family: 1 + index % 5 for index, family in enumerate(others)}


def _plot(systems: Sequence[System], column: Column) -> Plot:
    shown = [s for s in systems if s.interval(column.name).n and s.sent_kbps.mean > 0.0]
    if not shown:
        return Plot(column, (), (), ())
    rates = [math.log2(system.sent_kbps.mean) for system in shown]
    bounds = [bound for system in shown for bound in _bounds(system, column)]
    x = _Axis(min(rates) - 0.25, max(rates) + 0.25, LEFT, WIDTH - RIGHT)
    y_values = _round_ticks(min(bounds), max(bounds))
    y = _Axis(y_values[0], y_values[-1], HEIGHT - BOTTOM, TOP)
    kbps = [tick for tick in _KBPS_TICKS if x.low <= math.log2(tick) <= x.high]
    return Plot(
        column,
        x_ticks=tuple((x.place(math.log2(tick)), f"{tick:g}") for tick in kbps),
        y_ticks=tuple((y.place(value), _short(value)) for value in y_values),
        series=_series(shown, column, family_indices(systems), x, y),
    )


def _series(
    systems: Sequence[System], column: Column, indices: dict[str, int], x: _Axis, y: _Axis
) -> tuple[Series, ...]:
    families = {}
    for family, group in groupby(systems, key=lambda system: system.family):
        by_rate = sorted(group, key=lambda system: system.sent_kbps.mean)
        families[family] = tuple(_point(system, column, x, y) for system in by_rate)
    heights = _spread({family: points[-1].y for family, points in families.items()})
    return tuple(Series(name, indices[name], points, heights[name]) for name, points in families.items())


def _point(system: System, column: Column, x: _Axis, y: _Axis) -> Point:
    mean, kbps = system.interval(column.name), system.sent_kbps.mean
    low, high = _bounds(system, column)
    text = f"{system.name}: {column.title} {column.show(mean.mean)} at {kbps:.2f} kbps"
    if mean.n > 1:
        text += f", 95 % interval {column.show(low)} to {column.show(high)}, {mean.n} clips"
    return Point(x.place(math.log2(kbps)), y.place(mean.mean), y.place(low), y.place(high), text)


def _bounds(system: System, column: Column) -> tuple[float, float]:
    """Ends of the interval; the mean twice where one clip has none."""
    found = system.interval(column.name)
    return (found.mean, found.mean) if math.isnan(found.low) else (found.low, found.high)


def _spread(wanted: dict[str, float]) -> dict[str, float]:
    """Heights near the wanted ones, at least a line of text apart, inside the drawing."""
    placed: dict[str, float] = {}
    lowest = TOP - _LABEL_HEIGHT + 6.0
    for name, height in sorted(wanted.items(), key=lambda item: item[1]):
        lowest = placed[name] = max(height, lowest + _LABEL_HEIGHT)
    ceiling = HEIGHT - BOTTOM + _LABEL_HEIGHT
    for name, height in sorted(placed.items(), key=lambda item: -item[1]):
        ceiling = placed[name] = min(height, ceiling - _LABEL_HEIGHT)
    return placed


def _round_ticks(low: float, high: float) -> list[float]:
    """Four to eight round values that enclose both; around a single value if they are equal."""
    spread = max(high - low, abs(high) * 0.02, 1e-3)
    raw = spread / 5.0
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * unit for factor in (1.0, 2.0, 5.0, 10.0) if factor * unit >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * n for n in range(first, max(last, first + 1) + 1)]


def _short(value: float) -> str:
    return f"{round(value, 6) + 0.0:g}"
