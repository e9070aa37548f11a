"""A second layer for high rates: what the network left of the low band, coded as it is, and levels above it.

Above some 5 kbps another stage of the network's quantizer buys little: below 1.8 kHz, where listeners and
PESQ are strictest, a transform codes the waveform for fewer bits than a codebook that has to hold every
frame's spectrum. So the encoder decodes what its codes say, takes the coefficients of a lapped transform of
that from those of the recording, and codes the differences on a lattice. The decoder adds them. Of the bands
above it codes how much louder the recording is, see `telucodec.model.levels`.

Both sides take the step of each coefficient from the decoded spectrum: the louder it is there, the coarser,
as hearing masks (``MASKING``). Floating-point numbers therefore scale what is added, and never decide how
bits are read.

What is refined is the network's output behind its postfilter. A difference can only be known when that is
complete, one frame later: column ``l`` of the codes tells of the coefficients of its frame ``l - 1``, and the
refined output lags by one frame more than it.

Shapes: B batch, T samples, L frames, N refined coefficients, F bands, Q codebooks (stages).
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from telucodec.bitstream.coder import N_LEVEL_STAGES
from telucodec.config import ModelConfig
from telucodec.model.lattice import LatticeQuantizer
from telucodec.model.levels import N_BANDS, BandLevels, LevelState
from telucodec.nn.conv import CausalConv1d, CausalConvTranspose1d
from telucodec.nn.lapped import mdct_basis

REFINED_HZ = 2000  # up to which coefficients can be refined
CODEBOOK_SIZE = 256
MASKING = 0.5  # exponent of the decoded magnitude in the step; 1 would be one SNR everywhere, 0 one noise
UNIT = 0.02  # magnitude at which a step is what its code says
FLOOR = 3e-4  # added to magnitudes, so that silence has a step
BLUR = (0.125, 0.25, 0.25, 0.25, 0.125)  # over neighbors in frequency
MEMORY = 0.4  # weight of the frame before
LOUDER = 1.035  # a refined wave is exact below and has random phases above, which lowers its peaks


class RefinementState(NamedTuple):
    """What either side remembers between chunks."""

    held: Tensor  # [B, 1, hop] samples that came last
    analysis: Tensor
    magnitudes: Tensor  # [B, N, 1] of the last frame
    synthesis: Tensor
    levels: LevelState


class Refinement(nn.Module):
    """Differences of low coefficients, and levels, to codes and back. Nothing in it is learned.

    Its stages are the step of each frame, then one for each pair of bands and one for each pair of
    coefficients, lowest first.
    """

    blur: Tensor

    def __init__(self, *, hop: int, n_refined: int) -> None:
        super().__init__()
        self.n_refined = n_refined
        self.quantizer = LatticeQuantizer(
            sweeps=(n_refined,), codebook_size=CODEBOOK_SIZE, latent_dim=n_refined
        )
        self.levels = BandLevels(hop)
        basis = mdct_basis(hop)[:n_refined, None]
        self.analysis = CausalConv1d(1, n_refined, 2 * hop, stride=hop, bias=False)
        self.synthesis = CausalConvTranspose1d(n_refined, 1, 2 * hop, stride=hop)
        with torch.no_grad():
            self.analysis.conv.weight.copy_(basis)
            self.synthesis.weight.copy_(basis)
        self.requires_grad_(False)
        self.register_buffer("blur", torch.tensor(BLUR)[None, None], persistent=False)

    @property
    def n_codebooks(self) -> int:
        return self.quantizer.n_codebooks + N_LEVEL_STAGES

    def initial_state(self, like: Tensor) -> RefinementState:
        """Silence before the first sample, of the batch, device and type of ``like``."""
        return RefinementState(
            held=like.new_zeros(len(like), 1, self.analysis.stride),
            analysis=self.analysis.initial_state(like.new_empty(len(like), 1, 0)),
            magnitudes=like.new_zeros(len(like), self.n_refined, 1),
            synthesis=self.synthesis.initial_state(like),
            levels=self.levels.initial_state(like),
        )

    def targets(self, wav: Tensor, state: RefinementState) -> tuple[Tensor, RefinementState]:
        """Levels and coefficients ``[B, F + N, L]`` of the recording ``[B, 1, L * hop]``, one frame late."""
        late, held = self._delayed(wav, state)
        levels = self.levels.measure(self._spectra(late, state))
        coefficients, analysis = self.analysis.step(late, state.analysis)
        return torch.cat([levels, coefficients], dim=1), state._replace(held=held, analysis=analysis)

    def residuals(
        self, wav: Tensor, targets: Tensor, state: RefinementState
    ) -> tuple[Tensor, RefinementState]:
        """What the network's output ``[B, 1, L * hop]`` leaves of the ``targets`` of its frames, in steps."""
        levels = self.levels.measure(self._spectra(wav, state))
        coefficients, unit, state = self.decoded(wav, state)
        of_levels, of_coefficients = torch.split(targets, [N_BANDS, self.n_refined], dim=1)
        left = torch.cat([of_levels - levels, (of_coefficients - coefficients) / unit], dim=1)
        return left, state

    def decoded(self, wav: Tensor, state: RefinementState) -> tuple[Tensor, Tensor, RefinementState]:
        """Coefficients ``[B, N, L]`` of the network's output ``[B, 1, L * hop]``, and the units of steps.

        They stand beside those of `targets` for the same frames.
        """
        coefficients, analysis = self.analysis.step(wav, state.analysis)
        magnitudes = coefficients.abs()
        before = torch.cat([state.magnitudes, magnitudes[..., :-1]], dim=-1)
        level = MEMORY * before + (1 - MEMORY) * magnitudes
        n_items, n_refined, n_frames = level.shape
        rows = level.transpose(1, 2).reshape(n_items * n_frames, 1, n_refined)
        margin = len(BLUR) // 2
        smooth = fn.conv1d(fn.pad(rows, (margin, margin), mode="replicate"), self.blur)
        smooth = smooth.view(n_items, n_frames, n_refined).transpose(1, 2) + FLOOR
        unit = smooth.pow(MASKING) * UNIT ** (1 - MASKING)
        return coefficients, unit, state._replace(analysis=analysis, magnitudes=magnitudes[..., -1:])

    def step(
        self, wav: Tensor, codes: Tensor | None, state: RefinementState
    ) -> tuple[Tensor, RefinementState]:
        """The network's output ``[B, 1, L * hop]`` with what ``codes`` ``[B, Q', L]`` add, one frame late.

        ``codes`` of fewer stages add less, and None adds nothing.
        """
        spectra = self._spectra(wav, state)
        _, unit, state = self.decoded(wav, state)
        late, held = self._delayed(wav, state)
        if codes is None:
            codes = unit.new_full((len(wav), self.n_codebooks, unit.shape[2]), -1, dtype=torch.int64)
        step, of_levels, pairs = codes.tensor_split([1, 1 + N_LEVEL_STAGES], dim=1)
        louder, levels = self.levels.step(spectra, of_levels, state.levels, first_bin=2 * pairs.shape[1])
        differences = self.quantizer.decode(torch.cat([step, pairs], dim=1)) * unit
        added, synthesis = self.synthesis.step(differences, state.synthesis)
        state = state._replace(held=held, synthesis=synthesis, levels=levels)
        return (LOUDER * (late + added + louder)).clamp(-1, 1), state

    def contexts(self) -> list[list[tuple[int, int]]]:
        """As those of a `LatticeQuantizer`; levels are foreseen from those of the bands below."""
        step, *pairs = self.quantizer.contexts()
        found = [step]
        for stage in range(1, 1 + N_LEVEL_STAGES):
            below = [(stage - 1, offset) for offset in (-1, 0, 1)] if stage > 1 else []
            two_below = [(stage - 2, 0)] if stage > 2 else []
            found.append([*below, *two_below, (0, -1), (0, 0), (0, 1)])
        for near in pairs:
            found.append([(stage + N_LEVEL_STAGES if stage else 0, offset) for stage, offset in near])
        return found

    def _spectra(self, wav: Tensor, state: RefinementState) -> Tensor:
        """Of the blocks whose coefficients `analysis` gives."""
        return self.levels.spectra(torch.cat([state.analysis, wav], dim=-1))

    def _delayed(self, wav: Tensor, state: RefinementState) -> tuple[Tensor, Tensor]:
        hop = self.analysis.stride
        joined = torch.cat([state.held, wav], dim=-1)
        return joined[..., :-hop], joined[..., -hop:]


def n_refined(config: ModelConfig) -> int:
    """Coefficients that lie below `REFINED_HZ`, an even number."""
    return min(2 * round(REFINED_HZ * config.hop / config.sample_rate_hz), config.hop)


@lru_cache(maxsize=8)
def refinement(hop: int, n_coefficients: int, device: torch.device) -> Refinement:
    """One for all streams of these shapes."""
    return Refinement(hop=hop, n_refined=n_coefficients).to(device)
