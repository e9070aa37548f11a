"""Failures made on purpose: what broke other people's runs, as switches on the real trainer.

Only `telucodec.config.FaultConfig` reaches this file, and only the museum of failures sets it. Each fault
spoils a finished codec, loss, corpus or batch from outside, so that the healthy code stays free of switches.

Shapes: B batch, D latent width, L frames, T samples.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from telucodec.errors import ConfigError
from telucodec.model.codebooks import CodebookLearner
from telucodec.model.codec import Codec
from telucodec.model.decoder import Decoder, DecoderState
from telucodec.model.quantizer import Quantized, ResidualVectorQuantizer
from telucodec.train.data import Batches, Corpus
from telucodec.train.losses import ReconstructionLoss, Terms

FIRST_NAN_STEP = 30


class _NoCodebookLoss(ResidualVectorQuantizer):
    """Commitment only: nothing moves the codewords."""

    def forward(
        self, latents: Tensor, n_active: Tensor | None = None, *, is_spread: bool = False
    ) -> Quantized:
        made = super().forward(latents, n_active, is_spread=is_spread)
        return made._replace(codebook_loss=torch.zeros_like(made.codebook_loss))


class _NoStraightThrough(ResidualVectorQuantizer):
    """The codewords themselves: no gradient passes."""

    def forward(
        self, latents: Tensor, n_active: Tensor | None = None, *, is_spread: bool = False
    ) -> Quantized:
        made = super().forward(latents, n_active, is_spread=is_spread)
        return made._replace(latents=made.latents.detach())


class _ManyStraightThroughs(ResidualVectorQuantizer):
    """One copy per stage, added up: the gradient is multiplied by the number of stages."""

    def forward(
        self, latents: Tensor, n_active: Tensor | None = None, *, is_spread: bool = False
    ) -> Quantized:
        made = super().forward(latents, n_active, is_spread=is_spread)
        extra = (made.n_active - 1).to(latents.dtype)[:, None] * (latents - latents.detach())
        return made._replace(latents=made.latents + extra)


class _SummedLosses(ResidualVectorQuantizer):
    """The losses of the stages added instead of averaged."""

    def forward(
        self, latents: Tensor, n_active: Tensor | None = None, *, is_spread: bool = False
    ) -> Quantized:
        made = super().forward(latents, n_active, is_spread=is_spread)
        n = self.n_codebooks
        return made._replace(codebook_loss=n * made.codebook_loss, commitment_loss=n * made.commitment_loss)


class _TanhFirst(Decoder):
    """The output scale behind tanh instead of before it."""

    def step(self, latents: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        wav, state = super().step(latents, state)
        inner = torch.atanh(wav.clamp(-0.9999, 0.9999)) / self.output_scale
        return self.output_scale * torch.tanh(inner), state


class _ClampedLoss(ReconstructionLoss):
    """Every term cut off at a bound that it exceeds."""

    def forward(self, estimate: Tensor, target: Tensor) -> Terms:
        return {name: value.clamp(max=1e-3) for name, value in super().forward(estimate, target).items()}


class _HalfLoss(ReconstructionLoss):
    """Spectral terms on float16 signals, so that their gradient passes through float16."""

    def forward(self, estimate: Tensor, target: Tensor) -> Terms:
        return super().forward(estimate.half().float(), target.half().float())


class _UnnormalizedLoss(ReconstructionLoss):
    """Spectral terms summed over bins and frames instead of averaged."""

    def forward(self, estimate: Tensor, target: Tensor) -> Terms:
        terms = super().forward(estimate, target)
        return {name: 1e3 * v if name in ("stft", "mel", "spectrum") else v for name, v in terms.items()}


class _StaleLearner(CodebookLearner):
    """Revival that replaces the codeword and forgets the sums it is computed from."""

    def _revive(self, stage: int, codebook: Tensor, vectors: Tensor, generator: torch.Generator) -> Tensor:
        usage, sums = self.usage[stage].clone(), self.sums[stage].clone()
        revived = super()._revive(stage, codebook, vectors, generator)
        self.usage[stage].copy_(usage)
        self.sums[stage].copy_(sums)
        return revived


class _PoisonedBatches(Batches):
    """Every batch from `FIRST_NAN_STEP` on holds one sample that is not a number."""

    def __getitem__(self, step: int) -> Tensor:
        wav = super().__getitem__(step)
        if step >= FIRST_NAN_STEP:
            wav[0, 0, 100] = torch.nan
        return wav


@torch.no_grad()
def _quiet_without_scale(codec: Codec) -> None:
    codec.decoder.log_output_scale.requires_grad_(False)
    codec.decoder.synthesis.weight.mul_(0.02)
    codec.decoder.fine_synthesis.weight.mul_(0.02)


@torch.no_grad()
def _loud_and_random(codec: Codec) -> None:
    for parameter in codec.decoder.parameters():
        if parameter.dim() == 3:
            nn.init.kaiming_uniform_(parameter, a=5**0.5)
    codec.decoder.log_output_scale.fill_(math.log(3.0))


@torch.no_grad()
def _closed_gates(codec: Codec) -> None:
    for name, parameter in codec.named_parameters():
        if ".units." in name and name.endswith("scale"):
            parameter.zero_()


@torch.no_grad()
def _dead_end(codec: Codec) -> None:
    codec.decoder.synthesis.weight.zero_()
    codec.decoder.fine_synthesis.weight.zero_()


def _silent(samples: "np.ndarray[tuple[int], np.dtype[np.float32]]") -> Tensor:
    wav = torch.from_numpy(samples)
    return wav * (torch.arange(len(wav)) % 16_000 < 2_000)


def _upsampled(samples: "np.ndarray[tuple[int], np.dtype[np.float32]]") -> Tensor:
    spectrum = torch.fft.rfft(torch.from_numpy(samples))
    spectrum[len(spectrum) // 2 :] = 0
    wav: Tensor = torch.fft.irfft(spectrum, n=len(samples))
    return wav


CLASSES: dict[str, tuple[str, type]] = {  # fault -> (part, the class it turns into)
    "commitment-only": ("quantizer", _NoCodebookLoss),
    "straight-through-missing": ("quantizer", _NoStraightThrough),
    "straight-through-per-stage": ("quantizer", _ManyStraightThroughs),
    "vq-summed": ("quantizer", _SummedLosses),
    "tanh-before-scale": ("decoder", _TanhFirst),
    "losses-clamped": ("loss", _ClampedLoss),
    "perceptual-half": ("loss", _HalfLoss),
    "perceptual-unnormalized": ("loss", _UnnormalizedLoss),
    "revival-stale": ("learner", _StaleLearner),
}
WEIGHTS: dict[str, Callable[[Codec], None]] = {
    "quiet-without-scale": _quiet_without_scale,
    "scale-three-random-decoder": _loud_and_random,
    "zero-gates": _closed_gates,
    "dead-last-layer": _dead_end,
}
SAMPLES: dict[str, Callable[..., Tensor]] = {
    "dc-offset": lambda samples: torch.from_numpy(samples) + 0.1,
    "silent-data": _silent,
    "clipped-data": lambda samples: (8 * torch.from_numpy(samples)).clamp(-0.9, 0.9),
    "upsampled-data": _upsampled,
}
NAN_BATCHES = "nan-batches"
FAULTS = (*CLASSES, *WEIGHTS, *SAMPLES, NAN_BATCHES)


def check_fault(name: str) -> None:
    """Refuse a fault that does not exist."""
    if name and name not in FAULTS:
        raise ConfigError(f"fault.name is {name!r}; expected one of {', '.join(FAULTS)}, or none")


def spoil_network(name: str, codec: Codec, loss: ReconstructionLoss, learner: CodebookLearner) -> None:
    """Put a fault of code or of weights into fresh parts; does nothing for another fault."""
    if name in CLASSES:
        part, broken = CLASSES[name]
        spoiled = {"quantizer": codec.quantizer, "decoder": codec.decoder, "loss": loss, "learner": learner}
        spoiled[part].__class__ = broken
    if name in WEIGHTS:
        WEIGHTS[name](codec)


def spoil_corpus(name: str, corpus: Corpus) -> Corpus:
    """Put a fault of recordings into a corpus, clip by clip; the corpus itself for another fault."""
    if name not in SAMPLES:
        return corpus
    clips = [SAMPLES[name](corpus.clip(index).numpy()) for index in range(len(corpus.names))]
    levels = [10 * float(torch.log10(clip.square().mean() + 1e-20)) for clip in clips]
    samples = (torch.cat(clips) * 32_768).round().clamp(-32_768, 32_767).short().numpy()
    return dataclasses.replace(corpus, samples=samples, rms_dbfs=np.array(levels))


def spoil_batches(name: str, batches: Batches) -> Batches:
    """Put values that are not numbers into batches."""
    if name != NAN_BATCHES:
        return batches
    fields = {field.name: getattr(batches, field.name) for field in dataclasses.fields(batches)}
    return _PoisonedBatches(**fields)
