"""What the rules look at: figures of a run by step, averaged over the steps between two readings.

Plain numbers only, so that rules can be tried on the ``metrics.jsonl`` of any run.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from telucodec.train.diagnostics.diagnosis import Curve, Diagnosis, Evidence, diagnose

N_KEPT = 300  # readings; of a longer run every other one of the older half is forgotten, again and again
TIMED = ("wait_share",)
PULLED, LEARNED = "adversary/deceit", "adversary/loss"  # in readings in which an adversary did so
NORMAL_STEPS = 100  # after the warmup: what they show is normal for the run
N_SAMPLES = 3  # readings that a judgment needs at least, however long the steps between them

Reading = dict[str, float]
"""Figures of the steps since the last reading by name, and its own step under ``"step"``."""


@dataclass(frozen=True)
class Plan:
    """What a rule has to know about the settings of a run."""

    codebook_size: int
    n_warmup_steps: int
    max_grad_norm: float
    n_bad_batches: int = 3
    learned_by_gradient: tuple[str, ...] = ("encoder", "decoder")


@dataclass
class History:
    """Readings of a run, oldest first, and its validations."""

    plan: Plan
    readings: list[Reading] = field(default_factory=list)
    validations: list[Reading] = field(default_factory=list)
    before_pull: float | None = None  # median loss of the steps in which an adversary only learned

    @property
    def step(self) -> int:
        return int(self.readings[-1]["step"]) if self.readings else 0

    def add(self, reading: Reading) -> None:
        """Append; a long run remembers its past at larger and larger steps, its normal state as it was."""
        if PULLED in reading and self.before_pull is None:
            alone = [past["total"] for past in self.readings if LEARNED in past and PULLED not in past]
            self.before_pull = statistics.median(alone) if len(alone) >= N_SAMPLES else None
        self.readings.append(reading)
        if len(self.readings) > N_KEPT:
            self.readings = [
                kept
                for number, kept in enumerate(self.readings)
                if number % 2 == 0 or number >= N_KEPT // 2 or self._is_normal(kept["step"])
            ]

    def names(self, prefix: str) -> list[str]:
        """Figures of the newest reading that start with ``prefix``."""
        return [name for name in (self.readings[-1] if self.readings else ()) if name.startswith(prefix)]

    def curve(self, name: str) -> Curve:
        return [(int(reading["step"]), reading[name]) for reading in self.readings if name in reading]

    def recent(self, name: str, n_steps: int) -> list[float]:
        """Values of the last ``n_steps``, at least `N_SAMPLES` of them; empty while the run is younger."""
        if self.step < n_steps:
            return []
        chosen: list[float] = []
        for reading in reversed(self.readings):
            if reading["step"] <= self.step - n_steps and len(chosen) >= N_SAMPLES:
                break
            if name in reading:
                chosen.append(reading[name])
        return chosen[::-1] if len(chosen) >= N_SAMPLES else []

    def before(self, name: str, n_steps: int, *, at_least: int = 3) -> float | None:
        """Median of the values older than the last ``n_steps``; None if they are too few."""
        older = [value for step, value in self.curve(name) if step <= self.step - n_steps]
        return statistics.median(older) if len(older) >= at_least else None

    def after_warmup(self, name: str) -> float | None:
        """Median over the first `NORMAL_STEPS` after the warmup: what is normal for this run."""
        if not self.readings:
            return None
        first = [value for step, value in self.curve(name) if self._is_normal(step)]
        is_over = self.step > self._n_unusual + NORMAL_STEPS
        return statistics.median(first) if len(first) >= N_SAMPLES and is_over else None

    @property
    def _n_unusual(self) -> float:
        """Steps before a normal one: the warmup, or what came before a change of the loss."""
        return max(self.plan.n_warmup_steps, self.readings[0]["step"])

    def _is_normal(self, step: float) -> bool:
        return 0 < step - self._n_unusual <= NORMAL_STEPS

    def state_dict(self) -> dict[str, Any]:
        """All but what the clock says: a resumed run must equal one that never stopped."""
        readings = [
            {name: v for name, v in reading.items() if name not in TIMED} for reading in self.readings
        ]
        return {"readings": readings, "validations": self.validations, "before_pull": self.before_pull}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.readings, self.validations = list(state["readings"]), list(state["validations"])
        self.before_pull = state.get("before_pull")  # an older checkpoint has none

    def forget(self) -> None:
        """Drop what says nothing about a changed loss: all but the validations."""
        self.readings, self.before_pull = [], None


@dataclass(frozen=True)
class Rule:
    """One id, what it watches (for the plot), how patient it is, and the judgment itself."""

    id: str
    watches: tuple[str, ...]
    patience_steps: int
    judge: Callable[[History, int], Evidence | None]  # (history, patience) -> evidence of illness

    def __call__(self, history: History) -> Diagnosis | None:
        evidence = self.judge(history, self.patience_steps)
        if evidence is None:
            return None
        curves = {name: history.curve(name) for name in self.watches}
        return diagnose(self.id, history.step, evidence, {n: c for n, c in curves.items() if c})
