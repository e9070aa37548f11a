"""Rows of measurements to tables a person reads and lines a program reads. Torch-free.

A row is one clip through one system: a codec at a rate. A summary is the mean of many rows with a 95 %
bootstrap interval over clips (Efron 1979, the percentile method), seeded, so that the same rows give the
same text.

A figure that could not be computed stays visible: as "-" in tables, as null in JSON, with its
reason in ``missing`` and with the number of clips behind every mean.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from telucodec.errors import TelucodecError

MISSING = "-"
EVERYTHING = "all"  # the folder of the summary over all folders
OURS = "telucodec"  # how the display names of our own systems begin


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One clip through real files of one system.

    Rates are in kbit per second of the clip: ``kbps`` counts every byte of the file, ``payload_kbps``
    leaves headers out. A metric is either in ``metrics`` or, with its reason, in ``missing``.
    """

    clip: str  # path below its source folder, with suffix
    folder: str
    seconds: float
    n_codebooks: int  # 0 for other codecs
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
    """The clips of one folder or language, or all of them, through one system."""

    folder: str  # or the language
    kbps_wanted: float
    n_clips: int
    figures: dict[str, Interval]
    system: str = ""
    by: Literal["all", "folder", "language"] = "all"

    @property
    def title(self) -> str:
        """The head of its column."""
        return self.system or f"at {self.kbps_wanted:g} kbps"


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
    Column("delay_ms", "delay ms", "+.2f"),
    Column("lsd_db", "LSD dB", ".2f"),
    Column("mrstft_distance", "MR-STFT", ".3f"),
    Column("mel_distance_db", "mel dB", ".2f"),
    Column("pesq_wb", "PESQ-WB", ".2f"),
    Column("pesq_nb", "PESQ-NB", ".2f"),
    Column("stoi", "STOI", ".3f"),
    Column("estoi", "ESTOI", ".3f"),
    Column("visqol", "ViSQOL", ".2f"),
    Column("f0_error_cents", "F0 cents", ".0f"),
    Column("voicing_error", "voicing", ".3f"),
    Column("encode_s", "enc s/s", ".3f"),
    Column("decode_s", "dec s/s", ".3f"),
)
FIELDS = {"seconds", "kbps", "payload_kbps", "work_s", "encode_s", "decode_s"}  # figures that are no metrics


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


def columns_of(rows: Iterable[Row], columns: Sequence[Column]) -> tuple[Column, ...]:
    """The columns that the rows have something to say about: measured, or missing for a reason."""
    known = FIELDS.union(*({*row.metrics, *row.missing} for row in rows))
    return tuple(column for column in columns if column.name in known)


def clip_table(rows: Iterable[Row], columns: Sequence[Column] = BRIEF) -> Table:
    """One line per clip and system; the system is named where there are several."""
    rows = list(rows)
    named = len({row.system for row in rows}) > 1
    header = ("clip", *(("system",) if named else ()), *(column.title for column in columns))
    lines = [
        (
            row.clip,
            *((row.system,) if named else ()),
            *(column.show(row.figure(column.name)) for column in columns),
        )
        for row in rows
    ]
    return Table(header, tuple(lines))


def summary_table(summaries: Iterable[Summary], columns: Sequence[Column] = BRIEF) -> Table:
    """One line per group of clips and figure, one column per system: ``mean [low, high]``.

    ``(n)`` follows where a mean stands on fewer clips than the group has. Narrow on purpose: the
    intervals of all figures side by side would not fit a terminal.
    """
    summaries = list(summaries)
    titles = list(dict.fromkeys(summary.title for summary in summaries))
    groups: dict[tuple[str, str], dict[str, Summary]] = {}
    for summary in summaries:
        groups.setdefault((summary.by, summary.folder), {})[summary.title] = summary
    lines = []
    for (_, folder), group in groups.items():
        title = f"{folder} ({max(summary.n_clips for summary in group.values())})"
        for column in columns:
            cells = [_show_interval(column, group[name]) if name in group else MISSING for name in titles]
            lines.append((title, column.title, *cells))
            title = ""  # the group is named on its first line only
    return Table(("mean of (clips)", "figure", *titles), tuple(lines))


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
    """For each system: all clips, then each folder if there are several, then each language named."""
    rows = list(rows)
    names = [column.name for column in columns_of(rows, FULL)] + ["work_s"]
    groups: list[tuple[Literal["all", "folder", "language"], str]] = [("all", EVERYTHING)]
    folders = sorted({row.folder for row in rows})
    groups += [("folder", folder) for folder in (folders if len(folders) > 1 else [])]
    groups += [("language", language) for language in sorted({row.language for row in rows} - {""})]
    summaries = []
    for system, kbps in sorted({(row.system, row.kbps_wanted) for row in rows}, key=_system_order):
        of_system = [row for row in rows if (row.system, row.kbps_wanted) == (system, kbps)]
        for by, name in groups:
            group = [row for row in of_system if by == "all" or getattr(row, by) == name]
            if group:
                figures = {
                    figure: mean_interval([row.figure(figure) for row in group], seed=seed)
                    for figure in names
                }
                summaries.append(
                    Summary(
                        folder=name,
                        kbps_wanted=kbps,
                        n_clips=len(group),
                        figures=figures,
                        system=system,
                        by=by,
                    )
                )
    return summaries


