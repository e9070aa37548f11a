"""Steps of a network recorded for chunks of one shape, and played back without Python in between.

A live packet takes hundreds of small operations, and calling them one by one from Python takes longer than
what they do. Every choice a step makes depends on shapes alone, so that one recording serves all chunks of
a shape; the operations are the same and give the same numbers.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

N_SLOW = 2  # first runs of a recording, in which torch settles how to run it


class Recorded:
    """``network.step`` of chunks of the shape of ``x``; chunks of other shapes run as they always do.

    The weights must not change. Making one takes some 0.2 s.
    """

    def __init__(self, network: nn.Module, x: Tensor, state: Any) -> None:
        self.network: Any = network
        self._shape = x.shape
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # that shapes become constants is meant
            recording: Any = torch.jit.trace_module(network, {"step": (x, state)}, check_trace=False)  # type: ignore[no-untyped-call]
            self._recording: Any = torch.jit.freeze(recording.eval(), preserved_attrs=["step"])
        with torch.inference_mode():
            for _ in range(N_SLOW):
                self._recording.step(x, state)

    def step(self, x: Tensor, state: Any) -> Any:
        """What ``network.step`` returns."""
        network = self._recording if x.shape == self._shape else self.network
        return network.step(x, state)
