"""What a run writes as it goes: JSON lines and TensorBoard. Door of tensorboard.

Names: ``train/*`` terms of one batch, ``share/*`` weight x term over the total, ``codebook/*`` health
by stage, ``valid/*@R`` figures on the fixed clips at R kbps.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from telucodec.spectral import log_mel
from telucodec.train.diagnostics.diagnosis import Diagnosis
from telucodec.train.loop import StepResult


class RunLog:
    """Scalars to ``metrics.jsonl`` and TensorBoard event files; sound and pictures to the latter only."""

    def __init__(self, folder: Path) -> None:
        self._lines = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._board.close()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line and one point per name."""
        self._lines.write(json.dumps({"step": step} | dict(values)) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def note(self, diagnosis: Diagnosis) -> None:
        """What the doctor says, as text, and a plot of each figure that it watched."""
        self._board.add_text("doctor", diagnosis.markdown(), diagnosis.step)
        for name, curve in diagnosis.curves.items():
            for step, value in curve:
                self._board.add_scalar(f"doctor/{diagnosis.id}/{name}", value, step)

    def sound(self, step: int, name: str, wav: Tensor, rate_hz: int) -> None:
        """A clip ``[T]`` to listen to, and its log-mel picture."""
        self._board.add_audio(name, wav[None], step, sample_rate=rate_hz)
        picture = ((log_mel(wav, rate_hz) + 5) / 5).clamp(0, 1).flip(0)  # [M, L], low bands at the bottom
        self._board.add_image(f"{name}_mel", picture[None], step)


def step_scalars(result: StepResult, steps_per_s: float, audio_per_s: float) -> dict[str, float]:
    """Everything one step knows, as numbers; reading them waits for the device.

    Of a step whose update was skipped, only the values that are finite.
    """
    values = {f"train/{name}": value.item() for name, value in result.terms.items()}
    total = values["train/total"] or 1.0
    values |= {f"share/{name}": value.item() / total for name, value in result.weighted.items()}
    values = {name: value for name, value in values.items() if math.isfinite(value)}
    stats = result.codebooks
    for stage in range(len(stats.perplexity)):
        values[f"codebook/perplexity_{stage:02d}"] = stats.perplexity[stage].item()
        values[f"codebook/usage_{stage:02d}"] = stats.usage[stage].item()
    values["codebook/perplexity_mean"] = stats.perplexity.mean().item()
    values["codebook/usage_min"] = stats.usage.min().item()
    values["codebook/dead_age_max"] = stats.dead_age.max().item()
    values["codebook/revived"] = float(stats.n_revived.sum())
    values["speed/steps_per_s"] = steps_per_s
    values["speed/audio_s_per_s"] = audio_per_s
    return values
