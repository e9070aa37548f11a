"""Reconstruction terms by name, unweighted, each a scalar in float32. Door of auraloss.

The weights live in `telucodec.config.LossConfig`; a term with weight 0 is not computed. Nothing
is clamped: a clamped loss hides an explosion. All terms run outside autocast and on float32
copies, because half precision underflows in spectra.

Sources: multi-resolution STFT loss: Yamamoto et al. 2020, arXiv 1910.11480 (auraloss: Steinmetz
and Reiss 2020); multi-scale mel loss: Kumar et al. 2023, arXiv 2306.06546, section 3.4.

Shapes: B batch, T samples, M mel bands, L frames.
"""

import torch
from auraloss.freq import MultiResolutionSTFTLoss
from torch import Tensor, nn

from telucodec.config import LossConfig
from telucodec.spectral import compressed_stft, magnitude_stft, mel_filters
from telucodec.train.perceptual import AverageSpectrumLoss, DisturbanceLoss, EnvelopeLoss, SimilarityLoss

Terms = dict[str, Tensor]
"""Loss terms by name, each an unweighted scalar."""

MEL_SCALES = ((64, 10), (128, 20), (256, 40), (512, 64), (1024, 96), (2048, 128))  # (FFT size, mel bands)


class MelLoss(nn.Module):
    """Mean over FFT sizes of the L1 of log10 mel magnitudes plus 0.2 x their relative L1."""

    def __init__(self, rate_hz: int) -> None:
        super().__init__()
        for n_fft, n_mels in MEL_SCALES:
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)
            self.register_buffer(f"mel_{n_fft}", mel_filters(rate_hz, n_fft, n_mels), persistent=False)

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """``[B, T]`` and ``[B, T]`` -> scalar."""
        total = estimate.new_zeros(())
        for n_fft, _ in MEL_SCALES:
            ours, theirs = self._bands(estimate, n_fft), self._bands(target, n_fft)  # [B, M, L]
            log_l1 = (ours.clamp_min(1e-5).log10() - theirs.clamp_min(1e-5).log10()).abs().mean()
            relative = (ours - theirs).abs().mean(dim=(1, 2)) / (theirs.mean(dim=(1, 2)) + 1e-4)
            total = total + log_l1 + 0.2 * relative.mean()
        return total / len(MEL_SCALES)

    def _bands(self, wav: Tensor, n_fft: int) -> Tensor:
        magnitudes = magnitude_stft(wav, n_fft, n_fft // 4, self.get_buffer(f"window_{n_fft}"))
        return torch.matmul(self.get_buffer(f"mel_{n_fft}"), magnitudes)


class CompressedSpectrumLoss(nn.Module):
    """Relative square error of power-compressed spectra, with and without phase.

    Compressing magnitudes by ``|X|^0.3`` weighs a band roughly as loudness does, so that weak bands
    count, and the complex half keeps their phases honest where a magnitude loss cannot.
    Source: Braun and Tashev 2021, arXiv 2009.12286.
    """

    def __init__(
        self, fft_sizes: tuple[int, ...] = (320, 640), exponent: float = 0.3, phase_share: float = 0.35
    ):
        super().__init__()
        self.fft_sizes, self.exponent, self.phase_share = fft_sizes, exponent, phase_share
        for n_fft in fft_sizes:
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """``[B, T]`` and ``[B, T]`` -> scalar."""
        total = estimate.new_zeros(())
        for n_fft in self.fft_sizes:
            (ours, ours_size), (theirs, theirs_size) = (
                self._compressed(estimate, n_fft),
                self._compressed(target, n_fft),
            )
            energy = theirs_size.square().mean(dim=(1, 2)) + 1e-4
            magnitude = (ours_size - theirs_size).square().mean(dim=(1, 2)) / energy
            both = (ours - theirs).square().sum(dim=-1).mean(dim=(1, 2)) / energy
            total = total + ((1 - self.phase_share) * magnitude + self.phase_share * both).mean()
        return total / len(self.fft_sizes)

    def _compressed(self, wav: Tensor, n_fft: int) -> tuple[Tensor, Tensor]:
        return compressed_stft(wav, n_fft, self.get_buffer(f"window_{n_fft}"), exponent=self.exponent)


class ReconstructionLoss(nn.Module):
    """Every waveform and spectral term whose weight is not zero."""

    def __init__(self, weights: LossConfig, rate_hz: int) -> None:
        super().__init__()
        self.weights = weights
        if weights.mel:
            self.mel = MelLoss(rate_hz)
        if weights.spectrum:
            self.spectrum = CompressedSpectrumLoss()
        if weights.disturbance:
            self.disturbance = DisturbanceLoss(rate_hz)
        if weights.envelope:
            self.envelope = EnvelopeLoss(rate_hz)
        if weights.similarity:
            self.similarity = SimilarityLoss(rate_hz)
        if weights.average_spectrum:
            self.average_spectrum = AverageSpectrumLoss()
        if weights.stft:
            self.stft = MultiResolutionSTFTLoss(
                fft_sizes=[512, 1024, 2048], hop_sizes=[128, 256, 512], win_lengths=[512, 1024, 2048]
            )

    def forward(self, estimate: Tensor, target: Tensor) -> Terms:
        """``[B, 1, T]`` each -> ``{name: scalar}`` in float32, whatever the inputs and autocast are."""
        with torch.autocast(estimate.device.type, enabled=False):
            estimate, target = estimate.float(), target.float()
            terms: Terms = {}
            if self.weights.l1:
                terms["l1"] = (estimate - target).abs().mean()
            if self.weights.mse:
                terms["mse"] = (estimate - target).square().mean()
            if self.weights.rms:
                terms["rms"] = rms_mismatch(estimate, target)
            if self.weights.range:
                terms["range"] = range_mismatch(estimate, target)
            if self.weights.stft:
                terms["stft"] = self.stft(estimate, target)
            if self.weights.mel:
                terms["mel"] = self.mel(estimate.squeeze(1), target.squeeze(1))
            if self.weights.spectrum:
                terms["spectrum"] = self.spectrum(estimate.squeeze(1), target.squeeze(1))
            if self.weights.disturbance:
                terms["disturbance"] = self.disturbance(estimate.squeeze(1), target.squeeze(1))
            if self.weights.similarity:
                terms["similarity"] = self.similarity(estimate.squeeze(1), target.squeeze(1))
            if self.weights.average_spectrum:
                terms["average_spectrum"] = self.average_spectrum(estimate.squeeze(1), target.squeeze(1))
            if self.weights.envelope:
                terms["envelope"] = self.envelope(estimate.squeeze(1), target.squeeze(1))
            return terms


def rms_mismatch(estimate: Tensor, target: Tensor) -> Tensor:
    """Mean over items of ``|rms(estimate) - rms(target)|``, amplitudes relative to the target's.

    The floor of 1e-3 (-60 dBFS) keeps silent items from ruling the batch.
    """
    ours = (estimate.square().mean(dim=(1, 2)) + 1e-10).sqrt()
    theirs = target.square().mean(dim=(1, 2)).sqrt()
    return ((ours - theirs).abs() / (theirs + 1e-3)).mean()


def range_mismatch(estimate: Tensor, target: Tensor, size: int = 800) -> Tensor:
    """Mean over items of the difference of ranges, highest less lowest sample of each 50 ms at 16 kHz.

    Relative to the item's mean range, with the floor of `rms_mismatch`. Losses of magnitudes leave pulses
    blunt: the level is right, peaks are not.
    """
    ours, theirs = _ranges(estimate, size), _ranges(target, size)  # [B, L]
    return ((ours - theirs).abs().mean(dim=1) / (theirs.mean(dim=1) + 1e-3)).mean()


def _ranges(wav: Tensor, size: int) -> Tensor:
    frames = wav[:, 0].unfold(1, min(size, wav.shape[-1]), size)
    return frames.amax(dim=2) - frames.amin(dim=2)
