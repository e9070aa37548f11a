"""A long-term postfilter: voices averaged with themselves one pitch period before and after.

From one period to the next a voice stays much the same, and what the codec adds does not: the mean keeps the
harmonics and lowers the noise between them, where it is heard. Codecs of the linear-prediction family end in
such a filter (Chen and Gersho 1995, IEEE Transactions on Speech and Audio Processing 3 (1),
10.1109/89.365380), and a network that sees 50 frames a second does not make up for it.

The period is found in what was decoded, so streams say nothing of it. Where there is none, nothing changes.
Live packets cannot wait for the period after: they are averaged with the one before alone.

Shapes: B batch, T samples, L frames, P lags from the shortest period to the longest.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

PITCH_HZ = (60, 400)
WINDOW_S = 0.04  # of sound that is compared with itself one period before
LOW_HZ = 1200  # above, periods differ
HALF_S = 0.002  # of the low-pass filter, to either side
VOICED = 0.5  # correlation with the period before, from which on the filter begins to work
MAX_GAIN, MAX_GAIN_LIVE = 0.6, 0.4  # weight of the other periods, where they are all alike
SHORTER = 0.85  # of the best correlation makes a half or a third of its period the better guess
LOUDER = 1.025  # noise that is gone makes peaks lower
FLOOR = 1e-6  # added to energies, so that silence has no period


PitchState = tuple[Tensor, Tensor, Tensor]
"""Samples ``[B, 1, context]``, and period and correlation ``[B, 1]`` of the last frame."""


class Heard(NamedTuple):
    """Some frames of sound, and what repeats in it."""

    wav: Tensor  # [B, context + L * hop]; the frames begin at `start`
    low: Tensor  # the same after the low-pass filter, without `margin` samples at either end
    periods: Tensor  # [B, L + 1] of the frame before and of each frame
    correlations: Tensor  # [B, L + 1] with the period before, 0 to 1
    start: int


class PitchFilter(nn.Module):
    """Filters what a codec decoded, ``delay`` samples behind. Nothing in it is learned.

    Args:
        is_live: use the period before alone, for a delay of `HALF_S` instead of whole frames.
    """

    kernels: Tensor
    fade: Tensor

    def __init__(self, *, hop: int, sample_rate_hz: int, is_live: bool = False) -> None:
        super().__init__()
        self.hop = hop
        self.is_live = is_live
        self.longest, self.shortest = (sample_rate_hz // pitch_hz for pitch_hz in PITCH_HZ)
        self.window = round(WINDOW_S * sample_rate_hz)
        self.margin = round(HALF_S * sample_rate_hz)
        self.delay = self.margin if is_live else hop * -(-(self.longest + self.margin) // hop)
        # The window is centered on the frame's end or, where that is not heard yet, ends as late as can be.
        self._n_unheard = 0 if is_live else max(0, self.delay - self.margin - self.window // 2)
        n_context = max(self.delay + self.longest + self.margin, self._searched + self._n_unheard - hop)
        self.context = hop * -(-(n_context - 2 * self.margin) // hop) + 2 * self.margin
        # A filter for each sample of a frame: a product is several times as fast as a convolution.
        kernels = torch.zeros(hop, hop + 2 * self.margin)
        kernel = low_pass(self.margin, LOW_HZ / sample_rate_hz)
        for place, row in enumerate(kernels):
            row[place : place + len(kernel)] = kernel
        self.register_buffer("kernels", kernels.T.contiguous(), persistent=False)
        self.register_buffer("fade", (torch.arange(hop) + 0.5) / hop, persistent=False)

    @property
    def _searched(self) -> int:
        """Samples in which the period of a frame is found."""
        return self.window + self.longest + 2 * self.margin

    def initial_state(self, like: Tensor) -> PitchState:
        """Silence before the first sample, of the batch, device and type of ``like``."""
        none = like.new_zeros(len(like), 1)
        return like.new_zeros(len(like), 1, self.context), none.long() + self.shortest, none

    def step(self, wav: Tensor, state: PitchState, depths: Tensor | None = None) -> tuple[Tensor, PitchState]:
        """Whole frames ``[B, 1, L * hop]``; returns as many samples and the next state.

        ``depths`` are of no use here, see `telucodec.model.enhancer`.
        """
        heard, state = self.hear(wav, state)
        # By the period of the frame before and by its own, [B, L, 2, hop].
        two = heard.periods.unfold(1, 2, 1), heard.correlations.unfold(1, 2, 1)
        before, now = self._change(heard.low, *two).unbind(dim=2)
        frames = heard.wav[:, heard.start : -self.delay].unfold(-1, self.hop, self.hop)  # [B, L, hop]
        frames = frames + torch.lerp(before, now, self.fade)
        return (LOUDER * frames).clamp(-1, 1).flatten(1)[:, None], state

    def hear(self, wav: Tensor, state: PitchState) -> tuple[Heard, PitchState]:
        """Whole frames ``[B, 1, L * hop]``; returns the periods of those ``delay`` samples before."""
        samples, period, correlation = state
        wav = torch.cat([samples, wav], dim=-1)
        windows = wav[:, 0].unfold(-1, len(self.kernels), self.hop)
        low = (windows @ self.kernels).flatten(1)
        with torch.no_grad():
            periods, correlations = self._voicing(low)
        heard = Heard(
            wav[:, 0],
            low,
            torch.cat([period, periods], dim=1),
            torch.cat([correlation, correlations], dim=1),
            self.context - self.delay,
        )
        return heard, (wav[..., -self.context :], periods[:, -1:], correlations[:, -1:])

    def _voicing(self, low: Tensor) -> tuple[Tensor, Tensor]:
        """Period, in samples, and correlation with the period before, both ``[B, L]``, of each frame."""
        n_past = self.window + self.longest - self.shortest
        first = self.context + self.hop - self._searched - self._n_unheard
        parts = low[:, first : low.shape[1] - self._n_unheard].unfold(
            -1, self.window + self.longest, self.hop
        )  # [B, L, window + longest]
        now, past = parts[..., self.longest :], parts[..., :n_past]
        size = 1 << (n_past - 1).bit_length()
        spectra = torch.fft.rfft(past, size) * torch.fft.rfft(now, size).conj()
        products = torch.fft.irfft(spectra, size)[..., : self.longest - self.shortest + 1]
        summed = fn.pad(past.square().cumsum(dim=-1), (1, 0))
        energies = summed[..., self.window :] - summed[..., : -self.window]
        scale = (energies + FLOOR) * (now.square().sum(dim=-1, keepdim=True) + FLOOR)
        correlations = (products * scale.rsqrt()).flip(-1)  # [B, L, P], shortest lag first
        best, place = correlations.max(dim=-1, keepdim=True)
        for divisor in (2, 3):
            shorter = ((place + self.shortest) / divisor).round().long() - self.shortest
            around = shorter + torch.arange(-2, 3, device=low.device)  # [B, L, 5]
            within = around.clamp(0, correlations.shape[-1] - 1)
            correlation, which = correlations.gather(-1, within).max(dim=-1, keepdim=True)
            is_better = (shorter >= 0) & (correlation > SHORTER * best)
            place = torch.where(is_better, within.gather(-1, which), place)
        correlation = correlations.gather(-1, place).clamp(0, 1)
        return place[..., 0] + self.shortest, correlation[..., 0]

    def _change(self, low: Tensor, periods: Tensor, correlations: Tensor) -> Tensor:
        """What filtering by each of some periods ``[B, L, N]`` of a frame adds to it, ``[B, L, N, hop]``."""
        periods, correlations = periods[..., None], correlations[..., None]
        max_gain = MAX_GAIN_LIVE if self.is_live else MAX_GAIN
        gain = max_gain * ((correlations - VOICED) / (1 - VOICED)).clamp_min(0)
        scale = (1 + 2 * gain * correlations + gain.square()).rsqrt()  # keeps the energy
        start = self.context - self.delay - self.margin
        end = start + periods.shape[1] * self.hop
        places = torch.arange(start, end, device=low.device).view(-1, 1, self.hop)

        def at(places: Tensor) -> Tensor:
            return low.gather(1, places.flatten(1)).view_as(places)

        others = at(places - periods)
        if not self.is_live:
            others = (others + at(places + periods)) / 2
        here = low[:, start:end].view(len(low), -1, 1, self.hop)
        return scale * gain * others + (scale - 1) * here


def low_pass(half: int, cutoff: float) -> Tensor:
    """``[2 * half + 1]``, Hamming-windowed; ``cutoff`` as a share of the sampling rate."""
    n = torch.arange(-half, half + 1, dtype=torch.float64)
    kernel = torch.sinc(2 * cutoff * n) * (0.54 + 0.46 * torch.cos(math.pi * n / half))
    return (kernel / kernel.sum()).float()
