"""Loss terms that follow listening: disturbance, envelopes, similarity, and lines in the average spectrum.

The first three are smooth relatives of a measure, not the measure: no time alignment, no gain equalization,
no removal of silent frames. A codec trained with them is to be judged by others too.

Shapes: B batch, T samples, F frequency bins, L frames, J bands, S segments of N frames.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

SPEECH_POWER = 10.0**7.5  # of speech between 300 and 3400 Hz at a usual listening level, 1 at 0 dB SPL
LEAST_POWER = 10.0  # of a crop, in the unit of its spectra: about speech at -35 dBFS; quieter ones stay quiet
LEAST_BAND_POWER = 1e-4  # of a band, in the unit of its spectra: rounding noise of 16 bits is about as much
THIRD_OCTAVES = 15  # from 150 Hz on


def bark(hz: Tensor) -> Tensor:
    """Critical-band rate; Traunmueller 1990 (JASA 88), equation 6."""
    return 26.81 * hz / (1960 + hz) - 0.53


class DisturbanceLoss(nn.Module):
    """Difference of loudness in critical bands, what is added weighing more than what is missing.

    Per frame, with the dead zone, the asymmetry and the weights of PESQ: 0.1 x symmetric + 0.0309 x
    asymmetric disturbance. Specific loudness is Zwicker's, above Terhardt's threshold in quiet.

    Sources: Rix et al. 2001 (ITU-T P.862); as a loss: Martin-Donas et al. 2018 (IEEE SPL 25, 1680).
    """

    bank: Tensor
    quiet: Tensor
    window: Tensor
    is_speech: Tensor
    high_pass: Tensor

    def __init__(self, rate_hz: int, n_fft: int = 512, n_bands: int = 42) -> None:
        super().__init__()
        self.n_fft = n_fft
        hz = torch.arange(n_fft // 2 + 1) * rate_hz / n_fft
        low, high = bark(torch.tensor(80.0)), bark(torch.tensor(rate_hz / 2 - 100.0))
        edges = torch.linspace(float(low), float(high), n_bands + 1)
        self.band_width = float(edges[1] - edges[0])  # Bark
        centers = (edges[1:] + edges[:-1]) / 2
        bank = (1 - (bark(hz) - centers[:, None]).abs() / max(self.band_width, 0.45)).clamp_min(0)  # [J, F]
        khz = 1.960 * (centers + 0.53) / (26.81 - 0.53 - centers)
        quiet_db = 3.64 * khz**-0.8 - 6.5 * torch.exp(-0.6 * (khz - 3.3).square()) + 1e-3 * khz**4
        self.register_buffer("bank", bank / bank.sum(dim=0).clamp_min(1e-3), persistent=False)
        self.register_buffer("quiet", 10 ** (quiet_db / 10), persistent=False)  # [J]
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("is_speech", ((hz > 300) & (hz < 3400)).float()[:, None], persistent=False)
        squared = (hz / 100).square()
        self.register_buffer("high_pass", (squared / (1 + squared))[:, None], persistent=False)

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """``[B, T]`` and ``[B, T]`` -> scalar, about 0.2 (good) to 0.8 (bad)."""
        ours, theirs = self._power(estimate), self._power(target)  # [B, F, L]
        gain = self._gain(theirs)
        ours, theirs = self._bands(ours) * gain, self._bands(theirs) * gain  # [B, L, J]
        our_loudness, their_loudness = self._loudness(ours), self._loudness(theirs)
        difference = our_loudness - their_loudness
        dead_zone = 0.25 * torch.minimum(our_loudness, their_loudness).clamp_min(0)
        heard = (difference.abs() - dead_zone).clamp_min(0)
        n_bark = self.band_width * len(self.quiet)
        symmetric = ((heard.square().sum(dim=2) * self.band_width + 1e-6).sqrt() - 1e-3) * n_bark**0.5
        ratio = ((ours + 50) / (theirs + 50)).detach() ** 1.2
        added = torch.where(ratio < 3, 0.0, ratio.clamp(max=12.0))
        asymmetric = (heard * added).sum(dim=2) * self.band_width
        loud = ((theirs.sum(dim=2) + 1e5) / 1e7) ** 0.04  # [B, L]
        disturbance: Tensor = (0.1 * symmetric + 0.0309 * asymmetric) / loud
        return disturbance.mean()

    def loudness(self, wav: Tensor) -> Tensor:
        """Specific loudness ``[B, L, J]`` of ``[B, T]`` at a usual listening level; sone per Bark."""
        power = self._power(wav)
        return self._loudness(self._bands(power) * self._gain(power))

    def _power(self, wav: Tensor) -> Tensor:
        return _power(wav, self.n_fft, self.n_fft // 2, self.window) * self.high_pass

    def _gain(self, power: Tensor) -> Tensor:
        """Up to a usual listening level of speech, ``[B, 1, 1]``, from spectra ``[B, F, L]``."""
        level = (power.detach() * self.is_speech).sum(dim=1).mean(dim=1).clamp_min(LEAST_POWER)
        return (SPEECH_POWER / level)[:, None, None]

    def _bands(self, power: Tensor) -> Tensor:
        return power.transpose(1, 2) @ self.bank.T

    def _loudness(self, power: Tensor) -> Tensor:
        """Sone per Bark; a little below 0 under the threshold, so that silence still has a gradient."""
        loudness: Tensor = 0.08 * self.quiet**0.23 * ((0.5 + 0.5 * power / self.quiet).pow(0.23) - 1)
        return loudness


class EnvelopeLoss(nn.Module):
    """1 - correlation of the envelopes of third-octave bands over segments of 0.3 s, loud ones counting more.

    Source: the intermediate measure of STOI, Taal et al. 2011 (IEEE TASLP 19, 2125), without clipping.
    """

    bank: Tensor
    window: Tensor

    def __init__(self, rate_hz: int, n_fft: int = 512, hop: int = 200, n_frames: int = 24) -> None:
        super().__init__()
        self.n_fft, self.hop, self.n_frames = n_fft, hop, n_frames
        hz = torch.arange(n_fft // 2 + 1) * rate_hz / n_fft
        centers = 150.0 * 2 ** (torch.arange(THIRD_OCTAVES) / 3)[:, None]
        bank = ((hz >= centers * 2 ** (-1 / 6)) & (hz < centers * 2 ** (1 / 6))).float()
        self.register_buffer("bank", bank, persistent=False)  # [J, F]
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """``[B, T]`` and ``[B, T]`` -> scalar from 0 to 2. A shorter crop is one segment."""
        ours, theirs = self._segments(estimate), self._segments(target)  # [B, J, S, N]
        power = theirs.square().mean(dim=(1, 3))
        weight = (power / (power.amax(dim=1, keepdim=True) + 1e-6)).pow(0.25)  # [B, S]
        ours = ours - ours.mean(dim=3, keepdim=True)
        theirs = theirs - theirs.mean(dim=3, keepdim=True)
        energies = (ours.square().sum(dim=3) + 1e-4) * (theirs.square().sum(dim=3) + 1e-4)
        correlation = ((ours * theirs).sum(dim=3) + 1e-4) / energies.sqrt()  # [B, J, S]
        return ((1 - correlation).mean(dim=1) * weight).sum() / weight.sum().clamp_min(1e-3)

    def _segments(self, wav: Tensor) -> Tensor:
        power = _power(wav, self.n_fft, self.hop, self.window)
        envelopes = (self.bank @ power + 1e-4).sqrt()  # [B, J, L]
        return envelopes.unfold(2, min(self.n_frames, envelopes.shape[2]), self.n_frames // 4)


class AverageSpectrumLoss(nn.Module):
    """Mean absolute difference, in bels, of spectra averaged over a whole crop, bin by bin.

    A network that cannot know the signs of noise may fill a band with a steady tone of the same power. Bands
    of mel or Bark width do not tell the two apart; an average spectrum of fine resolution does: noise
    is flat in it, and a tone is a line.
    """

    window: Tensor

    def __init__(self, n_fft: int = 1024) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """``[B, T]`` and ``[B, T]`` -> scalar. Bins 50 dB below the mean bin of the target do not count."""
        ours, theirs = self._average(estimate), self._average(target)  # [B, F]
        floor = 1e-5 * theirs.mean(dim=1, keepdim=True) + 1e-6
        return ((ours + floor) / (theirs + floor)).log10().abs().mean()

    def _average(self, wav: Tensor) -> Tensor:
        return _power(wav, self.n_fft, self.n_fft // 4, self.window).mean(dim=2)


class SimilarityLoss(nn.Module):
    """1 - similarity of neurograms: levels of auditory bands over 80 ms, compared in 3 x 3 neighborhoods.

    Each neighborhood is compared in mean (intensity) and by correlation (structure), loud or quiet alike, so
    that texture counts where a difference of levels sees little. Source: Hines and Harte 2012 (Speech
    Communication 54, 306), as in ViSQOL, with bands of triangular shape and a softer constant.
    """

    bank: Tensor
    window: Tensor
    kernel: Tensor

    def __init__(self, rate_hz: int, n_bands: int = 21, softness: float = 0.2) -> None:
        super().__init__()
        self.n_fft, self.hop, self.softness = rate_hz * 8 // 100, rate_hz // 50, softness
        hz = torch.arange(self.n_fft // 2 + 1) * rate_hz / self.n_fft
        low, high = _erb_rate(torch.tensor([50.0, rate_hz / 2])).tolist()
        edges = torch.linspace(low, high, n_bands + 2)
        bank = (1 - (_erb_rate(hz) - edges[1:-1, None]).abs() / (edges[1] - edges[0])).clamp_min(0)  # [J, F]
        side = torch.tensor([0.107, 0.786, 0.107])
        self.register_buffer("bank", bank / bank.sum(dim=1, keepdim=True), persistent=False)
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)
        self.register_buffer("kernel", torch.outer(side, side)[None, None], persistent=False)

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """``[B, T]`` and ``[B, T]`` -> scalar from 0 to 2. Crops shorter than a window are padded."""
        ours, theirs = self._levels(estimate), self._levels(target)  # [B, 1, J, L] dB
        our_mean, their_mean = self._local(ours), self._local(theirs)
        our_power = (self._local(ours.square()) - our_mean.square()).clamp_min(0)
        their_power = (self._local(theirs.square()) - their_mean.square()).clamp_min(0)
        shared = self._local(ours * theirs) - our_mean * their_mean
        structure = (shared + self.softness) / ((our_power * their_power + 1e-6).sqrt() + self.softness)
        intensity = (2 * our_mean * their_mean + 1e-2) / (our_mean.square() + their_mean.square() + 1e-2)
        return 1 - (intensity * structure).mean()

    def _levels(self, wav: Tensor) -> Tensor:
        wav = pad(wav, (0, max(0, self.n_fft - wav.shape[1])))
        power = self.bank @ _power(wav, self.n_fft, self.hop, self.window)
        return 10 * (power / LEAST_BAND_POWER + 1).log10()[:, None]

    def _local(self, x: Tensor) -> Tensor:
        return conv2d(pad(x, (1, 1, 1, 1), mode="replicate"), self.kernel)


def _erb_rate(hz: Tensor) -> Tensor:
    """Equivalent rectangular bandwidths below ``hz``; Glasberg and Moore 1990 (Hearing Research 47)."""
    return 21.4 * torch.log10(1 + 0.00437 * hz)


def _power(wav: Tensor, n_fft: int, hop: int, window: Tensor) -> Tensor:
    """Power spectra ``[B, F, L]`` of ``[B, T]``."""
    spectra = torch.stft(wav, n_fft, hop, window=window, return_complex=True)
    return torch.view_as_real(spectra).square().sum(dim=-1)
