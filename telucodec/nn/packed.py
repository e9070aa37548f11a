"""Networks for a few frames at a time, their weights packed in half precision.

A frame alone costs what reading every weight costs. FBGEMM, which is part of torch on x86, multiplies float32
by float16 weights that lie in the order they are read in, and sums in float32: half the bytes, read faster.
Nothing is rounded, because only weights that float16 holds exactly are packed, as it does those of a model
that was saved in it.

Shapes: B batch, I/O input/output channels, T samples in, L frames out.
"""

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from telucodec.nn.conv import CausalConvTranspose1d, Conv1d

Network = TypeVar("Network", bound=nn.Module)


def can_pack(weight: Tensor) -> bool:
    """Whether float16 holds ``weight`` exactly, and this machine has the product for it."""
    is_here = weight.device.type == "cpu" and "fbgemm" in torch.backends.quantized.supported_engines
    return is_here and bool((weight.half().float() == weight).all())


class Packed(nn.Module):
    """Weights ``[O, I]`` that were packed, and a bias ``[O]`` or None; no gradient goes through."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weights: Any = torch.ops.quantized.linear_prepack_fp16(weight.detach().contiguous(), bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., I]`` -> ``[..., O]``."""
        product: Tensor = torch.ops.quantized.linear_dynamic_fp16.default(x, self.weights)
        return product


class PackedConv1d(Conv1d):
    """A `Conv1d` and its weights, packed as they are now."""

    def __init__(self, conv: Conv1d) -> None:
        nn.Module.__init__(self)
        vars(self).update(vars(conv) | {"_modules": {}})
        self._packed = Packed(conv.weight.flatten(1), conv.bias)

    def _short(self, windows: Tensor) -> Tensor:
        product: Tensor = self._packed(windows)
        return product


class PackedTranspose(CausalConvTranspose1d):
    """A `CausalConvTranspose1d` and its weights, packed as they are now."""

    def __init__(self, conv: CausalConvTranspose1d) -> None:
        nn.Module.__init__(self)
        vars(self).update(vars(conv) | {"_modules": {}})
        self._packed = Packed(conv.weight.flatten(1).T, None)

    def _product(self, frames: Tensor) -> Tensor:
        product: Tensor = self._packed(frames)
        return product


def packed(network: Network) -> Network:
    """A copy of ``network`` whose convolutions are packed; it shares the weights, which must not change.

    ``network`` itself where they cannot be packed.
    """
    if not all(can_pack(weight) for weight in network.parameters()):
        return network
    network = copy.deepcopy(network, {id(weight): weight for weight in network.parameters()})
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, Conv1d):
                setattr(module, name, PackedConv1d(child))
            elif isinstance(child, CausalConvTranspose1d):
                setattr(module, name, PackedTranspose(child))
    return network
