"""Figures of every step, gathered on the device and read once per logging rhythm, for the doctor's rules.

Reading a scalar waits for the device; a stack of twenty steps costs the same one wait.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from telucodec.train.diagnostics.history import Reading
from telucodec.train.loop import StepResult

N_SAMPLED = 512  # entries of each parameter whose movement is followed
PEAKS = ("total", "grad_norm")  # whose largest value counts beside their mean


class Recorder:
    """Sums up the steps since the last reading; skipped steps are counted and left out."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []
        self._names: list[str] = []
        self._rates: list[float] = []
        self.n_overflows = 0

    def add(self, result: StepResult) -> None:
        """Keep one step; waits for nothing."""
        if result.is_skipped:
            return
        self._rates.append(result.terms["lr"].item())  # made on the CPU
        terms = {name: value for name, value in result.terms.items() if name != "lr"}
        weighted = {f"share/{name}": value for name, value in result.weighted.items()}
        stats = result.codebooks
        stages = range(len(stats.perplexity))
        by_stage = {"perplexity": stats.perplexity, "usage": stats.usage, "dead_age": stats.dead_age}
        names = [
            *terms,
            *weighted,
            *(f"codebook/{name}/{stage:02d}" for name in by_stage for stage in stages),
            "codebook/revived",
        ]
        if (
            names != self._names
        ):  # an adversary came in: a mean has to be over steps that have the same figures
            self._rows, self._names = [], names
        scalars = [value.float() for value in (*terms.values(), *weighted.values())]
        revived = stats.n_revived.sum().to(scalars[0].device, torch.float32)
        self._rows.append(torch.cat([torch.stack(scalars), *by_stage.values(), revived[None]]))

    def reading(self, step: int, n_codewords: int) -> Reading:
        """Means since the last reading, shares of the mean total, and peaks; empties the recorder."""
        reading: Reading = {"step": float(step)}
        if self._rows:
            rows = torch.stack(self._rows).cpu()
            reading |= dict(zip(self._names, rows.mean(dim=0).tolist(), strict=True))
            reading |= {f"{name}_max": rows[:, self._names.index(name)].max().item() for name in PEAKS}
            total = reading["total"] or 1.0
            shares = [name for name in reading if name.startswith("share/")]
            reading |= {name: reading[name] / total for name in shares}
            reading["codebook/revived_share"] = reading.pop("codebook/revived") / n_codewords
            reading["lr"] = self._rates[-1]
        n_steps = len(self._rows) + self.n_overflows
        reading["overflow_share"] = self.n_overflows / n_steps if n_steps else 0.0
        self._rows, self._rates, self.n_overflows = [], [], 0
        return reading

    def state_dict(self) -> dict[str, Any]:
        """The steps since the last reading."""
        rows = [row.cpu() for row in self._rows]
        return {"rows": rows, "names": self._names, "rates": self._rates, "n_overflows": self.n_overflows}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        self._rows = [row.to(device) for row in state["rows"]]
        self._names, self._rates = list(state["names"]), list(state["rates"])
        self.n_overflows = state["n_overflows"]


class Movement:
    """How far each part of a codec is from where it started, by a sample of its parameters."""

    def __init__(self, codec: nn.Module) -> None:
        self.start = _sampled(codec)

    def figures(self, codec: nn.Module) -> Reading:
        """``moved/part``: distance over the norm of the start."""
        now = _sampled(codec)
        return {
            f"moved/{part}": ((now[part] - start).norm() / start.norm().clamp_min(1e-12)).item()
            for part, start in self.start.items()
        }


def _sampled(codec: nn.Module) -> dict[str, Tensor]:
    parts = {}
    for name, part in codec.named_children():
        pieces = [p.detach().flatten() for p in part.parameters()]
        if pieces:
            parts[name] = torch.cat([piece[:: max(1, len(piece) // N_SAMPLED)] for piece in pieces]).cpu()
    return parts
