"""How much louder bands of a recording are than what was decoded of it: to codes and back, frame by frame.

Above the coefficients that a refinement codes as they are, waveforms need not match, levels should. Those of
the network are 3.7 dB off in a band of a frame at 6 kbps, and more bits hardly help: 3.5 at 9.2.

Levels are whole steps and are kept from frame to frame: a code says how those of two neighboring bands
change, or, in the second half of the codebook, what they are, as in the first frame of every packet.

Shapes: B batch, T samples, L frames, F bands, Q stages of two bands each.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from telucodec.bitstream.coder import N_LEVEL_STAGES
from telucodec.model.lattice import lattice_points

N_BANDS = 2 * N_LEVEL_STAGES
EDGES = 24, 34, 44, 54, 64, 74, 84, 100, 116, 132, 148, 176, 204, 232, 260, 288, 320  # of bands, in 320ths
STEP_DB = 4.0
LARGEST = 4  # steps, up or down
REACH = 2 * LARGEST  # of a change
N_POINTS = 128  # that say a change; as many more say levels
SILENCE = 1e-5  # energy of a band, added so that silence has a level


class LevelState(NamedTuple):
    """What is remembered between chunks."""

    levels: Tensor  # [B, Q, 2] of the last frame
    tail: Tensor  # [B, 1, hop] that the next frame adds to


class BandLevels(nn.Module):
    """Levels of `N_BANDS` bands from 0.6 to 8 kHz at 16 kHz. Nothing in it is learned."""

    window: Tensor
    points: Tensor
    index: Tensor

    def __init__(self, hop: int) -> None:
        super().__init__()
        self.hop = hop
        window = torch.sin(torch.pi * torch.arange(2 * hop, dtype=torch.float64) / (2 * hop))
        self.register_buffer("window", window.float(), persistent=False)
        points = lattice_points(N_POINTS)
        index = torch.full((2 * REACH + 1, 2 * REACH + 1), N_POINTS)  # of each point, N_POINTS for none
        index[tuple((points + REACH).T)] = torch.arange(N_POINTS)
        self.register_buffer("points", points, persistent=False)  # [K / 2, 2]
        self.register_buffer("index", index, persistent=False)
        self._edges = [round(edge * hop / EDGES[-1]) for edge in EDGES]  # bins

    def initial_state(self, like: Tensor) -> LevelState:
        """As decoded, of the batch, device and type of ``like``."""
        levels = torch.zeros(len(like), N_LEVEL_STAGES, 2, dtype=torch.int64, device=like.device)
        return LevelState(levels, like.new_zeros(len(like), 1, self.hop))

    def spectra(self, wav: Tensor) -> Tensor:
        """Spectra ``[B, L, hop]`` of blocks of two frames of ``[B, 1, (1 + L) * hop]``."""
        blocks = wav[:, 0].unfold(1, 2 * self.hop, self.hop) * self.window
        spectra: Tensor = torch.fft.rfft(blocks)[..., : self.hop]
        return spectra

    def measure(self, spectra: Tensor) -> Tensor:
        """Levels of the bands ``[B, F, L]``, in steps."""
        energies = torch.view_as_real(spectra).square().sum(dim=-1).transpose(1, 2)  # [B, hop, L]
        bands = [energies[:, start:end].sum(dim=1) for start, end in pairwise(self._edges)]
        return (torch.stack(bands, dim=1) + SILENCE).log10() * (10 / STEP_DB)

    def encode(self, levels: Tensor) -> Tensor:
        """Codes ``[Q, L]`` of one packet with these ``[F, L]`` whole steps, none beyond `LARGEST`."""
        now = levels.view(len(levels) // 2, 2, -1).transpose(1, 2)  # [Q, L, 2]
        too_much = torch.full_like(now[:, :1], REACH)  # which is none of the points
        change = self._code_of(torch.cat([too_much, now.diff(dim=1)], dim=1))
        return torch.where(change < N_POINTS, change, N_POINTS + self._code_of(now))

    def step(
        self, spectra: Tensor, codes: Tensor, state: LevelState, *, first_bin: int = 0
    ) -> tuple[Tensor, LevelState]:
        """What codes ``[B, Q', L]`` of the first Q' stages add to the first of the two frames of each block.

        ``[B, 1, L * hop]``, nothing below ``first_bin``. Where codes are negative, levels stay as decoded.
        """
        n_stages = codes.shape[1]
        said = self.points[codes % N_POINTS] * (codes >= 0)[..., None]  # [B, Q', L, 2]
        is_whole = ((codes < 0) | (codes >= N_POINTS))[..., None]
        sums = torch.where(is_whole, 0, said).cumsum(dim=2)
        numbers = torch.arange(1, 1 + codes.shape[2], device=codes.device)[:, None]
        last = torch.where(is_whole, numbers, 0).cummax(dim=2).values  # number of a whole code, 0 for none
        before = torch.cat([state.levels[:, :n_stages, None], said - sums], dim=2)
        levels = sums + before.gather(2, last.expand_as(said))  # [B, Q', L, 2]
        gains = 10 ** (levels.clamp(-LARGEST, LARGEST) * (STEP_DB / 20)) - 1
        change = torch.zeros_like(spectra.real)
        for band, gain in enumerate(gains.transpose(2, 3).flatten(1, 2).unbind(dim=1)):  # [B, L]
            start, end = self._edges[band : band + 2]
            change[..., max(start, first_bin) : end] = gain[..., None]
        frames = torch.fft.irfft(change * spectra, n=2 * self.hop) * self.window
        first, second = frames.split(self.hop, dim=2)
        second = torch.cat([state.tail, second], dim=1)
        kept = state.levels.clone()
        kept[:, :n_stages] = levels[:, :, -1]
        return (first + second[:, :-1]).flatten(1)[:, None], LevelState(kept, second[:, -1:])

    def _code_of(self, points: Tensor) -> Tensor:
        """Number of each point ``[..., 2]``."""
        first, second = (points + REACH).unbind(dim=-1)
        return self.index[first, second]
