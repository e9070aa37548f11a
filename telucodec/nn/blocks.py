"""Residual units and the channel norm they start with."""

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from telucodec.nn.conv import CausalConv1d, Conv1d


class ChannelRMSNorm(nn.Module):
    """RMS norm over channels, each time step by itself, so that it streams.

    Source: Zhang and Sennrich 2019, arXiv 1910.07467.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, L]`` -> ``[B, C, L]``."""
        return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + self.eps) * self.gain


class ResidualUnit(nn.Module):
    """Norm, causal convolution, GELU, pointwise convolution, scaled and added to the input.

    The layer scale (Touvron et al. 2021, arXiv 2103.17239) starts at 0.5: units matter from the
    first step, and a stack of them does not blow the signal up.
    """

    def __init__(self, channels: int, kernel_size: int = 3, scale: float = 0.5) -> None:
        super().__init__()
        self.norm = ChannelRMSNorm(channels)
        self.mix = CausalConv1d(channels, channels, kernel_size)
        self.point = Conv1d(channels, channels, 1)
        self.scale = nn.Parameter(torch.full((channels, 1), scale))

    def initial_state(self, like: Tensor) -> Tensor:
        return self.mix.initial_state(like)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, L]`` -> ``[B, C, L]``."""
        return self.step(x, self.initial_state(x))[0]

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.mix.step(self.norm(x), state)
        return x + self.scale * self.point(fn.gelu(y)), state


class UnitStack(nn.Module):
    """Residual units one after the other; the state is the tuple of theirs."""

    def __init__(self, channels: int, n_units: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.units = nn.ModuleList(ResidualUnit(channels, kernel_size) for _ in range(n_units))

    def initial_state(self, like: Tensor) -> tuple[Tensor, ...]:
        return tuple(unit.initial_state(like) for unit in self.units)  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, L]`` -> ``[B, C, L]``."""
        return self.step(x, self.initial_state(x))[0]

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        following = []
        for unit, unit_state in zip(self.units, state, strict=True):
            x, unit_state = unit.step(x, unit_state)  # type: ignore[operator]
            following.append(unit_state)
        return x, tuple(following)
