"""Rows grouped by the system that made them, and the tables that compare systems. Torch-free.

A system is a codec at one setting, such as ``opus 8``; its family is the codec. Every mean and interval is
that of `report.mean_interval`, so the page shows the numbers of the command's own tables.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from telucodec.evaluate.report import FULL, MISSING, Column, Interval, Row, mean_interval

OURS = "telucodec"
HEADLINE = (
    Column("payload_kbps", "payload kbps", ".2f"),
    Column("pesq_wb", "PESQ-WB", ".2f"),
    Column("stoi", "STOI", ".3f"),
    Column("visqol", "ViSQOL", ".2f"),
    Column("snr_db", "SNR dB", ".2f"),
    Column("si_sdr_db", "SI-SDR dB", ".2f"),
    Column("range_ratio", "range ratio", ".3f"),
    Column("kbps", "kbps with header", ".2f"),
)
PER_CLIP = tuple(column for column in HEADLINE if column.name not in {"kbps", "range_ratio"})
PER_GROUP = tuple(column for column in HEADLINE if column.name in {"pesq_wb", "stoi", "visqol", "snr_db"})
Group = tuple[Literal["folder", "language"], str]
"""Clips that have a field in common: its name and its value."""
_NUMBER_AT_END = re.compile(r"(?P<family>.*\S)[\s@]+(?P<setting>\d+(\.\d+)?)")


@dataclass(frozen=True, slots=True)
class System:
    """A codec at one setting, and what was measured of it."""

    name: str
    rows: tuple[Row, ...]
    _known: dict[tuple[str, Group | None], Interval] = field(default_factory=dict, compare=False, repr=False)

    @property
    def family(self) -> str:
        """The codec, without the setting that the name may end with."""
        found = _NUMBER_AT_END.fullmatch(self.name)
        return found["family"] if found else self.name

    @property
    def setting(self) -> float:
        """The number that the name ends with; 0 without one."""
        found = _NUMBER_AT_END.fullmatch(self.name)
        return float(found["setting"]) if found else 0.0

    @property
    def is_ours(self) -> bool:
        """Whether this codec made it."""
        return self.family == OURS

    @property
    def sent_kbps(self) -> Interval:
        """Mean payload rate; the rate with headers where no row knows its payload."""
        payload = self.interval("payload_kbps")
        return payload if payload.n else self.interval("kbps")

    def interval(self, figure: str, group: Group | None = None) -> Interval:
        """Mean of a figure over the clips of a group, or over all; kept, for tables and plots ask again."""
        if (figure, group) not in self._known:
            values = [row.figure(figure) for row in self.rows_of(group)]
            self._known[figure, group] = mean_interval(values)
        return self._known[figure, group]

    def rows_of(self, group: Group | None) -> list[Row]:
        """The rows of a group, or all."""
        return [row for row in self.rows if group is None or getattr(row, group[0]) == group[1]]

    def row_of(self, clip: str, folder: str) -> Row | None:
        """What was measured on one clip; stored rows may know its folder by another name."""
        rows = [row for row in self.rows if row.clip == clip]
        return next((row for row in rows if row.folder == folder), rows[0] if rows else None)


@dataclass(frozen=True, slots=True)
class Cell:
    """A mean as it is shown: its value, its interval and, where some clips are left out, how many count."""

    mean: str
    interval: str = ""
    n: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A system in a table."""

    system: System
    cells: tuple[Cell, ...]


def system_of(row: Row) -> str:
    """The display name of the system behind a row; a row that names none is ours at the wanted rate."""
    return row.system or f"{OURS} {row.kbps_wanted:g}"


def list_systems(rows: Iterable[Row], names: Iterable[str] = ()) -> list[System]:
    """Every system of ``rows``, and of ``names`` although nothing was measured; ours first, then by name."""
    groups: dict[str, list[Row]] = {name: [] for name in names}
    for row in rows:
        groups.setdefault(system_of(row), []).append(row)
    systems = [System(name, tuple(group)) for name, group in groups.items()]
    return sorted(systems, key=lambda s: (not s.is_ours, s.family.lower(), s.setting, s.name))


def columns_of(rows: Sequence[Row]) -> tuple[Column, ...]:
    """Every figure that any row has or misses: those of the full report first, in its order."""
    measured = {name: None for row in rows for name in (*row.metrics, *row.missing)}
    known = [column for column in FULL if column.name in measured or hasattr(Row, column.name)]
    more = measured.keys() - {column.name for column in known}
    titles = {column.name: column for column in HEADLINE}
    return (*known, *(titles.get(name, Column(name, name, ".3f")) for name in measured if name in more))


def table(systems: Sequence[System], columns: Sequence[Column]) -> list[Line]:
    """One line per measured system, one cell per figure, over all clips."""
    return [
        Line(system, tuple(cell(c, system.interval(c.name), len(system.rows)) for c in columns))
        for system in systems
        if system.rows
    ]


def list_groups(rows: Iterable[Row], by: Literal["folder", "language"]) -> list[Group]:
    """The groups that the rows fall into; none if there are not at least two."""
    found = sorted({getattr(row, by) for row in rows} - {""})
    return [(by, value) for value in found] if len(found) > 1 else []


def group_table(systems: Sequence[System], column: Column, groups: Sequence[Group]) -> list[Line]:
    """One line per measured system, one cell per group, one figure."""
    lines = []
    for system in systems:
        cells = [cell(column, system.interval(column.name, g), len(system.rows_of(g))) for g in groups]
        lines += [Line(system, tuple(cells))] if system.rows else []
    return lines


def cell(column: Column, interval: Interval, n_rows: int) -> Cell:
    """A mean in the format of its column."""
    low, high = column.show(interval.low), column.show(interval.high)
    has_interval = not math.isnan(interval.low) and low != high  # a fixed rate needs no interval
    return Cell(
        mean=column.show(interval.mean),
        interval=f"{low} to {high}" if has_interval else "",
        n="" if interval.n in (0, n_rows) else f"{interval.n} of {n_rows}",
    )


def clip_cells(row: Row | None, columns: Sequence[Column]) -> list[str]:
    """The figures of one row; dashes where there is none."""
    return [MISSING if row is None else column.show(row.figure(column.name)) for column in columns]
