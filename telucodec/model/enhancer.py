"""A network behind the decoder that knows the pitch: harmonics of voices stay, noise between them goes.

The decoder sees 50 frames a second and no pitch, so it leaves noise between low harmonics. Here each bin of a
low spectrum becomes a weighted sum of what it is in the decoded sound and in the same sound one pitch period
before and after; a small network says the weights, from how alike the three are and how many stages each
frame had. It is trained behind a decoder that stays as it is, and adds nothing to a stream.

Sources: networks that steer comb filters: Valin et al. 2020 (PercepNet, arXiv 2008.04259) and Buethe et al.
2023 (LACE, arXiv 2307.06610); here in the spectrum, with a period that is found and not sent.

Shapes: B batch, L frames, F bins, N features.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from telucodec.model.pitch import PITCH_HZ, PitchFilter, PitchState
from telucodec.nn.blocks import UnitStack
from telucodec.nn.conv import Conv1d

ENHANCED_HZ = 2500  # up to which bins are changed
N_AHEAD = 2  # frames that the network sees of what is to come
FLOOR = 1e-5  # of the energy of a bin, so that silence has features
SOFTEST, LOUDEST = -3.0, 1.5  # bounds of the logarithm of a gain


class EnhancerState(NamedTuple):
    """What is remembered between chunks."""

    pitch: PitchState
    last: Tensor  # [B, 3, hop] samples: as decoded, one period before, one after
    depth: Tensor  # [B, n] stages of the last frames, as many as `last` and the periods lag behind
    units: tuple[Tensor, ...]
    spectra: Tensor  # [B, 3, N_AHEAD, F, 2] that wait for what comes after them
    tail: Tensor  # [B, 1, hop] that the next frame adds to
    late: Tensor  # [B, (N_AHEAD + 1) * hop] samples as decoded


class Enhancer(nn.Module):
    """Changes what a codec decoded, ``delay`` samples behind.

    Fresh weights change nothing: the last layer starts at zero.
    """

    window: Tensor

    def __init__(self, *, hop: int, sample_rate_hz: int, n_codebooks: int, width: int, n_units: int) -> None:
        super().__init__()
        self.hop = hop
        self.n_codebooks = n_codebooks
        self.pitch = PitchFilter(hop=hop, sample_rate_hz=sample_rate_hz)
        self.delay = self.pitch.delay + (1 + N_AHEAD) * hop
        self.n_bins = min(round(2 * hop * ENHANCED_HZ / sample_rate_hz), hop)
        self.longest = sample_rate_hz / PITCH_HZ[0]
        self.features_in = Conv1d(3 * self.n_bins + 4, width, 1)
        self.units = UnitStack(width, n_units)
        self.weights_out = Conv1d(width, 3 * self.n_bins, 1)
        nn.init.zeros_(self.weights_out.weight)
        nn.init.zeros_(self.weights_out.get_parameter("bias"))
        window = torch.sin(torch.pi * torch.arange(2 * hop, dtype=torch.float64) / (2 * hop))
        self.register_buffer("window", window.float(), persistent=False)

    def initial_state(self, like: Tensor) -> EnhancerState:
        """Silence before the first sample, of the batch, device and type of ``like``."""
        n_items = len(like)
        return EnhancerState(
            self.pitch.initial_state(like),
            like.new_zeros(n_items, 3, self.hop),
            like.new_zeros(n_items, 1 + self.pitch.delay // self.hop),
            self.units.initial_state(like),
            like.new_zeros(n_items, 3, N_AHEAD, self.n_bins, 2),
            like.new_zeros(n_items, 1, self.hop),
            like.new_zeros(n_items, (1 + N_AHEAD) * self.hop),
        )

    def forward(self, wav: Tensor, depths: Tensor) -> Tensor:
        """A whole signal ``[B, 1, L * hop]``, of frames of ``[B, L]`` stages, to ``[B, 1, L * hop]``."""
        late, state = self.step(wav, self.initial_state(wav), depths)
        return torch.cat([late, self.finish(state)], dim=-1)[..., self.delay :]

    def finish(self, state: EnhancerState) -> Tensor:
        """The samples ``[B, 1, delay]`` that are still to come."""
        silence = state.tail.new_zeros(len(state.tail), 1, self.delay)
        depths = state.depth.new_zeros(len(state.depth), self.delay // self.hop)
        return self.step(silence, state, depths)[0]

    def step(self, wav: Tensor, state: EnhancerState, depths: Tensor) -> tuple[Tensor, EnhancerState]:
        """Whole frames ``[B, 1, L * hop]`` and the stages ``[B, L]`` they were decoded from.

        Returns as many samples and the next state.
        """
        n_frames = depths.shape[1]
        heard, pitch = self.pitch.hear(wav, state.pitch)
        depths = torch.cat([state.depth, depths.to(wav.dtype)], dim=1)
        sounds = self._neighbors(heard.wav, heard.periods, heard.start)  # [B, 3, L * hop]
        joined = torch.cat([state.last, sounds], dim=2)
        windows = joined.unfold(2, 2 * self.hop, self.hop) * self.window  # [B, 3, L, 2 * hop]
        spectra = torch.view_as_real(torch.fft.rfft(windows)[..., : self.n_bins])  # [B, 3, L, F, 2]
        known = self._known(heard.periods, heard.correlations, depths[:, :n_frames])
        x = torch.cat([*self._features(spectra), known], dim=1)  # [B, N, L]
        x, units = self.units.step(self.features_in(x), state.units)
        weights = self.weights_out(x).float().transpose(1, 2).chunk(3, dim=2)  # of [B, L, F]
        spectra = torch.cat([state.spectra, spectra], dim=2)
        change = torch.view_as_complex(_changed(spectra[:, :, :n_frames], weights))  # [B, L, F]
        frames = torch.fft.irfft(change, n=2 * self.hop) * self.window
        first, second = frames.split(self.hop, dim=2)
        second = torch.cat([state.tail, second], dim=1)
        late = torch.cat([state.late, sounds[:, 0]], dim=1)
        n_samples = n_frames * self.hop
        enhanced = late[:, :n_samples] + (first + second[:, :-1]).flatten(1)
        following = EnhancerState(
            pitch,
            joined[..., -self.hop :],
            depths[:, n_frames:],
            units,
            spectra[:, :, n_frames:],
            second[:, -1:],
            late[:, n_samples:],
        )
        return enhanced.clamp(-1, 1)[:, None], following

    def _neighbors(self, wav: Tensor, periods: Tensor, start: int) -> Tensor:
        """Frames from ``start`` on as they are, one period before and one after, ``[B, 3, L * hop]``.

        In each frame the period of the frame before gives way to its own.
        """
        two = periods.unfold(1, 2, 1)[..., None]  # [B, L, 2, 1]
        end = start + two.shape[1] * self.hop
        places = torch.arange(start, end, device=wav.device).view(-1, 1, self.hop)

        def at(places: Tensor) -> Tensor:
            found = wav.gather(1, places.flatten(1)).view_as(places)
            return torch.lerp(found[:, :, 0], found[:, :, 1], self.pitch.fade).flatten(1)

        return torch.stack([wav[:, start:end], at(places - two), at(places + two)], dim=1)

    def _features(self, spectra: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Level of each bin, and how alike the periods before and after are, ``[B, F, L]`` each."""
        energies = spectra.square().sum(dim=-1).transpose(2, 3)  # [B, 3, F, L]
        here, before, after = energies.unbind(dim=1)
        mean = here.mean(dim=1, keepdim=True) + 10 * FLOOR
        level = 0.3 * ((here + 0.1 * FLOOR * mean + FLOOR) / mean).log()
        products = (spectra[:, :1] * spectra[:, 1:]).sum(dim=-1).transpose(2, 3)  # [B, 2, F, L]
        like_before = 2 * products[:, 0] / (here + before + FLOOR)
        like_after = 2 * products[:, 1] / (here + after + FLOOR)
        return level, like_before, like_after

    def _known(self, periods: Tensor, correlations: Tensor, depths: Tensor) -> Tensor:
        """What is known of each frame as a whole, ``[B, 4, L]``."""
        period = torch.log2(self.longest / periods[:, 1:])
        share = 3 * depths / self.n_codebooks - 1
        return torch.stack([share, correlations[:, 1:], period, correlations[:, :-1]], dim=1)


def _changed(spectra: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """What weights, three of ``[B, L, F]``, add to the first of ``[B, 3, L, F, 2]``; ``[B, L, F, 2]``."""
    here, before, after = spectra.unbind(dim=1)
    gain, of_before, of_after = (weight[..., None] for weight in weights)
    return gain.clamp(SOFTEST, LOUDEST).exp() * (here + of_before * before + of_after * after) - here
