"""Rows of measurements to tables a person reads and lines a program reads. Torch-free.

A row is one clip at one rate. A summary is the mean of many rows with a 95 % bootstrap interval
over clips (Efron 1979, the percentile method), seeded, so that the same rows give the same text.

A figure that could not be computed stays visible: as "-" in tables, as null in JSON, with its
reason in ``missing`` and with the number of clips behind every mean.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MISSING = "-"
EVERYTHING = "all"  # the folder of the summary over all folders


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One clip through real files at one rate.

    Rates are in kbit per second of the clip: ``kbps`` counts every byte of the ``.codes`` file,
    ``payload_kbps`` leaves the header out. A metric is either in ``metrics`` or, with its reason,
    in ``missing``.
    """

    clip: str  # path below its source folder, with suffix
    folder: str
    seconds: float
    n_codebooks: int
    kbps_wanted: float
    kbps: float
    payload_kbps: float
    metrics: dict[str, float]
    missing: dict[str, str]
    encode_s: float  # seconds of work per second of audio, reading and writing files included
    decode_s: float
    n_jobs: int = 1  # clips that were worked on at once while the times were taken
    language: str = ""
    model_id: str = ""  # of our weights, hexadecimal
    system: str = ""  # what made the estimate, as it is shown: "telucodec 6", "opus 8"

    @property
    def work_s(self) -> float:
        """Encode plus decode: seconds of work per second of audio."""
        return self.encode_s + self.decode_s

    def figure(self, name: str) -> float:
        """A column by name, attribute or metric; nan if missing."""
        return float(self.metrics[name] if name in self.metrics else getattr(self, name, math.nan))


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over ``n`` clips with a 95 % interval; nan where there is nothing to average."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The clips of one folder, or of all, at one wanted rate."""

    folder: str
    kbps_wanted: float
    n_clips: int
    figures: dict[str, Interval]


@dataclass(frozen=True, slots=True)
class Column:
    """A figure as it is shown: its name in `Row`, its title and its format."""

    name: str
    title: str
    form: str

    def show(self, value: float) -> str:
        """The value in the format of the column; "-" for nan."""
        return MISSING if math.isnan(value) else format(value, self.form)


BRIEF = (
    Column("seconds", "s", ".2f"),
    Column("kbps", "kbps", ".2f"),
    Column("snr_db", "SNR dB", ".2f"),
    Column("si_sdr_db", "SI-SDR dB", ".2f"),
    Column("range_ratio", "range", ".3f"),
    Column("pesq_wb", "PESQ-WB", ".2f"),
    Column("stoi", "STOI", ".3f"),
    Column("work_s", "work s/s", ".3f"),
)
FULL = (
    Column("seconds", "s", ".2f"),
    Column("kbps", "kbps", ".2f"),
    Column("payload_kbps", "payload", ".2f"),
    Column("snr_db", "SNR dB", ".2f"),
    Column("si_sdr_db", "SI-SDR dB", ".2f"),
    Column("range_ratio", "range", ".3f"),
    Column("rms_ratio_db", "RMS dB", "+.2f"),
    Column("dc_offset", "DC", "+.4f"),
    Column("mrstft_distance", "MR-STFT", ".3f"),
    Column("pesq_wb", "PESQ-WB", ".2f"),
    Column("stoi", "STOI", ".3f"),
    Column("encode_s", "enc s/s", ".3f"),
    Column("decode_s", "dec s/s", ".3f"),
)


@dataclass(frozen=True, slots=True)
class Table:
    """Cells ready to be shown by any front end."""

    header: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]

    def to_markdown(self) -> str:
        """The table in Markdown: the first column to the left, the others to the right."""
        rule = ("---",) + ("---:",) * (len(self.header) - 1)
        lines = (self.header, rule, *self.cells)
        return "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
        )


def clip_table(rows: Iterable[Row], columns: Sequence[Column] = BRIEF) -> Table:
    """One line per clip and rate."""
    header = ("clip", *(column.title for column in columns))
    return Table(
        header,
        tuple((row.clip, *(column.show(row.figure(column.name)) for column in columns)) for row in rows),
    )


