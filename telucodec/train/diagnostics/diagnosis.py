"""What a rule finds, in words and numbers, and how it is written down.

A rule answers with evidence only; cause, remedy and severity of its id are in `catalog`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from telucodec.train.diagnostics.catalog import CATALOG

Evidence = Mapping[str, float | str] | Mapping[str, float]
"""Named facts, such as ``{"range ratio": 0.08, "threshold": 0.3}``."""

Curve = list[tuple[int, float]]
"""``(step, value)`` pairs, oldest first."""


@dataclass(frozen=True)
class Diagnosis:
    """An illness of `catalog.CATALOG`, found in one run at one step (0: before the first)."""

    id: str
    step: int
    evidence: Evidence
    curves: Mapping[str, Curve] = field(default_factory=dict)  # what the rule watched, for the plot
    is_warning: bool = False  # told, and nothing else

    @property
    def cause(self) -> str:
        return CATALOG[self.id].cause

    @property
    def remedy(self) -> str:
        return CATALOG[self.id].remedy

    def line(self) -> str:
        """One line for the console."""
        when = f"step {self.step}" if self.step else "before the first step"
        facts = ", ".join(f"{name} {shown(value)}" for name, value in self.evidence.items())
        return f"{self.id} ({when}): {facts}"

    def describe(self) -> dict[str, Any]:
        """Plain values for ``diagnosis.json``."""
        return dataclasses.asdict(self) | {"cause": self.cause, "remedy": self.remedy}

    def markdown(self) -> str:
        """For a person: what was found, why, and what to change."""
        rows = [f"| {name} | {shown(value)} |" for name, value in self.evidence.items()]
        table = ["| evidence | value |", "|---|---|", *rows]
        texts = (
            f"## {self.line().partition(':')[0]}",
            self.cause,
            "\n".join(table),
            f"**Try:** {self.remedy}",
        )
        return "\n\n".join(texts) + f"\n\nMore: docs/doctor.md, section {self.id}.\n"


def diagnose(
    name: str, step: int, evidence: Evidence, curves: Mapping[str, Curve] | None = None
) -> Diagnosis:
    """A diagnosis with the severity that the catalog gives its id."""
    return Diagnosis(name, step, evidence, curves or {}, is_warning=CATALOG[name].is_warning)


def shown(value: float | str) -> str:
    """A fact as a person reads it."""
    return value if isinstance(value, str) else f"{value:.4g}"
