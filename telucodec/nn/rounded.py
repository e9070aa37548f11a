"""Networks whose deep paths run in bfloat16, for encoders in a hurry.

Half the bytes, twice the products where the processor has instructions for them. What rounding changes lies
some 50 dB below latents and sound: of no account where codes are chosen. The lapped transforms and the linear
path stay in float32, because errors of loud low coefficients would be heard as noise between faint high ones;
and so does whatever decodes for listeners, whose samples do not depend on the pieces that bytes come in.
"""

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

DEEP = ("fine_units", "down", "units", "deep_in", "up")  # of an encoder or decoder

Network = TypeVar("Network", bound=nn.Module)


class Rounded(nn.Module):
    """A part of a network that is given and gives float32, with its weights as they are now."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part: Any = copy.deepcopy(part).to(torch.bfloat16)

    def initial_state(self, like: Tensor) -> Any:
        """See that of the part."""
        return self.part.initial_state(like.to(torch.bfloat16))

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """See that of the part."""
        y, state = self.part.step(x.to(torch.bfloat16), state)
        return y.float(), state


def rounds_fast(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 there: a processor that has products of it."""
    found = torch.cpu.get_capabilities()
    return device.type == "cpu" and bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def rounded(network: Network) -> Network:
    """A copy of ``network`` with deep paths in bfloat16; the rest of its weights are shared."""
    deep = {name: part for name, part in network.named_children() if name in DEEP}
    weights = {id(weight): weight for weight in network.state_dict(keep_vars=True).values()}
    network = copy.deepcopy(network, weights)
    for name, part in deep.items():
        setattr(network, name, Rounded(part))
    return network
