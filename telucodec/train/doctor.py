"""The one place that reacts to what the rules find: warn, go back once with half the rate, or stop.

Its state travels with every checkpoint, so that a resumed run is judged as one that never stopped.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from telucodec.config import Config
from telucodec.files import replacing
from telucodec.train.diagnostics.diagnosis import Diagnosis
from telucodec.train.diagnostics.history import History, Plan, Reading
from telucodec.train.diagnostics.plot import draw
from telucodec.train.diagnostics.rules import examine

JSON, MARKDOWN = "diagnosis.json", "diagnosis.md"
MAX_ROLLBACKS = 1


class Doomed(Exception):
    """Leaves the training loop; the weights as they are now are not worth keeping."""

    def __init__(self, diagnoses: list[Diagnosis]) -> None:
        super().__init__(diagnoses[0].line())
        self.diagnoses = diagnoses


class Doctor:
    """Keeps the history of a run and decides.

    Args:
        tell: shows a person one line.
    """

    def __init__(self, config: Config, tell: Callable[[str], None]) -> None:
        self.settings, self._tell = config.doctor, tell
        self.history = History(plan_of(config))
        self.n_rollbacks = 0
        self.healthy_step = 0  # of the newest checkpoint saved while nothing was wrong
        self.bad_in_a_row = 0
        self._told: set[str] = set()
        self._is_ill = False

    @property
    def is_healthy(self) -> bool:
        """Nothing but warnings at the last examination, and no update skipped since."""
        return not self._is_ill and not self.bad_in_a_row

    @property
    def has_lost_patience(self) -> bool:
        """As many updates skipped in a row as make a diagnosis."""
        return self.bad_in_a_row >= self.settings.n_bad_batches

    def examine(self, reading: Reading, *, culprit: str = "") -> list[Diagnosis]:
        """Ask every rule; tells what is new but no reason to stop, once, and returns it.

        Args:
            culprit: where a value that is not finite came from, as evidence.

        Raises:
            Doomed: an illness that the settings do not ignore, and a reaction other than ``warn``.
        """
        self.history.add(reading | {"bad_in_a_row": float(self.bad_in_a_row)})
        found = [_with_culprit(diagnosis, culprit) for diagnosis in examine(self.history)]
        serious = [d for d in found if not d.is_warning and d.id not in self.settings.ignore]
        self._is_ill = bool(serious)
        if serious and self.settings.reaction != "warn":
            raise Doomed(serious)
        news = [diagnosis for diagnosis in found if diagnosis.id not in self._told]
        for diagnosis in news:
            self._told.add(diagnosis.id)
            self._tell(f"doctor: {diagnosis.line()}. {diagnosis.cause} Try: {diagnosis.remedy}")
        return news

    @property
    def may_roll_back(self) -> bool:
        return self.settings.reaction == "rollback" and self.n_rollbacks < MAX_ROLLBACKS

    def state_dict(self) -> dict[str, Any]:
        return {
            "history": self.history.state_dict(),
            "n_rollbacks": self.n_rollbacks,
            "healthy_step": self.healthy_step,
            "bad_in_a_row": self.bad_in_a_row,
            "told": sorted(self._told),
            "is_ill": self._is_ill,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.history.load_state_dict(state["history"])
        self.n_rollbacks, self.healthy_step = state["n_rollbacks"], state["healthy_step"]
        self.bad_in_a_row, self._is_ill = state["bad_in_a_row"], state["is_ill"]
        self._told = set(state["told"])


def _with_culprit(diagnosis: Diagnosis, culprit: str) -> Diagnosis:
    if diagnosis.id != "non-finite" or not culprit:
        return diagnosis
    return dataclasses.replace(diagnosis, evidence={**diagnosis.evidence, "first found in": culprit})


def plan_of(config: Config) -> Plan:
    """What rules know of the settings."""
    by_gradient = ("quantizer",) if config.model.quantizer.codebook_update == "gradient" else ()
    learned = (config.train.parts,) if config.train.keeps_codes else ("encoder", "decoder", *by_gradient)
    return Plan(
        codebook_size=config.model.quantizer.codebook_size,
        n_warmup_steps=config.optim.n_warmup_steps,
        max_grad_norm=config.optim.max_grad_norm,
        n_bad_batches=config.doctor.n_bad_batches,
        learned_by_gradient=learned,
    )


def write_down(folder: Path, diagnoses: list[Diagnosis], reaction: str) -> None:
    """``diagnosis.json``, ``diagnosis.md`` and a plot of each curve watched, in the run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"reaction": reaction, "diagnoses": [diagnosis.describe() for diagnosis in diagnoses]}
    texts = [f"# Diagnosis\n\n{reaction}.", *(diagnosis.markdown() for diagnosis in diagnoses)]
    for diagnosis in diagnoses:
        if diagnosis.curves:
            name = f"diagnosis-{diagnosis.id}.svg"
            (folder / name).write_text(draw(diagnosis.curves, title=diagnosis.id), encoding="utf-8")
            texts.append(f"![{diagnosis.id}]({name})\n")
    with replacing(folder / JSON) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    with replacing(folder / MARKDOWN) as temporary:
        temporary.write_text("\n\n".join(texts), encoding="utf-8")
