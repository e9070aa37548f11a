"""The rows of benchmarks/cost.py as a Markdown table and as an SVG that reads on light and dark pages."""

import math
from typing import Any

from loss_plot import CSS, line, text

from telucodec.evaluate.report import MISSING, Table

PANELS = {"pesq_wb": "PESQ-WB", "stoi": "STOI", "snr_db": "SNR, dB", "mel_distance_db": "mel distance, dB"}
COLORS = ("#d9730d", "#2f81f7", "#8250df", "#1a7f37")  # of the curves in the order of their first rows
DASHES = {"6": "", "3": "5 3"}  # by kbps
STEPS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
WIDTH, HEIGHT = 330, 230  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 30, 40  # margins
LEGEND = 38  # height
COLUMNS = {"pesq_wb": 2, "stoi": 3, "snr_db": 1, "range_ratio": 2, "mel_distance_db": 2}  # decimals
HEADER = ("curve", "minutes", "updates", "PESQ-WB", "STOI", "SNR dB", "range ratio", "mel distance dB")


def curves_of(rows: list[dict[str, Any]]) -> list[str]:
    """Names of the curves in the order of their first rows."""
    return list(dict.fromkeys(row["curve"] for row in rows))


def table(rows: list[dict[str, Any]]) -> Table:
    """A line for each curve and budget, figures at 3 / 6 kbps."""
    lines = []
    for row in sorted(rows, key=lambda row: (curves_of(rows).index(row["curve"]), row["minutes"])):
        cells = [
            " / ".join(_cell(row["figures"][kbps].get(name, math.nan), decimals) for kbps in ("3", "6"))
            for name, decimals in COLUMNS.items()
        ]
        lines.append((row["curve"], f"{row['minutes']:g}", f"{row['n_steps']:,}", *cells))
    return Table(HEADER, tuple(lines))


def drawing(rows: list[dict[str, Any]]) -> str:
    """Metrics against minutes of one core, two panels in a row; a logarithm has no place for rows of 0."""
    rows = sorted((row for row in rows if row["minutes"] > 0), key=lambda row: row["minutes"])
    colors = dict(zip(curves_of(rows), COLORS, strict=False))
    width, height = 2 * WIDTH, (len(PANELS) + 1) // 2 * HEIGHT + LEGEND
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">',
        f"<title>Quality against minutes of training on one core</title><style>{CSS}</style>",
    ]
    for index, (curve, color) in enumerate(colors.items()):
        at = LEFT + 150 * index
        parts += [
            line(at, 10, at + 26, 10, f'stroke="{color}" stroke-width="2"'),
            text(at + 32, 14, curve, "start"),
        ]
    parts.append(text(LEFT, 32, "solid 6 kbps, dashed 3", "start"))
    for index, key in enumerate(PANELS):
        place = f"{WIDTH * (index % 2)} {LEGEND + HEIGHT * (index // 2)}"
        parts += [f'<g transform="translate({place})">', *_panel(rows, key, colors), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(rows: list[dict[str, Any]], key: str, colors: dict[str, str]) -> list[str]:
    """One metric, its corner at the origin."""
    values = [row["figures"][kbps][key] for row in rows for kbps in DASHES if key in row["figures"][kbps]]
    low, high = min(values), max(values)
    size = next((size for size in STEPS if (high - low) / size < 7), 10.0)
    first, last = math.floor(low / size), math.floor(high / size) + 1
    budgets = sorted({row["minutes"] for row in rows})
    span = math.log(budgets[-1] / budgets[0]) or 1.0

    def x(minutes: float) -> float:
        return LEFT + 12 + math.log(minutes / budgets[0]) / span * (WIDTH - LEFT - RIGHT - 24)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value / size - first) / (last - first) * (HEIGHT - TOP - BOTTOM)

    parts = [text(LEFT, TOP - 12, PANELS[key], "start")]
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "minutes of one core"))
    for tick in range(first, last + 1):
        height = y(tick * size)
        parts.append(line(LEFT, height, WIDTH - RIGHT, height, 'class="grid"'))
        parts.append(text(LEFT - 6, height + 4, f"{tick * size:.4g}", "end"))
    parts += [text(x(minutes), HEIGHT - BOTTOM + 16, f"{minutes:g}") for minutes in budgets]
    for curve, color in colors.items():
        for kbps, dashes in DASHES.items():
            found = [
                (x(row["minutes"]), y(row["figures"][kbps][key]))
                for row in rows
                if row["curve"] == curve and key in row["figures"][kbps]
            ]
            places = " ".join(f"{at:.1f},{height:.1f}" for at, height in found)
            dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
            style = f'fill="none" stroke="{color}" stroke-width="2"{dashed}'
            parts.append(f'<polyline points="{places}" {style}/>')
            parts += [
                f'<circle cx="{at:.1f}" cy="{height:.1f}" r="3" fill="{color}"/>' for at, height in found
            ]
    return parts


def _cell(value: float, decimals: int) -> str:
    return MISSING if math.isnan(value) else f"{value:.{decimals}f}"
