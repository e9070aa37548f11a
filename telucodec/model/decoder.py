"""Latents to waveform: the mirror of the encoder, with a learnable output scale before tanh.

Shapes: B batch, T samples, L frames, D latent width.
"""

import numpy as np
import torch
from torch import Tensor, nn

from telucodec.model.encoder import pass_low_band, start_small
from telucodec.nn.blocks import UnitStack
from telucodec.nn.conv import CausalConv1d, CausalConvTranspose1d, Conv1d
from telucodec.nn.lapped import expand, lapped_synthesis

DecoderState = tuple[Tensor, tuple[Tensor, ...], Tensor, Tensor, tuple[Tensor, ...], Tensor, Tensor]

N_SIGNED = 500  # frames after which the random signs repeat
TOLD = 0.225  # of the fine path's coefficients have signs that codes tell


class Decoder(nn.Module):
    """Latents to waveform inside [-1, 1], causal, ``hop`` samples behind the encoder's input.

    ``output_scale`` starts at 1.0 and multiplies before tanh: amplitude has a parameter of its
    own, and no scale can push the output past full scale. Its logarithm is what learns: steps of an
    optimizer are then shares of it, and its gradient does not grow where latents grow and it shrinks.

    Codes tell the signs of low coefficients only. Above, the network would make the same pattern in every
    frame, which buzzes at the frame rate. So there (`TOLD`: from 1.8 kHz at 16 kHz) each coefficient of the
    fine path takes one sign for each frame from a fixed random table.
    """

    signs: Tensor

    def __init__(
        self,
        *,
        hop: int,
        fine_hop: int,
        width: int,
        fine_width: int,
        n_units: int,
        n_fine_units: int,
        latent_dim: int,
        companding: float,
    ) -> None:
        super().__init__()
        ratio = hop // fine_hop
        self.companding, self.ratio = companding, ratio
        self.deep_in = CausalConv1d(latent_dim, width, 3)
        self.units = UnitStack(width, n_units)
        self.linear_in = Conv1d(latent_dim, hop, 1, bias=False)
        self.coarse_out = Conv1d(width, hop, 1)
        self.synthesis = lapped_synthesis(hop)
        self.up = CausalConvTranspose1d(width, fine_width, 2 * ratio, stride=ratio)
        self.fine_units = UnitStack(fine_width, n_fine_units)
        self.fine_out = Conv1d(fine_width, fine_hop, 1)
        self.fine_synthesis = lapped_synthesis(fine_hop)
        self.log_output_scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("signs", random_signs(fine_hop), persistent=False)
        pass_low_band(self.linear_in)
        start_small(self.coarse_out)
        start_small(self.fine_out)

    @property
    def output_scale(self) -> Tensor:
        return self.log_output_scale.exp()

    def initial_state(self, like: Tensor, place: Tensor | None = None) -> DecoderState:
        """Nothing before the first frame, whose number is ``place`` ``[B]`` (None: 0)."""
        return (
            self.deep_in.initial_state(like),
            self.units.initial_state(like),
            self.synthesis.initial_state(like),
            self.up.initial_state(like),
            self.fine_units.initial_state(like),
            self.fine_synthesis.initial_state(like),
            torch.zeros(len(like), dtype=torch.int64, device=like.device) if place is None else place,
        )

    def forward(self, latents: Tensor, place: Tensor | None = None) -> Tensor:
        """``[B, D, L]`` -> ``[B, 1, L * hop]``, the first ``hop`` samples of which are the codec's delay.

        Args:
            place: ``[B]`` int64, number of the first frame (None: 0), for the random signs.
        """
        return self.step(latents, self.initial_state(latents, place))[0]

    def step(self, latents: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Frames ``[B, D, L]``; returns ``([B, 1, L * hop], next_state)``."""
        in_state, units_state, coarse_state, up_state, fine_units_state, fine_state, place = state
        x, in_state = self.deep_in.step(latents, in_state)  # [B, width, L]
        x, units_state = self.units.step(x, units_state)
        coarse = expand(self.linear_in(latents) + self.coarse_out(x), self.companding)  # [B, hop, L]
        wav, coarse_state = self.synthesis.step(coarse, coarse_state)  # [B, 1, L * hop]
        x, up_state = self.up.step(x, up_state)  # [B, fine_width, L * ratio]
        x, fine_units_state = self.fine_units.step(x, fine_units_state)
        fine = expand(self.fine_out(x), self.companding)  # [B, fine_hop, L * ratio]
        signs, place = self._next_signs(place, latents.shape[-1])
        fine_wav, fine_state = self.fine_synthesis.step(fine * signs, fine_state)
        wav = torch.tanh(self.output_scale * (wav + fine_wav))
        return wav, (in_state, units_state, coarse_state, up_state, fine_units_state, fine_state, place)

    def _next_signs(self, place: Tensor, n_frames: int) -> tuple[Tensor, Tensor]:
        """``[B, fine_hop, n_frames * ratio]`` from frame ``place`` ``[B]`` on, and the place after them."""
        places = (place[:, None] + torch.arange(n_frames, device=place.device)) % N_SIGNED
        signs = self.signs[places].transpose(1, 2)  # [B, fine_hop, n_frames]
        return signs.repeat_interleave(self.ratio, dim=2), (place + n_frames) % N_SIGNED


def random_signs(fine_hop: int) -> Tensor:
    """``[N_SIGNED, fine_hop]`` for each frame: ones up to `TOLD`, then 1 or -1.

    The same on every machine: numpy promises the bits of its generators, not what is drawn from them.
    """
    first = round(TOLD * fine_hop)
    n_bits = N_SIGNED * (fine_hop - first)
    raw = np.random.PCG64(0).random_raw(-(-n_bits // 64)).astype("<u8").view(np.uint8)
    bits = torch.from_numpy(np.unpackbits(raw, count=n_bits)).view(N_SIGNED, -1)
    signs = torch.ones(N_SIGNED, fine_hop)
    signs[:, first:] -= 2.0 * bits
    return signs