def summary_table(summaries: Iterable[Summary], columns: Sequence[Column] = BRIEF) -> Table:
    """One line per folder and figure, one column per rate: ``mean [low, high]``.

    ``(n)`` follows where a mean stands on fewer clips than the folder has. Narrow on purpose: the
    intervals of all figures side by side would not fit a terminal.
    """
    summaries = list(summaries)
    rates = sorted({summary.kbps_wanted for summary in summaries})
    groups: dict[str, dict[float, Summary]] = {}
    for summary in summaries:
        groups.setdefault(summary.folder, {})[summary.kbps_wanted] = summary
    lines = []
    for folder, group in groups.items():
        n_clips = max(summary.n_clips for summary in group.values())
        title = f"{folder} ({n_clips})"
        for column in columns:
            cells = [_show_interval(column, group[rate]) if rate in group else MISSING for rate in rates]
            lines.append((title, column.title, *cells))
            title = ""  # the folder is named on its first line only
    return Table(("mean of (clips)", "figure", *(f"at {rate:g} kbps" for rate in rates)), tuple(lines))


def mean_interval(values: Sequence[float], *, seed: int = 0, n_resamples: int = 2000) -> Interval:
    """Mean of the finite ``values`` with its 95 % percentile bootstrap interval.

    Values that are not finite are left out and show in ``n``. A single value has no interval (nan).
    """
    known = np.array([value for value in values if math.isfinite(value)], dtype=np.float64)
    if not known.size:
        return Interval(math.nan, math.nan, math.nan, 0)
    if known.size == 1:
        return Interval(float(known[0]), math.nan, math.nan, 1)
    generator = np.random.default_rng(seed)
    means = known[generator.integers(known.size, size=(n_resamples, known.size))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(known.mean()), float(low), float(high), int(known.size))


def summarize(rows: Iterable[Row], *, seed: int = 0) -> list[Summary]:
    """For each wanted rate: all clips, then each folder if there are several."""
    rows = list(rows)
    folders = sorted({row.folder for row in rows})
    names = [column.name for column in FULL] + ["work_s"]
    summaries = []
    for kbps in sorted({row.kbps_wanted for row in rows}):
        for folder in [EVERYTHING, *(folders if len(folders) > 1 else [])]:
            group = [row for row in rows if row.kbps_wanted == kbps and folder in (EVERYTHING, row.folder)]
            if not group:
                continue
            figures = {name: mean_interval([row.figure(name) for row in group], seed=seed) for name in names}
            summaries.append(Summary(folder=folder, kbps_wanted=kbps, n_clips=len(group), figures=figures))
    return summaries


def reasons(rows: Iterable[Row]) -> list[str]:
    """Why figures are missing, one line per metric and reason, with the number of clips."""
    found: dict[tuple[str, str], int] = {}
    for row in rows:
        for name, reason in row.missing.items():
            found[name, reason] = found.get((name, reason), 0) + 1
    return [f"{name} is missing for {n} of the results: {reason}" for (name, reason), n in found.items()]


def row_object(row: Row) -> dict[str, Any]:
    """A row as plain JSON values: metrics beside the other fields, null where there is no finite figure."""
    fields = {
        "clip": row.clip,
        "folder": row.folder,
        "seconds": row.seconds,
        "n_codebooks": row.n_codebooks,
        "kbps_wanted": row.kbps_wanted,
        "kbps": row.kbps,
        "payload_kbps": row.payload_kbps,
        **row.metrics,
        **dict.fromkeys(row.missing),
        "encode_s": row.encode_s,
        "decode_s": row.decode_s,
    }
    return {name: _plain(value) for name, value in fields.items()} | {"missing": row.missing}


def summary_object(summary: Summary) -> dict[str, Any]:
    """A summary as plain JSON values, each figure as mean, low, high and n."""
    figures = {
        name: {"mean": _plain(i.mean), "low": _plain(i.low), "high": _plain(i.high), "n": i.n}
        for name, i in summary.figures.items()
    }
    head = {"summary_of": summary.folder, "kbps_wanted": summary.kbps_wanted, "n_clips": summary.n_clips}
    return head | figures


def to_json_lines(rows: Iterable[Row], summaries: Iterable[Summary] = ()) -> str:
    """One JSON object a line: every row, then every summary (marked by the key ``summary_of``)."""
    objects = [*map(row_object, rows), *map(summary_object, summaries)]
    return "".join(json.dumps(item, allow_nan=False) + "\n" for item in objects)


def _show_interval(column: Column, summary: Summary) -> str:
    interval = summary.figures[column.name]
    text = column.show(interval.mean)
    if not math.isnan(interval.low):
        text += f" [{column.show(interval.low)}, {column.show(interval.high)}]"
    return text if interval.n == summary.n_clips else f"{text} ({interval.n})"


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
