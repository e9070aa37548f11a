"""The page itself: what the template is given, and how it becomes one file.

Pictures, sounds, style and scripts lie inside the file; a content policy in its head forbids the browser
to fetch anything. Everything that a file name or a codec could have chosen is escaped by the template
engine. The same clips and rows give the same bytes.

Shapes: T samples, Q codebooks, L frames.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jinja2
from markupsafe import Markup

from telucodec.evaluate.listening import pictures, sound
from telucodec.evaluate.listening.clip import ReportClip, Signal
from telucodec.evaluate.listening.plots import HEIGHT, WIDTH, family_indices, rate_plots
from telucodec.evaluate.listening.systems import (
    HEADLINE,
    PER_CLIP,
    PER_GROUP,
    System,
    clip_cells,
    columns_of,
    group_table,
    list_groups,
    list_systems,
    table,
)
from telucodec.evaluate.report import Row, reasons

ORIGINAL = "Original"
LOW_ANCHOR = "Low anchor"
_ASSETS = Path(__file__).with_name("assets")
_SCRIPTS = ("player.js", "listen.js", "ratings.js", "blind.js")  # one scope, in this order
_TICK_STEPS_S = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)
_MOST_TICKS = 9


@dataclass(frozen=True, slots=True)
class Take:
    """One version of a clip: its sound, and how it looks."""

    name: str
    gain_db: float  # makes it as loud as the original
    audio: str  # data URI
    spectrogram: str = ""  # data URI
    difference: str = ""  # data URI; empty for the original
    waveform: str = ""  # SVG path


@dataclass(frozen=True, slots=True)
class ClipLine:
    """A system in the table of one clip."""

    name: str
    family: int
    cells: list[str]
    take: int | None  # place among the takes; None without audio


@dataclass(frozen=True, slots=True)
class ClipView:
    """Everything that the page shows of one clip."""

    clip: ReportClip
    takes: list[Take]  # the original first
    low_anchor: Take
    lines: list[ClipLine]
    ticks: list[tuple[float, str]]  # percent of the width, seconds
    codes: str  # data URI; empty without codes
    stages: list[pictures.StageUse]


def render(clips: Sequence[ReportClip], rows: Sequence[Row], *, title: str, model: str) -> str:
    """The page as HTML: ``rows`` in tables and plots, ``clips`` to hear and see."""
    names = dict.fromkeys(name for clip in clips for name in clip.estimates)
    systems = list_systems(rows, names)
    views = [_view(clip, systems) for clip in clips]
    return _template().render(
        title=title,
        model=model,
        report_id=_identity(title, model, clips),
        clips=views,
        systems=systems,
        families=family_indices(systems),
        n_measured=len({(row.folder, row.clip) for row in rows}),
        is_mixed=len({frozenset(row.clip for row in system.rows) for system in systems if system.rows}) > 1,
        tables=_tables(systems, rows),
        plots=rate_plots(systems),
        plot_size=(WIDTH, HEIGHT),
        reasons=reasons(rows),
        picture_width=pictures.N_COLUMNS,
        range_db=f"{pictures.RANGE_DB:g}",
        difference_db=f"{pictures.DIFFERENCE_DB:g}",
        style=_asset("style.css"),
        script=Markup("\n").join(_asset(name) for name in _SCRIPTS),
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


def _asset(name: str) -> Markup:
    """Text of the package, which needs no escaping."""
    return Markup((_ASSETS / name).read_text(encoding="utf-8"))


def _tables(systems: Sequence[System], rows: Sequence[Row]) -> dict[str, object]:
    """The headline, every figure, and one table per quality figure with a column per group."""
    columns = columns_of(rows)
    kinds: tuple[Literal["folder"], Literal["language"]] = ("folder", "language")
    grouped = {}
    for by in kinds:
        if groups := list_groups(rows, by):
            lines = [(column, group_table(systems, column, groups)) for column in PER_GROUP]
            grouped[by] = ([name for _, name in groups], lines)
    return {
        "headline": (HEADLINE, table(systems, HEADLINE)),
        "per_clip": PER_CLIP,
        "full": (columns, table(systems, columns)),
        "grouped": grouped,
    }


def _view(clip: ReportClip, systems: Sequence[System]) -> ClipView:
    heard = [system.name for system in systems if system.name in clip.estimates]
    takes = _takes(clip, heard)
    anchor = sound.low_anchor(clip.reference, clip.rate_hz)
    families = family_indices(systems)
    lines = [
        ClipLine(
            name=system.name,
            family=families[system.family],
            cells=clip_cells(system.row_of(clip.clip, clip.folder), PER_CLIP),
            take=heard.index(system.name) + 1 if system.name in clip.estimates else None,
        )
        for system in systems
        if system.name in clip.estimates or system.row_of(clip.clip, clip.folder)
    ]
    return ClipView(
        clip=clip,
        takes=takes,
        low_anchor=_low_anchor(clip, anchor, takes[0].gain_db),
        lines=sorted(lines, key=lambda line: line.take is None),
        ticks=_ticks(clip.seconds),
        codes="" if clip.codes is None else pictures.codes_uri(clip.codes),
        stages=[] if clip.codes is None else pictures.code_use(clip.codes),
    )


def _takes(clip: ReportClip, heard: Sequence[str]) -> list[Take]:
    signals: dict[str, Signal] = {ORIGINAL: clip.reference} | {name: clip.estimates[name] for name in heard}
    gains = sound.matching_gains_db(list(signals.values()), clip.rate_hz)
    peak = max(float(abs(wav).max()) for wav in signals.values())
    reference_db = pictures.spectrogram_db(clip.reference, clip.rate_hz)
    top_db = float(reference_db.max())
    takes = []
    for (name, wav), gain_db in zip(signals.items(), gains, strict=True):
        is_original = wav is clip.reference
        decibels = reference_db if is_original else pictures.spectrogram_db(wav, clip.rate_hz)
        takes.append(
            Take(
                name=name,
                gain_db=gain_db,
                audio=sound.flac_uri(wav, clip.rate_hz),
                spectrogram=pictures.spectrogram_uri(decibels, top_db),
                difference="" if is_original else pictures.difference_uri(reference_db, decibels, top_db),
                waveform=pictures.waveform_path(wav, peak),
            )
        )
    return takes


def _low_anchor(clip: ReportClip, wav: Signal, reference_gain_db: float) -> Take:
    """As loud as the original; lowered further only if its own peak would clip."""
    matched = sound.matching_gains_db([clip.reference, wav], clip.rate_hz)
    gain_db = min(reference_gain_db + matched[1] - matched[0], _gain_to_full_scale(wav))
    return Take(LOW_ANCHOR, gain_db, sound.flac_uri(wav, clip.rate_hz))


def _gain_to_full_scale(wav: Signal) -> float:
    peak = float(abs(wav).max())
    return -20.0 * math.log10(peak) if peak > 0.0 else 0.0


def _ticks(seconds: float) -> list[tuple[float, str]]:
    step = next((s for s in _TICK_STEPS_S if seconds / s <= _MOST_TICKS), seconds / _MOST_TICKS)
    n_ticks = math.floor(seconds / step) + 1
    return [(round(100.0 * n * step / seconds, 2), f"{n * step:.3g}") for n in range(n_ticks)]


def _identity(title: str, model: str, clips: Sequence[ReportClip]) -> str:
    """Names what was heard, so that ratings of one page are never mixed with those of another."""
    digest = hashlib.sha256(f"{title}\0{model}".encode())
    for clip in clips:
        digest.update(f"\0{clip.folder}\0{clip.clip}\0{clip.rate_hz}".encode())
        for name, wav in ({ORIGINAL: clip.reference} | clip.estimates).items():
            digest.update(f"\0{name}\0".encode() + wav.astype("<f4").tobytes())
    return digest.hexdigest()[:12]
