"""Waveform to latents: a linear path that works from the start, and a deep path that learns the rest.

Shapes: B batch, T samples, L = T / hop frames, D latent width.
"""

import torch
from torch import Tensor, nn

from telucodec.nn.blocks import UnitStack
from telucodec.nn.conv import CausalConv1d, Conv1d
from telucodec.nn.lapped import compress, lapped_analysis

EncoderState = tuple[Tensor, Tensor, tuple[Tensor, ...], Tensor, tuple[Tensor, ...]]

PEAK = 0.99  # inputs are limited here before atanh, whose slope would otherwise have no bound


def pass_low_band(conv: nn.Conv1d) -> None:
    """Start a pointwise convolution as the identity on the channels both sides have, lowest first."""
    with torch.no_grad():
        conv.weight.copy_(torch.eye(conv.out_channels, conv.in_channels)[..., None])


def start_small(conv: nn.Conv1d) -> None:
    """Let the linear path lead at the start: weights a tenth of the usual, not zero, so that gradients flow.

    The bias is zero: a random one is a steady noise that drowns quiet signals.
    """
    with torch.no_grad():
        conv.weight.mul_(0.1)
    nn.init.zeros_(conv.get_parameter("bias"))


class Encoder(nn.Module):
    """Waveform to latents, causal: frame ``l`` sees samples before ``(l + 1) * hop``.

    The decoder ends in tanh, so the encoder begins with its inverse: the linear path alone then
    returns the waveform, at any level, before anything is learned.
    """

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
        self.companding = companding
        self.analysis = lapped_analysis(hop)
        self.fine_analysis = lapped_analysis(fine_hop)
        self.fine_in = Conv1d(fine_hop, fine_width, 1)
        self.fine_units = UnitStack(fine_width, n_fine_units)
        self.down = CausalConv1d(fine_width, width, 2 * ratio, stride=ratio)
        self.coarse_in = Conv1d(hop, width, 1)
        self.units = UnitStack(width, n_units)
        self.deep_out = Conv1d(width, latent_dim, 1)
        self.linear_out = Conv1d(hop, latent_dim, 1, bias=False)
        pass_low_band(self.linear_out)
        start_small(self.deep_out)

    def initial_state(self, like: Tensor) -> EncoderState:
        """Silence before the first sample."""
        return (
            self.analysis.initial_state(like),
            self.fine_analysis.initial_state(like),
            self.fine_units.initial_state(like),
            self.down.initial_state(like),
            self.units.initial_state(like),
        )

    def forward(self, wav: Tensor) -> Tensor:
        """``[B, 1, L * hop]`` -> latents ``[B, D, L]``."""
        return self.step(wav, self.initial_state(wav))[0]

    def step(self, wav: Tensor, state: EncoderState) -> tuple[Tensor, EncoderState]:
        """One chunk of whole frames; returns ``(latents, next_state)``."""
        coarse_state, fine_state, fine_units_state, down_state, units_state = state
        wav = torch.atanh(wav.clamp(-PEAK, PEAK))
        coarse, coarse_state = self.analysis.step(wav, coarse_state)  # [B, hop, L]
        fine, fine_state = self.fine_analysis.step(wav, fine_state)  # [B, fine_hop, L * ratio]
        coarse, fine = compress(coarse, self.companding), compress(fine, self.companding)
        x, fine_units_state = self.fine_units.step(self.fine_in(fine), fine_units_state)
        x, down_state = self.down.step(x, down_state)  # [B, width, L]
        x, units_state = self.units.step(x + self.coarse_in(coarse), units_state)
        latents = self.linear_out(coarse) + self.deep_out(x)  # [B, D, L]
        return latents, (coarse_state, fine_state, fine_units_state, down_state, units_state)
