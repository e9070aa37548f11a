"""A second layer for high rates: what the network left of the low band, coded as it is.

Above some 5 kbps another stage of the network's quantizer buys little: below 1.8 kHz, where listeners and
PESQ are strictest, a transform codes the waveform for fewer bits than a codebook that has to hold every
frame's spectrum. So the encoder decodes what its codes say, takes the coefficients of a lapped transform of
that from those of the recording, and codes the differences on a lattice. The decoder adds them.

Both sides take the step of each coefficient from the decoded spectrum: the louder it is there, the coarser,
as hearing masks (``MASKING``). Floating-point numbers therefore scale what is added, and never decide how
bits are read.

What is refined is the network's output behind its postfilter. A difference can only be known when that is
complete, one frame later: column ``l`` of the codes tells of the coefficients of its frame ``l - 1``, and the
refined output lags by one frame more than it.

Shapes: B batch, T samples, L frames, N refined coefficients, Q codebooks (stages).
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from telucodec.config import ModelConfig
from telucodec.model.lattice import LatticeQuantizer
from telucodec.nn.conv import CausalConv1d, CausalConvTranspose1d
from telucodec.nn.lapped import mdct_basis

REFINED_HZ = 2500  # up to which coefficients can be refined
CODEBOOK_SIZE = 256
MASKING = 0.5  # exponent of the decoded magnitude in the step; 1 would be one SNR everywhere, 0 one noise
UNIT = 0.02  # magnitude at which a step is what its code says
FLOOR = 3e-4  # added to magnitudes, so that silence has a step
BLUR = (0.125, 0.25, 0.25, 0.25, 0.125)  # over neighbors in frequency
MEMORY = 0.4  # weight of the frame before
LOUDER = 1.02  # a refined wave is exact below and has random phases above, which lowers its peaks


class RefinementState(NamedTuple):
    """What either side remembers between chunks."""

    held: Tensor  # [B, 1, hop] samples that came last
    analysis: Tensor
    magnitudes: Tensor  # [B, N, 1] of the last frame
    synthesis: Tensor


class Refinement(nn.Module):
    """Differences of low coefficients to codes and back. Nothing in it is learned.

    Its stages are the step of each frame and then one for each pair of coefficients, lowest first.
    """

    blur: Tensor

    def __init__(self, *, hop: int, n_refined: int) -> None:
        super().__init__()
        self.n_refined = n_refined
        self.quantizer = LatticeQuantizer(
            sweeps=(n_refined,), codebook_size=CODEBOOK_SIZE, latent_dim=n_refined
        )
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
        return self.quantizer.n_codebooks

    def initial_state(self, like: Tensor) -> RefinementState:
        """Silence before the first sample, of the batch, device and type of ``like``."""
        return RefinementState(
            held=like.new_zeros(len(like), 1, self.analysis.stride),
            analysis=self.analysis.initial_state(like.new_empty(len(like), 1, 0)),
            magnitudes=like.new_zeros(len(like), self.n_refined, 1),
            synthesis=self.synthesis.initial_state(like),
        )

    def targets(self, wav: Tensor, state: RefinementState) -> tuple[Tensor, RefinementState]:
        """Coefficients ``[B, N, L]`` of the recording ``[B, 1, L * hop]``, one frame late."""
        late, held = self._delayed(wav, state)
        coefficients, analysis = self.analysis.step(late, state.analysis)
        return coefficients, state._replace(held=held, analysis=analysis)

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
        _, unit, state = self.decoded(wav, state)
        late, held = self._delayed(wav, state)
        differences = torch.zeros_like(unit) if codes is None else self.quantizer.decode(codes) * unit
        added, synthesis = self.synthesis.step(differences, state.synthesis)
        return (LOUDER * (late + added)).clamp(-1, 1), state._replace(held=held, synthesis=synthesis)

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
