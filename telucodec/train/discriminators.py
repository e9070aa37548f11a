"""Networks that tell recordings from the codec's output; used in training only, never shipped.

Two kinds: spectra at several resolutions, with phase (Defossez et al. 2022, EnCodec, arXiv 2210.13438), and
waveforms folded at several periods (Kong et al. 2020, HiFi-GAN, arXiv 2010.05646). They are small, dense and
strided, so that a step with them costs a CPU about twice a step without (docs/training.md).

Shapes: B batch, T samples, F frequency bins, L frames, P period, O channels.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as fn
from torch.nn.utils.parametrizations import weight_norm

from telucodec.spectral import compressed_stft

SLOPE = 0.2  # of the activations below zero


class Verdict(NamedTuple):
    """What one network says of a batch."""

    scores: Tensor  # one for each patch of each item; the higher, the more it takes it for a recording
    features: tuple[Tensor, ...]  # activations on the way there


class SpectrumDiscriminator(nn.Module):
    """Convolutions in time and frequency over the compressed complex spectrum at one resolution.

    Compressed, so that the weak upper bands count; see `telucodec.spectral.compressed_stft`.
    """

    def __init__(self, n_fft: int, channels: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.layers = nn.ModuleList(
            [
                _conv2d(2, channels, (7, 3), stride=(2, 2)),
                _conv2d(channels, channels, (5, 3), stride=(2, 1)),
                _conv2d(channels, 2 * channels, (5, 3), stride=(2, 2)),
                _conv2d(2 * channels, 2 * channels, (5, 3), stride=(2, 1)),
                _conv2d(2 * channels, 2 * channels, (3, 3)),
            ]
        )
        self.last = _conv2d(2 * channels, 1, (3, 3))

    def forward(self, wav: Tensor) -> Verdict:
        """``[B, 1, T]``, ``T`` above half of the FFT size."""
        with torch.autocast(wav.device.type, enabled=False):
            pairs, _ = compressed_stft(wav[:, 0].float(), self.n_fft, self.get_buffer("window"))
        x = pairs.permute(0, 3, 1, 2)  # [B, 2, F, L], in memory a pair per bin: twice as fast on a CPU
        return _judged(x, self.layers, self.last)


class PeriodDiscriminator(nn.Module):
    """Convolutions over every ``period``-th sample, the same for all offsets."""

    def __init__(self, period: int, channels: int) -> None:
        super().__init__()
        self.period = period
        self.layers = nn.ModuleList(
            [
                _conv1d(1, channels // 2, 5, stride=3),
                _conv1d(channels // 2, channels, 5, stride=3),
                _conv1d(channels, 4 * channels, 5, stride=3),
                _conv1d(4 * channels, 4 * channels, 5, stride=3),
                _conv1d(4 * channels, 4 * channels, 5),
            ]
        )
        self.last = _conv1d(4 * channels, 1, 3)

    def forward(self, wav: Tensor) -> Verdict:
        """``[B, 1, T]``."""
        wav = fn.pad(wav, (0, -wav.shape[-1] % self.period))
        folded = wav.reshape(len(wav), -1, self.period).transpose(1, 2)  # [B, P, T / P]
        return _judged(folded.reshape(-1, 1, folded.shape[-1]), self.layers, self.last)


class Discriminators(nn.Module):
    """All of them, on signals brought to one level."""

    def __init__(self, fft_sizes: tuple[int, ...], periods: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.spectra = nn.ModuleList([SpectrumDiscriminator(n_fft, channels) for n_fft in fft_sizes])
        self.periods = nn.ModuleList([PeriodDiscriminator(period, channels) for period in periods])

    def forward(self, wav: Tensor) -> list[Tensor]:
        """Scores only, one tensor per network; for ``[B, 1, T]``."""
        return [verdict.scores for verdict in self.verdicts(wav)]

    def verdicts(self, wav: Tensor) -> list[Verdict]:
        """Scores and features of ``[B, 1, T]``."""
        return [judge(wav) for judge in (*self.spectra, *self.periods)]


def _judged(x: Tensor, layers: nn.ModuleList, last: nn.Module) -> Verdict:
    features = []
    for layer in layers:
        x = fn.leaky_relu(layer(x), SLOPE)
        features.append(x)
    return Verdict(last(x), tuple(features))


def _conv1d(in_channels: int, out_channels: int, size: int, *, stride: int = 1) -> nn.Conv1d:
    conv = nn.Conv1d(in_channels, out_channels, size, stride=stride, padding=size // 2)
    nn.init.kaiming_normal_(conv.weight, SLOPE)
    weight_norm(conv)
    return conv


def _conv2d(
    in_channels: int, out_channels: int, size: tuple[int, int], *, stride: tuple[int, int] = (1, 1)
) -> nn.Conv2d:
    padding = (size[0] // 2, size[1] // 2)
    conv = nn.Conv2d(in_channels, out_channels, size, stride=stride, padding=padding)
    nn.init.kaiming_normal_(conv.weight, SLOPE)
    weight_norm(conv)
    return conv
