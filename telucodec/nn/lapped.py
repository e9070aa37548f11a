"""Convolutions that start as a lapped transform, and the companding of its coefficients.

A decoder that must discover phase from nothing sits at silence for thousands of steps. A
strided convolution whose kernels start as the basis of the modified discrete cosine transform
(MDCT; Princen, Johnson and Bradley 1987, 10.1109/ICASSP.1987.1169405) is still a learnable
convolution, but its transpose gives the signal back before the first step. The kernels are
2 * hop samples long, sine-windowed and orthonormal, so both directions share one basis.
"""

import math

import torch
from torch import Tensor

from telucodec.nn.conv import CausalConv1d, CausalConvTranspose1d


def mdct_basis(hop: int) -> Tensor:
    """Orthonormal MDCT kernels ``[hop, 2 * hop]``, lowest frequency first, float32."""
    n = torch.arange(2 * hop, dtype=torch.float64)
    k = torch.arange(hop, dtype=torch.float64)[:, None]
    window = torch.sin(math.pi * (n + 0.5) / (2 * hop))
    basis = window * torch.cos(math.pi / hop * (n + 0.5 + hop / 2) * (k + 0.5)) * math.sqrt(2 / hop)
    return basis.float()


def lapped_analysis(hop: int) -> CausalConv1d:
    """``[B, 1, L * hop]`` -> coefficients ``[B, hop, L]``."""
    conv = CausalConv1d(1, hop, 2 * hop, stride=hop, bias=False)
    with torch.no_grad():
        conv.conv.weight.copy_(mdct_basis(hop)[:, None])
    return conv


def lapped_synthesis(hop: int) -> CausalConvTranspose1d:
    """Coefficients ``[B, hop, L]`` -> ``[B, 1, L * hop]``, ``hop`` samples behind the analysis."""
    conv = CausalConvTranspose1d(hop, 1, 2 * hop, stride=hop)
    with torch.no_grad():
        conv.weight.copy_(mdct_basis(hop)[:, None])
    return conv


def compress(x: Tensor, exponent: float, floor: float = 1e-3) -> Tensor:
    """Power law ``sign(x) |x|^exponent``, linear well below ``floor`` so that its slope is finite."""
    return x * (x.square() + floor**2).pow((exponent - 1) / 2)


def expand(y: Tensor, exponent: float) -> Tensor:
    """Inverse of `compress` above its floor: ``sign(y) |y|^(1 / exponent)``."""
    return y * (y.square() + 1e-12).pow((1 / exponent - 1) / 2)
