"""Two short trials on a network of their own: one batch over and over, and the recipe as it stands."""

import dataclasses
import statistics
import time

import torch
from torch import Tensor

from telucodec.config import Config, OptimConfig
from telucodec.train.assembly import Assembly
from telucodec.train.diagnostics.diagnosis import Diagnosis, diagnose
from telucodec.train.loop import train_step
from telucodec.train.preflight.network import weighted_terms

N_ITEMS = 2  # of the batch that is learned by heart
RATE = 3e-4  # at 1e-3 published recipes lose SNR on that batch before they gain it
GAIN_DB, FALL = (
    0.3,
    0.1,
)  # SNR that a batch must gain, or the share of its loss that it must lose: either will do
RISEN = 1.5  # times the loss of the first steps; healthy: 0.9 to 1.2


def overfit(assembly: Assembly, config: Config, wav: Tensor) -> tuple[list[Diagnosis], list[str]]:
    """Learn a few crops ``[B, 1, T]`` at `RATE` with all stages, whatever the recipe says."""
    n_steps = config.doctor.n_trial_steps
    quantizer = dataclasses.replace(config.model.quantizer, dropout=0.0)
    trial = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, quantizer=quantizer),
        optim=OptimConfig(lr=RATE, n_warmup_steps=n_steps // 4, weight_decay=0.0, weight_ema_decay=0.0),
        train=dataclasses.replace(config.train, n_steps=2 * n_steps),
    )
    wav = wav[:N_ITEMS].to(assembly.fabric.device)
    steps = [train_step(assembly.fabric, assembly.trainee, assembly.loss, trial, wav) for _ in range(n_steps)]
    snr = [step.terms["snr_db"].item() for step in steps]
    loss = [step.terms["total"].item() for step in steps]
    start, end, left = snr[0], statistics.median(snr[-3:]), statistics.median(loss[-3:]) / loss[0]
    lines = [f"one batch: SNR {start:.1f} -> {end:.1f} dB, loss x {left:.2f} in {n_steps} steps"]
    if end - start >= GAIN_DB or left <= 1 - FALL:
        return [], lines
    evidence = {
        "SNR before dB": start, "SNR after dB": end, "expected gain dB": GAIN_DB,
        "loss left": left, "expected at most": 1 - FALL,
    }  # fmt: skip
    return [diagnose("cannot-overfit", 0, evidence)], lines


@dataclasses.dataclass(frozen=True)
class Pace:
    """How fast the recipe runs."""

    steps_per_s: float

    def hours(self, n_steps: int) -> float:
        return n_steps / self.steps_per_s / 3600


def try_recipe(
    assembly: Assembly, config: Config, wavs: list[Tensor]
) -> tuple[list[Diagnosis], list[str], Pace]:
    """The first steps of the recipe as it stands, one on each batch."""
    n_steps, n_last = len(wavs), max(1, len(wavs) // 3)
    wavs = [wav.to(assembly.fabric.device) for wav in wavs]
    before = _losses(assembly, config, wavs[-n_last:])
    losses, clock = [], []
    for wav in wavs:
        clock.append(time.monotonic())
        step = train_step(assembly.fabric, assembly.trainee, assembly.loss, config, wav)
        losses.append(step.terms["total"].item())
    clock.append(time.monotonic())
    pace = Pace((n_steps - n_steps // 3) / max(1e-9, clock[-1] - clock[n_steps // 3]))
    start, end = statistics.median(before), statistics.median(losses[-n_last:])
    lines = [
        f"recipe: loss of the last {n_last} batches {start:.3g} before, {end:.3g} after {n_steps} steps; "
        f"{pace.steps_per_s:.2f} steps/s"
    ]
    if end <= RISEN * start:  # false also for what is not a number
        return [], lines, pace
    evidence = {"loss before": start, "loss after": end, "threshold": RISEN * start, "rate": config.optim.lr}
    return [diagnose("learning-rate-high", 0, evidence)], lines, pace


@torch.no_grad()
def _losses(assembly: Assembly, config: Config, wavs: list[Tensor]) -> list[float]:
    """Weighted loss of each batch, nothing learned."""
    return [sum(float(v) for v in weighted_terms(assembly, config, wav).values()) for wav in wavs]
