"""The figures of benchmarks/loss.py as a drawing: an SVG that reads on light and dark pages.

    python benchmarks/loss_plot.py loss.json docs/loss.svg

Points are means over runs. Bars at the methods that were compared with are two standard errors of the
concealment's lead over them, run by run: where a bar does not reach the concealment's point, it is ahead, or
behind, by more than chance.
"""

import argparse
import json
from pathlib import Path
from typing import Any

PANELS = {"pesq_wb": "PESQ-WB", "stoi": "STOI"}
STYLES = {  # line and marker color, dashes
    "concealment": ("#2f81f7", ""),
    "repeat last": ("#d9730d", "6 3"),
    "silence": ("#8250df", "2 3"),
}
WIDTH, HEIGHT = 330, 240  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 34, 40  # margins
CSS = """
text { font: 12px sans-serif; fill: #57606a }
.grid { stroke: #57606a; stroke-opacity: 0.2 }
@media (prefers-color-scheme: dark) { text { fill: #9da5ae } .grid { stroke: #9da5ae } }
"""


def line(x1: float, y1: float, x2: float, y2: float, rest: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {rest}/>'


def text(x: float, y: float, words: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'


def panel(rows: list[dict[str, Any]], key: str) -> list[str]:
    """One metric against the loss rate, its corner at the origin."""
    low, high = min(row[key] for row in rows), max(row[key] for row in rows)
    step = next(size for size in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if (high - low) / size < 7)
    first, last = int(low / step), int(high / step) + 1
    widest = max(row["loss"] for row in rows)

    def x(loss: float) -> float:
        return LEFT + loss / widest * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value / step - first) / (last - first) * (HEIGHT - TOP - BOTTOM)

    parts = [
        text(LEFT, TOP - 16, PANELS[key], "start"),
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "packets lost"),
    ]
    for tick in range(first, last + 1):
        height = y(tick * step)
        parts.append(line(LEFT, height, WIDTH - RIGHT, height, 'class="grid"'))
        parts.append(text(LEFT - 6, height + 4, f"{tick * step:.4g}", "end"))
    for loss in sorted({row["loss"] for row in rows}):
        parts.append(
            text(x(loss), HEIGHT - BOTTOM + 16, f"{loss:.0%}" if loss in (0, widest) else f"{100 * loss:g}")
        )
    for method, (color, dashes) in STYLES.items():
        found = [row for row in rows if row["method"] == method]
        places = " ".join(f"{x(row['loss']):.1f},{y(row[key]):.1f}" for row in found)
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        parts.append(f'<polyline points="{places}" fill="none" stroke="{color}" stroke-width="2"{dashed}/>')
        for row in found:
            at, error = x(row["loss"]), 2 * row.get(f"{key}_lead_error", 0.0)
            parts.append(f'<circle cx="{at:.1f}" cy="{y(row[key]):.1f}" r="3" fill="{color}"/>')
            parts.append(line(at, y(row[key] - error), at, y(row[key] + error), f'stroke="{color}"'))
    return parts


def drawing(rows: list[dict[str, Any]]) -> str:
    """Panels beside each other, their legend on top of the first."""
    width = WIDTH * len(PANELS)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT + 20}" width="{width}">',
        f"<title>Quality against lost packets, by method</title><style>{CSS}</style>",
    ]
    for index, (method, (color, dashes)) in enumerate(STYLES.items()):
        at = LEFT + 130 * index
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        parts += [
            line(at, 10, at + 26, 10, f'stroke="{color}" stroke-width="2"{dashed}'),
            text(at + 32, 14, method, "start"),
        ]
    for index, key in enumerate(PANELS):
        parts += [f'<g transform="translate({WIDTH * index} 20)">', *panel(rows, key), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figures", type=Path)
    parser.add_argument("out", type=Path)
    chosen = parser.parse_args()
    rows = json.loads(chosen.figures.read_text(encoding="utf-8"))["rows"]
    chosen.out.write_text(drawing(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