def reasons(rows: Iterable[Row]) -> list[str]:
    """Why figures are missing, one line per metric and reason, with the number of clips."""
    found: dict[tuple[str, str], int] = {}
    for row in rows:
        for name, reason in row.missing.items():
            found[name, reason] = found.get((name, reason), 0) + 1
    return [f"{name} is missing for {n} of the results: {reason}" for (name, reason), n in found.items()]


def row_object(row: Row) -> dict[str, Any]:
    """A row as plain JSON values, metrics beside the other fields.

    Where there is no finite figure there is null: its reason is in ``missing``, or in ``not_finite`` what
    it is instead (nan, inf, -inf).
    """
    fields = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    del fields["metrics"], fields["missing"]
    figures = fields | row.metrics
    odd = {name: str(value) for name, value in figures.items() if plain(value) is None}
    return (
        {name: plain(value) for name, value in figures.items()}
        | dict.fromkeys(row.missing)
        | {"missing": row.missing, "not_finite": odd}
    )


def row_from_object(fields: Mapping[str, Any]) -> Row:
    """The row that `row_object` gave; rows of older versions name no system.

    Raises:
        TelucodecError: it is not a row.
    """
    known = {field.name for field in dataclasses.fields(Row)}
    found = {name: value for name, value in fields.items() if name not in ("source", "source_bytes")}
    missing: dict[str, str] = found.pop("missing", {})
    found |= {name: float(value) for name, value in found.pop("not_finite", {}).items()}
    found = {name: math.nan if value is None else value for name, value in found.items()}
    metrics = {name: value for name, value in found.items() if name not in known and name not in missing}
    try:
        found.setdefault("system", f"telucodec {found['kbps_wanted']:g}")
        own = {name: value for name, value in found.items() if name in known}
        return Row(**own, metrics=metrics, missing=missing)
    except (KeyError, TypeError) as error:
        raise TelucodecError(f"not a row of `telucodec eval --json`: {error}") from error


def summary_object(summary: Summary) -> dict[str, Any]:
    """A summary as plain JSON values, each figure as mean, low, high and n."""
    figures = {
        name: {"mean": plain(i.mean), "low": plain(i.low), "high": plain(i.high), "n": i.n}
        for name, i in summary.figures.items()
    }
    head = {
        "summary_of": summary.folder,
        "by": summary.by,
        "system": summary.system,
        "kbps_wanted": summary.kbps_wanted,
        "n_clips": summary.n_clips,
    }
    return head | figures


def to_json_lines(rows: Iterable[Row], summaries: Iterable[Summary] = ()) -> str:
    """One JSON object a line: every row, then every summary (marked by the key ``summary_of``)."""
    objects = [*map(row_object, rows), *map(summary_object, summaries)]
    return "".join(json.dumps(item, allow_nan=False) + "\n" for item in objects)


def _system_order(system: tuple[str, float]) -> tuple[bool, str, float]:
    """Ours first, then the others by name, each from its lowest rate up."""
    name, kbps = system
    family = name.rsplit(" ", 1)[0]
    return family != OURS, family, kbps


def _show_interval(column: Column, summary: Summary) -> str:
    interval = summary.figures[column.name]
    text = column.show(interval.mean)
    if not math.isnan(interval.low):
        text += f" [{column.show(interval.low)}, {column.show(interval.high)}]"
    return text if interval.n == summary.n_clips else f"{text} ({interval.n})"


def plain(value: Any) -> Any:
    """A value that strict JSON has: None for a figure that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
