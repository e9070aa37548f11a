"""Causal convolutions that run whole (training) or chunk by chunk (streaming).

One class, two methods, no hidden mode. ``forward`` maps a whole signal; ``step`` maps one
chunk and hands what the next call needs back to the caller. State is an argument and a result,
never an attribute: it can be batched, saved, exported as a graph input, and two streams can
share one module.

Shapes: B batch, I/O input/output channels, T samples in, L = T / stride frames out.
"""

from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

SHORT_FRAMES = 32
"""Up to which products of weights and windows are faster than the ways that win in training."""


class Conv1d(nn.Conv1d):
    """``nn.Conv1d`` that is fast on the few frames of a live packet too.

    Which way it takes depends on shapes alone; they agree but for rounding.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, bias: bool = True
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, I, T]`` -> ``[B, O, L]``."""
        kernel_size, stride = self.kernel_size[0], self.stride[0]
        if x.shape[-1] > (SHORT_FRAMES - 1) * stride + kernel_size:
            return super().forward(x)
        if kernel_size == stride == 1:
            windows = x.transpose(1, 2).contiguous()  # [B, L, I]
        else:
            windows = x.unfold(2, kernel_size, stride).transpose(1, 2).flatten(2)  # [B, L, I * kernel]
        return self._short(windows).transpose(1, 2)

    def _short(self, windows: Tensor) -> Tensor:
        """``[B, L, I * kernel]`` -> ``[B, L, O]``."""
        return fn.linear(windows, self.weight.flatten(1), self.bias)


class CausalConv1d(nn.Module):
    """``Conv1d`` whose frame ``l`` sees samples up to ``(l + 1) * stride - 1`` and none later."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        if kernel_size < stride:
            raise ValueError(
                f"kernel spans {kernel_size} samples but stride is {stride}: samples would be skipped"
            )
        self.context = kernel_size - stride  # samples of left context
        self.stride = stride
        self.conv = Conv1d(in_channels, out_channels, kernel_size, stride=stride, bias=bias)

    def initial_state(self, like: Tensor) -> Tensor:
        """Silence before the first sample: zeros ``[B, I, context]`` of the device and type of ``like``."""
        return like.new_zeros(like.shape[0], self.conv.in_channels, self.context)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, I, T]`` -> ``[B, O, T / stride]``."""
        return self.step(x, self.initial_state(x))[0]

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One chunk ``[B, I, S]`` with ``S`` a multiple of ``stride``; returns ``(y, next_state)``."""
        if x.shape[-1] % self.stride:
            raise ValueError(f"chunk of {x.shape[-1]} samples is not a multiple of the stride {self.stride}")
        x = torch.cat([state, x], dim=-1)  # [B, I, context + S]
        # Counted from the end: a recording would work out other numbers anew at every step.
        return self.conv(x), x[..., -self.context :] if self.context else state


class CausalConvTranspose1d(nn.Module):
    """Transposed convolution as overlap-add: frame ``l`` writes from sample ``l * stride`` on.

    Only finished samples come out: ``L`` frames give ``L * stride`` samples and the tail that
    later frames still add to is the state. A bias would be added twice where frames overlap, so
    there is none. It is one matrix product and shifted sums rather than ``ConvTranspose1d``, which
    takes many times as long the first time it meets a length.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int) -> None:
        super().__init__()
        if kernel_size < stride or kernel_size % stride:
            raise ValueError(
                f"kernel spans {kernel_size} samples; expected a multiple of the stride {stride}"
            )
        self.tail = kernel_size - stride
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(in_channels, out_channels, kernel_size))
        nn.init.uniform_(self.weight, -(bound := (in_channels * kernel_size / stride) ** -0.5), bound)

    def initial_state(self, like: Tensor) -> Tensor:
        """Nothing to add yet: zeros ``[B, O, tail]`` of the device and type of ``like``."""
        return like.new_zeros(like.shape[0], self.weight.shape[1], self.tail)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, I, L]`` -> ``[B, O, L * stride]``."""
        return self.step(x, self.initial_state(x))[0]

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Frames ``[B, I, L]``; returns ``([B, O, L * stride], next_state)``."""
        wav = self._overlapped(x)
        if not self.tail:
            return wav, state
        wav = torch.cat([wav[..., : self.tail] + state, wav[..., self.tail :]], dim=-1)
        return wav[..., : -self.tail], wav[..., -self.tail :]

    def _overlapped(self, x: Tensor) -> Tensor:
        """What frames ``[B, I, L]`` write, ``[B, O, L * stride + tail]``."""
        _, n_out, kernel_size = self.weight.shape
        n_frames, n_parts = x.shape[-1], kernel_size // self.stride  # hops that one frame writes to
        y = self._product(x.transpose(1, 2))  # [B, L, O * kernel]
        if n_frames == 1:
            return y.reshape(-1, n_out, kernel_size)
        if n_frames <= SHORT_FRAMES:
            size = (1, n_frames * self.stride + self.tail)
            return fn.fold(y.transpose(1, 2), size, (1, kernel_size), stride=(1, self.stride)).squeeze(2)
        parts = y.view(-1, n_frames, n_out, n_parts, self.stride).permute(3, 0, 2, 1, 4)
        hops = [fn.pad(part, (0, 0, place, n_parts - 1 - place)) for place, part in enumerate(parts)]
        return reduce(torch.add, hops).flatten(2)

    def _product(self, frames: Tensor) -> Tensor:
        """``[B, L, I]`` -> ``[B, L, O * kernel]``."""
        return torch.matmul(frames, self.weight.flatten(1))
