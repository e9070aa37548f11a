"""Small plots of what a rule watched, as SVG: one panel per curve, steps to the right."""

from collections.abc import Mapping
from html import escape

from telucodec.train.diagnostics.diagnosis import Curve

WIDTH, HEIGHT, LEFT, GAP = 480, 110, 70, 26  # pixels of one panel


def draw(curves: Mapping[str, Curve], *, title: str) -> str:
    """An SVG document; values that are not finite are left out."""
    parts = [f'<text x="4" y="16" font-weight="bold">{escape(title)}</text>']
    for index, (name, curve) in enumerate(curves.items()):
        parts += _panel(
            name, [(s, v) for s, v in curve if abs(v) < float("inf")], GAP + index * (HEIGHT + GAP)
        )
    height = GAP + len(curves) * (HEIGHT + GAP)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 10}" height="{height}"'
    return "\n".join([f'{head} font-family="sans-serif" font-size="11">', *parts, "</svg>", ""])


def _panel(name: str, curve: Curve, top: int) -> list[str]:
    if not curve:
        return []
    steps, values = [step for step, _ in curve], [value for _, value in curve]
    low, high = min(values), max(values)
    span, length = (high - low) or 1.0, (steps[-1] - steps[0]) or 1
    points = " ".join(
        f"{LEFT + WIDTH * (step - steps[0]) / length:.1f},{top + HEIGHT * (high - value) / span:.1f}"
        for step, value in curve
    )
    return [
        f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#bbb"/>',
        f'<polyline points="{points}" fill="none" stroke="#c33" stroke-width="1.5"/>',
        f'<text x="{LEFT + 4}" y="{top + 13}">{escape(name)}</text>',
        f'<text x="4" y="{top + 10}">{high:.3g}</text>',
        f'<text x="4" y="{top + HEIGHT}">{low:.3g}</text>',
        f'<text x="{LEFT}" y="{top + HEIGHT + 12}">{steps[0]}</text>',
        f'<text x="{LEFT + WIDTH}" y="{top + HEIGHT + 12}" text-anchor="end">step {steps[-1]}</text>',
    ]
